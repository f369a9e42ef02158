"""Where to cut a score into real and fake."""

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
