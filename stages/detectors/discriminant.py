"""Heads in closed form: the linear discriminant of features.

Fisher's discriminant weighs features by how they vary together within a class. There are thousands of features of a few
hundred faces, so the covariance is shrunk towards a multiple of the identity (Friedman 1989, "Regularized discriminant
analysis"). Gradients that go on from it gain nothing that lasts (docs/recipe.md).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from sklearn.preprocessing import StandardScaler

from stages.backend import keras
from stages.detectors import assembly
from stages.detectors.rows import Rows
from stages.progress import progress
from stages.scoring import platt

SHRINKAGE = 0.3  # of the covariance; 0.1 to 0.5 rank alike (docs/recipe.md)
CHUNK = 2048  # rows at a time: 46 MB of the widest features
LEAST = 1e-3  # variance of a feature, of the average one
TINY = 1e-12  # variance, where no feature varies at all


def head(train: Rows, others: Rows) -> "keras.Model":
    """A head (:func:`stages.detectors.assembly.head`) at the discriminant of training rows, both classes present.

    Of more features than rows the discriminant is far too sure of the rows that it was made of; so its scale and its
    offset are Platt's, of other rows.
    """
    mean, variance = moments(train[0])
    weights = discriminant(*train, mean, variance)
    scores = np.concatenate([rows @ weights for rows in standardised(others[0], mean, variance)])
    spread = float(scores.std()) or 1.0
    temperature, offset = platt.scaling(others[1], scores / spread)
    top = assembly.head(mean, variance)
    top.get_layer("logit").set_weights(
        [weights[:, np.newaxis] / (spread * temperature), np.array([-offset / temperature])]
    )
    return top


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each column, read in chunks of rows.

    A feature that hardly varies is not to be blown up: its variance counts as at least 1/1,000 of the average one.
    """
    scaler = StandardScaler()
    for start in range(0, len(features), CHUNK):
        scaler.partial_fit(features[start : start + CHUNK])
    return scaler.mean_, np.maximum(scaler.var_, max(LEAST * float(scaler.var_.mean()), TINY))


def standardised(features: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> Iterator[NDArray[np.float32]]:
    """The features with mean 0 and variance 1, in chunks of rows."""
    for start in range(0, len(features), CHUNK):
        yield ((features[start : start + CHUNK] - mean) / np.sqrt(variance)).astype(np.float32)


def discriminant(
    features: np.ndarray,
    labels: NDArray[np.int8],
    mean: np.ndarray,
    variance: np.ndarray,
    shrinkage: float = SHRINKAGE,
) -> NDArray[np.float32]:
    """The direction (width,) of the linear discriminant of features (rows × width), once they are standardised.

    ``shrinkage`` in (0, 1) is the share of the identity in the covariance within classes. Least squares on the labels
    has the discriminant's direction (Hastie, Tibshirani & Friedman 2009, exercise 4.2), and a ridge is its shrinkage:
    of (1 - s) W + s I and W + s / (1 - s) I the directions are the same. The normal equations are summed chunk by
    chunk: width × width numbers are held, however many rows there are.
    """
    targets = (labels - labels.mean()).astype(np.float32)
    products, moment = np.zeros((len(mean), len(mean)), np.float32), np.zeros(len(mean), np.float32)
    chunks = standardised(features, mean, variance)
    for number, rows in enumerate(progress(chunks, desc="solving the head", unit="chunk", leave=False)):
        products += rows.T @ rows
        moment += rows.T @ targets[number * CHUNK : (number + 1) * CHUNK]
    products[np.diag_indices_from(products)] += len(labels) * shrinkage / (1 - shrinkage)
    weights: NDArray[np.float32] = linalg.solve(products, moment, assume_a="pos", overwrite_a=True)
    return weights
