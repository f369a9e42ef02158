"""Features of faces: what a network makes of the views of a split.

A view is always whole: a head of crops is worse on whole faces, whose borders convolutions see otherwise. Every other
view is mirrored; from the third on, they are spoilt in the shares that ``augment`` says.
"""

from pathlib import Path

from tqdm import tqdm

from stages.backend import keras, tf
from stages.detectors import rows
from stages.faces import augmentation, shards
from stages.params import Params

SHARDS = Path("data/shards")


def extract(network: "keras.Model", width: int, folder: Path, split: str, views: int, params: Params) -> int:
    """Write the features and labels of a split, view after view, straight to disk; return the number of rows."""
    images = int(shards.summary(SHARDS, split)["images"])
    features, labels = rows.create(folder, split, images * views, width)
    row = 0
    with tqdm(total=images * views, desc=f"features of {split}", unit="image", disable=None) as progress:
        for number in range(views):
            for faces, classes in view(split, number, params):
                features[row : row + len(faces)] = network(faces)
                labels[row : row + len(faces)] = classes
                row += len(faces)
                progress.update(len(faces))
    return row


def view(split: str, number: int, params: Params) -> "tf.data.Dataset":
    """Batches of (images, labels) of a split's view: odd ones are mirrored, from 2 on spoilt as ``augment`` says."""
    batches = shards.faces(SHARDS, split, size=params.image.size, batch_size=params.features.batch_size)
    seed = tf.constant([params.training.seed, number], tf.int64)
    spoil = augmentation.spoiling(**params.augment.model_dump()) if number > 1 else None

    def transform(images: "tf.Tensor", labels: "tf.Tensor", members: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
        if number % 2:
            images = tf.image.flip_left_right(images)
        if spoil:
            seeds = tf.map_fn(
                lambda member: seed + tf.strings.to_hash_bucket_fast(member, 2**31),
                members,
                fn_output_signature=tf.int64,
            )
            spoilt = tf.map_fn(
                lambda pair: spoil(*pair), (tf.cast(images, tf.uint8), seeds), fn_output_signature=tf.uint8
            )
            images = tf.cast(spoilt, tf.float32)
        return images, labels

    return batches.map(transform, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
