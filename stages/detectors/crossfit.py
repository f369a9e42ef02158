"""Heads that have not seen the face that they judge, for a backbone to learn from.

A head of thousands of features knows its few training faces by heart: they are right already, there is nothing to learn
from them. So the training faces are dealt to folds; a face of a fold is judged by the discriminant of all the others
(cross-fitting: Stone 1974; Chernozhukov et al. 2018), and whoever does not belong to a fold by the head of all. These
heads stand still while the backbone moves below them; before each validation they are made anew of what it gives now.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.backend import keras, tf
from stages.detectors import extraction, rows
from stages.detectors.discriminant import CHUNK, Standard, calibrated, discriminant, moments, scores_of, standard_of
from stages.errors import UserError
from stages.params import Params

FOLDS = 5
ALL = FOLDS  # the number of the head of all faces, after those of the folds


def heads(head: "keras.Model") -> "keras.Model":
    """Features to one logit of each head (n, FOLDS + 1), standardised as ``head`` does.

    They start from nothing, and do not learn by gradients: :func:`fit` sets them, and :func:`give` that of all faces.
    """
    judges = keras.layers.Dense(FOLDS + 1, kernel_initializer="zeros", trainable=False, dtype="float32", name="judges")
    features = keras.Input(head.input_shape[1:])
    return keras.Model(features, judges(head.get_layer("standardise")(features)), name="heads")


def learner(judges: "keras.Model") -> "keras.Model":
    """Of a model that gives one logit of each head, one that takes (its input, which head judges) to logits (n, 1)."""
    judge = keras.Input((FOLDS + 1,), name="judge")
    logit = keras.layers.Dot(1, dtype="float32", name="logit_of_judge")([judges.output, judge])
    return keras.Model([judges.input, judge], logit)


def judged(batches: "tf.data.Dataset") -> "tf.data.Dataset":
    """Batches of (images, labels, rows) as ((images, the head of each row's fold), labels)."""
    return batches.map(lambda images, labels, rows: ((images, tf.one_hot(rows % FOLDS, FOLDS + 1)), labels))


def judged_by_all(batches: "tf.data.Dataset") -> "tf.data.Dataset":
    """Batches of (images, labels, …) as ((images, the head of all), labels)."""
    return batches.map(
        lambda images, labels, *_: ((images, tf.one_hot(tf.fill([tf.shape(labels)[0]], ALL), FOLDS + 1)), labels)
    )


def fitted(train: rows.Rows, views: int, shrinkage: float, standard: Standard) -> tuple[np.ndarray, np.ndarray]:
    """The kernel (width, FOLDS + 1) and bias (FOLDS + 1,) of the heads of training rows, ``views`` of each face.

    One scale and one bias make logits of all, Platt's, from what the heads of the folds say of the faces of their own.
    Of many rows each is read twice: for the sums of all, and for those of its fold, which are taken from them.
    """
    features, labels = train
    numbers = np.arange(len(labels))
    fold = numbers % (len(labels) // views) % FOLDS
    scores = np.zeros(len(labels))
    kernel: NDArray[np.float64] = np.zeros((features.shape[1], FOLDS + 1))
    many = len(numbers) - np.bincount(fold).max() >= features.shape[1]
    whole = moments(features, labels, numbers, standard) if many else None
    for number in range(FOLDS):
        own = numbers[fold == number]
        if whole:
            kernel[:, number] = (whole - moments(features, labels, own, standard)).discriminant(shrinkage)
        else:
            kernel[:, number] = discriminant(features, labels, numbers[fold != number], shrinkage, standard)
        scores[own] = scores_of(features, own, kernel[:, number], standard)
    kernel[:, ALL] = (
        whole.discriminant(shrinkage) if whole else discriminant(features, labels, numbers, shrinkage, standard)
    )
    scale, bias = calibrated(scores, labels)
    return kernel * scale, np.full(FOLDS + 1, bias)


def fit(top: "keras.Model", train: rows.Rows, views: int, shrinkage: float) -> None:
    """Set :func:`heads` to those of training rows, view after view. Raises :class:`UserError` where they are NaN."""
    if not np.isfinite(train[0][:CHUNK]).all():
        raise UserError("the features are no longer numbers; lower the learning_rate in params.yaml")
    top.get_layer("judges").set_weights(list(fitted(train, views, shrinkage, standard_of(top))))


class Refit(keras.callbacks.Callback):
    """Before each validation, heads are made anew of the features that ``network`` gives now, kept in ``folder``."""

    def __init__(
        self, top: "keras.Model", network: "keras.Model", folder: Path, shrinkage: float, params: Params
    ) -> None:
        super().__init__()
        self.top, self.folder, self.shrinkage, self.settings = top, folder, shrinkage, params
        self.forward, self.width = tf.function(network, reduce_retracing=True), network.output_shape[-1]

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Run the backbone over the training faces, fit the heads to what it gives."""
        self.folder.mkdir(parents=True, exist_ok=True)
        views = self.settings.features.views
        extraction.extract(self.forward, self.width, self.folder, "train", views, self.settings)
        fit(self.top, rows.read(self.folder, "train"), views, self.shrinkage)


def give(top: "keras.Model", head: "keras.Model") -> None:
    """Give that of all faces the weights of a head."""
    kernel, bias = (weight.copy() for weight in top.get_layer("judges").get_weights())
    kernel[:, ALL], bias[ALL] = (np.squeeze(weight) for weight in head.get_layer("logit").get_weights())
    top.get_layer("judges").set_weights([kernel, bias])


def take(top: "keras.Model", head: "keras.Model") -> None:
    """Give a head the weights of that of all faces."""
    kernel, bias = top.get_layer("judges").get_weights()
    head.get_layer("logit").set_weights([kernel[:, [ALL]], bias[[ALL]]])
