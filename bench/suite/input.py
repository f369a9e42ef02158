"""The input pipeline: training images a second, against Keras' two readers and against decoding alone.

All sides read the same JPEG files of 256 px from the page cache and give shuffled batches of 32, float32. Ours, from
shards, gives random windows of 128 px at native resolution, half of them mirrored. The others get the same files in
folders, as a person would unpack the corpus:

- ``legacy``: ``ImageDataGenerator.flow_from_directory`` with what it offers: rescaling, mirroring and shifts, which are
  its own way to move the window. It has no random crop, so the 128 px are cut from the middle.
- ``legacy_crop``: the same without shifts, the quickest way to our very windows: whole images, mirrored by the
  generator, cut at random by three lines of numpy. No image is resampled on either side.
- ``directory``: ``image_dataset_from_directory`` at native resolution, then Keras' layers for random crops and flips,
  in the same pipeline.
- ``decode``: an upper bound for all that decode whole images: ``decode_jpeg`` by all cores, of bytes held in memory,
  batched, and nothing else. Ours may pass it, since of an image it decodes the window only.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench.measure import Result, medians, over, take_turns
from bench.project import BATCH, CROP, SIZE
from stages.backend import keras, tf
from stages.faces import shards

FOLDERS = Path("unpacked")
ROUNDS = 7
WARM_UP = 8  # batches that are not timed
EDGE = (SIZE - CROP) // 2


def measure() -> Iterator[Result]:
    """Images a second of each side."""
    unpack()
    sides = {
        "ours": rate(ours, 4096),
        "legacy": rate(legacy_shifted, 320),
        "legacy_crop": rate(legacy_cropped, 1536),
        "directory": rate(directory, 2048),
        "decode": rate(decode, 4096),
    }
    speed = take_turns(sides, ROUNDS)
    details = {"images_per_second": medians(speed)}

    def against(side: str, what: str, target: float) -> Result:
        return Result(f"input.{side}", what, over(speed["ours"], speed[side]), target, details=details)

    yield against("legacy", "training input / ImageDataGenerator with flips and shifts", 4)
    yield against("legacy_crop", "training input / ImageDataGenerator with flips, cropped by numpy", 4)
    yield against("directory", "training input / image_dataset_from_directory, crop and flip", 1.5)
    yield against("decode", "training input / bare decoding of whole images in memory", 0.85)


def rate(side: Callable[[], Iterable[Any]], images: int) -> Callable[[], float]:
    """A function that opens a side anew and says how many images a second it gives, once it is warm."""

    def measured() -> float:
        batches = iter(side())
        for _ in range(WARM_UP):
            next(batches)
        start, count = perf_counter(), 0
        while count < images:
            count += len(next(batches)[0])
        return count / (perf_counter() - start)

    return measured


def unpack(split: str = "train") -> Path:
    """A folder with the images of a split as files, in ``real`` and ``fake``; written by the first call."""
    folder = FOLDERS / split
    if not folder.exists():
        for kind in ("real", "fake"):
            (folder / kind).mkdir(parents=True)
        for record in encoded(split):
            kind = "fake" if record["label"] else "real"
            (folder / kind / Path(record["member"].decode()).name).write_bytes(record["image"])
    return folder


def encoded(split: str = "train") -> Iterator[dict[str, Any]]:
    """The records of a split, by TensorFlow alone."""
    kinds = {"image": tf.string, "label": tf.int64, "member": tf.string}
    schema = {name: tf.io.FixedLenFeature([], kind) for name, kind in kinds.items()}
    files = sorted(str(path) for path in shards.folder(split, "faces").glob("*.tfrecord"))
    for record in tf.data.TFRecordDataset(files):
        yield {name: value.numpy() for name, value in tf.io.parse_single_example(record, schema).items()}


def ours() -> "tf.data.Dataset":
    """The pipeline's training input."""
    return shards.augmented(shards.training("train"), size=SIZE, crop=CROP, batch_size=BATCH, seed=1)


def legacy(split: str = "train", shuffle: bool = True, **augmentation: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of whole images, pixels / 255, of the legacy generator; as an iterator they are endless."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator  # the public name is gone in Keras 3

    generator = ImageDataGenerator(rescale=1 / 255, **augmentation)
    return generator.flow_from_directory(
        unpack(split), target_size=(SIZE, SIZE), class_mode="binary", batch_size=BATCH, shuffle=shuffle
    )


def legacy_shifted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows moved by the generator's shifts, then cut from the middle."""
    shift = EDGE / SIZE  # as far as our windows move
    for images, labels in legacy(horizontal_flip=True, width_shift_range=shift, height_shift_range=shift):
        yield images[:, EDGE:-EDGE, EDGE:-EDGE], labels


def legacy_cropped() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Whole images of the generator, cut at random by numpy."""
    random = np.random.default_rng(1)
    for images, labels in legacy(horizontal_flip=True):
        corners = random.integers(0, SIZE - CROP + 1, (len(images), 2))
        windows = [image[y : y + CROP, x : x + CROP] for image, (y, x) in zip(images, corners, strict=True)]
        yield np.stack(windows), labels


def directory() -> "tf.data.Dataset":
    """Keras' present reader, with its random crop and flip."""
    images = keras.utils.image_dataset_from_directory(
        unpack(), label_mode="binary", image_size=(SIZE, SIZE), batch_size=BATCH, seed=1, verbose=False
    )
    augment = keras.Sequential([keras.layers.RandomCrop(CROP, CROP), keras.layers.RandomFlip("horizontal")])
    return (
        images.map(lambda faces, labels: (augment(faces, training=True), labels), num_parallel_calls=tf.data.AUTOTUNE)
        .repeat()
        .prefetch(tf.data.AUTOTUNE)
    )


def decode() -> "tf.data.Dataset":
    """Whole images, decoded from memory."""
    return (
        tf.data.Dataset.from_tensor_slices([record["image"] for record in encoded()])
        .repeat()
        .map(
            lambda image: (tf.io.decode_jpeg(image, channels=3, dct_method=shards.DCT),),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .batch(BATCH)
        .prefetch(tf.data.AUTOTUNE)
    )
