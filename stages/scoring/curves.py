"""The points that plots are drawn of, as tables: one row a point, few enough for a web page.

Throughout, ``label``: (n,), 1 fake, 0 real, both present; ``score``: (n,), P(fake) in [0, 1].
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from stages.scoring import figures, intervals
from stages.scoring.calibration import VERDICTS

CLASSES = ("real", "fake")


def roc(label: NDArray[np.int8], score: NDArray[np.float64]) -> pd.DataFrame:
    """``false_positive_rate, true_positive_rate, threshold``, from (0, 0), whose threshold is empty, to (1, 1)."""
    false_positive_rate, true_positive_rate, threshold = roc_curve(label, score)
    threshold[0] = np.nan  # scikit-learn says infinity: nothing is called fake
    kept = thin(false_positive_rate, true_positive_rate)
    return pd.DataFrame(
        {
            "false_positive_rate": false_positive_rate[kept],
            "true_positive_rate": true_positive_rate[kept],
            "threshold": threshold[kept],
        }
    )


def precision_recall(label: NDArray[np.int8], score: NDArray[np.float64]) -> pd.DataFrame:
    """``recall, precision, threshold``, from recall 0, whose threshold is empty, to recall 1."""
    precision, recall, threshold = (points[::-1] for points in precision_recall_curve(label, score))
    threshold = np.concatenate([[np.nan], threshold])
    kept = thin(recall, precision)
    return pd.DataFrame({"recall": recall[kept], "precision": precision[kept], "threshold": threshold[kept]})


def histogram(label: NDArray[np.int8], score: NDArray[np.float64], bins: int = 25) -> pd.DataFrame:
    """``actual, low, high, count, share``: the images of each class that score from low to high (share of it)."""
    edges = np.linspace(0, 1, bins + 1)
    parts = []
    for value, name in enumerate(CLASSES):
        count, _ = np.histogram(score[label == value], bins=edges)
        share = count / count.sum()
        parts.append(
            pd.DataFrame({"actual": name, "low": edges[:-1], "high": edges[1:], "count": count, "share": share})
        )
    return pd.concat(parts, ignore_index=True)


def confusion(label: NDArray[np.int8], score: NDArray[np.float64], threshold: float) -> pd.DataFrame:
    """``actual, predicted, count, share``: one row a cell of the confusion matrix (share of the actual class)."""
    counts = confusion_matrix(label, score >= threshold, labels=[0, 1])
    return pd.DataFrame(
        [
            {
                "actual": actual,
                "predicted": predicted,
                "count": int(counts[i, j]),
                "share": counts[i, j] / counts[i].sum(),
            }
            for i, actual in enumerate(CLASSES)
            for j, predicted in enumerate(CLASSES)
        ]
    )


def report(label: NDArray[np.int8], score: NDArray[np.float64], thresholds: dict[str, float]) -> pd.DataFrame:
    """``class, threshold_name, threshold, precision, recall, f1, n``: one row a class and threshold."""
    return pd.DataFrame(
        [
            {"class": name, "threshold_name": threshold_name, "threshold": threshold, **row}
            for threshold_name, threshold in thresholds.items()
            for name, row in figures.by_class(label, score, threshold).items()
        ]
    )


def reliability(
    label: NDArray[np.int8], probabilities: dict[str, NDArray[np.float64]], confidence: float
) -> pd.DataFrame:
    """``scale, mean_probability, share_fake, share_fake_low, share_fake_high, count``: what was said against what is.

    One row for each bin of each of the named ``probabilities``; the interval is Wilson's.
    """
    rows = []
    for scale, probability in probabilities.items():
        for count, said, true in zip(*figures.reliability(label, probability), strict=True):
            low, high = intervals.of_share(round(true * count), int(count), confidence)
            rows.append((scale, said, true, low, high, count))
    return pd.DataFrame(
        rows, columns=["scale", "mean_probability", "share_fake", "share_fake_low", "share_fake_high", "count"]
    )


def answers(label: NDArray[np.int8], verdict: NDArray[np.str_]) -> pd.DataFrame:
    """``actual, answer, count, share``: how often each class is called real, uncertain or fake (share of the class)."""
    return pd.DataFrame(
        [
            {"actual": name, "answer": answer, "count": int(hits.sum()), "share": hits.mean()}
            for value, name in enumerate(CLASSES)
            for answer in VERDICTS
            for hits in [verdict[label == value] == answer]
        ]
    )


def thin(x: NDArray[np.float64], y: NDArray[np.float64], most: int = 200) -> NDArray[np.int64]:
    """Which of a curve's points to keep, ``most`` at most, ends included, so that the line through them looks the same.

    Greedy: the point that lies farthest from the line so far comes next. "Farthest" is measured at the same place along
    the curve, so that steep and flat stretches count alike.
    """
    way = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept = np.array([0, len(x) - 1])
    while len(kept) < most:
        off = np.hypot(x - np.interp(way, way[kept], x[kept]), y - np.interp(way, way[kept], y[kept]))
        farthest = int(np.argmax(off))
        if off[farthest] < 1e-9:
            break
        kept = np.sort(np.append(kept, farthest))
    return kept
