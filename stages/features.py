"""Stage `features`: the frozen backbone runs once over training and validation faces; its pooled outputs are kept.

Reads ``data/shards/`` and ``data/weights/M.weights.h5``; writes ``data/features/M/``: for each split features and
labels as :mod:`stages.detectors.rows` writes them, and ``features.json``, what they were made of. Faces are whole: a
head of the features of crops is worse on whole faces, whose borders convolutions see otherwise.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from stages.backend import keras, tf
from stages.detectors import levels, rows
from stages.detectors.assembly import backbone_module, pooled_features
from stages.detectors.device import prepare
from stages.errors import run
from stages.faces import shards
from stages.files import publish, read_json, write_json
from stages.params import Params, load

SHARDS = Path("data/shards")
SPLITS = ("train", "valid")


def main() -> None:
    """Compute the features of one backbone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    model = parser.parse_args().model
    params = load()
    prepare("float32", params.training.seed, params.training.deterministic)  # as the detector runs that has the head
    module = levels.Levels(backbone_module(model), **params.features.seen)
    network = pooled_features(module, module.backbone(f"data/weights/{model}.weights.h5"))

    with publish(f"data/features/{model}") as folder:
        folder.mkdir()
        for split in SPLITS:
            extract(network, folder, split, params)
        write_json(
            folder / "features.json",
            {
                "weights": read_json(f"data/weights/{model}.json"),
                "seen": params.features.seen,
                **{split: shards.summary(SHARDS, split) for split in SPLITS},
            },
        )


def extract(network: "keras.Model", folder: Path, split: str, params: Params) -> None:
    """Write the features and labels of a split, batch after batch, straight to disk."""
    images, width = int(shards.summary(SHARDS, split)["images"]), network.output_shape[-1]
    features, labels = rows.create(folder, split, images, width)
    forward = tf.function(network, reduce_retracing=True)
    row = 0
    with tqdm(total=images, desc=f"features of {split}", unit="image", disable=None) as progress:
        for faces, classes, _ in shards.faces(
            SHARDS, split, size=params.image.size, batch_size=params.features.batch_size
        ):
            features[row : row + len(faces)] = forward(faces, training=False)
            labels[row : row + len(faces)] = classes
            row += len(faces)
            progress.update(len(faces))
    print(f"{folder.name}, {split}: {images} rows of {width} features")


if __name__ == "__main__":
    run(main)
