"""The learning curve: known answers of its power law, and what its draws are."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import curve, heads
from stages.errors import UserError
from stages.files import write_json
from stages.params import load


def test_without_features_it_says_how_to_make_them(tmp_path, monkeypatch, write_params):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["curve"])
    write_params({})
    with pytest.raises(UserError, match=r"no data/features/resnet50; make it with `dvc repro baseline`"):
        curve.main()


def test_features_of_other_parameters_are_refused(tmp_path, monkeypatch, write_params):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["curve"])
    write_params({"features.views": 2})
    seen = load().features.seen
    write_json("data/features/resnet50/features.json", {"seen": seen, "views": {"train": 3, "valid": 1}})
    with pytest.raises(UserError, match=r"data/features/resnet50 was made with other `features` than params.yaml has"):
        curve.main()


def test_without_experiments_it_says_what_to_run(write_params, command, left_behind):
    write_params()
    for name in ("curve-resnet50-baseline-100", "tune"):
        left_behind(name, {"roc_auc": 0.9}, {"train_images": 100})
    with pytest.raises(UserError, match=r"no detector has 3 sizes or more; run its variants curve-…"):
        command(curve.main, "--phases")


def test_the_curve_of_both_phases_is_of_the_studys_experiments(write_params, command, left_behind, capsys):
    """Errors of 2 / sqrt(n); the largest draw took all faces that there were."""
    Path("docs").mkdir()
    write_params()
    for detector in ("resnet50-baseline", "resnet50-finetune"):
        for size in curve.study.SIZES:
            images = min(size, 1260)
            figures = {"roc_auc": 1 - 2 / np.sqrt(images)}
            left_behind(curve.study.curve(detector, size), figures, {"train_images": images})
    command(curve.main, "--phases")
    table = pd.read_csv(curve.PHASES_TABLE)
    assert list(table["detector"].unique()) == ["resnet50-baseline", "resnet50-finetune"]
    measured = table[table["kind"] == "measured"]
    assert list(measured["images"]) == 2 * [100, 200, 400, 800, 1260]
    np.testing.assert_allclose(table["error"], 2 / np.sqrt(table["images"]), rtol=1e-3)
    assert "resnet50-finetune: 1 - AUC falls as n^-0.50; extrapolated to 100,000" in capsys.readouterr().out


@pytest.fixture
def exact():
    """Errors that follow 2 / sqrt(n), twice a size."""
    sizes = np.array([100, 100, 200, 200, 800, 800])
    return pd.DataFrame({"images": sizes, "error": 2 / np.sqrt(sizes)})


def test_a_power_law_is_found_again_and_goes_on(exact):
    line = curve.power_law(exact, 0.95)
    assert curve.exponent(exact) == pytest.approx(-0.5)
    np.testing.assert_allclose(line["error"], 2 / np.sqrt(line["images"]))
    assert line["images"].iloc[-1] == curve.FAR
    assert line["error"].iloc[-1] == pytest.approx(0.00632456, rel=1e-5)


def test_what_lies_beyond_the_last_size_is_called_extrapolation(exact):
    line = curve.power_law(exact, 0.95)
    assert set(line.loc[line["images"] <= 800, "kind"]) == {"fit"}
    assert set(line.loc[line["images"] > 800, "kind"]) == {"extrapolation"}


def test_the_interval_is_the_lines_and_widens_where_nothing_was_measured():
    logs = np.array([-1.0, -1.2, -1.9, -1.7, -2.5, -2.6])
    sizes = np.array([100, 100, 200, 200, 400, 400])
    line = curve.power_law(pd.DataFrame({"images": sizes, "error": np.exp(logs)}), 0.95)
    x = np.log(sizes)
    slope, intercept = np.polyfit(x, logs, 1)
    spread = np.sqrt(((logs - slope * x - intercept) ** 2).sum() / 4)
    at = line[line["images"] == 400].iloc[0]
    error = spread * np.sqrt(1 / 6 + (np.log(400) - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    assert at["high"] == pytest.approx(np.exp(slope * np.log(400) + intercept + 2.7764451 * error))
    widths = np.log(line["high"] / line["low"]).to_numpy()
    assert widths[-1] > 3 * widths[line["images"] == 400][0]


def test_draws_are_half_real_half_fake_and_all_faces_are_drawn_once():
    labels = np.array([0] * 130 + [1] * 150, np.int8)
    draws = list(heads.drawn(labels, seed=3))
    sizes = [len(rows) for rows in draws]
    assert sizes == [100] * heads.DRAWS + [200] * heads.DRAWS + [260]
    for rows in draws:
        assert len(set(rows)) == len(rows)
        assert labels[rows].mean() == 0.5
    assert set(draws[0]) != set(draws[1])
    again = list(heads.drawn(labels, seed=3))
    np.testing.assert_array_equal(draws[4], again[4])
