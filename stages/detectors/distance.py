"""How far a face lies from the training faces: the Mahalanobis distance of its features along their principal axes.

A detector answers for any picture, also for one that has nothing to do with its training faces. These are taken for one
Gaussian in the space of the pooled features, and the distance from its centre, each axis by its own deviation, is what
tells other pictures (Lee et al. 2018, arXiv:1807.03888; of all faces together here, as one Gaussian a class marks no
more of others). The axes along which the training faces hardly vary are left out: a few hundred faces say nothing of
them. Nothing is learned of what is to be found.
"""

from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from stages.detectors import discriminant
from stages.files import publish

FACES = 1000  # training faces, about; 270 mark hardly worse
AXES = 96  # at most; 64 mark fewer of other corpora, 128 hardly more; each adds 22 kB (ResNet50) to the network
ROWS_AN_AXIS = 3  # faces at least, or an axis' deviation would be guesswork


def fit(features: np.ndarray, path: Path) -> None:
    """Publish the axes of training faces as ``path`` (.npz), for :func:`stages.detectors.assembly.with_distance`.

    ``features``: float32 (faces × width). The file has ``kernel`` (width × axes) and ``bias`` (axes), both float32: of
    features @ kernel + bias, each column has mean 0 and variance 1 over these faces.
    """
    features = features[:: max(1, len(features) // FACES)]  # of every set its share
    mean, variance = discriminant.moments(features)
    deviation = np.sqrt(variance)
    axes = max(1, min(AXES, len(features) // ROWS_AN_AXIS, len(mean)))
    found = PCA(axes, random_state=0).fit(((features - mean) / deviation).astype(np.float32))
    # An axis along which nothing varies is not to be blown up, as no feature is.
    kernel = found.components_.T / np.sqrt(np.maximum(found.explained_variance_, discriminant.LEAST))
    kernel /= deviation[:, np.newaxis]
    with publish(path) as part:
        np.savez(part, kernel=kernel.astype(np.float32), bias=(-mean @ kernel).astype(np.float32))
