"""The leaderboard as a picture."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.files import in_memory

# Okabe and Ito's colours, which the colour-blind can tell apart; .dvc/plots/ has the same.
CHAMPION = "#D55E00"
OTHERS = "#0072B2"


def leaderboard(table: pd.DataFrame, confidence: float, path: Path) -> None:
    """Draw a dot with its interval for each detector: area under the ROC curve left, accuracy right; a PNG at ``path``.

    ``table``: the columns of plots/leaderboard.csv, the champion first. The same table gives the same bytes.
    """
    figure = Figure(figsize=(10, 1.9 + 0.55 * len(table)), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _dots(left, table, "roc_auc", "Area under the ROC curve")
    _dots(right, table, "accuracy", "Accuracy at the validation threshold")
    left.set_yticks(range(len(table)), table["detector"])
    left.get_yticklabels()[0].set_fontweight("bold")
    left.invert_yaxis()
    figure.suptitle(f"Champion: {table['detector'][0]}", x=0.01, ha="left", fontsize=14)
    figure.supxlabel(
        f"{table['n'][0]:,} test images; bars: {confidence * 100:g} % intervals; ranked on the validation images",
        fontsize=9,
        color="0.35",
    )
    # A Figure of its own, not one of pyplot's, is drawn by Agg and needs no screen.
    with in_memory(path) as picture:
        figure.savefig(picture, format="png", metadata={"Software": None})


def _dots(axes: Axes, table: pd.DataFrame, figure: str, title: str) -> None:
    """One panel: a dot, its interval and its number, a row a detector."""
    for row, detector in enumerate(table.to_dict("records")):
        colour = CHAMPION if row == 0 else OTHERS
        axes.hlines(row, detector[f"{figure}_low"], detector[f"{figure}_high"], color=colour, linewidth=3, alpha=0.45)
        axes.plot(detector[figure], row, "o", color=colour, markersize=8)
        axes.annotate(
            f"{detector[figure]:.4f}",
            (detector[figure], row),
            (0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    axes.set_title(title, fontsize=10, loc="left")
    axes.margins(x=0.12)
    axes.set_ylim(-0.7, len(table) - 0.5)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
