"""Calibration: known temperatures are found again, three answers keep their promise, degenerate scores do no harm."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from stages.errors import UserError
from stages.scoring import calibration
from stages.scoring.calibration import Calibration


def drawn(n: int, temperature: float, offset: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, drawn with the true probabilities, and logits that are off by a temperature and an offset."""
    random = np.random.default_rng(seed)
    true = random.normal(0, 2, n)
    label = (random.random(n) < expit(true)).astype(np.int8)
    return label, true * temperature + offset


def test_a_known_temperature_and_offset_are_found_again() -> None:
    label, logits = drawn(200_000, temperature=3.0, offset=1.5)
    found = calibration.fit(label, logits, 0.5, 0.05)
    assert found.temperature == pytest.approx(3.0, rel=0.02)
    assert found.offset == pytest.approx(1.5, abs=0.05)
    assert found.probability(np.array([1.5, 4.5])) == pytest.approx([0.5, expit(1)], abs=0.01)


def test_with_many_images_it_is_logistic_regression_on_the_logit() -> None:
    label, logits = drawn(20_000, temperature=0.4, offset=-2.0)
    found = calibration.fit(label, logits, 0.5, 0.05)
    reference = LogisticRegression(C=np.inf).fit(logits[:, None], label)
    assert found.probability(logits) == pytest.approx(reference.predict_proba(logits[:, None])[:, 1], abs=1e-3)


def test_classes_perfectly_apart_give_a_finite_temperature() -> None:
    label = np.repeat([0, 1], 50).astype(np.int8)
    found = calibration.fit(label, np.where(label == 1, 5.0, -5.0), 0.5, 0.05)
    # Platt's targets: 51/52 for each fake, 1/52 for each real.
    assert found.probability(np.array([5.0, -5.0])) == pytest.approx([51 / 52, 1 / 52], abs=1e-4)


def test_constant_logits_give_the_share_of_fakes_and_no_definite_answer() -> None:
    label = np.array([0] * 60 + [1] * 40, np.int8)
    found = calibration.fit(label, np.zeros(100), 0.5, 0.05)
    assert found.probability(np.zeros(1)) == pytest.approx(0.4, abs=0.01)
    assert found.verdict(np.zeros(1)).tolist() == ["uncertain"]


def test_a_detector_that_is_worse_than_chance_is_flattened_and_not_turned_round() -> None:
    label, logits = drawn(5_000, temperature=1.0, offset=0.0)
    found = calibration.fit(label, -logits, 0.5, 0.05)
    assert found.temperature > 0
    assert found.probability(np.array([-3.0, 3.0])) == pytest.approx([0.5, 0.5], abs=0.03)


def test_thresholds_by_hand() -> None:
    # 19 reals: 5 % of 20 gaps is one, so only the largest may be exceeded. 39 fakes: the second smallest.
    real, fake = np.arange(1, 20) / 100, np.arange(2, 41) / 100
    label = np.array([0] * 19 + [1] * 39, np.int8)
    found = calibration.fit(label, logit(np.concatenate([real, fake])), 0.1, 0.05)
    assert found.fake_from == pytest.approx(0.19)
    assert found.real_below == pytest.approx(0.03)
    answers = found.verdict(logit(np.array([0.02, 0.031, 0.18, 0.2]))).tolist()
    assert answers == ["real", "uncertain", "uncertain", "fake"]


def test_too_few_images_to_promise_anything_leave_everything_uncertain() -> None:
    label = np.repeat([0, 1], 18).astype(np.int8)  # 5 % needs 19 of each
    found = calibration.fit(label, np.where(label == 1, 5.0, -5.0), 0.5, 0.05)
    assert (found.real_below, found.fake_from) == (-math.inf, math.inf)
    assert set(found.verdict(np.array([-50.0, 0.0, 50.0]))) == {"uncertain"}


def test_a_detector_that_is_good_enough_is_never_uncertain() -> None:
    label = np.repeat([0, 1], 100).astype(np.int8)
    random = np.random.default_rng(0)
    found = calibration.fit(label, random.normal(0, 1, 200) + np.where(label == 1, 6.0, -6.0), 0.5, 0.05)
    assert found.real_below == found.fake_from
    assert found.verdict(np.array([-0.1, 0.1])).tolist() == ["real", "fake"]


@pytest.mark.parametrize("separation", [0.5, 1.5, 3.0])
def test_of_new_faces_no_more_than_promised_are_mistaken(separation: float) -> None:
    """The promise is about the mean over validation sets, so it is checked over many of them."""
    random = np.random.default_rng(1)
    label = np.repeat([0, 1], 60).astype(np.int8)
    wrong = []
    for _ in range(300):
        found = calibration.fit(label, random.normal(label * separation, 1), 0.5, 0.1)
        real, fake = random.normal(0, 1, 200), random.normal(separation, 1, 200)
        wrong.append([(found.verdict(real) == "fake").mean(), (found.verdict(fake) == "real").mean()])
    assert (np.mean(wrong, axis=0) <= 0.1 + 0.005).all()
    if separation < 3:  # above, it answers always, and errs less than it may
        assert (np.mean(wrong, axis=0) >= 0.06).all()  # and it does not promise less than it could


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=60),
    st.lists(st.floats(-30, 30), min_size=2, max_size=60),
    st.floats(0.01, 0.4),
)
def test_whatever_the_scores_the_answers_are_ordered(real: list[float], fake: list[float], rate: float) -> None:
    label = np.array([0] * len(real) + [1] * len(fake), np.int8)
    logits = np.array(real + fake)
    found = calibration.fit(label, logits, 0.5, rate)
    assert found.real_below <= found.fake_from
    assert math.isfinite(found.offset)
    assert found.temperature > 0
    order = np.argsort(logits)
    assert (np.diff(found.probability(logits)[order]) >= 0).all()
    assert (found.verdict(logits[label == 0]) == "fake").mean() <= rate
    assert (found.verdict(logits[label == 1]) == "real").mean() <= rate


def test_it_is_kept_as_json_with_null_for_what_cannot_be_promised(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    kept = Calibration(2.0, -0.5, 0.6, -math.inf, math.inf, 0.05, 0.5, 12)
    calibration.write(path, kept)
    assert json.loads(path.read_text())["fake_from"] is None
    assert asdict(calibration.read(path)) == pytest.approx(asdict(kept), nan_ok=True)
    assert json.loads(path.read_text())["wrong"] is None  # nobody measured it


def test_a_missing_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; make it with `dvc repro`"):
        calibration.read(tmp_path / "none.json")
