"""The frozen layers below the point where fine-tuning starts, the prefix: run once, their outputs kept on disk.

It pays where the training images come as a few fixed views (``views`` of the fine-tuning's parameters) and there are
more epochs than views: the prefix then runs once a view and not once an epoch. The outputs lie in a git-ignored scratch
folder, one file a view, and serve every later run that wants the same; those of another run of the same backbone go.
"""

import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from stages.backend import keras, tf
from stages.errors import UserError
from stages.files import publish

BACKWARD = 2.0  # times the forward pass: one product for the gradient of the weights, one for that of the inputs
WORTHWHILE = 1.1  # times as fast by the count of operations: below that, reading and writing take what is won


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cache would take (``bytes``) and bring (``speedup`` of the whole fine-tuning), and the verdict.

    ``reason`` says in words why the outputs are kept (``keep``), or why not.
    """

    bytes: int
    speedup: float
    keep: bool
    reason: str


def cut(backbone: "keras.Model", first: int) -> "tuple[keras.Model, keras.Model]":
    """The backbone below its layer number ``first``, and the rest from it on. The layers are shared, not copied.

    Raises ValueError where more than one tensor crosses the cut; the blocks of ResNet50 and DenseNet121 have one.
    """
    boundary = backbone.layers[first - 1].output
    return keras.Model(backbone.input, boundary), keras.Model(boundary, backbone.output)


def operations(backbone: "keras.Model", side: int) -> list[int]:
    """Multiply-adds of each layer in one forward pass of an image of ``side`` px: those of convolutions, else 0.

    A convolution takes height × width × channels of its output × kernel height × width × channels of its input (He et
    al. 2016 count so); all else is small beside them.
    """
    layers = [layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    outputs = keras.Model(backbone.input, [layer.output for layer in layers])
    shapes = dict(zip((layer.name for layer in layers), outputs.compute_output_shape((1, side, side, 3)), strict=True))
    return [
        prod(shapes[layer.name][1:]) * prod(layer.kernel.shape[:3]) if layer.name in shapes else 0
        for layer in backbone.layers
    ]


def plan(
    backbone: "keras.Model",
    first: int,
    *,
    images: dict[str, int],
    sides: dict[str, int],
    views: int | None,
    epochs: int,
    itemsize: int,
    limit: float,
    room: int,
) -> Plan:
    """Whether to keep the prefix' outputs, by the count of operations and by the room.

    ``images`` and ``sides`` (px) are those of "train" and "valid"; ``itemsize`` is in bytes, ``limit`` in GB (10⁹
    bytes); ``room`` is what the disk has for them, in bytes.
    """
    if views is None:
        return Plan(0, 1.0, False, "every epoch draws fresh crops (finetune.views is empty)")
    if first == 0:
        return Plan(0, 1.0, False, "all layers train (finetune.unfreeze_from is all)")
    try:
        boundary, _ = cut(backbone, first)
    except ValueError:
        return Plan(0, 1.0, False, "the head sees frozen blocks too (features.from_block)")
    passes = {"train": min(views, epochs), "valid": 1}
    size, once, every_time, rest = 0, 0.0, 0.0, 0.0
    for split, side in sides.items():
        count, each = images[split], operations(backbone, side)
        size += passes[split] * count * prod(boundary.compute_output_shape((1, side, side, 3))[1:]) * itemsize
        below, above = sum(each[:first]), sum(each[first:])
        once += passes[split] * count * below
        every_time += epochs * count * below
        rest += epochs * count * above * (1 + BACKWARD if split == "train" else 1)
    speedup = (every_time + rest) / (once + rest)
    gigabytes = f"{size / 1e9:,.1f} GB"
    if speedup < WORTHWHILE:
        return Plan(size, speedup, False, f"it would be {speedup:.2f} times as fast, which is not worth {gigabytes}")
    if size > limit * 1e9:
        return Plan(size, speedup, False, f"{gigabytes} is more than training.cache_gigabytes = {limit:g} allows")
    if size > room:
        return Plan(size, speedup, False, f"{gigabytes} does not fit into the {room / 1e9:,.1f} GB that are free")
    return Plan(size, speedup, True, f"{gigabytes} on disk, about {speedup:.1f} times as fast by count of operations")


def run_once(network: "keras.Model", batches: "tf.data.Dataset", count: int, path: Path, dtype: str) -> np.ndarray:
    """The outputs of a network (n, height, width, channels) for ``count`` images, from the file or into it.

    Raises :class:`UserError` where a number is too large for float16.
    """
    if not path.exists():
        forward = tf.function(lambda images: network(images, training=False), reduce_retracing=True)
        row = 0
        with publish(path) as part, tqdm(total=count, desc=path.stem, unit="image", disable=None) as bar:
            for images, *_ in batches:
                with np.errstate(over="ignore"):  # it is asked for next
                    outputs = forward(images).numpy().astype(dtype)
                if not np.isfinite(outputs).all():
                    raise UserError(
                        "the frozen layers give numbers that float16 cannot hold; "
                        "set training.cache_precision to float32"
                    )
                if row == 0:
                    kept = open_memmap(part, "w+", outputs.dtype, (count, *outputs.shape[1:]))
                kept[row : row + len(outputs)] = outputs
                row += len(outputs)
                bar.update(len(outputs))
            kept.flush()
    return open_memmap(path, "r")


def room_for(folder: Path, pattern: str) -> int:
    """Bytes that caches in ``folder`` may take: nine tenths of what is free, and what those of ``pattern`` take now.

    A run that is killed and goes on must not find its own cache in its way.
    """
    taken = sum(file.stat().st_size for cache in folder.glob(pattern) for file in cache.iterdir())
    return int(0.9 * shutil.disk_usage(folder).free) + taken


def forget_others(folder: Path, pattern: str) -> None:
    """Remove the caches beside ``folder`` that match ``pattern``: there is one for each backbone."""
    for other in folder.parent.glob(pattern):
        if other != folder:
            shutil.rmtree(other)


def batches(
    views: list[np.ndarray], labels: np.ndarray, order: "tf.data.Dataset", batch_size: int
) -> "tf.data.Dataset":
    """Batches of (outputs as float32, labels n × 1, rows n), the (view, row) of each image drawn from ``order``.

    ``views``: the memory-mapped outputs of each view; ``labels`` (int8, n). Only the rows of a batch are read. From an
    endless order come full batches only.
    """

    def gather(view: Any, row: Any) -> np.ndarray:
        return np.stack([views[v][r] for v, r in zip(view, row, strict=True)]).astype(np.float32)

    def read(view: "tf.Tensor", row: "tf.Tensor") -> "tuple[tf.Tensor, ...]":
        outputs = tf.numpy_function(gather, (view, row), tf.float32, stateful=False)
        return tf.ensure_shape(outputs, (None, *views[0].shape[1:])), tf.gather(labels, row)[:, tf.newaxis], row

    endless = int(order.cardinality()) < 0  # infinite, or unknown because passes follow each other
    return (
        order.batch(batch_size, drop_remainder=endless)
        .map(read, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
