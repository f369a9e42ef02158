"""Shards: TFRecord files of encoded images, their summary, and the batches that networks are fed.

A record holds ``image`` (the bytes of a JPEG or PNG), ``label`` (1 fake, 0 real) and ``member`` (its name in the
archive). ``shards.json`` beside the files counts them and holds a digest of each split, so that nobody reads
gigabytes to learn how many there are or whether they changed.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.backend import tf
from stages.files import read_json, write_json

SHUFFLE_BUFFER = 8192  # encoded images held for shuffling: about 250 MB at 256 px; files are shuffled on disk already
READ_BUFFER = 2**20  # bytes; one thread then reads 40,000 records a second, as many as twenty cores decode
DCT = "INTEGER_ACCURATE"  # gives Pillow's pixels
MARGIN = 16  # px decoded around a window: the colours of a pixel come from its neighbours where chroma is halved

Augment = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]  # a uint8 image and two integers, a seed, to another image


class Record(NamedTuple):
    """One image of a shard: encoded bytes, label (1 fake, 0 real), name in the archive."""

    image: bytes
    label: int
    member: str


def write(records: Iterable[Record], count: int, folder: Path, split: str, per_shard: int) -> dict[str, int | str]:
    """Write ``count`` records as ``folder/split-00000-of-N.tfrecord``…, ``per_shard`` in each; return their summary.

    The summary has ``images``, ``real``, ``fake``, ``shards`` and ``sha256``, a digest of all records in their order.
    """
    shards = -(-count // per_shard)
    digest = hashlib.sha256()
    labels = [0, 0]
    stream = iter(records)
    for shard in range(shards):
        with tf.io.TFRecordWriter(str(folder / f"{split}-{shard:05d}-of-{shards:05d}.tfrecord")) as writer:
            for record in _take(stream, min(per_shard, count - shard * per_shard)):
                example = _serialise(record)
                digest.update(example)
                labels[record.label] += 1
                writer.write(example)
    return {"images": sum(labels), "real": labels[0], "fake": labels[1], "shards": shards, "sha256": digest.hexdigest()}


def _take(stream: Iterator[Record], count: int) -> Iterator[Record]:
    for _ in range(count):
        yield next(stream)


def _serialise(record: Record) -> bytes:
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[record.image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[record.label])),
        "member": tf.train.Feature(bytes_list=tf.train.BytesList(value=[record.member.encode()])),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True))


def write_summary(folder: Path, splits: dict[str, dict[str, int | str]]) -> None:
    """Write ``shards.json``: the summary of each split."""
    write_json(folder / "shards.json", splits)


def summary(folder: Path, split: str) -> dict[str, int | str]:
    """The summary of a split, as :func:`write` returned it."""
    return dict(read_json(folder / "shards.json")[split])


def _records(folder: Path, split: str) -> "tf.data.Dataset":
    """The split's records as they are in the files, in their order on disk."""
    files = sorted(str(path) for path in folder.glob(f"{split}-*.tfrecord"))
    return tf.data.TFRecordDataset(files, buffer_size=READ_BUFFER)


def _parse(record: "tf.Tensor") -> dict[str, "tf.Tensor"]:
    """The fields of one record: ``image``, ``label``, ``member``."""
    schema = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "member": tf.io.FixedLenFeature([], tf.string),
    }
    return dict(tf.io.parse_single_example(record, schema))


def decode(image: "tf.Tensor", size: int) -> "tf.Tensor":
    """Encoded bytes to a ``size × size × 3`` float32 tensor in 0–255.

    An image that has the size already is not resampled: traces of generation live in the finest pixels. Another is
    cut to its central square, then resized with antialiasing.
    """
    return tf.cast(_decode(image, size), tf.float32)


def _decode(image: "tf.Tensor", size: int) -> "tf.Tensor":
    """What :func:`decode` gives, as uint8: a quarter of the memory to move, until a batch is together."""
    return fit(tf.io.decode_jpeg(image, channels=3, dct_method=DCT), size)  # takes PNG too


def fit(pixels: "tf.Tensor", size: int) -> "tf.Tensor":
    """What :func:`decode` makes of an image of any size (height × width × 3), both as uint8."""
    pixels.set_shape([None, None, 3])
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    fits = tf.logical_and(height == size, width == size)
    pixels = tf.cond(fits, lambda: pixels, lambda: _resize(pixels, height, width, size))
    return tf.ensure_shape(pixels, [size, size, 3])


def _resize(pixels: "tf.Tensor", height: "tf.Tensor", width: "tf.Tensor", size: int) -> "tf.Tensor":
    side = tf.minimum(height, width)
    square = tf.image.crop_to_bounding_box(pixels, (height - side) // 2, (width - side) // 2, side, side)
    resized = tf.image.resize(square, [size, size], antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0, 255)), tf.uint8)


