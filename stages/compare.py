"""Stage `compare`: which detector is best, and is its lead real.

Reads, for each detector of ``models`` in params.yaml, ``data/figures/M-P.json``, ``data/scores/M-P.parquet``,
``data/models/M-P.keras``, the tables in ``plots/detectors/M-P/`` and the other ones of ``OVERLAID``.
The champion is the one with the best AUC on the *validation* images: to choose on the test images and report on them
would flatter it. All figures shown are of the test images. Writes

- ``data/leaderboard.json``, ``plots/leaderboard.csv`` and ``plots/leaderboard.png``; ``metrics/champion.json``, the
  champion's headline, for DVC's tables;
- ``plots/differences.csv``: every pair of detectors, and whether their difference is real;
- ``plots/cross_generator.csv``: all detectors on the test images of what they learned from and of each set, seen or
not;
- ``plots/overlaid/``, the tables of ``OVERLAID``: all detectors' in one, for the figures that lay them over each other;
- ``data/champion.keras``, a copy of the best detector. Being DVC's, it is absent from a fresh clone: so the stage runs
  there, and shows what the clone has made, even if all figures are those that git brought along.
"""

import shutil
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from statsmodels.stats.multitest import multipletests

from stages.errors import UserError, run
from stages.files import publish, read_json, reading, write_json
from stages.params import Evaluate, Model, detectors_of, load
from stages.reporting import drawing, findings, worth
from stages.scoring import figures, intervals
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

CROSS = [
    *["n_real", "n_fake"],
    *[
        f"{figure}{end}"
        for figure in ("roc_auc", "recall_fake", "false_positive_rate", "tpr_at_fpr_5pct", "fpr_at_fpr_5pct")
        for end in ("", "_low", "_high")
    ],
    *[
        "average_precision",
        "accuracy",
        "eer",
        "answered",
        "wrong_when_answered",
        "ece",
        "brier",
        "marked",
        "n_missed",
        "missed_marked",
    ],
]

CHAMPION = "data/champion.keras"
EVALUATED = ("answers", "confusion", "operating_points", "pr", "reliability", "report", "robustness", "roc", "scores")
OVERLAID = {  # table: where that of each detector is
    **{table: f"plots/detectors/{{}}/{table}.csv" for table in EVALUATED},
    "deletion": "data/explanations/{}/deletion.csv",
    "history": "data/models/{}.csv",  # of fine-tuned ones
}


def leaderboard(models: Sequence[Model]) -> pd.DataFrame:
    """The detectors' metrics, a row a detector.

    The best validation AUC comes first; of equals, the detector named first in params.yaml.
    """
    rows = [
        {"detector": name, "model": model, "phase": phase} | read_json(f"data/figures/{name}.json")
        for name, model, phase in detectors_of(models)
    ]
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


def differences(scores: list[Scores], table: pd.DataFrame, params: Evaluate) -> pd.DataFrame:
    """Every pair of detectors, the one that leads on the leaderboard first: lead in AUC, its interval, p-values.

    ``mcnemar_p``: McNemar's test of their accuracies; ``mcnemar_p_holm``: the same, corrected for having looked at all
    pairs (Holm 1979). ``real``: the interval of the lead leaves out 0.
    """
    rows = []
    for (first, one), (second, other) in combinations(enumerate(scores), 2):
        low, high = intervals.of_auc_lead(
            one.label,
            one.score,
            other.score,
            confidence=params.confidence,
            resamples=params.resamples,
            seed=params.seed,
        )
        right, other_right = (
            figures.correct(scored.label, scored.score, table["threshold"][place])
            for scored, place in ((one, first), (other, second))
        )
        names = table["detector"][first], table["detector"][second]
        rows.append(
            {
                "pair": " over ".join(names),
                "first": names[0],
                "second": names[1],
                "lead": figures.roc_auc(one.label, one.score) - figures.roc_auc(other.label, other.score),
                "lead_low": low,
                "lead_high": high,
                "real": low > 0 or high < 0,
                "mcnemar_p": intervals.same_accuracy_p(right, other_right),
                "n": len(one.label),
            }
        )
    pairs = pd.DataFrame(rows)
    return pairs.assign(mcnemar_p_holm=multipletests(pairs["mcnemar_p"], method="holm")[1])


def sentence(pair: dict[Any, Any], confidence: float) -> str:
    """Whether the champion's lead is real, for people."""
    champion, second = pair["first"], pair["second"]
    if pair["lead_low"] == pair["lead_high"] == 0:
        return f"{champion} and {second} rank all test images alike: there is no lead."
    if pair["lead_low"] > 0:
        verdict = f"{champion} is ahead of {second}"
    elif pair["lead_high"] < 0:
        verdict = f"{champion} led {second} on the validation images, but is behind it on the test images"
    else:
        verdict = f"The difference between {champion} and {second} may be chance"
    return (
        f"{verdict}: AUC {pair['lead']:+.4f}, {confidence * 100:g} % interval {pair['lead_low']:+.4f} to "
        f"{pair['lead_high']:+.4f} (paired, on the same test images)."
    )


def others(pairs: pd.DataFrame) -> str:
    """Of the other pairs, which differences may be chance, for people; empty where there are none."""
    rest = pairs.iloc[1:]
    if rest.empty:
        return ""
    chance = [f"{pair.first} and {pair.second}" for pair in rest[~rest["real"]].itertuples()]
    if not chance:
        return "The intervals of all other pairs leave out 0."
    return f"Of the other pairs, only these may differ by chance: {'; '.join(chance)}."


