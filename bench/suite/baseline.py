"""The baseline phase: features once and a head solved for them, against a frozen backbone run anew in every epoch.

DenseNet121, 420 faces to train on and 120 to validate on, whole, 256 px, in batches of 32. Both sides are in this
process, from reading the weights to the saved detector:

- ``ours``: stage `baseline`.
- ``notebooks``: the backbone with ``trainable = False``, dropout and a sigmoid on top, pixels / 255, mirrored by
  ``ImageDataGenerator``, ten epochs of ``fit`` with Adam. Once, since it takes ten passes of what ours takes one of.

The second result compares the validation accuracies. With random weights they mean nothing.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from bench.measure import Result, over
from bench.project import BATCH, SIZE, project, run_here, write_params
from bench.suite.input import legacy, unpack
from stages.backend import keras
from stages.detectors import assembly, densenet121, rows
from stages.params import load
from stages.scoring import figures

SLOW = True
MODEL, EPOCHS, RATE, DROPOUT = "densenet121", 10, 1e-3, 0.2
ROUNDS = 2
FACES_PER_CLASS = 300
PARAMS = {
    "features.from_block": "conv5",  # the notebooks' head sees no other
    "features.batch_size": BATCH,
}


def measure() -> Iterator[Result]:
    """Seconds and accuracy of both sides, in a project of its own: a few more faces, so that the start counts less."""
    weights = load().weights.folder
    with project(Path(weights) if weights else None, FACES_PER_CLASS):
        write_params(PARAMS)
        unpack(), unpack("valid")
        first = ours()
        theirs = notebooks()
        runs = [first, *(ours() for _ in range(ROUNDS - 1))]
    seconds, accuracies = [run[0] for run in runs], [run[1] for run in runs]
    details = {
        "seconds": {"ours": [round(s, 1) for s in seconds], "notebooks": round(theirs[0], 1)},
        "val_accuracy": {"ours": accuracies, "notebooks": theirs[1]},
    }
    what = "baseline: a head solved on features / ten epochs through the frozen backbone"
    yield Result("baseline", what, over([theirs[0]] * ROUNDS, seconds), 8, details=details)
    what = "validation accuracy of the baselines, ours / theirs"
    yield Result("baseline.accuracy", what, over(accuracies, [theirs[1]] * ROUNDS), 1, details=details)


def ours() -> tuple[float, float]:
    """Seconds of the stage, and the validation accuracy."""
    shutil.rmtree("data/features", ignore_errors=True)
    start = perf_counter()
    run_here("baseline", MODEL)
    seconds = perf_counter() - start
    features, labels = rows.read(Path(f"data/features/{MODEL}"), "valid")
    head = assembly.load(Path(f"data/models/{MODEL}-baseline.keras")).get_layer("head")
    return seconds, float(figures.correct(labels, head.predict(features, verbose=0)[:, 0], 0.0).mean())


def notebooks() -> tuple[float, float]:
    """Seconds of the notebooks' way, and the best epoch's validation accuracy."""
    start = perf_counter()
    keras.utils.set_random_seed(20)
    backbone = densenet121.backbone(f"data/weights/{MODEL}.weights.h5")
    backbone.trainable = False
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            backbone,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(DROPOUT),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(RATE), "binary_crossentropy", metrics=["accuracy"])
    history = model.fit(
        legacy(horizontal_flip=True), validation_data=legacy("valid", shuffle=False), epochs=EPOCHS, verbose=2
    ).history
    model.save("notebooks.keras")
    return perf_counter() - start, max(history["val_accuracy"])
