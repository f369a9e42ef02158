"""The numbers that say how good a detector is.

Throughout, ``label``: (n,), 1 fake, 0 real; ``score``: (n,), P(fake) in [0, 1]; ``logit``: (n,). A set may
hold one class only: a figure that needs the other, or any image at all, is NaN then, which a table leaves empty.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score, roc_curve

RELIABILITY_BINS = 15
HEADLINE = ("roc_auc", "roc_auc_low", "roc_auc_high", "average_precision", "accuracy", "n")


def loss(label: NDArray[np.int8], logit: NDArray[np.float64]) -> float:
    """Mean binary cross-entropy in nats. From logits, because a score that rounds to 0 or 1 would make it infinite."""
    return float(np.mean(np.logaddexp(0, logit) - label * logit)) if len(label) else math.nan


def roc_auc(label: NDArray[np.int8], score: NDArray[np.float64]) -> float:
    """The probability that a fake scores higher than a real face, a tie counting one half; 0.5 is chance."""
    return float(roc_auc_score(label, score)) if has_both(label) else math.nan


def average_precision(label: NDArray[np.int8], score: NDArray[np.float64]) -> float:
    """Precision averaged over the steps of recall, without interpolation; the share of fakes is chance."""
    return float(average_precision_score(label, score)) if has_both(label) else math.nan


def brier(label: NDArray[np.int8], probability: NDArray[np.float64]) -> float:
    """Mean squared distance of the probability from what was true (Brier 1950); 0.25 for "I don't know" always."""
    return float(np.mean((probability - label) ** 2)) if len(label) else math.nan


def expected_calibration_error(label: NDArray[np.int8], probability: NDArray[np.float64]) -> float:
    """How far off P(fake) is on average: of all images, the mean distance between what a bin says and what is true.

    Bins of equal width over [0, 1], each weighted by its images (Guo et al. 2017, arXiv:1706.04599, equation 3, here of
    P(fake) rather than of the confidence in the answer given, so that both ends of the scale count).
    """
    count, said, true = reliability(label, probability)
    return float((count * np.abs(said - true)).sum() / count.sum()) if len(label) else math.nan


def reliability(
    label: NDArray[np.int8], probability: NDArray[np.float64], bins: int = RELIABILITY_BINS
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each bin of equal width that holds an image: images, mean probability, share of fakes."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    held = count > 0
    said, true = (np.bincount(place, weights=values, minlength=bins)[held] for values in (probability, label))
    return count[held], said / count[held], true / count[held]


def headline(measured: Mapping[Any, Any]) -> dict[str, float]:
    """What `dvc metrics show` and `dvc exp show` have of a detector: few columns, four decimals.

    More would be noise: sums of several threads differ from run to run.
    """
    return {name: round(measured[name], 4) for name in HEADLINE}


def has_both(label: NDArray[np.int8]) -> bool:
    """Whether both classes occur."""
    return 0 < int((label == 1).sum()) < len(label)


def equal_error_rate(label: NDArray[np.int8], score: NDArray[np.float64]) -> float:
    """The error rate at the point of the ROC curve where as large a share of reals as of fakes is mistaken."""
    if not has_both(label):
        return math.nan
    false_positive_rate, true_positive_rate, _ = roc_curve(label, score)
    surplus = false_positive_rate - (1 - true_positive_rate)
    return float(np.interp(0, surplus, false_positive_rate))


def correct(label: NDArray[np.int8], score: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Which images are called by their right class: (n,)."""
    right: NDArray[np.bool_] = (score >= threshold) == (label == 1)
    return right


def by_class(label: NDArray[np.int8], score: NDArray[np.float64], threshold: float) -> dict[str, dict[str, float]]:
    """For each class: precision, recall, f1 and n (its images).

    A precision without a single call of its class is 0, and so is an F1 without precision and recall.
    """
    figures = precision_recall_fscore_support(label, score >= threshold, labels=[0, 1], zero_division=0)
    precision, recall, f1, n = (column.tolist() for column in figures)
    return {
        name: {"precision": precision[i], "recall": recall[i], "f1": f1[i], "n": n[i]}
        for i, name in enumerate(("real", "fake"))
    }
