"""What a detector is worth on a generator that it learned from, and on one that was left out: a table over experiments.

    python -m bench.generators EXPERIMENT … [--to FILE.csv]

Each experiment is a `dvc exp run -n EXPERIMENT` with the same sets and another `split.leave_out`; of each,
plots/cross_generator.csv is read. Writes FILE.csv, draws FILE.png, and prints the table.
An experiment that left out one generator counts for that one alone. The tables of README.md and
docs/*.md between ``<!-- generators: DETECTOR -->`` and ``<!-- /generators -->`` are made of docs/generators.csv by
``python -m bench.results write``; ``<!-- generators: DETECTOR found -->`` is the short one, of the fakes found, and
``<!-- generators: DETECTOR FILE.csv -->`` is of another file of docs/.
"""

import argparse
import io
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import dvc.api
import pandas as pd
from dvc.exceptions import DvcException
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stages.errors import UserError, run
from stages.files import publish

CROSS = "plots/cross_generator.csv"
TEST = "test"  # the test images of all sets that were learned from
KEPT = Path("docs/generators.csv")
ALL, OTHERS = "every generator", "every other generator"
HEAD = ("faces", "learned from", "fakes found", "reals called fake", "AUC", "real / fake")
SHOWN = (("fakes found", "tpr_at_fpr_5pct"), ("AUC", "roc_auc"))


def main() -> None:
    """Gather the experiments that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", metavar="EXPERIMENT")
    parser.add_argument("--to", type=Path, default=KEPT, metavar="FILE.csv", help=f"default: {KEPT}")
    arguments = parser.parse_args()
    gathered = gather([measured(name) for name in arguments.experiments])
    with publish(arguments.to) as part:
        gathered.to_csv(part, index=False)
    with publish(arguments.to.with_suffix(".png")) as part:
        draw(gathered, part)
    for detector in gathered["detector"].unique():
        print(f"{detector}\n\n{table(detector, gathered)}\n")


def measured(experiment: str) -> pd.DataFrame:
    """The figures of one experiment on each set."""
    try:
        text = dvc.api.read(CROSS, rev=experiment)
    except (DvcException, FileNotFoundError):
        raise UserError(
            f"there is no experiment {experiment!r} with {CROSS}; `dvc exp list` names those that are there"
        ) from None
    figures = pd.read_csv(io.StringIO(text))
    if figures["set"].nunique() == 1:
        raise UserError(f"the experiment {experiment!r} has one set only; add others to sets in params.yaml")
    return figures.assign(experiment=experiment, generator=figures["generator"].fillna(figures["set"]))


def gather(experiments: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The figures of all experiments with what detectors ``learned_from``, by detector and set, seen before unseen.

    An experiment without one generator tells of that one only.
    """
    experiments = [figures[figures["set"] != TEST] for figures in experiments]
    learnable = {name for figures in experiments for name in figures.loc[figures["seen"], "generator"]}
    tables = []
    for figures in experiments:
        known = figures.loc[figures["seen"], "generator"].unique()
        lacking = learnable - set(known)
        if not lacking:
            table = figures.assign(learned_from=figures["seen"].map({True: ALL, False: OTHERS}))
        elif len(lacking) == 1 and len(known) > 1:
            table = figures[figures["generator"].isin(lacking)].assign(learned_from=OTHERS)
        else:
            table = figures.assign(learned_from=", ".join(known))
        tables.append(table)
    gathered = pd.concat(tables, ignore_index=True)
    order = {name: place for place, name in enumerate(pd.concat(experiments)["set"].unique())}
    gathered["place"] = gathered["set"].map(order)
    gathered["rank"] = gathered["learned_from"].map(rank)
    gathered = gathered.sort_values(["detector", "place", "rank"], kind="stable").drop(columns=["place", "rank"])
    first = ["set", "generator", "learned_from", "seen", "experiment", "detector"]
    return gathered[first + [column for column in gathered if column not in first]]


def shown(words: str) -> str:
    """The table that the words of a page's mark ask for, as Markdown."""
    detector, *more = words.split()
    files = [KEPT.with_name(word) for word in more if word.endswith(".csv")] or [KEPT]
    return table(detector, read(files[0]), short="found" in more)


