"""The numbers that say how good a detector is.

Throughout, ``label``: (n,), 1 fake, 0 real, both present; ``score``: (n,), P(fake) in [0, 1]; ``logit``: (n,).
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score, roc_curve


def loss(label: NDArray[np.int8], logit: NDArray[np.float64]) -> float:
    """Mean binary cross-entropy in nats. From logits, because a score that rounds to 0 or 1 would make it infinite."""
    return float(np.mean(np.logaddexp(0, logit) - label * logit))


def roc_auc(label: NDArray[np.int8], score: NDArray[np.float64]) -> float:
    """The probability that a fake scores higher than a real face, a tie counting one half; 0.5 is chance."""
    return float(roc_auc_score(label, score))


def average_precision(label: NDArray[np.int8], score: NDArray[np.float64]) -> float:
    """Precision averaged over the steps of recall, without interpolation; the share of fakes is chance."""
    return float(average_precision_score(label, score))


def equal_error_rate(label: NDArray[np.int8], score: NDArray[np.float64]) -> float:
    """The error rate at the point of the ROC curve where as large a share of reals as of fakes is mistaken."""
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
