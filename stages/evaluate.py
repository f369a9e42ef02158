"""Stage `evaluate`: every figure of one detector, from its scores alone.

Reads ``data/scores/M-P.parquet`` and ``data/models/M-P.json``, the training record. Chooses the threshold on the
validation images; all figures are of the test images. Writes ``metrics/detectors/M-P.json`` and, in ``plots/M-P/``,
``roc.csv``, ``pr.csv``, ``scores.csv`` (histogram), ``confusion.csv`` and ``report.csv``. Takes seconds; no TensorFlow.
"""

import argparse
from typing import Any, get_args

from stages.errors import run
from stages.files import publish, read_json, write_json
from stages.params import Evaluate, Model, Phase, load
from stages.scoring import curves, figures, intervals, thresholds
from stages.scoring.scores import Scores, read


def figures_of(test: Scores, valid: Scores, threshold: float, params: Evaluate) -> dict[str, float]:
    """The metrics of one detector: short and flat, for each is a column of `dvc exp show`.

    ``n`` test images, ``n_real`` and ``n_fake`` of them, are behind all figures but ``valid_roc_auc``, which is of the
    ``n_valid`` validation images, as is the choice of the threshold.
    """
    auc_low, auc_high = intervals.of_auc(
        test.label, test.score, confidence=params.confidence, resamples=params.resamples, seed=params.seed
    )
    by_class = figures.by_class(test.label, test.score, threshold)
    return {
        "n": len(test.label),
        "n_real": by_class["real"]["n"],
        "n_fake": by_class["fake"]["n"],
        "roc_auc": figures.roc_auc(test.label, test.score),
        "roc_auc_low": auc_low,
        "roc_auc_high": auc_high,
        "average_precision": figures.average_precision(test.label, test.score),
        "eer": figures.equal_error_rate(test.label, test.score),
        "loss": figures.loss(test.label, test.logit),
        "threshold": threshold,
        "accuracy": float(figures.correct(test.label, test.score, threshold).mean()),
        "accuracy_at_half": float(figures.correct(test.label, test.score, 0.5).mean()),
        **{f"{figure}_{name}": by_class[name][figure] for name in by_class for figure in ("precision", "recall", "f1")},
        "n_valid": len(valid.label),
        "valid_roc_auc": figures.roc_auc(valid.label, valid.score),
    }


def main() -> None:
    """Evaluate one detector."""
    parser = argparse.ArgumentParser(description="Every figure of one detector, from its scores.")
    parser.add_argument("model", choices=get_args(Model))
    parser.add_argument("phase", choices=get_args(Phase))
    arguments = parser.parse_args()
    name = f"{arguments.model}-{arguments.phase}"
    params = load().evaluate

    valid = read(f"data/scores/{name}.parquet", "valid")
    test = read(f"data/scores/{name}.parquet", "test")
    record = read_json(f"data/models/{name}.json")

    threshold = thresholds.best_balanced(valid.label, valid.score)
    metrics: dict[str, Any] = {
        **figures_of(test, valid, threshold, params),
        "weights": record["weights"]["source"],
        "device": record["device"],
    }
    tables = {
        "roc": curves.roc(test.label, test.score),
        "pr": curves.precision_recall(test.label, test.score),
        "scores": curves.histogram(test.label, test.score),
        "confusion": curves.confusion(test.label, test.score, threshold),
        "report": curves.report(test.label, test.score, {"validation": threshold, "0.5": 0.5}),
    }
    for plot, table in tables.items():
        with publish(f"plots/{name}/{plot}.csv") as part:
            table.to_csv(part, index=False, float_format="%.6g")
    write_json(f"metrics/detectors/{name}.json", metrics)
    print(
        f"{name}: AUC {metrics['roc_auc']:.4f} ({metrics['roc_auc_low']:.4f} to {metrics['roc_auc_high']:.4f}), "
        f"accuracy {metrics['accuracy']:.4f} at threshold {threshold:.3g}, on {metrics['n']:,} test images"
    )


if __name__ == "__main__":
    run(main)
