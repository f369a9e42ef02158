"""Figures against answers worked out by hand or published."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from stages.scoring import figures

# scikit-learn's documentation gives 0.75 for the area and 0.83 for the average precision of these.
LABEL = np.array([0, 0, 1, 1], np.int8)
SCORE = np.array([0.1, 0.4, 0.35, 0.8])


def test_loss_of_no_opinion_is_log_two() -> None:
    assert figures.loss(LABEL, np.zeros(4)) == pytest.approx(math.log(2))


def test_loss_is_the_mean_negative_log_of_the_probability_of_the_true_class() -> None:
    score = 1 / (1 + np.exp(-np.array([-1.0, 2.0, 0.5, 3.0])))
    expected = -(math.log(1 - score[0]) + math.log(1 - score[1]) + math.log(score[2]) + math.log(score[3])) / 4
    assert figures.loss(LABEL, np.array([-1.0, 2.0, 0.5, 3.0])) == pytest.approx(expected)


@pytest.mark.parametrize(("label", "logit", "expected"), [(0, 1000.0, 1000.0), (1, 1000.0, 0.0), (1, -1000.0, 1000.0)])
def test_loss_stays_finite_where_the_score_rounds_to_zero_or_one(label: int, logit: float, expected: float) -> None:
    assert figures.loss(np.array([label], np.int8), np.array([logit])) == pytest.approx(expected)


def test_roc_auc_counts_the_pairs_in_the_right_order() -> None:
    assert figures.roc_auc(LABEL, SCORE) == pytest.approx(3 / 4)


def test_roc_auc_counts_a_tie_as_one_half() -> None:
    assert figures.roc_auc(LABEL, np.full(4, 0.3)) == pytest.approx(0.5)


def test_average_precision_is_the_sum_over_the_steps_of_recall() -> None:
    assert figures.average_precision(LABEL, SCORE) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_average_precision_of_no_opinion_is_the_share_of_fakes() -> None:
    assert figures.average_precision(np.array([0, 0, 0, 1], np.int8), np.full(4, 0.3)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("real", "fake", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.6], [0.4, 0.7, 0.8, 0.9], 0.25),  # at 0.6, one of four of each is mistaken
        ([0.1, 0.2], [0.8, 0.9], 0.0),
        ([0.8, 0.9], [0.1, 0.2], 1.0),
        ([0.3, 0.3], [0.3, 0.3], 0.5),  # on the straight line between calling none and calling all fake
    ],
)
def test_equal_error_rate(real: list[float], fake: list[float], expected: float) -> None:
    label = np.array([0] * len(real) + [1] * len(fake), np.int8)
    assert figures.equal_error_rate(label, np.array(real + fake)) == pytest.approx(expected)


def test_a_score_at_the_threshold_is_called_fake() -> None:
    right = figures.correct(np.array([0, 1, 0, 1], np.int8), np.array([0.5, 0.5, 0.4, 0.4]), 0.5)
    assert right.tolist() == [False, True, True, False]


def test_by_class_gives_precision_recall_and_f1_of_both_classes_with_their_counts() -> None:
    label = np.array([0, 0, 0, 1, 1], np.int8)
    table = figures.by_class(label, np.array([0.1, 0.6, 0.2, 0.7, 0.4]), 0.5)
    assert table["real"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "n": 3})
    assert table["fake"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "n": 2})


def test_by_class_gives_zero_to_a_class_that_is_never_called() -> None:
    table = figures.by_class(LABEL, np.zeros(4), 0.5)
    assert table["fake"] == {"precision": 0, "recall": 0, "f1": 0, "n": 2}
    assert table["real"] == pytest.approx({"precision": 1 / 2, "recall": 1, "f1": 2 / 3, "n": 2})


def test_brier_by_hand() -> None:
    assert figures.brier(LABEL, SCORE) == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)


def test_brier_of_no_opinion_is_a_quarter() -> None:
    assert figures.brier(LABEL, np.full(4, 0.5)) == pytest.approx(0.25)


def test_calibration_error_by_hand() -> None:
    # Bins of a fifteenth: two images at 0.1 (one fake), two at 0.9 (both fake), one at 1 (real; the last bin holds it).
    label = np.array([0, 1, 1, 1, 0], np.int8)
    probability = np.array([0.1, 0.1, 0.9, 0.9, 1.0])
    expected = 2 / 5 * abs(0.1 - 0.5) + 2 / 5 * abs(0.9 - 1) + 1 / 5 * abs(1 - 0)
    assert figures.expected_calibration_error(label, probability) == pytest.approx(expected)


def test_calibration_error_of_true_probabilities_vanishes_with_n() -> None:
    random = np.random.default_rng(0)
    probability = random.random(200_000)
    label = (random.random(200_000) < probability).astype(np.int8)
    assert figures.expected_calibration_error(label, probability) < 0.005


def test_reliability_leaves_out_empty_bins() -> None:
    count, said, true = figures.reliability(LABEL, np.array([0.1, 0.12, 0.5, 0.5]))
    assert count.tolist() == [2, 2]
    assert said == pytest.approx([0.11, 0.5])
    assert true == pytest.approx([0, 1])


@pytest.mark.parametrize("figure", [figures.roc_auc, figures.average_precision, figures.equal_error_rate])
@pytest.mark.parametrize("label", [[], [0, 0], [1, 1]])
def test_what_needs_both_classes_is_not_a_number_without(figure: Callable[..., float], label: list[int]) -> None:
    assert math.isnan(figure(np.array(label, np.int8), np.linspace(0.1, 0.9, len(label))))


@pytest.mark.parametrize("figure", [figures.brier, figures.expected_calibration_error, figures.loss])
def test_of_no_images_nothing_is_known(figure: Callable[..., float]) -> None:
    assert math.isnan(figure(np.array([], np.int8), np.array([])))
