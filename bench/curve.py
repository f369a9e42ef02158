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
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from bench import study
from stages import baseline, features
from stages.detectors import extraction, rows
from stages.detectors.device import prepare
from stages.errors import UserError, run
from stages.files import publish, read_json
from stages.params import Model, Params, load

TABLE, PHASES_TABLE = Path("docs/learning_curve.csv"), Path("docs/learning_curve_phases.csv")
DRAWS = 5
MIN_SIZES = 3  # a line through two has no interval
FAR = 100_000  # the training faces of the full corpus
STEPS = 31  # places at which the fitted line is written down


def main() -> None:
    """Measure, fit, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", action="store_true", help="both phases, from the study's experiments")
    phases = parser.parse_args().phases
    params = load()
    errors = of_experiments() if phases else of_baselines(params)
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
        yield detector, [(made["train_images"], 1 - got["roc_auc"]) for got, made in map(study.results, ran)]


def of_baselines(params: Params) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Each baseline with the size and the error of each draw."""
    for model in params.models:
        if not (folder := Path(f"data/features/{model}")).exists():
            raise UserError(f"there is no {folder}; make it with `dvc repro baseline`")
        made = read_json(folder / "features.json")
        if made["seen"] != params.features.seen or made["views"]["train"] != params.features.views:
            raise UserError(f"{folder} was made with other `features` than params.yaml has; run `dvc repro baseline`")
    prepare("float32", params.training.seed)
    for model in params.models:
        yield f"{model}-baseline", list(measure(model, params))


def measure(model: Model, params: Params) -> Iterator[tuple[int, float]]:
    """The size and the error, 1 - AUC on the test faces, of each draw."""
    folder = Path(f"data/features/{model}")
    train, labels = rows.read(folder, "train")
    faces = labels.reshape(params.features.views, -1)[0]  # the views of all faces follow one another
    with tempfile.TemporaryDirectory() as temporary:
        network, width = features.frozen(model, params)
        extraction.extract(network, width, Path(temporary), "test", 1, params)
        test, answers = (np.array(part) for part in rows.read(Path(temporary), "test"))
        draws = list(drawn(faces, params.training.seed))
        for number, chosen in enumerate(tqdm(draws, desc=model, unit="head", disable=None)):
            picked = np.concatenate([chosen + view * len(faces) for view in range(params.features.views)])
            with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
                head, _ = baseline.fit_head(
                    (train[picked], labels[picked]),
                    rows.read(folder, "valid"),
                    params.detectors[model].baseline,
                    params.training.seed,
                    Path(temporary) / str(number),
                )
            yield len(chosen), 1 - float(roc_auc_score(answers, head.predict(test, verbose=0)[:, 0]))


def drawn(labels: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """The rows of each draw: half real, half fake; where all are wanted there is one draw."""
    generator = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    most = 2 * min(map(len, classes))
    sizes = sorted({min(size, most) for size in study.SIZES})
    for size in sizes:
        for _ in range(DRAWS if size < most else 1):
            yield np.concatenate([generator.choice(rows, size // 2, replace=False) for rows in classes])


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
