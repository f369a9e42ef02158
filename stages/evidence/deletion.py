"""Does the evidence map matter? Delete what it points at, and as much at random, and see what the answer loses.

If the map is right, the answer loses more by its order than by a random one (the deletion game of Petsiuk et al. 2018,
arXiv:1806.07421; random orders are the control that Hooker et al. 2019, arXiv:1806.10758, found many maps to fail).

``size`` is an image's side in pixels; a map has h × w places, each of which stands for its share of the image.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import gaussian_filter

FRACTIONS = (0.1, 0.25, 0.5)  # of the places; beyond a half there is little left of a face to judge
DRAWS = 5  # random orders for each image; their mean is compared with the map's order
# Pixels: a quarter of a place, which is 32 pixels wide. It takes away what a generator leaves in the finest pixels, and
# all texture, and keeps colour and light. A patch of one colour would do so too, but add edges that no face has.
BLUR = 8.0


def counts(places: int) -> NDArray[np.int64]:
    """How many of ``places`` to delete: the fractions, one place at least, each number once."""
    return np.unique(np.maximum(1, np.rint(np.array(FRACTIONS) * places))).astype(np.int64)


def plan(support: NDArray[np.floating], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which places to delete: (1 + DRAWS, len(counts), h, w), the map's order first, then random ones.

    ``support`` (h, w): how much each place speaks for the answer given; the most comes first.
    """
    orders = [np.argsort(-support, axis=None), *(generator.permutation(support.size) for _ in range(DRAWS))]
    turn = np.argsort(orders, axis=1)  # of each place in each order
    deleted: NDArray[np.bool_] = turn[:, np.newaxis] < counts(support.size)[:, np.newaxis]
    return deleted.reshape(*deleted.shape[:2], *support.shape)


def without(image: NDArray[np.float32], deleted: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image, once for each map of ``deleted`` places, with these places blurred beyond recognition.

    ``image`` (size, size, 3) float32; ``deleted`` (m, h, w); returns (m, size, size, 3) float32.
    """
    size, (height, width) = len(image), deleted.shape[1:]
    pixel = np.arange(size)
    gone = deleted[:, (pixel * height // size)[:, np.newaxis], pixel * width // size]
    return np.where(gone[..., np.newaxis], gaussian_filter(image, (BLUR, BLUR, 0)), image)


def curves(drops: NDArray[np.float64], places: int, confidence: float) -> pd.DataFrame:
    """``order`` (evidence, random), ``deleted`` (share of the image), ``drop``, ``low``, ``high``, ``n`` (images).

    ``drops`` (n, 1 + DRAWS, len(counts)), n >= 2, in the order of :func:`plan`: what the answer's logit lost. ``drop``
    is the mean over images, in logits, between the ends of its t interval; of an image's random draws, their mean.
    """
    n = len(drops)
    parts = []
    for order, lost in (("evidence", drops[:, 0]), ("random", drops[:, 1:].mean(axis=1))):
        drop = lost.mean(axis=0)
        margin = stats.t.ppf((1 + confidence) / 2, n - 1) * stats.sem(lost, axis=0)
        deleted = counts(places) / places
        parts.append(
            pd.DataFrame(
                {"order": order, "deleted": deleted, "drop": drop, "low": drop - margin, "high": drop + margin, "n": n}
            )
        )
    return pd.concat(parts, ignore_index=True)


def better(drops: NDArray[np.float64]) -> NDArray[np.bool_]:
    """In which images (n,) the map's order costs the answer more than random orders do on average, over all counts."""
    cost = drops.mean(axis=2)
    more: NDArray[np.bool_] = cost[:, 0] > cost[:, 1:].mean(axis=1)
    return more
