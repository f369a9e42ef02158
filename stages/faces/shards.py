"""Shards: TFRecord files of encoded images, their summary, and the batches that networks are fed.

A record holds ``image`` (the bytes of a JPEG or PNG), ``label`` (1 fake, 0 real) and ``member`` (its name in the
archive). ``shards.json`` beside the files counts them and holds a digest of each split, so that nobody reads
gigabytes to learn how many there are or whether they changed.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stages.backend import tf
from stages.files import read_json, write_json

SHUFFLE_BUFFER = 8192  # encoded images held for shuffling: about 250 MB at 256 px; files are shuffled on disk already
READ_BUFFER = 2**20  # bytes


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
    """The split's records, undecoded, in their order on disk."""
    files = sorted(str(path) for path in folder.glob(f"{split}-*.tfrecord"))
    schema = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "member": tf.io.FixedLenFeature([], tf.string),
    }
    return tf.data.TFRecordDataset(files, buffer_size=READ_BUFFER).map(
        lambda record: tf.io.parse_single_example(record, schema), num_parallel_calls=tf.data.AUTOTUNE
    )


def decode(image: "tf.Tensor", size: int) -> "tf.Tensor":
    """Encoded bytes to a ``size × size × 3`` float32 tensor in 0–255.

    An image that has the size already is not resampled: traces of generation live in the finest pixels. Another is
    cut to its central square, then resized with antialiasing.
    """
    pixels = tf.io.decode_jpeg(image, channels=3, dct_method="INTEGER_ACCURATE")  # Pillow's pixels; takes PNG too
    pixels.set_shape([None, None, 3])
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    fits = tf.logical_and(height == size, width == size)
    pixels = tf.cond(fits, lambda: tf.cast(pixels, tf.float32), lambda: _resize(pixels, height, width, size))
    return tf.ensure_shape(pixels, [size, size, 3])


def _resize(pixels: "tf.Tensor", height: "tf.Tensor", width: "tf.Tensor", size: int) -> "tf.Tensor":
    side = tf.minimum(height, width)
    square = tf.image.crop_to_bounding_box(pixels, (height - side) // 2, (width - side) // 2, side, side)
    resized = tf.image.resize(square, [size, size], antialias=True)
    return tf.round(tf.clip_by_value(resized, 0, 255))


def crop_and_flip(image: "tf.Tensor", crop: int, seed: "tf.Tensor") -> "tf.Tensor":
    """A random ``crop × crop`` window at native resolution, mirrored half the time; ``seed`` (two integers) decides."""
    window = tf.image.stateless_random_crop(image, [crop, crop, 3], seed)
    return tf.image.stateless_random_flip_left_right(window, seed + 1)


def faces(folder: Path, split: str, *, size: int, batch_size: int) -> "tf.data.Dataset":
    """Batches of (images, labels, members) of a split, whole faces, once, in their order on disk."""
    images = int(summary(folder, split)["images"])
    return (
        _records(folder, split)
        .apply(tf.data.experimental.assert_cardinality(images))  # or Keras would warn that the data ran out
        .map(lambda r: (decode(r["image"], size), r["label"], r["member"]), num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


def labelled(folder: Path, split: str, *, size: int, batch_size: int) -> "tf.data.Dataset":
    """Batches of (images, labels n × 1) of a split, as Keras evaluates on them."""
    return faces(folder, split, size=size, batch_size=batch_size).map(
        lambda images, labels, _: (images, labels[:, tf.newaxis])
    )


def augmented(folder: Path, split: str, *, size: int, crop: int, batch_size: int, seed: int) -> "tf.data.Dataset":
    """Endless batches of (crops, labels n × 1): shuffled anew in each pass, each image with a fresh crop and flip.

    What happens to the n-th image drawn depends on ``seed`` and n alone, not on which thread was faster.
    """

    def example(index: "tf.Tensor", record: dict[str, "tf.Tensor"]) -> tuple["tf.Tensor", "tf.Tensor"]:
        window = crop_and_flip(decode(record["image"], size), crop, tf.stack([tf.constant(seed, tf.int64), 2 * index]))
        return window, record["label"][tf.newaxis]

    return (
        _records(folder, split)
        .shuffle(SHUFFLE_BUFFER, seed=seed)
        .repeat()
        .enumerate()
        .map(example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