def read(path: Path = KEPT) -> pd.DataFrame:
    """The figures that were gathered before."""
    if not path.exists():
        raise UserError(f"{path} is missing; `python -m bench.generators EXPERIMENT …` makes it")
    return pd.read_csv(path)


def rank(learned_from: str) -> int:
    """Where a column stands: all generators, all others, fewer."""
    return {ALL: 0, OTHERS: 1}.get(learned_from, 2)


def table(detector: str, figures: pd.DataFrame, *, short: bool = False) -> str:
    """The figures of a detector as Markdown, at the threshold for 5 % of false alarms on its validation faces.

    ``short``: of the fakes found alone, a column for each that it may have learned from.
    """
    rows = figures[figures["detector"] == detector]
    if rows.empty:
        raise UserError(f"{KEPT} has no row of {detector}; `python -m bench.generators EXPERIMENT …` adds some")
    rows = rows.assign(
        faces=rows["set"] + ": " + rows["generator"],
        found=share(rows, "tpr_at_fpr_5pct"),
        alarms=share(rows, "fpr_at_fpr_5pct"),
        auc=[f"{a:.3f} ({b:.3f}–{c:.3f})" for a, b, c in rows[ends("roc_auc")].to_numpy()],
        n=[f"{real:,} / {fake:,}" for real, fake in rows[["n_real", "n_fake"]].to_numpy()],
    )
    if short:
        sources = sorted(rows["learned_from"].unique(), key=rank)
        head = ["fakes found, of faces of", *(f"learned from {source}" for source in sources)]
        found = rows.pivot(index="faces", columns="learned_from", values="found")[sources].fillna("–")
        cells = found.loc[rows["faces"].unique()].reset_index().to_numpy()
    else:
        head, cells = list(HEAD), rows[["faces", "learned_from", "found", "alarms", "auc", "n"]].to_numpy()
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ends(figure: str) -> list[str]:
    """The columns of a figure and of its interval."""
    return [figure, f"{figure}_low", f"{figure}_high"]


def share(rows: pd.DataFrame, figure: str) -> list[str]:
    """A share and its interval, in percent."""
    return [f"{a:.0f} % ({b:.0f}–{c:.0f})" for a, b, c in 100 * rows[ends(figure)].to_numpy()]


def draw(figures: pd.DataFrame, path: Path) -> None:
    """A PNG: a row a set, a dot an experiment; full where the set was learned from, hollow where it was not."""
    detectors, sets = list(figures["detector"].unique()), list(figures["set"].unique())
    figure = Figure(figsize=(10, 1.2 + 0.62 * len(sets) * len(detectors)), dpi=110, layout="constrained")
    panels = figure.subplots(len(detectors), len(SHOWN), squeeze=False, sharey=True)
    sources = sorted(figures["learned_from"].unique(), key=rank)
    for (detector, part), row in zip(figures.groupby("detector", sort=False), panels, strict=True):
        for (title, column), axes in zip(SHOWN, row, strict=True):
            for (number, source), seen in product(enumerate(sources), (True, False)):
                dots = part[(part["learned_from"] == source) & (part["seen"] == seen)]
                if dots.empty:
                    continue
                at = dots["set"].map(sets.index) + 0.22 * (number - (len(sources) - 1) / 2)
                errors = [dots[column] - dots[f"{column}_low"], dots[f"{column}_high"] - dots[column]]
                colour = f"C{number}"
                full = colour if seen else "white"
                axes.errorbar(dots[column], at, xerr=errors, fmt="o", color=colour, mfc=full, capsize=3)
            axes.set(xlim=(-0.02, 1.02), title=f"{detector}: {title}" + ("" if column == "roc_auc" else " at 5 %"))
            axes.axvline(0.5 if column == "roc_auc" else 0.05, color="0.6", linewidth=1, linestyle=":")
            axes.grid(axis="x", alpha=0.25)
    generators = figures.drop_duplicates("set").set_index("set")["generator"]
    panels[0, 0].set_yticks(range(len(sets)), [f"{name}: {generators[name]}" for name in sets])
    panels[0, 0].invert_yaxis()
    handles = [Line2D([], [], color=f"C{number}", marker="o", linestyle="") for number in range(len(sources))]
    labels = [f"learned from {source}" for source in sources]
    figure.legend(handles, labels, title="full: from this set, too", loc="outside lower center", frameon=False)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    run(main)
