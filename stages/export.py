"""Stage `export`: one folder a detector that judges a face without TensorFlow, checked against Keras.

Reads ``data/models/M-P.keras`` and its ``.npz``, ``data/calibration/M-P.json``, ``data/training.json`` and, for the
check, ``data/shards/``; writes ``data/exported/M-P/``: ``network.tflite`` (logit, evidence and distance of an image of
``image.size``), ``calibration.json`` and ``detector.json`` (name, size and processing of images, source, SHA-256 of the
model, and how far the network strays from Keras). All detectors are exported and not the champion alone, so that there
is one way to judge a photo, whichever is asked; that costs some 25 s of CPU and 30 MB (DenseNet121) or 100 MB
(ResNet50) a detector.
"""

import shutil
from pathlib import Path

import numpy as np

from stages.backend import keras, tf
from stages.detectors import assembly
from stages.detectors.device import prepare
from stages.errors import run
from stages.faces import shards
from stages.files import publish, read_json, sha256, write_json
from stages.params import detector_argument, load
from stages.photos import exported
from stages.quiet import without_harmless_lines
from stages.reporting import worth

CHECKED = 16  # validation images on which the export must agree with Keras
TOLERANCE = 1e-3  # of any answer, relative to it where it is above 1; float32 in another order gives 1e-4


def main() -> None:
    """Export one detector."""
    name = detector_argument(main.__doc__)
    image = load().image
    size = image.size
    path = Path(f"data/models/{name}.keras")
    prepare("float32", seed=0)  # nothing is drawn here

    model = assembly.with_distance(assembly.with_evidence(assembly.load(path)), path.with_suffix(".npz"))
    with publish(exported.FOLDER / name) as part:
        part.mkdir()
        (part / exported.NETWORK).write_bytes(converted(model, size))
        strays = deviation(model, part / exported.NETWORK, size)
        if not strays <= TOLERANCE:
            raise RuntimeError(f"{name}: exported, it strays from Keras by {strays:.2g}; {TOLERANCE:g} is allowed")
        shutil.copyfile(f"data/calibration/{name}.json", part / exported.READING)
        write_json(
            part / exported.FACTS,
            {
                "detector": name,
                "size": size,
                "jpeg": image.jpeg,
                "align": image.align,
                "source": worth.source(read_json(shards.TRAINING)["sources"].values()),
                "weights": read_json(f"data/models/{name}.json")["weights"]["source"],
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


if __name__ == "__main__":
    run(main)
