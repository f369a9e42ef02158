"""Stage `compare`: which detector is best, and is its lead real.

Reads, for each detector of ``models`` in params.yaml, ``metrics/detectors/M-P.json``, ``data/scores/M-P.parquet`` and
``data/models/M-P.keras``.
The champion is the one with the best AUC on the *validation* images: to choose on the test images and report on them
would flatter it. All figures shown are of the test images. Writes ``metrics/leaderboard.json``,
``plots/leaderboard.csv``, ``plots/leaderboard.png`` and ``data/champion.keras``, a copy of the best detector. Being
DVC's, that copy is absent from a fresh clone: so the stage runs there, and shows and tracks what the clone has made,
even if all figures are those that git brought along.
"""

import shutil
from collections.abc import Sequence
from typing import get_args

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from stages import tracking
from stages.errors import UserError, run
from stages.files import publish, read_json, write_json
from stages.params import Evaluate, Model, Phase, load
from stages.scoring import drawing, figures, intervals
from stages.scoring.scores import Scores, read

SHOWN = [
    "detector",
    "model",
    "phase",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "roc_auc",
    "roc_auc_low",
    "roc_auc_high",
    "average_precision",
    "valid_roc_auc",
    "n",
    "n_valid",
]

CHAMPION = "data/champion.keras"

NEXT = f"""Made: {CHAMPION}, metrics/leaderboard.json, plots/leaderboard.csv, plots/leaderboard.png.
Next: dvc plots show     every curve of every detector, in dvc_plots/index.html
      dvc metrics show   all figures;  dvc metrics diff  what changed since the last commit
      make ui            the runs in MLflow"""


def leaderboard(models: Sequence[Model], confidence: float) -> pd.DataFrame:
    """The detectors' metrics and the interval of the accuracy, a row a detector.

    The best validation AUC comes first; of equals, the detector named first in params.yaml.
    """
    rows = []
    for model in models:
        for phase in get_args(Phase):
            metrics = read_json(f"metrics/detectors/{model}-{phase}.json")
            hits = round(metrics["accuracy"] * metrics["n"])
            low, high = intervals.of_share(hits, metrics["n"], confidence)
            named = {"detector": f"{model}-{phase}", "model": model, "phase": phase}
            rows.append(named | metrics | {"accuracy_low": low, "accuracy_high": high})
    return pd.DataFrame(rows).sort_values("valid_roc_auc", ascending=False, kind="stable", ignore_index=True)


def same_images(detectors: list[str]) -> list[Scores]:
    """The detectors' test scores. Raises :class:`UserError` where two were not scored on the same images."""
    scores = [read(f"data/scores/{name}.parquet", "test") for name in detectors]
    for name, other in zip(detectors[1:], scores[1:], strict=True):
        if not (np.array_equal(scores[0].member, other.member) and np.array_equal(scores[0].label, other.label)):
            raise UserError(
                f"{detectors[0]} and {name} were scored on different test images ({len(scores[0].member)} and "
                f"{len(other.member)}), so they cannot be compared; run `dvc repro` to score them on the same ones"
            )
    return scores


def lead_of(first: Scores, second: Scores, thresholds: list[float], params: Evaluate) -> dict[str, float]:
    """The champion's lead over the runner-up in AUC, its interval, and McNemar's p for their accuracies."""
    low, high = intervals.of_auc_lead(
        first.label,
        first.score,
        second.score,
        confidence=params.confidence,
        resamples=params.resamples,
        seed=params.seed,
    )
    right, other_right = (
        figures.correct(scores.label, scores.score, threshold)
        for scores, threshold in zip((first, second), thresholds, strict=True)
    )
    return {
        "lead_over_second": figures.roc_auc(first.label, first.score) - figures.roc_auc(second.label, second.score),
        "lead_over_second_low": low,
        "lead_over_second_high": high,
        "mcnemar_p": intervals.same_accuracy_p(right, other_right),
    }


def sentence(champion: str, second: str, lead: dict[str, float], confidence: float) -> str:
    """Whether the lead is real, for people."""
    if lead["lead_over_second_low"] > 0:
        verdict = f"{champion} is truly ahead of {second}"
    elif lead["lead_over_second_high"] < 0:
        verdict = f"{champion} led {second} on the validation images, but is truly behind it on the test images"
    else:
        verdict = f"The difference between {champion} and {second} may be chance"
    return (
        f"{verdict}: AUC {lead['lead_over_second']:+.4f}, {confidence * 100:g} % interval "
        f"{lead['lead_over_second_low']:+.4f} to {lead['lead_over_second_high']:+.4f} "
        f"(paired, on the same test images); McNemar's p for the accuracies is {lead['mcnemar_p']:.2g}."
    )


def show(table: pd.DataFrame, confidence: float) -> None:
    """Print the leaderboard."""
    board = Table(
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
        title=f"Leaderboard on {table['n'][0]:,} test images, with {confidence * 100:g} % intervals",
    )
    board.add_column("Detector", no_wrap=True)
    for column in ("AUC, valid", "AUC", "Accuracy"):
        board.add_column(column, justify="right")
    for row in table.to_dict("records"):
        board.add_row(
            row["detector"],
            f"{row['valid_roc_auc']:.4f}",
            *(f"{row[f]:.4f} ({row[f'{f}_low']:.3f}–{row[f'{f}_high']:.3f})" for f in ("roc_auc", "accuracy")),
        )
    Console().print(board)


def main() -> None:
    """Compare all detectors."""
    params = load()
    confidence = params.evaluate.confidence
    table = leaderboard(params.models, confidence)
    scores = same_images(list(table["detector"]))
    lead = lead_of(scores[0], scores[1], list(table["threshold"][:2]), params.evaluate)

    champion, second = table.to_dict("records")[:2]
    shown = {key: champion[key] for key in [*SHOWN[3:], "threshold", "loss", "eer"]}
    write_json(
        "metrics/leaderboard.json",
        {"champion": champion["detector"], **shown, "second": second["detector"], **lead},
    )
    with publish("plots/leaderboard.csv") as part:
        table[SHOWN].to_csv(part, index=False, float_format="%.6g")
    with publish("plots/leaderboard.png") as part:
        drawing.leaderboard(table, confidence, part)
    with publish(CHAMPION) as part:
        shutil.copyfile(f"data/models/{champion['detector']}.keras", part)

    show(table, confidence)
    print(sentence(champion["detector"], second["detector"], lead, confidence))
    print("The champion was chosen by its AUC on the validation images; the figures are of the test images.")
    tracking.mirror(params)
    print(NEXT)


if __name__ == "__main__":
    run(main)
