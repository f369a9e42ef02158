"""Stage `baseline`: transfer learning with a frozen backbone. Its head is a linear probe, solved in seconds.

The backbone runs once over the training and validation faces; its pooled outputs are the features. The head is their
linear discriminant (:mod:`stages.detectors.discriminant`). Faces are whole: a head of the features of crops is worse on
whole faces, whose borders convolutions see otherwise.

Reads the training and validation faces in ``data/shards/`` that ``data/training.json`` lists and
``data/weights/M.weights.h5``; writes ``data/features/M/`` (:mod:`stages.detectors.rows`),
``data/models/M-baseline.keras`` and the training record beside it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.detectors import assembly, discriminant, levels, record, rows
from stages.detectors.device import Network, distribution, prepare, spread
from stages.errors import run
from stages.faces import shards
from stages.files import publish, read_json
from stages.params import Model, Params, load
from stages.scoring import figures

SPLITS = ("train", "valid")


def main() -> None:
    """Make the baseline of one backbone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    model: Model = parser.parse_args().model
    params = load()
    device = prepare("float32", 0, params.training.deterministic)  # nothing is drawn here

    strategy = distribution()
    with strategy.scope():
        module = levels.Levels(assembly.backbone_module(model), **params.features.seen)
        backbone = module.backbone(f"data/weights/{model}.weights.h5")
        network = assembly.pooled_features(module, backbone)
    forward = spread(network, strategy)
    folder = Path(f"data/features/{model}")
    with publish(folder) as part:
        part.mkdir()
        for split in SPLITS:
            extract(forward, network.output_shape[-1], part, split, params)

    started = time.monotonic()
    train, valid = (rows.read(folder, split) for split in SPLITS)
    head = discriminant.head(train, valid)
    seconds = time.monotonic() - started
    logits = np.concatenate(
        [head(chunk) for chunk in np.array_split(valid[0], -(-len(valid[0]) // discriminant.CHUNK))]
    )

    assembly.save(module, backbone, head, Path(f"data/models/{model}-baseline.keras"))
    record.write(
        model,
        "baseline",
        device=device,
        weights=read_json(f"data/weights/{model}.json"),
        images={split: len(labels) for split, (_, labels) in zip(SPLITS, (train, valid), strict=True)},
        image_size=params.image.size,
        trained=head.get_layer("logit"),
        val_auc=figures.roc_auc(valid[1], logits[:, 0].astype(np.float64)),
        seconds=seconds,
    )


def extract(forward: Network, width: int, folder: Path, split: str, params: Params) -> None:
    """Write the features and labels of a split, batch after batch, straight to disk."""
    folders = shards.training(split)
    images = shards.counts(folders)["images"]
    features, labels = rows.create(folder, split, images, width)
    row = 0
    with tqdm(total=images, desc=f"features of {split}", unit="image", disable=None) as progress:
        for faces, classes, _ in shards.faces(folders, size=params.image.size, batch_size=params.features.batch_size):
            features[row : row + len(faces)] = forward(faces)
            labels[row : row + len(faces)] = classes
            row += len(faces)
            progress.update(len(faces))
    print(f"{folder.name}, {split}: {images} rows of {width} features")


if __name__ == "__main__":
    run(main)
