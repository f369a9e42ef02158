"""Where to cut a score into real and fake. All are chosen on validation images, and judged on others."""

import math

import numpy as np
from numpy.typing import NDArray


def best_balanced(label: NDArray[np.int8], score: NDArray[np.float64]) -> float:
    """The threshold with the best balanced accuracy on these images, which should be validation images.

    Balanced accuracy is the mean of both recalls. Plain accuracy would, on a folder with nine real faces to one fake,
    be content to call everything real; where the classes are of one size the two agree.

    The candidates lie midway between neighbouring distinct scores, so that no image sits on the threshold. Among
    equally good ones the widest gap wins, then the lowest. If all scores are one and the same, nothing can be cut: 0.5.

    ``label``: (n,), 1 fake, 0 real, both present. ``score``: (n,), float64.
    """
    levels, level_of = np.unique(score, return_inverse=True)
    if len(levels) == 1:
        return 0.5
    fakes = np.bincount(level_of, weights=label == 1).astype(np.int64)
    reals = np.bincount(level_of, weights=label == 0).astype(np.int64)
    fakes_above = fakes.sum() - np.cumsum(fakes)[:-1]
    reals_below = np.cumsum(reals)[:-1]
    # Whole numbers in proportion to balanced accuracy, so that equal candidates compare equal.
    merit = fakes_above * reals.sum() + reals_below * fakes.sum()
    gaps = np.where(merit == merit.max(), np.diff(levels), 0)
    widest = int(np.argmax(gaps))
    return float((levels[widest] + levels[widest + 1]) / 2)


def of_equal_error(label: NDArray[np.int8], score: NDArray[np.float64]) -> float:
    """The threshold at which the shares of mistaken reals and of mistaken fakes are nearest to each other.

    ``label``: (n,), 1 fake, 0 real, both present. ``score``: (n,), float64. The lowest of equals.
    """
    levels = np.unique(score)
    false_positives = 1 - np.searchsorted(np.sort(score[label == 0]), levels) / (label == 0).sum()
    misses = np.searchsorted(np.sort(score[label == 1]), levels) / (label == 1).sum()
    return float(levels[np.argmin(np.abs(false_positives - misses))])


def of_false_positive_rate(real: NDArray[np.float64], rate: float) -> float:
    """The lowest threshold that a new real face reaches with probability ``rate`` at most; inf if n is too small.

    ``real`` (n,): scores of real validation faces. One more real score is equally likely to fall into each of the n + 1
    gaps between them, so the k-th largest may be exceeded where k / (n + 1) <= rate (conformal prediction, Angelopoulos
    & Bates 2021, arXiv:2107.07511).
    """
    k = math.floor(rate * (len(real) + 1) + 1e-9)  # 0.05 * 20 is a little less than 1 in binary
    return float(np.nextafter(np.sort(real)[-k], np.inf)) if k else math.inf
