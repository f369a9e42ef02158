"""The figures of a run in MLflow, drawn from its tables."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.files import in_memory
from stages.reporting import figures

REAL, FAKE = "#0072B2", "#D55E00"  # Okabe and Ito's, which the colour-blind can tell apart


def draw(tables: Path, folder: Path, name: str) -> None:
    """Draw a PNG of each table into ``folder``: ``roc.png``, ``history.png``, ``robustness.png`` and so on.

    ``tables`` holds those of one detector; a figure whose table is missing is left out. ``name`` is for the titles.
    """
    folder.mkdir(parents=True, exist_ok=True)
    confusion = tables / "confusion.csv"
    on = f"{int(pd.read_csv(confusion)['count'].sum()):,} test images" if confusion.exists() else "test images"
    panels: dict[str, tuple[Callable[[Axes, pd.DataFrame], None], str]] = {
        "pr": (_precision_recall, f"{name}: precision and recall of fakes on {on}"),
        "confusion": (_confusion, f"{name}: confusion matrix on {on}"),
        "scores": (_scores, f"{name}: scores of {on}"),
    }
    for plot, (panel, title) in panels.items():
        if (tables / f"{plot}.csv").exists():
            figure = Figure(figsize=(6, 5), dpi=110, layout="constrained")
            panel(figure.subplots(), pd.read_csv(tables / f"{plot}.csv"))
            _save(figure, title, folder / f"{plot}.png")
    shared: dict[str, tuple[Callable[[figures.Tables], Figure], str]] = {
        "roc": (figures.roc, f"{name}: ROC curve on {on}"),
        "history": (figures.history, f"{name}: training"),
        "reliability": (figures.reliability, f"{name}: what it says and what is true, {on}"),
        "answers": (figures.answers, f"{name}: three answers to {on}"),
        "robustness": (partial(figures.robustness, column="roc_auc", label="AUC"), f"{name}: corrupted test images"),
        "deletion": (figures.deletion, f"{name}: deletion by evidence and at random"),
    }
    for plot, (overlay, title) in shared.items():
        if (tables / f"{plot}.csv").exists():
            table = pd.read_csv(tables / f"{plot}.csv", dtype={"level": str})
            if len(table):
                _save(overlay({name: table}), title, folder / f"{plot}.png")


def _save(figure: Figure, title: str, path: Path) -> None:
    """Write a figure as PNG; not through pyplot, which would keep the figure and might want a screen."""
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    with in_memory(path) as picture:
        figure.savefig(picture, format="png", metadata={"Software": None})


def _precision_recall(axes: Axes, table: pd.DataFrame) -> None:
    """Precision against recall. At recall 1 all are called fake: that precision, the share of fakes, is chance."""
    chance = table["precision"].iloc[-1]
    axes.axhline(chance, linestyle=":", color="0.6", label=f"chance, {chance:.2f}")
    axes.plot(table["recall"], table["precision"], color=FAKE, label="detector")
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.legend(loc="lower left")
    axes.grid(alpha=0.25)


def _confusion(axes: Axes, table: pd.DataFrame) -> None:
    """Counts, and shares of the actual class, which also give the shade."""
    classes = ["real", "fake"]
    cells = table.pivot(index="actual", columns="predicted").loc[classes]
    shares, counts = cells["share"][classes].to_numpy(), cells["count"][classes].to_numpy()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            share, count = shares[row, column], counts[row, column]
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{count:,}\n{share:.1%}", ha="center", va="center", color=colour, fontsize=14)
    axes.set_xticks(range(2), classes)
    axes.set_yticks(range(2), classes)
    axes.set(xlabel="predicted, at the validation threshold", ylabel="actual")


def _scores(axes: Axes, table: pd.DataFrame) -> None:
    """The histogram of each class's scores, as shares of the class."""
    for actual, colour, hatch in (("real", REAL, ""), ("fake", FAKE, "//")):
        bars = table[table["actual"] == actual]
        axes.bar(
            bars["low"],
            bars["share"],
            width=bars["high"] - bars["low"],
            align="edge",
            color=colour,
            alpha=0.55,
            hatch=hatch,
            label=actual,
        )
    axes.set(xlabel="P(fake)", ylabel="share of the class", xlim=(0, 1))
    axes.legend(title="actual", loc="upper center")
    axes.grid(axis="y", alpha=0.25)