def decode_crop_and_flip(image: "tf.Tensor", size: int, crop: int, seed: "tf.Tensor") -> "tf.Tensor":
    """A random ``crop × crop`` window of what :func:`decode` gives, mirrored half the time, as uint8.

    ``seed`` (two integers) decides. Of a JPEG of that size only the window is decoded, with what libjpeg needs around.
    """
    corner = _corner(size, crop, seed)

    def window() -> "tf.Tensor":
        start = tf.maximum(corner[:2] - MARGIN, 0)
        end = tf.minimum(corner[:2] + crop + MARGIN, size)
        pixels = tf.io.decode_and_crop_jpeg(image, tf.concat([start, end - start], 0), channels=3, dct_method=DCT)
        return tf.slice(pixels, corner - tf.pad(start, [[0, 1]]), [crop, crop, 3])

    def whole() -> "tf.Tensor":
        return tf.slice(_decode(image, size), corner, [crop, crop, 3])

    def jpeg() -> "tf.Tensor":
        return tf.cond(tf.reduce_all(tf.io.extract_jpeg_shape(image)[:2] == size), window, whole)

    return _flip(tf.cond(tf.io.is_jpeg(image), jpeg, whole), seed)


def _corner(size: int, crop: int, seed: "tf.Tensor") -> "tf.Tensor":
    """Row, column and channel (always 0) where a random window begins, as ``tf.image.stateless_random_crop`` draws."""
    drawn = tf.random.stateless_uniform([3], seed, maxval=tf.int32.max, dtype=tf.int32)
    return drawn % tf.constant([size - crop + 1, size - crop + 1, 1])


def _flip(window: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
    return tf.image.stateless_random_flip_left_right(window, seed + 1)


def faces(folder: Path, split: str, *, size: int, batch_size: int, per_class: int | None = None) -> "tf.data.Dataset":
    """Batches of (images, labels, members) of a split, whole faces as uint8, once, in their order on disk.

    With ``per_class``, the first so many of each class; the others are not decoded.
    """
    count = summary(folder, split)
    images = sum(min(int(count[label]), per_class or int(count[label])) for label in ("real", "fake"))

    def choose(seen: "tf.Tensor", fields: dict[str, "tf.Tensor"]) -> tuple["tf.Tensor", Any]:
        label = fields["label"]
        return seen + tf.one_hot(label, 2, dtype=tf.int64), (seen[label] < per_class, fields)

    def example(fields: dict[str, "tf.Tensor"]) -> tuple["tf.Tensor", ...]:
        return _decode(fields["image"], size), fields["label"], fields["member"]

    records = _records(folder, split).map(_parse)
    if per_class:
        chosen = records.scan(tf.zeros(2, tf.int64), choose).filter(lambda wanted, _: wanted)
        records = chosen.map(lambda _, fields: fields)
    return (
        records.apply(tf.data.experimental.assert_cardinality(images))  # or Keras would warn that the data ran out
        .map(example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


def labelled(folder: Path, split: str, *, size: int, batch_size: int) -> "tf.data.Dataset":
    """Batches of (images, labels n × 1) of a split, as Keras evaluates on them."""
    return faces(folder, split, size=size, batch_size=batch_size).map(
        lambda images, labels, _: (images, labels[:, tf.newaxis])
    )


def augmented(
    folder: Path,
    split: str,
    *,
    size: int,
    crop: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    augment: Augment | None = None,
) -> "tf.data.Dataset":
    """Endless batches of (crops as uint8, labels n × 1): shuffled anew in each pass, each with a fresh crop and flip.

    ``augment`` may change the pixels of each (:mod:`stages.faces.augmentation`). ``start`` counts the images drawn
    before: a resumed run goes on where it was. The order of a pass, and what happens to an image in it, depend on
    ``seed`` and the number of the pass alone, not on which thread was faster.
    """
    images = int(summary(folder, split)["images"])
    records = _records(folder, split).enumerate()

    def shuffled(number: "tf.Tensor") -> "tf.data.Dataset":
        order = records.shuffle(SHUFFLE_BUFFER, seed=seed + number, reshuffle_each_iteration=False)
        return order.map(lambda row, record: (number, row, record))

    def example(number: "tf.Tensor", row: "tf.Tensor", record: "tf.Tensor") -> tuple["tf.Tensor", ...]:
        fields = _parse(record)
        drawn = tf.stack([tf.constant(seed, tf.int64), 2 * (number * images + row)])
        window = decode_crop_and_flip(fields["image"], size, crop, drawn)
        return augment(window, drawn) if augment else window, fields["label"][tf.newaxis]

    return (
        tf.data.Dataset.counter(start // images)
        .flat_map(shuffled)
        .skip(start % images)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def labels(folder: Path, split: str) -> np.ndarray:
    """The labels of a split (int8, n), in their order on disk."""
    found = _records(folder, split).map(lambda record: _parse(record)["label"]).batch(SHUFFLE_BUFFER)
    return np.concatenate([batch.numpy() for batch in found]).astype(np.int8)
