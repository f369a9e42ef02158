"""The learning curve: what more training faces bring, and what many more would.

    python -m bench.curve
    python -m bench.curve --phases

Run it where the features are (``dvc repro baseline``). For each size it draws that many training faces several times,
trains a head on them as the stage ``baseline`` does, and takes its AUC on the test faces. Through all of a backbone's
draws goes a power law, error = a · n^b with error = 1 − AUC, fitted as a line in logarithms by least squares (Hestness
et al. 2017, arXiv:1712.00409); its interval is the line's, so it holds for other training faces, on these test faces.
What it says beyond the last size is extrapolation, and is called so. Written to docs/learning_curve.csv, a plot of
``dvc plots show``. With ``--phases`` nothing is trained: one draw a size, of baselines and fine-tuned detectors, comes
from the experiments ``curve-…`` of ``python -m bench.study``, and goes to docs/learning_curve_phases.csv.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api

from bench import study
from stages.errors import UserError, run
from stages.files import publish
from stages.params import load

TABLE, PHASES_TABLE = Path("docs/learning_curve.csv"), Path("docs/learning_curve_phases.csv")
MIN_SIZES = 3  # a line through two has no interval
FAR = 100_000  # the training faces of the full corpus
STEPS = 31  # places at which the fitted line is written down


def main() -> None:
    """Measure, fit, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", action="store_true", help="both phases, from the study's experiments")
    phases = parser.parse_args().phases
    params = load()
    if phases:
        errors = of_experiments()
    else:
        from bench import heads  # TensorFlow, which the experiments do not need

        errors = heads.errors(params)
    tables = []
    for detector, pairs in errors:
        measured = pd.DataFrame(pairs, columns=["images", "error"])
        line = power_law(measured, params.evaluate.confidence)
        tables.append(pd.concat([measured.assign(kind="measured"), line]).assign(detector=detector))
        far = line.iloc[-1]
        print(
            f"{detector}: 1 - AUC falls as n^{exponent(measured):.2f}; extrapolated to {FAR:,} training faces it "
            f"is {far['error']:.4f} ({far['low']:.4f} to {far['high']:.4f})"
        )
    table = pd.concat(tables)[["detector", "kind", "images", "error", "low", "high"]]
    with publish(PHASES_TABLE if phases else TABLE) as part:
        table.to_csv(part, index=False, float_format="%.6g")


def of_experiments() -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Each detector with the size and the error of each of its experiments in the study."""
    done = study.experiments()
    found = {}
    for detector in (f"{model}-{phase}" for model in study.MODELS for phase in study.PHASES):
        names = [study.curve(detector, size) for size in study.SIZES]
        if len(ran := [name for name in names if study.experiment(name) in done]) >= MIN_SIZES:
            found[detector] = ran
    if not found:
        raise UserError(
            f"no detector has {MIN_SIZES} sizes or more; run its variants curve-… of `python -m bench.study --list`"
        )
    for detector, ran in found.items():
        left = [study.results(name) for name in ran]
        yield detector, [(one.training["train_images"], 1 - one.figures["roc_auc"]) for one in left]


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


if __name__ == "__main__":
    run(main)
