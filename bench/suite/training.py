"""Training: steps of fine-tuning with images from the shards, against steps on a constant batch in memory.

DenseNet121, all layers, windows of 128 px in batches of 16, AdamW: eight steps of ``fit`` a round on each side, after
one that is not timed. Ours opens the shards anew in each round, so that nothing is prepared while the other side is
measured.
"""

from collections.abc import Iterator
from time import perf_counter

import numpy as np

from bench.measure import Result, medians, over, take_turns
from bench.project import CROP, SIZE
from stages.backend import keras, tf
from stages.detectors import assembly, densenet121, training
from stages.faces import shards

BATCH, STEPS, ROUNDS = 16, 8, 5


def measure() -> Iterator[Result]:
    """Images a second of both sides."""
    backbone = densenet121.backbone()
    width = backbone.output_shape[-1]
    head = assembly.head(np.zeros(width), np.ones(width))
    detector = assembly.detector(densenet121, backbone, head)
    training.compile_model(detector, keras.optimizers.AdamW(1e-5))

    def real() -> "tf.data.Dataset":
        return shards.augmented(shards.training("train"), size=SIZE, crop=CROP, batch_size=BATCH, seed=1)

    constant = tf.data.Dataset.from_tensors(next(iter(real()))).repeat()
    detector.fit(constant, steps_per_epoch=1, verbose=0)  # compiles

    def speed_of(data: "tf.data.Dataset") -> float:
        ends: list[float] = []
        clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(perf_counter()))
        detector.fit(data, steps_per_epoch=1 + STEPS, verbose=0, callbacks=[clock])
        return STEPS * BATCH / (ends[-1] - ends[0])

    speed = take_turns({"shards": lambda: speed_of(real()), "constant": lambda: speed_of(constant)}, ROUNDS)
    what = "training from shards / training on a constant batch"
    details = {"images_per_second": medians(speed)}
    yield Result("training", what, over(speed["shards"], speed["constant"]), 0.97, details=details)
