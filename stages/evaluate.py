"""Stage `evaluate`: every figure of one detector, from its scores alone.

Reads ``data/scores/M-P.parquet`` and ``data/models/M-P.json``, the training record. Everything that is chosen (the
thresholds, the calibration) is chosen on the validation images; every figure is of other images. Writes

- ``data/exported/M-P/calibration.json``: how to read the detector's logits, for whatever shows a probability to a
  person, and how often its answers were wrong on the test images;
- ``data/figures/M-P.json``: the figures of the test images; ``metrics/M-P.json``: the headline, for DVC's tables;
- in ``plots/detectors/M-P/``, of the test images ``roc.csv``, ``pr.csv``, ``scores.csv`` (histogram),
  ``confusion.csv``, ``report.csv`` (per class), ``operating_points.csv``, ``answers.csv`` (real, uncertain, fake) and
  ``reliability.csv``;
- there too, one row a condition with all figures and intervals: ``robustness.csv`` (corrupted test images) and
  ``sets.csv`` (the test images of what it learned from, together, then the test images of each set).

Takes seconds; no TensorFlow.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.errors import run
from stages.faces.layout import LABELS
from stages.files import publish, read_json, write_json
from stages.params import Evaluate, Params, detector_argument, load
from stages.scoring import calibration, curves, figures, intervals, scores, thresholds
from stages.scoring.calibration import Calibration
from stages.scoring.scores import Scores

# The figures of the test images. The tables have more, with their intervals.
FIGURES = [
    "n",
    "roc_auc",
    "roc_auc_low",
    "roc_auc_high",
    "average_precision",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "recall_real",
    "recall_fake",
    "f1_fake",
    "eer",
    "tpr_at_fpr_1pct",
    "ece",
    "brier",
    "loss",
]
FALSE_POSITIVE_RATES = {"FPR 5 %": 0.05, "FPR 1 %": 0.01, "FPR 0.1 %": 0.001}


def figures_of(images: Scores, reading: Calibration, cuts: dict[str, float], params: Evaluate) -> dict[str, float]:
    """All figures of some images, with intervals; NaN where a class that one needs is missing.

    ``accuracy``, ``recall_real``, ``recall_fake``, ``precision_fake`` and ``f1_fake`` are at the validation threshold.
    ``tpr_at_fpr_1pct`` is the recall of fakes, and ``fpr_at_fpr_1pct`` the share of reals called fake, at the threshold
    of ``cuts`` for 1 % of the validation reals; so for 5 %. ``answered``: the share that is not "uncertain";
    ``wrong_when_answered``: the share of those that is mistaken. ``ece`` and ``brier`` are of the calibrated
    probability, ``ece_raw`` of the score as it is. ``marked``: the share that is unlike the training faces; and of the
    ``n_missed`` fakes that are called real, ``missed_marked``.
    """
    label, score = images.label, images.score
    settings: Any = {"confidence": params.confidence, "resamples": params.resamples, "seed": params.seed}
    right = figures.correct(label, score, reading.threshold)
    real, fake = label == 0, label == 1
    by_class = figures.by_class(label, score, reading.threshold)
    verdict = reading.verdict(images.logit)
    answered = verdict != "uncertain"
    probability = reading.probability(images.logit)
    marked, missed = reading.unlike(images.distance), fake & (verdict == "real")
    return {
        "n": len(label),
        "n_real": int(real.sum()),
        "n_fake": int(fake.sum()),
        "roc_auc": figures.roc_auc(label, score),
        **ends("roc_auc", intervals.of_auc(label, score, **settings)),
        "average_precision": figures.average_precision(label, score),
        **ends("average_precision", intervals.of_average_precision(label, score, **settings)),
        **share("accuracy", right, params),
        **share("recall_real", right[real], params),
        **share("recall_fake", right[fake], params),
        **share("false_positive_rate", ~right[real], params),
        "precision_fake": by_class["fake"]["precision"],
        "f1_fake": by_class["fake"]["f1"],
        "eer": figures.equal_error_rate(label, score),
        **{
            key: value
            for rate, cut in cuts.items()
            for kind, of in (("tpr", fake), ("fpr", real))
            for key, value in share(f"{kind}_at_fpr_{rate}", score[of] >= cut, params).items()
        },
        **share("answered", answered, params),
        **share("wrong_when_answered", (verdict != np.where(fake, "fake", "real"))[answered], params),
        "ece": figures.expected_calibration_error(label, probability),
        "ece_raw": figures.expected_calibration_error(label, score),
        "brier": figures.brier(label, probability),
        "loss": figures.loss(label, images.logit),
        **share("marked", marked, params),
        "n_missed": int(missed.sum()),
        **share("missed_marked", marked[missed], params),
    }


def share(name: str, hits: "np.ndarray[Any, np.dtype[np.bool_]]", params: Evaluate) -> dict[str, float]:
    """A share of images and Wilson's interval; NaN where there are none."""
    interval = intervals.of_share(int(hits.sum()), len(hits), params.confidence)
    return {name: float(hits.mean()) if len(hits) else math.nan, **ends(name, interval)}


