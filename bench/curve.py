"""The learning curve: the power law through errors at several numbers of training faces, and what it says of more.

error = a · n^b with error = 1 − AUC, fitted as a line in logarithms by least squares (Hestness et al. 2017,
arXiv:1712.00409). The interval is the line's, so it holds for other training faces, on the same test faces. What it
says beyond the last size is extrapolation, and is called so.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

FAR = 100_000  # the training faces of the full corpus
STEPS = 31  # places at which the fitted line is written down


def fitted(measured: pd.DataFrame) -> "statsmodels.regression.linear_model.RegressionResultsWrapper":
    """The line through the logarithms of errors and sizes."""
    sizes = statsmodels.api.add_constant(np.log(measured["images"]))
    return statsmodels.api.OLS(np.log(measured["error"]), sizes).fit()


def exponent(measured: pd.DataFrame) -> float:
    """The b of error = a · n^b."""
    return float(fitted(measured).params.iloc[1])


def power_law(measured: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """The fitted line and its interval from the smallest size to the largest ("fit"), and on to 100,000."""
    first, last = measured["images"].min(), measured["images"].max()
    at = np.unique(np.concatenate([np.geomspace(first, last, STEPS), np.geomspace(last, FAR, STEPS)]).round())
    line = fitted(measured).get_prediction(statsmodels.api.add_constant(np.log(at))).summary_frame(1 - confidence)
    error, low, high = (np.exp(line[column]) for column in ("mean", "mean_ci_lower", "mean_ci_upper"))
    table = pd.DataFrame({"images": at, "error": error, "low": low, "high": high})
    table["kind"] = np.where(at <= last, "fit", "extrapolation")
    return table


def draw(table: pd.DataFrame, path: Path) -> None:
    """A PNG of errors over training faces, both logarithmic: measured, with intervals, and the lines with theirs.

    ``table``: the columns of docs/learning_curve.csv. Baselines are dashed and hollow, fine-tuned detectors solid.
    """
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    models = sorted({name.rpartition("-")[0] for name in table["detector"]})
    colours = {model: f"C{number}" for number, model in enumerate(models)}  # of matplotlib's cycle, as many as it takes
    for name, part in table.groupby("detector"):
        model, _, phase = name.rpartition("-")
        measured, fit = (part[part["kind"] == kind].sort_values("images") for kind in ("measured", "fit"))
        ends = [measured["error"] - measured["low"], measured["high"] - measured["error"]]
        style = "--" if phase == "baseline" else "-"
        face = "white" if phase == "baseline" else colours[model]
        axes.errorbar(measured["images"], measured["error"], ends, fmt="o", mfc=face, color=colours[model], capsize=3)
        axes.plot(fit["images"], fit["error"], style, color=colours[model], label=name)
        axes.fill_between(fit["images"], fit["low"], fit["high"], color=colours[model], alpha=0.12, linewidth=0)
    sizes = sorted(table.loc[table["kind"] == "measured", "images"].unique())
    axes.set(xscale="log", yscale="log", xlabel="training faces", ylabel="1 − AUC on the test faces")
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})
