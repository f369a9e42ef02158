"""Stage `features`: the frozen backbone runs once over training and validation faces; its pooled outputs are kept.

Reads ``data/shards/`` and ``data/weights/M.weights.h5``; writes ``data/features/M/``: for each split
``<split>.features.npy`` (float32, rows × width) and ``<split>.labels.npy`` (int8), and ``features.json``, what they
were made of. Training faces have a row for each view, always whole: a head of crops is worse on whole faces, whose
borders convolutions see otherwise. Every other view is mirrored; from the third on, they are blurred and compressed in
the shares that ``augment`` says.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from stages.backend import keras, tf
from stages.detectors import levels
from stages.detectors.assembly import backbone_module, pooled_features
from stages.detectors.device import prepare
from stages.errors import run
from stages.faces import augmentation, shards
from stages.files import publish, read_json, write_json
from stages.params import Params, load

SHARDS = Path("data/shards")


def main() -> None:
    """Compute the features of one backbone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    model = parser.parse_args().model
    params = load()
    prepare(params.training.precision, params.training.seed, params.training.deterministic)
    network, width = frozen(model, params)

    views = {"train": params.features.views, "valid": 1}
    with publish(f"data/features/{model}") as folder:
        folder.mkdir()
        for split, count in views.items():
            rows = extract(network, width, folder, split, count, params)
            print(f"{model}, {split}: {rows} rows of {width} features, {count} of each image")
        write_json(
            folder / "features.json",
            {
                "weights": read_json(f"data/weights/{model}.json"),
                "views": views,
                "seen": params.features.seen,
                **{split: shards.summary(SHARDS, split) for split in views},
            },
        )


def frozen(model: str, params: Params) -> "tuple[keras.Model, int]":
    """The frozen backbone as a function of batches of images, and how many features it gives of each."""
    module = levels.Levels(backbone_module(model), **params.features.seen)
    pooled = pooled_features(module, module.backbone(f"data/weights/{model}.weights.h5"))
    return tf.function(pooled, reduce_retracing=True), pooled.output_shape[-1]


def extract(network: "keras.Model", width: int, folder: Path, split: str, views: int, params: Params) -> int:
    """Write the features and labels of a split, view after view, straight to disk; return the number of rows."""
    images = int(shards.summary(SHARDS, split)["images"])
    features = open_memmap(folder / f"{split}.features.npy", "w+", np.float32, (images * views, width))
    labels = open_memmap(folder / f"{split}.labels.npy", "w+", np.int8, (images * views,))
    row = 0
    with tqdm(total=images * views, desc=f"features of {split}", unit="image", disable=None) as progress:
        for number in range(views):
            for faces, classes in view(split, number, params):
                features[row : row + len(faces)] = network(faces)
                labels[row : row + len(faces)] = classes
                row += len(faces)
                progress.update(len(faces))
    features.flush()
    labels.flush()
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


if __name__ == "__main__":
    run(main)