def ends(name: str, interval: intervals.Interval) -> dict[str, float]:
    """The columns of an interval."""
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def operating_points(valid: Scores, test: Scores, threshold: float, params: Evaluate) -> pd.DataFrame:
    """``point, threshold, supported, …``: thresholds chosen on the validation images, judged on the test images.

    A false positive rate is ``supported`` where there are enough validation reals to aim at it. Where there are not,
    the threshold lies above all of them, and is no lower than that of best balanced accuracy, which may lie there too.
    """
    real = valid.score[valid.label == 0]
    points = {"best balanced accuracy": threshold, "0.5": 0.5}
    points["equal error rate"] = thresholds.of_equal_error(valid.label, valid.score)
    points |= {name: thresholds.of_false_positive_rate(real, rate) for name, rate in FALSE_POSITIVE_RATES.items()}
    rows = []
    for name, chosen in points.items():
        cut = chosen if math.isfinite(chosen) else max(float(np.nextafter(real.max(), np.inf)), threshold)
        called = test.score >= cut
        rows.append(
            {
                "point": name,
                "threshold": cut,
                "supported": math.isfinite(chosen),
                "n_valid_real": len(real),
                **share("true_positive_rate", called[test.label == 1], params),
                **share("false_positive_rate", called[test.label == 0], params),
                "n_fake": int((test.label == 1).sum()),
                "n_real": int((test.label == 0).sum()),
            }
        )
    return pd.DataFrame(rows)


def robustness(path: Path, test: Scores, *rest: Any) -> Iterator[dict[str, Any]]:
    """``corruption, level, strength`` and the figures: each kind's rows begin with the same images as they are."""
    kinds: dict[str, list[str]] = {}
    for split, condition in scores.conditions(path):
        if split == "test" and condition != "clean":
            kinds.setdefault(condition.split()[0], []).append(condition)
    for kind, conditions in kinds.items():
        corrupted = {condition.split()[1]: scores.read(path, "test", condition) for condition in conditions}
        clean = test.of(next(iter(corrupted.values())).member)
        for level, images in {"clean": clean, **corrupted}.items():
            strength = math.nan if level == "clean" else float(level)
            named = {"corruption": kind, "level": level, "strength": strength}
            yield named | figures_of(images, *rest)


def of_sets(path: Path, test: Scores, params: Params, *rest: Any) -> Iterator[dict[str, Any]]:
    """``set``, ``generator``, ``seen`` and the figures: of all test images, then of those of each set.

    ``seen``: whether the detector learned from fakes of the set, or from its reals, where it has no fakes. A set alone
    is the test images already.
    """
    yield {"set": "test", "generator": None, "seen": True, **figures_of(test, *rest)}
    sets = {name: images for name in params.sets if len((images := scores.read_set(path, name)).label)}
    if len(sets) == 1:
        return
    for name, images in sets.items():
        kind = "fake" if (images.label == LABELS["fake"]).any() else "real"
        named = {"set": name, "generator": params.sets[name].generator, "seen": kind not in params.unseen(name)}
        yield named | figures_of(images, *rest)


