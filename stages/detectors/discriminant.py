"""Where a head starts: at the linear discriminant of its features, in closed form.

Fisher's discriminant weighs features by how they vary together within a class; a head that learns by gradients alone is
stopped long before it knows that. There are thousands of features of a few hundred faces, so the covariance is shrunk
towards a multiple of the identity (Friedman 1989, "Regularized discriminant analysis"; Ledoit & Wolf 2004).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from stages.backend import keras
from stages.scoring import platt

CHUNK = 2048  # rows at a time: 46 MB of the widest features
TINY = 1e-12  # variance, where no feature varies at all: the discriminant is 0 then
Rows = tuple[np.ndarray, np.ndarray]  # features (rows × width) and labels (rows), 1 fake, 0 real; may be mapped files


def start(head: "keras.Model", train: Rows, valid: Rows, shrinkage: float) -> None:
    """Set a head (:func:`stages.detectors.assembly.head`) to the discriminant of training rows, both classes present.

    Of more features than rows the discriminant is far too sure of the rows that it was made of; so its scale and its
    offset are Platt's, of the validation rows.
    """
    standardise = head.get_layer("standardise")

    def standard(rows: np.ndarray) -> np.ndarray:
        standardised: np.ndarray = keras.ops.convert_to_numpy(standardise(rows))
        return standardised

    weights = discriminant(*train, shrinkage, standard)
    scores = np.concatenate([standard(valid[0][at : at + CHUNK]) @ weights for at in range(0, len(valid[0]), CHUNK)])
    spread = scores.std() or 1.0
    temperature, offset = platt.scaling(valid[1], scores / spread)
    kernel = weights[:, np.newaxis] / (spread * temperature)
    head.get_layer("logit").set_weights([kernel, np.array([-offset / temperature])])


def discriminant(
    features: np.ndarray, labels: np.ndarray, shrinkage: float, standard: Callable[[np.ndarray], np.ndarray]
) -> NDArray[np.float64]:
    """The weights (width,) of the linear discriminant of rows as ``standard`` gives them, read in chunks.

    ``shrinkage`` in (0, 1] is the share of the identity, times the average variance, in the covariance within classes.
    """
    width = features.shape[1]
    counts, sums, products = np.zeros(2), np.zeros((2, width)), np.zeros((width, width))
    for at in range(0, len(labels), CHUNK):
        rows, classes = standard(features[at : at + CHUNK]), labels[at : at + CHUNK]
        products += rows.T @ rows
        for label in (0, 1):
            counts[label] += (classes == label).sum()
            sums[label] += rows[classes == label].sum(axis=0, dtype=np.float64)
    means = sums / counts[:, np.newaxis]
    covariance = (products - (means.T * counts) @ means) / counts.sum()
    variance = max(np.trace(covariance) / width, TINY)
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(width)] += shrinkage * variance
    weights: NDArray[np.float64] = solve(covariance, means[1] - means[0], assume_a="pos", overwrite_a=True)
    return weights
