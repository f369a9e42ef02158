"""A detector is put together here: preprocessing, backbone, pooling, head; and saved so that anyone can load it.

The saved ``.keras`` file takes float32 RGB images in 0–255, of any size, and gives P(fake): the preprocessing is inside
it, it needs none of our code, and its weights are float32 whatever it was trained in.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stages.backend import keras
from stages.files import publish, reading

MOMENTUM = 0.9  # of BatchNorm's moving statistics; Keras' 0.99 would lag behind some hundred steps of training


class BackboneModule(Protocol):
    """A backbone and the preprocessing that it was trained with: a backbone's module, or :class:`levels.Levels`."""

    def backbone(self, weights: str | None = None) -> "keras.Model":
        """The network; ``weights`` is what Keras takes: None (random), "imagenet" or a file."""

    def preprocess(self, images: "keras.KerasTensor") -> "keras.KerasTensor":
        """RGB images in 0–255 to what the network takes."""


def backbone_module(model: str) -> ModuleType:
    """The module of a backbone, by its name in params.yaml."""
    return import_module(f"stages.detectors.{model}")


def pooled_features(module: BackboneModule, backbone: "keras.Model") -> "keras.Model":
    """The backbone as a function: images (n, h, w, 3) in 0–255 to float32 features (n, width)."""
    images = keras.Input((None, None, 3), name="image")
    activations = backbone(module.preprocess(images))
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pool")(activations)
    return keras.Model(images, pooled)


def head(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> "keras.Model":
    """Pooled features (n, width) to one logit: standardised by ``mean`` and ``variance`` (width,), then a linear layer.

    The layer is zero until its weights are set.
    """
    standardise = keras.layers.Normalization(
        mean=mean.tolist(), variance=variance.tolist(), dtype="float32", name="standardise"
    )
    return _head(len(mean), standardise)


def trainable_head(width: int) -> "keras.Model":
    """A head for features that still change: it standardises by the batch's own mean and variance.

    So any backbone's features are on one scale, and one learning rate fits all. The layer starts from nothing: of
    thousands of features, random weights would outlive a short training as noise.
    """
    return _head(width, keras.layers.BatchNormalization(center=False, scale=False, dtype="float32", name="standardise"))


def _head(width: int, standardise: "keras.layers.Layer") -> "keras.Model":
    logit = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="logit")
    return keras.Sequential([keras.Input((width,), name="features"), standardise, logit], name="head")


def set_batch_norm(layers: "list[keras.layers.Layer]", *, trains: bool, devices: int) -> None:
    """Let BatchNorm use each batch's statistics and keep up with a short training, or else stay as it is.

    Of a layer that is not trainable, Keras keeps the moving statistics. ``devices`` that share a batch share its
    statistics, too.
    """
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable, layer.momentum, layer.synchronized = trains, MOMENTUM, devices > 1


def settled(top: "keras.Model") -> "keras.Model":
    """A trainable head as a :func:`head` that does the same with the mean and variance that it ended with."""
    norm = top.get_layer("standardise")
    if not isinstance(norm, keras.layers.BatchNormalization):
        return top
    mean, variance = (np.asarray(weight, np.float64) for weight in norm.get_weights())
    still = head(mean, variance + norm.epsilon)
    still.get_layer("logit").set_weights(top.get_layer("logit").get_weights())
    return still


def detector(module: BackboneModule, backbone: "keras.Model", top: "keras.Model") -> "keras.Model":
    """Images (n, h, w, 3) in 0–255 to logits (n, 1)."""
    features = pooled_features(module, backbone)
    return keras.Model(features.input, top(features.output))


def save(module: BackboneModule, backbone: "keras.Model", top: "keras.Model", path: Path) -> "keras.Model":
    """Publish a detector as a ``.keras`` file that gives probabilities, in float32; return it.

    It is built afresh of standard layers, so that neither the precision nor the frozen layers nor the modes of
    training stay in the file.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        clean_backbone = module.backbone()
        clean_backbone.set_weights(backbone.get_weights())
        clean_top = keras.models.clone_model(top)
        clean_top.set_weights(top.get_weights())
        logits = detector(module, clean_backbone, clean_top)
        probability = keras.layers.Activation("sigmoid", name="probability")(logits.output)
        saved = keras.Model(logits.input, probability, name=path.stem.replace("-", "_"))
        with publish(path) as part:
            saved.save(part)
        return saved
    finally:
        keras.config.set_dtype_policy(policy)


def load(path: Path) -> "keras.Model":
    """A saved detector: float32 RGB images in 0–255 (n, h, w, 3) to P(fake) (n, 1)."""
    return keras.models.load_model(path, compile=False)


def with_logits(model: "keras.Model") -> "keras.Model":
    """A loaded detector's logits instead of its probabilities: they do not saturate at 0 and 1."""
    return keras.Model(model.input, model.get_layer("probability").input)


def with_distance(model: "keras.Model", path: Path) -> "keras.Model":
    """A loaded detector's answers, and behind them how far the faces lie from the training faces: float32 (n, 1).

    ``path``: the .npz of :func:`stages.detectors.distance.fit`. The distance is the root of the mean square along the
    axes, about 1 for training faces.
    """
    with reading(path), np.load(path) as axes:
        kernel, bias = axes["kernel"], axes["bias"]
    along = keras.layers.Dense(len(bias), dtype="float32", name="axes")
    squares = keras.ops.square(along(model.get_layer("pool").output))
    along.set_weights([kernel, bias])
    distance = keras.ops.sqrt(keras.ops.mean(squares, axis=1, keepdims=True))
    return keras.Model(model.input, [*model.outputs, distance])


def with_evidence(model: "keras.Model") -> "keras.Model":
    """A loaded detector's logits (n, 1) and where they come from: evidence (n, height / 32, width / 32).

    Of a face that the detector magnifies, height and width are those of the magnified one.

    The head is linear in the pooled activations, so a logit is the mean, over all positions, of what the head makes of
    the activations there: exact, no gradient and no approximation (class activation maps, Zhou et al. 2016,
    arXiv:1512.04150, with the head's bias spread evenly). Positive evidence speaks for fake.
    """
    head, activations = model.get_layer("head"), model.get_layer("pool").input
    standardise, dense = head.get_layer("standardise"), head.get_layer("logit")
    deviation = np.maximum(np.sqrt(np.ravel(standardise.input_variance)), keras.config.epsilon())
    kernel, bias = (np.asarray(weight) for weight in dense.get_weights())
    weights = kernel[:, 0] / deviation
    position = keras.layers.Conv2D(1, 1, dtype="float32", name="evidence_of_position")
    maps = position(activations)
    position.set_weights([weights.reshape(1, 1, -1, 1), bias - weights @ np.ravel(standardise.input_mean)])
    return keras.Model(model.input, [model.get_layer("probability").input, maps[..., 0]])
