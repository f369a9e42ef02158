"""Where a head starts: at the linear discriminant of its features, in closed form.

Fisher's discriminant weighs features by how they vary together within a class; a head that learns by gradients alone is
stopped long before it knows that. There are thousands of features of a few hundred faces, so the covariance is shrunk
towards a multiple of the identity (Friedman 1989, "Regularized discriminant analysis"; Ledoit & Wolf 2004).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

from stages.backend import keras
from stages.detectors.rows import Rows
from stages.scoring import platt

CHUNK = 2048  # rows at a time: 46 MB of the widest features
TINY = 1e-12  # variance, where no feature varies at all: the discriminant is 0 then
Standard = Callable[[np.ndarray], np.ndarray]  # features to standardised ones


def start(head: "keras.Model", train: Rows, valid: Rows, shrinkage: float) -> None:
    """Set a head (:func:`stages.detectors.assembly.head`) to the discriminant of training rows, both classes present.

    Of more features than rows the discriminant is far too sure of the rows that it was made of; so its scale and its
    offset are Platt's, of the validation rows.
    """
    standard = standard_of(head)
    weights = discriminant(*train, np.arange(len(train[1])), shrinkage, standard)
    scores = scores_of(valid[0], np.arange(len(valid[1])), weights, standard)
    scale, bias = calibrated(scores, valid[1])
    head.get_layer("logit").set_weights([weights[:, np.newaxis] * scale, np.array([bias])])


def standard_of(head: "keras.Model") -> Standard:
    """How a head standardises features."""
    standardise = head.get_layer("standardise")

    def standard(rows: np.ndarray) -> np.ndarray:
        standardised: np.ndarray = keras.ops.convert_to_numpy(standardise(rows))
        return standardised

    return standard


def discriminant(
    features: np.ndarray, labels: np.ndarray, rows: NDArray[np.intp], shrinkage: float, standard: Standard
) -> NDArray[np.float64]:
    """The weights (width,) of the linear discriminant of the features of some rows, as ``standard`` gives them.

    ``shrinkage`` in (0, 1] is the share of the identity, times the average variance, in the covariance within classes.
    Of fewer rows than there are features, their products with each other say the same as those of the features
    (Woodbury's identity), and are fewer.
    """
    if len(rows) < features.shape[1]:
        return _of_few(standard(features[rows]).astype(np.float64), labels[rows], shrinkage)
    return moments(features, labels, rows, standard).discriminant(shrinkage)


@dataclass(frozen=True, slots=True)
class Moments:
    """What the discriminant of many rows is made of: sums of rows, so that of all less some is that of the others.

    ``counts`` (2,) and ``sums`` (2, width) of each class, ``products`` (width, width) of features with each other.
    """

    counts: NDArray[np.float64]
    sums: NDArray[np.float64]
    products: NDArray[np.float64]

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.counts - other.counts, self.sums - other.sums, self.products - other.products)

    def discriminant(self, shrinkage: float) -> NDArray[np.float64]:
        """The weights (width,), as of :func:`discriminant`."""
        width = len(self.products)
        means = self.sums / self.counts[:, np.newaxis]
        covariance = (self.products - (means.T * self.counts) @ means) / self.counts.sum()
        variance = max(np.trace(covariance) / width, TINY)
        covariance *= 1 - shrinkage
        covariance[np.diag_indices(width)] += shrinkage * variance
        weights: NDArray[np.float64] = solve(covariance, means[1] - means[0], assume_a="pos", overwrite_a=True)
        return weights


def moments(features: np.ndarray, labels: np.ndarray, rows: NDArray[np.intp], standard: Standard) -> Moments:
    """The moments of the features of some rows, as ``standard`` gives them, read in chunks."""
    width = features.shape[1]
    found = Moments(np.zeros(2), np.zeros((2, width)), np.zeros((width, width)))
    for at in range(0, len(rows), CHUNK):
        chunk = rows[at : at + CHUNK]
        standardised, classes = standard(features[chunk]), labels[chunk]
        found.products[:] += standardised.T @ standardised
        for label in (0, 1):
            found.counts[label] += (classes == label).sum()
            found.sums[label] += standardised[classes == label].sum(axis=0, dtype=np.float64)
    return found


def _of_few(standardised: NDArray[np.float64], labels: np.ndarray, shrinkage: float) -> NDArray[np.float64]:
    """As :func:`discriminant`: of C = a·1 + c·ZᵀZ, C⁻¹d = (d - c·Zᵀ(a·1 + c·ZZᵀ)⁻¹Zd) / a."""
    means = np.stack([standardised[labels == label].mean(axis=0) for label in (0, 1)])
    centred, difference = standardised - means[labels], means[1] - means[0]
    identity = shrinkage * max(np.mean(centred**2), TINY)
    share = (1 - shrinkage) / len(labels)
    products = share * (centred @ centred.T)
    products[np.diag_indices(len(labels))] += identity
    within = centred.T @ solve(products, centred @ difference, assume_a="pos", overwrite_a=True)
    weights: NDArray[np.float64] = (difference - share * within) / identity
    return weights


def scores_of(
    features: np.ndarray, rows: NDArray[np.intp], weights: NDArray[np.float64], standard: Standard
) -> NDArray[np.float64]:
    """What weights (width,) make of the features of some rows, read in chunks: (rows,)."""
    chunks = (rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK))
    return np.concatenate([standard(features[chunk]) @ weights for chunk in chunks])


def calibrated(scores: NDArray[np.float64], labels: np.ndarray) -> tuple[float, float]:
    """The scale and the bias that make logits of scores: logit = scale · score + bias, by Platt's scaling."""
    spread = float(scores.std()) or 1.0
    temperature, offset = platt.scaling(labels, scores / spread)
    return 1 / (spread * temperature), -offset / temperature
