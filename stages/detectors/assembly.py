"""A detector is put together here: preprocessing, backbone, pooling, head; and saved so that anyone can load it.

The saved ``.keras`` file takes float32 RGB images in 0–255, of any size, and gives P(fake): the preprocessing is inside
it, it needs none of our code, and its weights are float32 whatever it was trained in.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from stages.backend import keras, tf
from stages.files import publish


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
    """The frozen backbone as a function: images (n, h, w, 3) in 0–255 to float32 features (n, width)."""
    images = keras.Input((None, None, 3), name="image")
    activations = backbone(module.preprocess(images))
    return keras.Model(images, _pooled(activations))


def head(mean: np.ndarray, variance: np.ndarray, dropout: float) -> "keras.Model":
    """Pooled features (n, width) to one logit: standardised by the training features, dropout, a linear layer.

    Standardising puts any backbone's features on one scale, so that one learning rate fits all, random weights too.
    The layer starts from nothing: of thousands of features, random weights would outlive a short training as noise.
    A feature that hardly varies is not blown up: its variance counts as at least 1/1,000 of the average one.
    """
    variance = np.maximum(variance, max(1e-3 * float(variance.mean()), 1e-12))
    return keras.Sequential(
        [
            keras.Input((len(mean),), name="features"),
            keras.layers.Normalization(
                mean=mean.tolist(), variance=variance.tolist(), dtype="float32", name="standardise"
            ),
            keras.layers.Dropout(dropout, dtype="float32", name="dropout"),
            keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="logit"),
        ],
        name="head",
    )


class InferenceMode(keras.layers.Layer):
    """A network that stays in inference mode while it trains: its BatchNorm keeps the moving statistics.

    To call the network with ``training=False`` is not enough: a functional model hands the ``training`` that it was
    called with down to all its layers, over what was said when it was built (Keras 3.15).
    """

    def __init__(self, network: "keras.Model") -> None:
        super().__init__(name="inference_mode")
        self.network = network

    def call(self, images: "tf.Tensor") -> "tf.Tensor":
        """Forward, without batch statistics."""
        return self.network(images, training=False)


def detector(module: BackboneModule, backbone: "keras.Model", top: "keras.Model", batch_norm: str) -> "keras.Model":
    """Images (n, h, w, 3) in 0–255 to logits (n, 1), for training.

    With ``batch_norm`` "inference", BatchNorm keeps its moving statistics while the rest trains; with "training" it
    uses each batch's own, and the moving ones must be estimated again afterwards.
    """
    return _assemble(module, _in_mode(backbone, batch_norm), top)


def rest_of_detector(rest: "keras.Model", top: "keras.Model", batch_norm: str) -> "keras.Model":
    """As :func:`detector`, from the outputs (n, h, w, channels) of the frozen layers on."""
    outputs = keras.Input(rest.input.shape[1:], name="outputs_of_frozen_layers")
    return keras.Model(outputs, top(_pooled(_in_mode(rest, batch_norm)(outputs))))


def _in_mode(network: "keras.Model", batch_norm: str) -> "keras.layers.Layer":
    return InferenceMode(network) if batch_norm == "inference" else network


def _assemble(module: BackboneModule, backbone: "keras.layers.Layer", top: "keras.Model") -> "keras.Model":
    images = keras.Input((None, None, 3), name="image")
    return keras.Model(images, top(_pooled(backbone(module.preprocess(images)))))


def _pooled(activations: "keras.KerasTensor") -> "keras.KerasTensor":
    return keras.layers.GlobalAveragePooling2D(dtype="float32", name="pool")(activations)


def unfreeze(backbone: "keras.Model", block: str) -> int:
    """Let the backbone train from a block on (conv1 … conv5), or all of it ("all"); below, it stays as it is.

    Returns the number of its first layer that trains.
    """
    layers = backbone.layers
    first = 0 if block == "all" else next(i for i, layer in enumerate(layers) if layer.name.startswith(f"{block}_"))
    for number, layer in enumerate(layers):
        layer.trainable = number >= first
    return first


def save(module: BackboneModule, backbone: "keras.Model", top: "keras.Model", path: Path) -> None:
    """Publish a detector as a ``.keras`` file that gives probabilities, in float32.

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
        logits = _assemble(module, clean_backbone, clean_top)
        probability = keras.layers.Activation("sigmoid", name="probability")(logits.output)
        with publish(path) as part:
            keras.Model(logits.input, probability, name=path.stem.replace("-", "_")).save(part)
    finally:
        keras.config.set_dtype_policy(policy)


def load(path: Path) -> "keras.Model":
    """A saved detector: float32 RGB images in 0–255 (n, h, w, 3) to P(fake) (n, 1)."""
    return keras.models.load_model(path, compile=False)


def with_logits(model: "keras.Model") -> "keras.Model":
    """A loaded detector's logits instead of its probabilities: they do not saturate at 0 and 1."""
    return keras.Model(model.input, model.get_layer("probability").input)


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
