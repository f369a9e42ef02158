"""The stage `evaluate`, from a table of scores to its files."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML
from sklearn.metrics import accuracy_score, average_precision_score, brier_score_loss, log_loss, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from stages import evaluate
from stages.errors import UserError
from stages.params import load
from stages.scoring import calibration, figures
from stages.scoring.scores import Scores

ROOT = Path(__file__).parents[1]
NAME = "resnet50-baseline"
SCORES = Path(f"data/scores/{NAME}.parquet")
MODEL = "ab" * 32  # its SHA-256


def with_ends(*names: str) -> list[str]:
    """The columns of figures with intervals."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


FIGURES = [
    *["n", "n_real", "n_fake"],
    *with_ends("roc_auc", "average_precision", "accuracy", "recall_real", "recall_fake", "false_positive_rate"),
    *["precision_fake", "f1_fake", "eer"],
    *with_ends("tpr_at_fpr_5pct", "fpr_at_fpr_5pct", "tpr_at_fpr_1pct", "fpr_at_fpr_1pct"),
    *with_ends("answered", "wrong_when_answered"),
    *["ece", "ece_raw", "brier", "loss"],
    *with_ends("marked"),
    "n_missed",
    *with_ends("missed_marked"),
]


def clean(table: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of a split on the images as they are."""
    return table[(table["split"] == split) & (table["condition"] == "clean")]


@pytest.fixture
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A project with a detector's record and scores, and those: 60 valid and 90 test images, 25 fakes of others."""
    monkeypatch.chdir(tmp_path)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["evaluate"]["resamples"] = 200
    params["sets"]["other"] = {"source": "folder", "use": "test", "path": "other", "generator": "StyleGAN2"}
    yaml.dump(params, tmp_path / "params.yaml")
    record = Path(f"data/models/{NAME}.json")
    record.parent.mkdir(parents=True)
    weights = {"source": "random", "asked": "auto"}
    record.write_text(json.dumps({"weights": weights, "device": "CPU", "model_sha256": MODEL}))
    random = np.random.default_rng(0)
    split = np.repeat(["valid", "test"], [60, 90])
    label = (np.arange(150) % 3 == 0).astype(np.int8)
    logit = (random.normal(size=150) + 2 * label).astype(np.float32)
    member = [f"{number:03}.jpg" for number in range(150)]
    table = pd.DataFrame({"set": "faces", "split": split, "condition": "clean", "member": member})
    table = table.assign(label=label, logit=logit)
    # The first 40 test images, the more corrupted the nearer to chance; of other people's faces, fakes alone.
    corrupted = table[table["split"] == "test"].head(40)
    parts = [table]
    for condition, kept in (("jpeg 90", 0.9), ("jpeg 30", 0.2), ("blur 2", 0.5)):
        parts.append(corrupted.assign(condition=condition, logit=(corrupted["logit"] * kept).astype(np.float32)))
    parts.append(table[table["label"] == 1].head(25).assign(set="other", split="unseen"))
    table = pd.concat(parts, ignore_index=True)
    table["score"] = (1 / (1 + np.exp(-table["logit"]))).astype(np.float32)
    table["distance"] = random.uniform(0.5, 1.5, len(table)).astype(np.float32)
    SCORES.parent.mkdir(parents=True)
    table.to_parquet(SCORES)
    return table


@pytest.fixture
def run_evaluate(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Run the stage for the one detector, and give its metrics."""

    def run() -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["evaluate", *NAME.split("-")])
        evaluate.main()
        metrics: dict[str, Any] = json.loads(Path(f"data/figures/{NAME}.json").read_text())
        return metrics

    return run


def test_metrics_are_those_of_the_test_images(scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]) -> None:
    metrics = run_evaluate()
    test = clean(scores, "test")
    called_fake = test["score"] >= metrics["threshold"]
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(test["label"], test["score"]))
    assert metrics["roc_auc_low"] < metrics["roc_auc"] < metrics["roc_auc_high"]
    assert metrics["average_precision"] == pytest.approx(average_precision_score(test["label"], test["score"]))
    assert metrics["loss"] == pytest.approx(log_loss(test["label"], test["score"]), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(test["label"], called_fake))
    assert metrics["accuracy_at_half"] == pytest.approx(accuracy_score(test["label"], test["score"] >= 0.5))
    assert metrics["recall_fake"] == pytest.approx(called_fake[test["label"] == 1].mean())
    assert metrics["recall_real"] == pytest.approx(1 - called_fake[test["label"] == 0].mean())
    valid = scores[scores["split"] == "valid"]
    assert metrics["valid_roc_auc"] == pytest.approx(roc_auc_score(valid["label"], valid["score"]))


def test_metrics_carry_their_counts_and_what_the_detector_is_made_of(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    metrics = run_evaluate()
    assert (metrics["n"], metrics["n_valid"]) == (90, 60)
    assert (metrics["weights"], metrics["device"]) == ("random", "CPU")


def test_metrics_are_flat_and_few(scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]) -> None:
    values = run_evaluate().values()
    assert sum(isinstance(value, int | float) for value in values) <= 20
    assert all(isinstance(value, int | float | str) for value in values)


def test_threshold_comes_from_the_validation_images(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    before = run_evaluate()["threshold"]
    test, valid = scores["split"] == "test", scores["split"] == "valid"
    scores.loc[test, "score"] = (scores.loc[test, "score"] / 2).astype(np.float32)
    scores.to_parquet(SCORES)
    assert run_evaluate()["threshold"] == before
    scores.loc[valid, "score"] = (scores.loc[valid, "score"] / 2).astype(np.float32)
    scores.to_parquet(SCORES)
    assert run_evaluate()["threshold"] == pytest.approx(before / 2)


def test_tables_have_the_columns_that_plots_are_drawn_of(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    metrics = run_evaluate()
    tables = {path.stem: pd.read_csv(path) for path in Path(f"plots/detectors/{NAME}").iterdir()}
    assert {name: list(table.columns) for name, table in tables.items()} == {
        "roc": ["false_positive_rate", "true_positive_rate", "threshold"],
        "pr": ["recall", "precision", "threshold"],
        "scores": ["actual", "low", "high", "count", "share"],
        "confusion": ["actual", "predicted", "count", "share"],
        "report": ["class", "threshold_name", "threshold", "precision", "recall", "f1", "n"],
        "answers": ["actual", "answer", "count", "share"],
        "reliability": [
            "scale",
            "mean_probability",
            "share_fake",
            "share_fake_low",
            "share_fake_high",
            "count",
        ],
        "operating_points": [
            "point",
            "threshold",
            "supported",
            "n_valid_real",
            *with_ends("true_positive_rate", "false_positive_rate"),
            "n_fake",
            "n_real",
        ],
        "robustness": ["corruption", "level", "strength", *FIGURES],
        "sets": ["set", "generator", "seen", *FIGURES],
    }
    assert tables["scores"]["count"].sum() == tables["confusion"]["count"].sum() == 90
    right = tables["confusion"].query("actual == predicted")["count"].sum()
    assert right / 90 == pytest.approx(metrics["accuracy"])


def read_plot(name: str, index: str) -> pd.DataFrame:
    return pd.read_csv(f"plots/detectors/{NAME}/{name}.csv").set_index(index)


def test_calibration_comes_from_the_validation_images_and_is_kept_for_others(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    metrics = run_evaluate()
    valid, test = clean(scores, "valid"), clean(scores, "test")
    kept = calibration.read(f"data/exported/{NAME}/calibration.json")
    fitted = calibration.fit(valid["label"].to_numpy(), valid["logit"].to_numpy(np.float64), metrics["threshold"], 0.05)
    unmeasured = {"n_test": 0, "n_answered": 0, "unlike_from": math.inf}
    unmeasured |= {f"{name}{end}": math.nan for name in ("wrong", "marked") for end in ("", "_low", "_high")}
    assert replace(kept, **unmeasured, model=None) == fitted
    assert kept.model == MODEL
    probability = kept.probability(test["logit"].to_numpy(np.float64))
    assert metrics["brier"] == pytest.approx(brier_score_loss(test["label"], probability))
    assert metrics["ece"] == pytest.approx(
        figures.expected_calibration_error(test["label"].to_numpy(), probability), abs=1e-9
    )


def test_what_the_answers_were_worth_is_counted_on_the_test_images_and_kept(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    run_evaluate()
    kept, test = calibration.read(f"data/exported/{NAME}/calibration.json"), clean(scores, "test")
    score = 1 / (1 + np.exp(-test["logit"].to_numpy(np.float64)))
    called_real, called_fake = score < kept.real_below, score >= kept.fake_from
    wrong = (called_real & (test["label"] == 1)).sum() + (called_fake & (test["label"] == 0)).sum()
    answered = int((called_real | called_fake).sum())
    assert (kept.n_test, kept.n_answered) == (90, answered)
    assert 0 < wrong < answered < 90
    low, high = proportion_confint(wrong, answered, alpha=0.05, method="wilson")
    assert (kept.wrong, kept.wrong_low, kept.wrong_high) == pytest.approx((wrong / answered, low, high))


def test_at_most_five_percent_of_the_validation_images_are_marked_and_how_many_of_others_is_measured(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    missed = scores.index[-4:]
    scores.loc[missed, ["logit", "score"]] = [-3, 0.05]
    scores.loc[missed, "distance"] = [2, 2, 2, 0]
    scores.to_parquet(SCORES)
    run_evaluate()
    kept, table = calibration.read(f"data/exported/{NAME}/calibration.json"), read_plot("sets", "set")
    scores = scores.astype({"distance": np.float64})
    valid, test, other = (clean(scores, split) for split in ("valid", "test", "unseen"))
    assert (valid["distance"] >= kept.unlike_from).sum() == 2  # 5 % of 61 gaps are three: the third largest is not
    assert kept.marked == pytest.approx((test["distance"] >= kept.unlike_from).mean())
    assert (kept.marked_low, kept.marked_high) == pytest.approx(
        proportion_confint(round(kept.marked * 90), 90, alpha=0.05, method="wilson")
    )
    assert table.loc["test", "marked"] == pytest.approx(kept.marked, abs=1e-4)
    assert table.loc["other", "marked"] == pytest.approx((other["distance"] >= kept.unlike_from).mean(), abs=1e-4)
    assert table.loc["other", ["n_missed", "missed_marked"]].tolist() == [4, 0.75]


def test_too_few_validation_images_to_choose_by_mark_none(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    scores.drop(index=scores.index[18:60]).to_parquet(SCORES)
    run_evaluate()
    assert json.loads(Path(f"data/exported/{NAME}/calibration.json").read_text())["unlike_from"] is None
    assert (read_plot("sets", "set")["marked"] == 0).all()


def test_operating_points_are_chosen_on_validation_and_judged_on_test(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    metrics = run_evaluate()
    points = read_plot("operating_points", "point")
    valid, test = clean(scores, "valid"), clean(scores, "test")
    reals = valid.loc[valid["label"] == 0, "score"].to_numpy(np.float64)
    assert len(reals) == points["n_valid_real"].iloc[0] == 40
    # 5 % of 41 gaps is two: the second largest of the 40 may be exceeded. 1 % would need 99 reals.
    assert points["supported"].to_dict() == {
        "best balanced accuracy": True,
        "0.5": True,
        "equal error rate": True,
        "FPR 5 %": True,
        "FPR 1 %": False,
        "FPR 0.1 %": False,
    }
    assert points.loc["FPR 5 %", "threshold"] == pytest.approx(np.sort(reals)[-2], rel=1e-5)
    fakes = test.loc[test["label"] == 1, "score"]
    assert points.loc["FPR 1 %", "true_positive_rate"] == pytest.approx((fakes > reals.max()).mean(), abs=1e-4)
    assert metrics["tpr_at_fpr_1pct"] == pytest.approx((fakes > reals.max()).mean())
    assert points.loc["best balanced accuracy", "threshold"] == pytest.approx(metrics["threshold"], rel=1e-5)


def test_a_threshold_above_all_reals_is_no_lower_than_that_of_best_balanced_accuracy() -> None:
    label = np.repeat([0, 1], 10).astype(np.int8)
    score = np.r_[np.linspace(0.0, 0.1, 10), np.linspace(0.9, 1.0, 10)]  # apart: the best cut is midway, at 0.5
    images = Scores(np.arange(20).astype(str), label, score, score, score)
    points = evaluate.operating_points(images, images, 0.5, load().evaluate).set_index("point")
    assert (points.loc[["FPR 5 %", "FPR 1 %", "FPR 0.1 %"], "threshold"] == 0.5).all()


def test_what_the_validation_images_are_too_few_for_is_said(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    run_evaluate()
    assert (
        "note: 40 real validation images are too few to aim at FPR 1 % or FPR 0.1 %: these thresholds lie above"
        in capsys.readouterr().out
    )


def test_robustness_begins_with_the_same_images_as_they_are(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    metrics = run_evaluate()
    table = pd.read_csv(f"plots/detectors/{NAME}/robustness.csv", dtype={"level": str})
    assert list(zip(table["corruption"], table["level"], strict=True)) == [
        ("jpeg", "clean"),
        ("jpeg", "90"),
        ("jpeg", "30"),
        ("blur", "clean"),
        ("blur", "2"),
    ]
    assert set(table["n"]) == {40}
    first = clean(scores, "test").head(40)
    assert table["roc_auc"][0] == pytest.approx(roc_auc_score(first["label"], first["score"]), abs=1e-4)
    corrupted = scores[scores["condition"] == "jpeg 30"]
    right = (corrupted["score"] >= metrics["threshold"]) == corrupted["label"]
    assert table["accuracy"][2] == pytest.approx(right.mean(), abs=1e-4)
    assert table["accuracy_low"][2] < table["accuracy"][2] < table["accuracy_high"][2]


def test_other_peoples_sets_follow_the_test_images_at_the_same_threshold(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    metrics = run_evaluate()
    table = read_plot("sets", "set")
    assert table["generator"].fillna("").to_dict() == {"test": "", "faces": "", "other": "StyleGAN2"}
    assert table["seen"].to_dict() == {"test": True, "faces": True, "other": False}
    assert table.loc["faces"].drop("generator").equals(table.loc["test"].drop("generator"))
    assert table.loc["test", "roc_auc"] == pytest.approx(metrics["roc_auc"], abs=1e-4)
    assert table.loc["other", ["n_real", "n_fake"]].tolist() == [0, 25]
    theirs = scores.loc[scores["set"] == "other", "score"]
    assert table.loc["other", "recall_fake"] == pytest.approx((theirs >= metrics["threshold"]).mean())
    for figure in ("roc_auc", "roc_auc_low", "average_precision", "false_positive_rate", "recall_real", "eer"):
        assert np.isnan(table.loc["other", figure])  # there are no reals
    # 5 % of 41 gaps is two: the second largest of the 40 validation reals is the threshold for 5 % false alarms.
    valid, test = clean(scores, "valid"), clean(scores, "test")
    cut = np.sort(valid.loc[valid["label"] == 0, "score"])[-2]
    assert table.loc["other", "tpr_at_fpr_5pct"] == pytest.approx((theirs >= cut).mean(), abs=1e-4)
    assert np.isnan(table.loc["other", "fpr_at_fpr_5pct"])
    called = test["score"] >= cut
    shares = [called[test["label"] == label].mean() for label in (1, 0)]
    assert table.loc["test", ["tpr_at_fpr_5pct", "fpr_at_fpr_5pct"]].tolist() == pytest.approx(shares, abs=1e-4)


def test_a_single_set_is_the_row_test_alone(scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]) -> None:
    scores[scores["set"] == "faces"].to_parquet(SCORES)  # other has no image that the set above lacks
    run_evaluate()
    assert list(read_plot("sets", "set").index) == ["test"]


@pytest.mark.parametrize(("leave_out", "seen"), [("two", False), ("two/fake", False), ("two/real", True)])
def test_a_set_is_seen_if_its_fakes_were(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]], leave_out: str, seen: bool
) -> None:
    yaml = YAML()
    params = yaml.load(Path("params.yaml"))
    params["sets"]["two"] = dict(params["sets"]["faces"])
    params["split"]["leave_out"] = [leave_out]
    yaml.dump(params, Path("params.yaml"))
    # The second half of the test images is of the other set; what was left out of it is unseen.
    last = scores[(scores["split"] == "test") & (scores["condition"] == "clean")].index[45:]
    unseen = scores.loc[last, "label"].isin([0, 1] if leave_out == "two" else [int(leave_out == "two/fake")])
    scores.loc[last, "set"] = "two"
    scores.loc[unseen[unseen].index, "split"] = "unseen"
    scores.to_parquet(SCORES)
    run_evaluate()
    table = read_plot("sets", "set")
    assert table["seen"].to_dict() == {"test": True, "faces": True, "other": False, "two": seen}
    assert table.loc["two", ["n_real", "n_fake"]].tolist() == [30, 15]
    assert table.loc["test", "n"] == 90 - unseen.sum()


def test_without_corruptions_the_table_has_its_columns_and_no_rows(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]
) -> None:
    scores[scores["condition"] == "clean"].to_parquet(SCORES)
    run_evaluate()
    table = pd.read_csv(f"plots/detectors/{NAME}/robustness.csv")
    assert list(table.columns[:3]) == ["corruption", "level", "strength"]
    assert len(table) == 0


def test_it_says_how_good_the_detector_is(
    scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run_evaluate()
    said = capsys.readouterr().out
    assert f"{NAME}: AUC {metrics['roc_auc']:.4f}" in said
    assert "on 90 test images" in said


def one_class(table: pd.DataFrame) -> pd.DataFrame:
    """Without the fakes of the test split."""
    return table[(table["split"] != "test") | (table["label"] == 0)]


def not_a_number(table: pd.DataFrame) -> pd.DataFrame:
    """As after a training that diverged."""
    return table.assign(logit=np.float32("nan"), score=np.float32("nan"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (one_class, "the test split has no fake image among 60"),
        (not_a_number, r"the score of 000\.jpg is not a finite number \(60 of 60 are not\)"),
    ],
)
def test_scores_that_no_figure_can_be_made_of_are_refused(
    scores: pd.DataFrame,
    run_evaluate: Callable[[], dict[str, Any]],
    damage: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
) -> None:
    damage(scores).to_parquet(SCORES)
    with pytest.raises(UserError, match=message):
        run_evaluate()
    assert not Path("metrics").exists()
    assert not Path("plots").exists()


def test_missing_scores_are_refused(scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]) -> None:
    SCORES.unlink()
    with pytest.raises(UserError, match=f"{SCORES} is missing; make it with `dvc repro`"):
        run_evaluate()
    assert not Path("metrics").exists()
    assert not Path("plots").exists()


def test_an_unknown_detector_is_refused(
    scores: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", "resnet", "baseline"])
    with pytest.raises(SystemExit, match="2"):
        evaluate.main()
    assert "invalid choice: 'resnet'" in capsys.readouterr().err
