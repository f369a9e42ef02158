"""The stage `evaluate`, from a table of scores to its files."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, roc_auc_score

from stages import evaluate
from stages.errors import UserError

ROOT = Path(__file__).parents[1]
NAME = "resnet50-baseline"
SCORES = Path(f"data/scores/{NAME}.parquet")


@pytest.fixture
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A project with the training record and the scores of one detector, and those scores: 60 valid, 90 test images."""
    monkeypatch.chdir(tmp_path)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["evaluate"]["resamples"] = 200
    yaml.dump(params, tmp_path / "params.yaml")
    record = Path(f"data/models/{NAME}.json")
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"weights": {"source": "random", "asked": "auto"}, "device": "CPU"}))
    random = np.random.default_rng(0)
    split = np.repeat(["valid", "test"], [60, 90])
    label = (np.arange(150) % 3 == 0).astype(np.int8)
    logit = (random.normal(size=150) + 2 * label).astype(np.float32)
    member = [f"{number:03}.jpg" for number in range(150)]
    score = (1 / (1 + np.exp(-logit))).astype(np.float32)
    table = pd.DataFrame(
        {"split": split, "condition": "clean", "member": member, "label": label, "logit": logit, "score": score}
    )
    SCORES.parent.mkdir(parents=True)
    table.to_parquet(SCORES)
    return table


@pytest.fixture
def run_evaluate(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Run the stage for the one detector, and give its metrics."""

    def run() -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["evaluate", *NAME.split("-")])
        evaluate.main()
        metrics: dict[str, Any] = json.loads(Path(f"metrics/detectors/{NAME}.json").read_text())
        return metrics

    return run


def test_metrics_are_those_of_the_test_images(scores: pd.DataFrame, run_evaluate: Callable[[], dict[str, Any]]) -> None:
    metrics = run_evaluate()
    test = scores[scores["split"] == "test"]
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
    assert {key: metrics[key] for key in ("n", "n_real", "n_fake", "n_valid")} == {
        "n": 90,
        "n_real": 60,
        "n_fake": 30,
        "n_valid": 60,
    }
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
    tables = {path.stem: pd.read_csv(path) for path in Path(f"plots/{NAME}").iterdir()}
    assert {name: list(table.columns) for name, table in tables.items()} == {
        "roc": ["false_positive_rate", "true_positive_rate", "threshold"],
        "pr": ["recall", "precision", "threshold"],
        "scores": ["actual", "low", "high", "count", "share"],
        "confusion": ["actual", "predicted", "count", "share"],
        "report": ["class", "threshold_name", "threshold", "precision", "recall", "f1", "n"],
    }
    assert tables["scores"]["count"].sum() == tables["confusion"]["count"].sum() == 90
    right = tables["confusion"].query("actual == predicted")["count"].sum()
    assert right / 90 == pytest.approx(metrics["accuracy"])


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
    ("spoil", "message"),
    [
        (one_class, "the test split has no fake image among 60"),
        (not_a_number, r"valid score of 000\.jpg is not a finite number \(60 of 60 are not\)"),
    ],
)
def test_scores_that_no_figure_can_be_made_of_are_refused(
    scores: pd.DataFrame,
    run_evaluate: Callable[[], dict[str, Any]],
    spoil: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
) -> None:
    spoil(scores).to_parquet(SCORES)
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


def test_it_does_without_tensorflow() -> None:
    code = "import sys, stages.evaluate; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
