"""Scoring: images a second of stage `score`, against image by image and against the forward pass alone.

DenseNet121 judges the 48 validation faces, whole, 256 px:

- ``ours``: what the stage does, :func:`stages.score.forward`: reading, decoding, the network, the rows of the table.
- ``one``: the same faces from the same reader, one at a time through the same compiled network: no batches.
- ``model.predict``, one face at a time, is what notebooks do; it is in the details, once, without a target.
- ``forward``: the compiled network on a constant batch in memory, an upper bound.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.measure import Result, medians, over, seconds, take_turns
from bench.project import BATCH, SIZE, write_params
from stages import score
from stages.backend import tf
from stages.detectors import assembly, densenet121
from stages.faces import shards
from stages.params import load

MODEL = Path("data/models/densenet121-baseline.keras")
ROUNDS = 11


def measure() -> Iterator[Result]:
    """Images a second of each side."""
    write_params({"score.batch_size": BATCH})
    backbone = densenet121.backbone()
    width = backbone.output_shape[-1]
    head = assembly.head(np.zeros(width), np.ones(width))
    assembly.save(densenet121, backbone, head, MODEL)
    detector = assembly.with_logits(assembly.load(MODEL))
    network = tf.function(detector, reduce_retracing=True)
    count = shards.counts(shards.training("valid"))["images"]
    batch = tf.cast(tf.random.uniform((BATCH, SIZE, SIZE, 3), maxval=256), tf.uint8)  # as the reader gives them

    def ours() -> None:
        score.forward(network, score.Pass("faces", "valid"), load(), "valid")

    def one() -> None:
        for image, _ in shards.labelled(shards.training("valid"), size=SIZE, batch_size=1):
            network(image, training=False).numpy()

    def predict() -> None:
        for image, _ in shards.labelled(shards.training("valid"), size=SIZE, batch_size=1):
            detector.predict(image, verbose=0)

    def forward() -> None:
        for start in range(0, count, BATCH):  # batches of the sizes that the split falls into
            network(batch[: count - start], training=False).numpy()

    jobs = {"ours": ours, "one": one, "forward": forward}
    for job in (*jobs.values(), predict):
        job()  # the first pass compiles
    speed = take_turns({name: lambda job=job: count / seconds(job) for name, job in jobs.items()}, ROUNDS)
    details = {"images_per_second": medians(speed | {"predict": [count / seconds(predict)]})}
    yield Result(
        "scoring.one", "scoring / one image at a time", over(speed["ours"], speed["one"]), 1.5, details=details
    )
    bound = over(speed["ours"], speed["forward"])
    yield Result("scoring.forward", "scoring / the forward pass alone", bound, 0.95, details=details)
