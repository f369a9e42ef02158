"""Shards: TFRecord files of encoded images, their summary, and the batches that networks are fed.

A folder holds the images of a set in one split. A record holds ``image`` (the bytes of a JPEG or PNG), ``label``
(1 fake, 0 real) and ``member`` (its set and its name in the archive). ``shards.json`` beside the files counts them and
holds a digest, so that nobody reads gigabytes to learn how many there are or whether they changed. A folder without
images is empty.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.backend import tf
from stages.files import read_json, write_json

SHUFFLE_BUFFER = 8192  # encoded images held for shuffling: about 250 MB at 256 px; files are shuffled on disk already
READ_BUFFER = 2**20  # bytes; one thread then reads 40,000 records a second, as many as twenty cores decode
TRAINING = Path("data/training.json")
SUMMARY = "shards.json"
DCT = "INTEGER_ACCURATE"  # gives Pillow's pixels
MARGIN = 16  # px decoded around a window: the colours of a pixel come from its neighbours where chroma is halved

Summary = dict[str, int | str]
Augment = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]  # a uint8 image and two integers, a seed, to another image


class Record(NamedTuple):
    """One image of a shard: encoded bytes, label (1 fake, 0 real), its set and its name in the archive."""

    image: bytes
    label: int
    member: str


def folder(split: str, name: str) -> Path:
    """Where the images of a set in one split lie."""
    return Path("data/shards") / split / name


def holds(folder: Path) -> bool:
    """Whether there are images in a folder."""
    return (folder / SUMMARY).exists()


def training(split: str) -> list[Path]:
    """The folders to learn from in a split, train or valid, as the stage `split` lists them."""
    return [folder(split, name) for name in read_json(TRAINING)[split]]


def write(records: Iterable[Record], count: int, folder: Path, per_shard: int) -> Summary:
    """Write at most ``count`` records as ``folder/00000-of-N.tfrecord``…, ``per_shard`` in each.

    If there are fewer, the last files hold fewer, or none. Returns their summary: ``images``, ``real``, ``fake``,
    ``shards`` and ``sha256``, a digest of all records in their order.
    """
    shards = -(-count // per_shard)
    digest = hashlib.sha256()
    labels = [0, 0]
    stream = islice(records, count)
    for shard in range(shards):
        with tf.io.TFRecordWriter(str(folder / f"{shard:05d}-of-{shards:05d}.tfrecord")) as writer:
            for record in islice(stream, per_shard):
                example = _serialise(record)
                digest.update(example)
                labels[record.label] += 1
                writer.write(example)
    found: Summary = {
        **{"images": sum(labels), "real": labels[0], "fake": labels[1]},
        **{"shards": shards, "sha256": digest.hexdigest()},
    }
    if found["images"]:
        write_json(folder / SUMMARY, found)
    return found


def _serialise(record: Record) -> bytes:
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[record.image])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[record.label])),
        "member": tf.train.Feature(bytes_list=tf.train.BytesList(value=[record.member.encode()])),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True))


def summary(folder: Path) -> Summary:
    """The summary of a folder, as :func:`write` returned it."""
    return dict(read_json(folder / SUMMARY))


def _records(folder: Path) -> "tf.data.Dataset":
    """The records of a folder as they are in the files, in their order on disk."""
    files = sorted(str(path) for path in folder.glob("*.tfrecord"))
    return tf.data.TFRecordDataset(files, buffer_size=READ_BUFFER)


def stored(folder: Path) -> Iterator[Record]:
    """The records of a folder as they were written, in their order on disk."""
    for fields in _records(folder).map(_parse).as_numpy_iterator():
        yield Record(fields["image"], int(fields["label"]), fields["member"].decode())


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


def faces(folders: Sequence[Path], *, size: int, batch_size: int, per_class: int | None = None) -> "tf.data.Dataset":
    """Batches of (images, labels, members), whole faces as uint8, once: folder by folder, in their order on disk.

    With ``per_class``, the first so many of each class; the others are not decoded.
    """
    count = counts(folders)
    images = sum(min(count[label], per_class or count[label]) for label in ("real", "fake"))

    def choose(seen: "tf.Tensor", fields: dict[str, "tf.Tensor"]) -> tuple["tf.Tensor", Any]:
        label = fields["label"]
        return seen + tf.one_hot(label, 2, dtype=tf.int64), (seen[label] < per_class, fields)

    def example(fields: dict[str, "tf.Tensor"]) -> tuple["tf.Tensor", ...]:
        return _decode(fields["image"], size), fields["label"], fields["member"]

    records = _all(folders).map(_parse)
    if per_class:
        chosen = records.scan(tf.zeros(2, tf.int64), choose).filter(lambda wanted, _: wanted)
        records = chosen.map(lambda _, fields: fields)
    return (
        records.apply(tf.data.experimental.assert_cardinality(images))  # or Keras would warn that the data ran out
        .map(example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


def labelled(folders: Sequence[Path], *, size: int, batch_size: int) -> "tf.data.Dataset":
    """Batches of (images, labels n × 1), as Keras evaluates on them."""
    return faces(folders, size=size, batch_size=batch_size).map(
        lambda images, labels, _: (images, labels[:, tf.newaxis])
    )


def augmented(
    folders: Sequence[Path],
    *,
    size: int,
    crop: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    augment: Augment | None = None,
    share: tuple[int, int] = (0, 1),
) -> "tf.data.Dataset":
    """Endless batches of (crops as uint8, labels n × 1), each with a fresh crop and flip.

    Real and fake take turns, and among either the sets, so that a batch has as many of each, however large the sets
    are; the images of a class of a set are shuffled anew whenever all were drawn. ``augment`` may change the pixels
    (:mod:`stages.faces.augmentation`). ``start`` counts the images drawn before: a resumed run goes on where it was.
    The order, and what happens to an image, depend on ``seed`` and ``start`` alone, not on which thread was faster.
    ``share`` (number, of how many) takes every so many-th crop of that order, so that hosts together see all.
    """
    classes = [
        (folder, label, int(count))
        for folder in folders
        for label, count in enumerate(summary(folder)[kind] for kind in ("real", "fake"))
        if count
    ]

    buffer = max(1, SHUFFLE_BUFFER // len(classes))
    by_label = [[number for number, one in enumerate(classes) if one[1] == label] for label in (0, 1)]
    turns = list(filter(None, by_label))
    cycle = [sets[turn % len(sets)] for turn in range(math.lcm(*map(len, turns))) for sets in turns]

    def crops(number: int) -> "tf.data.Dataset":
        """Endless examples of one class of one set: ``number`` among ``classes``."""
        folder, label, images = classes[number]
        cycles, rest = divmod(start, len(cycle))
        drawn = cycles * cycle.count(number) + cycle[:rest].count(number)  # of it before
        records = _records(folder).map(_parse).filter(lambda fields: fields["label"] == label)
        records = records.apply(tf.data.experimental.assert_cardinality(images)).enumerate()

        def shuffled(turn: "tf.Tensor") -> "tf.data.Dataset":
            order = records.shuffle(buffer, seed=seed + turn, reshuffle_each_iteration=False)
            return order.map(lambda row, fields: (turn * images + row, fields["image"], fields["label"]))

        endless = tf.data.Dataset.counter(drawn // images).flat_map(shuffled).skip(drawn % images)
        return endless.map(lambda row, image, label: (2 * (row * len(classes) + number), image, label))

    def example(number: "tf.Tensor", image: "tf.Tensor", label: "tf.Tensor") -> tuple["tf.Tensor", ...]:
        drawn = tf.stack([tf.constant(seed, tf.int64), number])
        window = decode_crop_and_flip(image, size, crop, drawn)
        return augment(window, drawn) if augment else window, label[tf.newaxis]

    order = tf.data.Dataset.range(start, np.iinfo(np.int64).max).map(
        lambda place: tf.constant(cycle, tf.int64)[place % len(cycle)]
    )
    return (
        tf.data.Dataset.choose_from_datasets([crops(number) for number in range(len(classes))], order)
        .shard(num_shards=share[1], index=share[0])
        .map(example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _all(folders: Sequence[Path]) -> "tf.data.Dataset":
    """The records of several folders, one after the other."""
    records = _records(folders[0])
    for folder in folders[1:]:
        records = records.concatenate(_records(folder))
    return records


def counts(folders: Sequence[Path]) -> dict[str, int]:
    """The ``images``, and those that are ``real`` and ``fake``, of several folders."""
    return {key: sum(int(summary(folder)[key]) for folder in folders) for key in ("images", "real", "fake")}


def labels(folders: Sequence[Path]) -> np.ndarray:
    """The labels (int8, n), folder by folder, in their order on disk."""
    found = _all(folders).map(lambda record: _parse(record)["label"]).batch(SHUFFLE_BUFFER)
    return np.concatenate([batch.numpy() for batch in found]).astype(np.int8)
