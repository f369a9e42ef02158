"""Where a head starts: at the linear discriminant of its features, in closed form.

Fisher's discriminant weighs features by how they vary together within a class; a head that learns by gradients alone is
stopped long before it knows that. There are thousands of features of a few hundred faces, so the covariance is shrunk
towards a multiple of the identity (Friedman 1989, "Regularized discriminant analysis").
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from stages.backend import keras
from stages.detectors import assembly
from stages.detectors.rows import Rows
from stages.scoring import platt

SHRINKAGE = 0.3  # of the covariance; 0.1 to 0.5 rank alike (docs/recipe.md)
MOST_ROWS = 16_384  # of each kind that a start is made of, 370 MB of the widest features; gradients see all
CHUNK = 2048  # rows at a time: 46 MB of the widest features
TINY = 1e-12  # variance, where no feature varies at all


def head(train: Rows, valid: Rows) -> "keras.Model":
    """A head (:func:`stages.detectors.assembly.head`) at the discriminant of training rows, both classes present.

    Of more features than rows the discriminant is far too sure of the rows that it was made of; so its scale and its
    offset are Platt's, of the validation rows.
    """
    top = assembly.head(*moments(train[0]))
    standardise = top.get_layer("standardise")
    (features, labels), (others, answers) = ([part[:MOST_ROWS] for part in rows] for rows in (train, valid))
    weights = discriminant(keras.ops.convert_to_numpy(standardise(features)), labels)
    scores = keras.ops.convert_to_numpy(standardise(others)) @ weights
    spread = float(scores.std()) or 1.0
    temperature, offset = platt.scaling(answers, scores / spread)
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
    return scaler.mean_, np.maximum(scaler.var_, max(1e-3 * float(scaler.var_.mean()), TINY))


def discriminant(
    features: NDArray[np.float32], labels: NDArray[np.int8], shrinkage: float = SHRINKAGE
) -> NDArray[np.float32]:
    """The direction (width,) of the linear discriminant of standardised features (rows × width).

    ``shrinkage`` in (0, 1) is the share of the identity in the covariance within classes. Least squares on the labels
    has the discriminant's direction (Hastie, Tibshirani & Friedman 2009, exercise 4.2), and a ridge is its shrinkage:
    of (1 - s) W + s I and W + s / (1 - s) I the directions are the same.
    """
    ridge = Ridge(alpha=len(labels) * shrinkage / (1 - shrinkage), solver="cholesky", copy_X=False)
    weights: NDArray[np.float32] = ridge.fit(features, labels.astype(np.float32)).coef_
    return weights