def measured(reading: Calibration, test: dict[str, Any]) -> Calibration:
    """The calibration with what its answers and marks were worth on the test images, which chose nothing."""
    return replace(
        reading,
        n_test=test["n"],
        n_answered=round(test["answered"] * test["n"]),
        **{f"wrong{end}": test[f"wrong_when_answered{end}"] for end in ("", "_low", "_high")},
        **{f"marked{end}": test[f"marked{end}"] for end in ("", "_low", "_high")},
    )


def main() -> None:
    """Evaluate one detector."""
    name = detector_argument(main.__doc__)
    settings = load()
    params = settings.evaluate

    path = Path(f"data/scores/{name}.parquet")
    valid, test = scores.read(path, "valid"), scores.read(path, "test")
    record = read_json(f"data/models/{name}.json")

    threshold = thresholds.best_balanced(valid.label, valid.score)
    reading = replace(
        calibration.fit(valid.label, valid.logit, threshold, params.max_error),
        unlike_from=thresholds.of_false_positive_rate(valid.distance, calibration.FALSE_MARKS),
    )
    points = operating_points(valid, test, threshold, params)
    cuts = {rate: float(points.set_index("point")["threshold"][f"FPR {rate[0]} %"]) for rate in ("5pct", "1pct")}
    sets = list(of_sets(path, test, settings, reading, cuts, params))
    tables = {
        "roc": curves.roc(test.label, test.score),
        "pr": curves.precision_recall(test.label, test.score),
        "scores": curves.histogram(test.label, test.score),
        "confusion": curves.confusion(test.label, test.score, threshold),
        "report": curves.report(test.label, test.score, {"validation": threshold, "0.5": 0.5}),
        "operating_points": points,
        "answers": curves.answers(test.label, reading.verdict(test.logit)),
        "reliability": curves.reliability(
            test.label, {"raw": test.score, "calibrated": reading.probability(test.logit)}, params.confidence
        ),
        "robustness": pd.DataFrame(
            robustness(path, test, reading, cuts, params),
            columns=["corruption", "level", "strength", *list(sets[0])[3:]],
        ),
        "sets": pd.DataFrame(sets),
    }
    metrics: dict[str, Any] = {
        **{figure: sets[0][figure] for figure in FIGURES},
        "accuracy_at_half": float(figures.correct(test.label, test.score, 0.5).mean()),
        "threshold": threshold,
        "n_valid": len(valid.label),
        "valid_roc_auc": figures.roc_auc(valid.label, valid.score),
        "weights": record["weights"]["source"],
        "device": record["device"],
    }
    with publish(f"plots/detectors/{name}") as part:
        part.mkdir()
        for plot, table in tables.items():
            if "threshold" in table:  # four digits would turn 0.99996 into 1
                table["threshold"] = table["threshold"].map("{:.6g}".format, na_action="ignore")
            table.to_csv(part / f"{plot}.csv", index=False, float_format="%.4g")
    reading = replace(measured(reading, sets[0]), model=record["model_sha256"])
    calibration.write(f"data/exported/{name}/calibration.json", reading)
    write_json(f"data/figures/{name}.json", metrics)
    write_json(f"metrics/{name}.json", figures.headline(metrics))
    summarise(name, metrics, points)


def summarise(name: str, metrics: dict[str, Any], points: pd.DataFrame) -> None:
    """The main figures in a sentence, and what the validation images are too few for."""
    print(
        f"{name}: AUC {metrics['roc_auc']:.4f} ({metrics['roc_auc_low']:.4f} to {metrics['roc_auc_high']:.4f}), "
        f"accuracy {metrics['accuracy']:.4f} at threshold {metrics['threshold']:.3g}, "
        f"on {metrics['n']:,} test images; calibrated within {metrics['ece']:.3f} on average"
    )
    if unsupported := list(points.loc[~points["supported"], "point"]):
        print(
            f"note: {points['n_valid_real'][0]} real validation images are too few to aim at "
            f"{' or '.join(unsupported)}: these thresholds lie above all of them"
        )


if __name__ == "__main__":
    run(main)
