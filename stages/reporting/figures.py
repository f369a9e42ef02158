"""The report's figures, drawn from the tables in ``plots/``.

``tables`` maps the name of a detector to its table. Each has one colour in all figures, the one that it has in
``dvc plots`` too; where lines may cross, they differ in their marks as well.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart, as in .dvc/plots/.
COLOURS = ("#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#0072B2", "#E69F00", "#000000")
MARKS = "osD^vPX"
ANSWERS = {"real": "#0072B2", "uncertain": "#BBBBBB", "fake": "#D55E00"}

Tables = dict[str, pd.DataFrame]


def roc(tables: Tables) -> Figure:
    """True against false positive rate, all detectors in one panel, the low rates enlarged in a second."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    for axes, reach in zip(figure.subplots(1, 2), (1.0, 0.1), strict=True):
        axes.plot([0, 1], [0, 1], ":", color="0.6")
        for name, table, style in _styled(tables):
            axes.plot(table["false_positive_rate"], table["true_positive_rate"], color=style["color"], label=name)
        axes.set(xlabel="False positive rate (real called fake)", ylabel="True positive rate (fake called fake)")
        axes.set(xlim=(-0.02 * reach, reach), ylim=(0, 1.02))
        axes.grid(alpha=0.25)
    return _with_legend(figure)


def reliability(tables: Tables) -> Figure:
    """The share of fakes against the probability said, before and after calibration; a dot's size is its images."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    for axes, scale in zip(figure.subplots(1, 2), ("raw", "calibrated"), strict=True):
        axes.plot([0, 1], [0, 1], ":", color="0.6")
        for name, table, style in _styled(tables):
            bins = table[table["scale"] == scale]
            axes.plot(bins["mean_probability"], bins["share_fake"], color=style["color"], alpha=0.6, label=name)
            sizes = 200 * bins["count"] / bins["count"].sum() + 6
            axes.scatter(bins["mean_probability"], bins["share_fake"], sizes, color=style["color"])
        axes.set(
            xlabel="P(fake) said", ylabel="Share that is fake", title=scale, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
        )
        axes.grid(alpha=0.25)
    return _with_legend(figure)


def robustness(tables: Tables, column: str, label: str) -> Figure:
    """A figure against the strength of each kind of corruption, with its intervals."""
    kinds = list(next(iter(tables.values()))["corruption"].unique())
    columns = 3
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(10, 2.9 * rows + 0.4), layout="constrained")
    panels = np.ravel(figure.subplots(rows, columns, sharey=True, squeeze=False))
    for axes, kind in zip(panels, kinds, strict=False):
        for name, table, style in _styled(tables):
            levels = table[table["corruption"] == kind]
            place = np.arange(len(levels))
            axes.fill_between(
                place, levels[f"{column}_low"], levels[f"{column}_high"], color=style["color"], alpha=0.12
            )
            axes.plot(place, levels[column], label=name, **style)
        axes.set_xticks(place, levels["level"])
        axes.set(title=kind)
        axes.grid(alpha=0.25)
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    figure.supylabel(label, fontsize=10)
    return _with_legend(figure)


def elsewhere(table: pd.DataFrame) -> Figure:
    """AUC, fakes found and reals called fake, a row a set, from plots/cross_generator.csv."""
    sets, detectors = list(table["set"].unique()), sorted(table["detector"].unique())
    learned = dict(zip(table["set"], table["seen"], strict=True))
    figure = Figure(figsize=(10, 1.6 + 0.9 * len(sets)), layout="constrained")
    panels = {
        "roc_auc": "Area under the ROC curve",
        "recall_fake": "Fakes called fake",
        "false_positive_rate": "Reals called fake",
    }
    for axes, (column, title) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        for number, (name, style) in enumerate(_styles(detectors)):
            rows = table[(table["detector"] == name) & table[column].notna()]
            place = [sets.index(row) + (number - (len(detectors) - 1) / 2) * 0.17 for row in rows["set"]]
            axes.hlines(
                place, rows[f"{column}_low"], rows[f"{column}_high"], color=style["color"], alpha=0.45, linewidth=3
            )
            axes.plot(rows[column], place, style["marker"], color=style["color"], markersize=6, label=name)
        axes.set(title=title, xlim=(-0.02, 1.02), ylim=(len(sets) - 0.5, -0.5))
        axes.set_yticks(range(len(sets)), [f"{name}{'' if learned[name] else ', unseen'}" for name in sets])
        axes.grid(alpha=0.25)
    return _with_legend(figure)


def answers(tables: Tables) -> Figure:
    """The share of each class that is called real, uncertain and fake, a row a detector."""
    figure = Figure(figsize=(10, 1.3 + 0.45 * len(tables)), layout="constrained")
    for axes, actual in zip(figure.subplots(1, 2, sharey=True), ("real", "fake"), strict=True):
        for row, name in enumerate(sorted(tables)):
            shares = tables[name][tables[name]["actual"] == actual].set_index("answer")["share"]
            left = 0.0
            for answer, colour in ANSWERS.items():
                axes.barh(row, shares[answer], left=left, color=colour, label=answer if row == 0 else None)
                if shares[answer] > 0.06:
                    ink = "black" if answer == "uncertain" else "white"
                    middle = left + shares[answer] / 2
                    axes.text(middle, row, f"{shares[answer]:.0%}", ha="center", va="center", color=ink, fontsize=9)
                left += shares[answer]
        axes.set_yticks(range(len(tables)), sorted(tables))
        axes.set(title=f"of the {actual} faces", xlim=(0, 1), ylim=(len(tables) - 0.5, -0.5))
        axes.xaxis.set_major_formatter("{x:.0%}")
    return _with_legend(figure)


def deletion(tables: Tables) -> Figure:
    """What an answer loses when the places that speak most for it are deleted, and when random ones are."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (name, table, style) in zip(
        np.ravel(figure.subplots(1, len(tables), sharey=True, squeeze=False)), _styled(tables), strict=True
    ):
        for order, line in (("evidence", "-"), ("random", "--")):
            rows = table[table["order"] == order]
            colour = style["color"] if order == "evidence" else "0.45"
            axes.fill_between(rows["deleted"], rows["low"], rows["high"], color=colour, alpha=0.15)
            axes.plot(rows["deleted"], rows["drop"], line, color=colour, marker="o", markersize=4, label=order)
        axes.set(title=name, xlabel="Share deleted")
        axes.title.set_fontsize(9)
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    figure.supylabel("Loss of the answer (logits)", fontsize=10)
    return figure