def cross_generator(detectors: list[str]) -> pd.DataFrame:
    """The figures of every detector on every set, a row each, the test images first."""
    table = overlaid("plots/detectors/{}/sets.csv", detectors)
    order = pd.Categorical(table["set"], table["set"].unique(), ordered=True)
    return table[["set", "generator", "seen", "detector", *CROSS]].iloc[np.argsort(order.codes, kind="stable")]


def overlaid(place: str, detectors: Sequence[str], **options: Any) -> pd.DataFrame:
    """A table of every detector, one below the other; the column ``detector`` tells whose.

    ``place``: where it is, with {} for the detector; ``options`` are for ``pandas.read_csv``. Raises
    :class:`UserError` where a detector has no such table.
    """
    rows: list[pd.DataFrame] = []
    for name in detectors:
        path = place.format(name)
        with reading(path):
            rows.append(pd.read_csv(path, **options).assign(detector=name))
    return pd.concat(rows, ignore_index=True)


def empty_board(title: str, columns: Sequence[str]) -> Table:
    """A table for a terminal: names left, figures right."""
    board = Table(box=SIMPLE, pad_edge=False, collapse_padding=True, title=title)
    for number, column in enumerate(columns):
        board.add_column(column, justify="right" if number else "left", no_wrap=number > 0)
    return board


def show(table: pd.DataFrame, confidence: float) -> None:
    """Print the leaderboard."""
    board = empty_board(
        f"Leaderboard on {table['n'][0]:,} test images, with {confidence * 100:g} % intervals",
        ("Detector", "AUC, valid", "AUC", "Accuracy"),
    )
    for row in table.to_dict("records"):
        board.add_row(
            row["detector"],
            f"{row['valid_roc_auc']:.4f}",
            *(f"{row[f]:.4f} ({row[f'{f}_low']:.3f}–{row[f'{f}_high']:.3f})" for f in ("roc_auc", "accuracy")),
        )
    Console().print(board)


def show_elsewhere(table: pd.DataFrame, confidence: float) -> None:
    """Print what the detectors are worth on each set, if there are several."""
    if table["set"].nunique() == 1:
        return
    board = empty_board(
        f"Set by set at the same thresholds, with {confidence * 100:g} % intervals",
        ("Set (real/fake)", "AUC", "Fakes found", "False alarms"),
    )
    for name, rows in table.groupby("set", sort=False):
        learned = "" if rows["seen"].iloc[0] else ", unseen"
        board.add_row(f"{name} ({rows['n_real'].iloc[0]}/{rows['n_fake'].iloc[0]}{learned})", style="bold")
        for row in rows.to_dict("records"):
            cells = (
                f"{row[f]:.2f} ({row[f'{f}_low']:.2f}–{row[f'{f}_high']:.2f})" if pd.notna(row[f]) else "–"
                for f in ("roc_auc", "recall_fake", "false_positive_rate")
            )
            board.add_row(f"  {row['detector']}", *cells)
    Console().print(board)


def main() -> None:
    """Compare all detectors."""
    params = load()
    confidence = params.evaluate.confidence
    table = leaderboard(params.models)
    detectors = list(table["detector"])
    pairs = differences(same_images(detectors), table, params.evaluate)
    elsewhere = cross_generator(detectors)
    in_order = [name for name, _, _ in detectors_of(params.models)]
    fine_tuned = [name for name, _, phase in detectors_of(params.models) if phase == "finetune"]
    as_it_is: Any = {"dtype": str, "keep_default_na": False}
    tables = {
        f"overlaid/{table}": overlaid(place, fine_tuned if table == "history" else in_order, **as_it_is)
        for table, place in OVERLAID.items()
    }
    tables |= {"leaderboard": table[SHOWN], "differences": pairs, "cross_generator": elsewhere}

    champion, lead = table.to_dict("records")[0], pairs.to_dict("records")[0]
    shown = {key: champion[key] for key in [*SHOWN[3:], "threshold", "loss", "eer"]}
    write_json(
        "data/leaderboard.json",
        {
            "champion": champion["detector"],
            **shown,
            "second": lead["second"],
            **{f"lead_over_second{end}": lead[f"lead{end}"] for end in ("", "_low", "_high")},
            "mcnemar_p": lead["mcnemar_p"],
        },
    )
    write_json("metrics/champion.json", figures.headline(champion))
    for name, content in tables.items():
        with publish(f"plots/{name}.csv") as part:
            content.to_csv(part, index=False, float_format="%.4g")
    with publish("plots/leaderboard.png") as part:
        drawing.leaderboard(table, confidence, part)
    with publish(CHAMPION) as part:
        shutil.copyfile(f"data/models/{champion['detector']}.keras", part)

    if caution := worth.caution(
        worth.source(params.sets[name].source for name in params.learned_sets), champion["weights"]
    ):
        print(caution.sentence)
    show(table, confidence)
    print(sentence(lead, confidence), others(pairs))
    for model in params.models:
        print(findings.fine_tuning(model, table, pairs))
    print("The champion was chosen by its AUC on the validation images; the figures are of the test images.")
    show_elsewhere(elsewhere, confidence)


if __name__ == "__main__":
    run(main)
