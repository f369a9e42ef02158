"""Stage `features`: the frozen backbone runs once over training and validation faces; its pooled outputs are kept.

Reads ``data/shards/`` and ``data/weights/M.weights.h5``; writes ``data/features/M/``: for each split
features and labels as :mod:`stages.detectors.extraction` writes them, and ``features.json``, what they were made of.
"""

import argparse

from stages.backend import keras, tf
from stages.detectors import extraction, levels
from stages.detectors.assembly import backbone_module, pooled_features
from stages.detectors.device import prepare
from stages.errors import run
from stages.faces import shards
from stages.files import publish, read_json, write_json
from stages.params import Params, load


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
            rows = extraction.extract(network, width, folder, split, count, params)
            print(f"{model}, {split}: {rows} rows of {width} features, {count} of each image")
        write_json(
            folder / "features.json",
            {
                "weights": read_json(f"data/weights/{model}.json"),
                "views": views,
                "seen": params.features.seen,
                **{split: shards.summary(extraction.SHARDS, split) for split in views},
            },
        )


def frozen(model: str, params: Params) -> "tuple[keras.Model, int]":
    """The frozen backbone as a function of batches of images, and how many features it gives of each."""
    module = levels.Levels(backbone_module(model), **params.features.seen)
    pooled = pooled_features(module, module.backbone(f"data/weights/{model}.weights.h5"))
    return tf.function(pooled, reduce_retracing=True), pooled.output_shape[-1]


if __name__ == "__main__":
    run(main)