def history(tables: Tables) -> Figure:
    """Loss and accuracy an epoch, of training and validation images, a row a detector."""
    figure = Figure(figsize=(10, 2.3 * len(tables)), layout="constrained")
    grid = figure.subplots(len(tables), 3, squeeze=False)
    for row, (name, table, style) in zip(grid, _styled(tables), strict=True):
        for axes, column in zip(row, ("loss", "accuracy", "auc"), strict=True):
            if column in table:  # the AUC is of validation images alone
                axes.plot(table["epoch"], table[column], "--", color="0.45", label="training")
            axes.plot(table["epoch"], table[f"val_{column}"], label="validation", **style)
            axes.set(title=f"{name}: {column}", xlabel="Epoch")
            axes.title.set_fontsize(9)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.25)
            axes.legend(fontsize=8)
    return figure


def _styles(names: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A colour and a mark for each detector, as Vega gives them to all in the order of the alphabet.

    Where baselines are missing, fine-tuned detectors have the colours that they have beside them.
    """
    models = sorted({name.partition("-")[0] for name in names})
    for name in sorted(names):
        number = 2 * models.index(name.partition("-")[0]) + name.endswith("-finetune")
        yield name, {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)], "markersize": 4}


def _styled(tables: Tables) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    for name, style in _styles(list(tables)):
        yield name, tables[name], style


def _with_legend(figure: Figure) -> Figure:
    """One legend for all panels, below them."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure
