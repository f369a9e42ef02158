"""A detector in a form that starts at once and judges a face without TensorFlow, checked against Keras."""

from pathlib import Path

import numpy as np

from stages.backend import keras, tf
from stages.faces import shards
from stages.files import publish, read_json, sha256, write_json
from stages.params import Image
from stages.photos import exported
from stages.quiet import without_harmless_lines
from stages.reporting import worth

CHECKED = 16  # validation images on which the export must agree with Keras
TOLERANCE = 1e-3  # of any answer, relative to it where it is above 1; float32 in another order gives 1e-4


def export(model: "keras.Model", path: Path, image: Image) -> None:
    """Publish ``data/exported/M-P/`` (:mod:`stages.photos.exported`), but for how to read the answers.

    ``model`` gives the logits, evidence and distances of images of ``image.size``, in that order; it was loaded from
    ``path``. Raises :class:`RuntimeError` if what is exported strays from it.
    """
    name = path.stem
    with publish(exported.FOLDER / name) as part:  # whole: the calibration of an earlier network goes
        part.mkdir()
        (part / exported.NETWORK).write_bytes(converted(model, image.size))
        strays = deviation(model, part / exported.NETWORK, image.size)
        if not strays <= TOLERANCE:
            raise RuntimeError(f"{name}: exported, it strays from Keras by {strays:.2g}; {TOLERANCE:g} is allowed")
        write_json(
            part / exported.FACTS,
            {
                "detector": name,
                "size": image.size,
                "jpeg": image.jpeg,
                "align": image.align,
                "source": worth.source(read_json(shards.TRAINING)["sources"].values()),
                "weights": read_json(path.with_suffix(".json"))["weights"]["source"],
                "sha256": sha256(path),
                "deviation": strays,
                "checked": CHECKED,
            },
        )
        megabytes = (part / exported.NETWORK).stat().st_size / 1e6
    print(f"{name}: exported, {megabytes:.0f} MB; within {strays:.1g} of Keras on {CHECKED} validation images")


def converted(model: "keras.Model", size: int, *, half: bool = False) -> bytes:
    """A network of one image, size × size × 3, as LiteRT reads it: what ``model`` answers, in its order.

    ``half``: its weights have 16 bits, and half the bytes. It computes in float32 all the same.

    Keras' own ``model.export(format="litert")`` writes a SavedModel and reads it twice on the way, which takes
    several times as long.
    """
    image = tf.TensorSpec((1, size, size, 3), tf.float32, name="image")
    with without_harmless_lines():
        answer = tf.function(lambda image: model(image, training=False)).get_concrete_function(image)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([answer], model)
        converter.experimental_lower_to_saved_model = False  # weights become constants at once
        if half:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        network: bytes = converter.convert()
    return network


def deviation(model: "keras.Model", network: Path, size: int) -> float:
    """The largest difference in any answer, relative to Keras' value where that is above 1; NaN if any is."""
    batch, *_ = next(iter(shards.faces(shards.training("valid"), size=size, batch_size=CHECKED)))
    images = batch.numpy().astype(np.float32)
    judged = [np.stack(answers) for answers in zip(*map(exported.network(network), images), strict=True)]
    wanted = [answers.numpy() for answers in model(images, training=False)]
    strays = [
        np.abs(got - of_keras) / np.maximum(1, np.abs(of_keras))
        for got, of_keras in zip(judged, (wanted[0][:, 0], wanted[1], wanted[2][:, 0]), strict=True)
    ]
    return float(np.max([stray.max() for stray in strays]))
