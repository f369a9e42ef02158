"""Fine-tuning with frozen layers run once, against running them in every epoch, and against what could be won at most.

ResNet50 from conv5 on, 168 windows of 128 px to train on and 48 whole faces of 256 px to validate on, ten epochs of
batches of 32, from the same baseline. All sides are in this process, from reading the weights to the last epoch:

- ``cached``: stage `finetune` with one view of each face; the layers below conv5 run once, which is counted.
- ``uncached``: the same stage, with ``training.cache_gigabytes: 0``: the same images, the same result but for rounding.
- ``notebooks``: the same network in ``fit`` on ``ImageDataGenerator``'s batches, cut to windows by numpy. Once.

The ceiling is the ratio of the sides' multiply-adds: with P of the frozen layers and S of the others for an image, V
views and E epochs, E (P + 3 S) / (V P + 3 E S) for training, where a step is three forward passes of the layers that
train; the validation images, E (P + S) or P + E S, are counted with them.
"""

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bench.measure import Result, medians, over, seconds, take_turns
from bench.project import BATCH, CROP, SIZE, run_here, write_params
from bench.suite.input import legacy, legacy_cropped, unpack
from stages.backend import keras
from stages.detectors import assembly, prefix, resnet50, training
from stages.faces import shards

SLOW = True
MODEL, FIRST, EPOCHS, VIEWS, RATE = "resnet50", "conv5", 10, 1, 1e-4
ROUNDS = 2
SHARDS = Path("data/shards")
WEIGHTS, BASELINE = Path(f"data/weights/{MODEL}.weights.h5"), Path(f"data/models/{MODEL}-baseline.keras")
PARAMS = {
    "features.from_block": "conv5",  # the notebooks' head sees no other
    "features.views": 1,
    "features.batch_size": BATCH,
    "score.batch_size": BATCH,
    f"detectors.{MODEL}.baseline.epochs": EPOCHS,
    f"detectors.{MODEL}.finetune.unfreeze_from": FIRST,
    f"detectors.{MODEL}.finetune.views": VIEWS,
    f"detectors.{MODEL}.finetune.epochs": EPOCHS,
    f"detectors.{MODEL}.finetune.batch_size": BATCH,
    f"detectors.{MODEL}.finetune.learning_rate": RATE,
    f"detectors.{MODEL}.finetune.patience": EPOCHS,
}


def measure() -> Iterator[Result]:
    """Seconds and accuracies of each side."""
    write_params(PARAMS)
    unpack(), unpack("valid")
    for stage in ("weights", "features", "baseline"):
        run_here(stage, MODEL)
    ends: dict[str, dict[str, float]] = {}
    sides = {"cached": partial(ours, "cached", 10, ends), "uncached": partial(ours, "uncached", 0, ends)}
    times = take_turns(sides, ROUNDS)
    times["notebooks"] = [notebooks(ends)] * ROUNDS
    most = ceiling()
    details = {"seconds": medians(times), "ceiling": round(most, 3), "validation": ends}
    what = f"fine-tuning, frozen layers once / in every epoch (ceiling {most:.2f}×)"
    yield Result("finetune", what, over(times["uncached"], times["cached"]), round(0.8 * most, 2), details=details)
    what = "fine-tuning, frozen layers once / fit on ImageDataGenerator"
    yield Result("finetune.notebooks", what, over(times["notebooks"], times["cached"]), 2, details=details)


def ours(side: str, gigabytes: int, ends: dict[str, dict[str, float]]) -> float:
    """Seconds of the stage, from an empty scratch folder; ``ends`` gets what validation said."""
    shutil.rmtree(".scratch", ignore_errors=True)
    write_params({"training.cache_gigabytes": gigabytes})
    took = seconds(lambda: run_here("finetune", MODEL))
    rows = training.read_history(Path(f"plots/{MODEL}-finetune/history.csv"))
    ends[side] = end([row["val_accuracy"] or 0 for row in rows[1:]], [row["val_auc"] or 0 for row in rows[1:]])
    return took


def notebooks(ends: dict[str, dict[str, float]]) -> float:
    """Seconds of the same network in ``fit`` on the legacy generator; ``ends`` gets what validation said."""

    def train() -> None:
        backbone = resnet50.backbone(WEIGHTS)
        assembly.unfreeze(backbone, FIRST)
        head = assembly.load(BASELINE).get_layer("head")
        detector = assembly.detector(resnet50, backbone, head, "inference")
        images = keras.Input((None, None, 3))
        model = keras.Model(images, detector(images * 255))  # the generator divides by 255
        training.compile_model(model, keras.optimizers.Adam(RATE))
        history = model.fit(
            columns(legacy_cropped()),
            steps_per_epoch=-(-int(shards.summary(SHARDS, "train")["images"]) // BATCH),
            validation_data=legacy("valid", shuffle=False),
            epochs=EPOCHS,
            verbose=2,
        ).history
        ends["notebooks"] = end(history["val_accuracy"], history["val_auc"])

    return seconds(train)


def columns(batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same batches, labels as a column."""
    for images, labels in batches:
        yield images, labels[:, np.newaxis]


def end(accuracies: Sequence[float], aucs: Sequence[float]) -> dict[str, float]:
    """What to keep of the validation after each epoch."""
    return {"accuracy, last": accuracies[-1], "accuracy, best": max(accuracies), "auc, best": max(aucs)}


def ceiling() -> float:
    """How many times fewer multiply-adds the whole phase takes with the frozen layers run once."""
    backbone = resnet50.backbone()
    first = assembly.unfreeze(backbone, FIRST)
    anew = once = 0.0
    for split, side, passes, steps in (("train", CROP, VIEWS, 3), ("valid", SIZE, 1, 1)):
        each, images = prefix.operations(backbone, side), int(shards.summary(SHARDS, split)["images"])
        below, above = images * sum(each[:first]), images * sum(each[first:])
        anew += EPOCHS * (below + steps * above)
        once += passes * below + EPOCHS * steps * above
    return anew / once
