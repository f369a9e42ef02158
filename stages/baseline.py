"""Stage `baseline`: transfer learning with a frozen backbone. Its head is a linear probe, solved in seconds.

The backbone runs once over the training and validation faces; its pooled outputs are the features. The head is their
linear discriminant (:mod:`stages.detectors.discriminant`). Faces are whole: a head of the features of crops is worse on
whole faces, whose borders convolutions see otherwise.

Reads the training and validation faces in ``data/shards/`` that ``data/training.json`` lists and
``data/weights/M.weights.h5``; writes ``data/features/M/`` (:mod:`stages.detectors.rows`),
``data/models/M-baseline.keras`` and, beside it, the training record and how to tell what is unlike the training faces
(:mod:`stages.detectors.distance`).
"""

import argparse
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stages.detectors import assembly, device, discriminant, distance, levels, record, rows
from stages.detectors.device import Network, distribution, prepare, spread
from stages.errors import run
from stages.faces import shards
from stages.files import digest, hold, project_root, publish, read_json
from stages.params import Model, Params, load
from stages.progress import progress
from stages.scoring import figures

SPLITS = ("train", "valid")
CODE = [Path(str(module.__file__)) for module in (assembly, device, levels, shards)]


def main() -> None:
    """Make the baseline of one backbone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    model: Model = parser.parse_args().model
    params = load()
    made_on = prepare("float32", 0, params.training.deterministic)  # nothing is drawn here

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
            gather(forward, network.output_shape[-1], part, split, model, params)

    started = time.monotonic()
    train, valid = (rows.read(folder, split) for split in SPLITS)
    head = discriminant.head(train, valid)
    seconds = time.monotonic() - started
    logits = np.concatenate(
        [head(chunk) for chunk in np.array_split(valid[0], -(-len(valid[0]) // discriminant.CHUNK))]
    )

    assembly.save(module, backbone, head, Path(f"data/models/{model}-baseline.keras"))
    distance.fit(train[0], Path(f"data/models/{model}-baseline.npz"))
    record.write(
        model,
        "baseline",
        device=made_on,
        weights=read_json(f"data/weights/{model}.json"),
        images={split: len(labels) for split, (_, labels) in zip(SPLITS, (train, valid), strict=True)},
        image_size=params.image.size,
        trained=head.get_layer("logit"),
        val_auc=figures.roc_auc(valid[1], logits[:, 0].astype(np.float64)),
        seconds=seconds,
    )


def gather(forward: Network, width: int, folder: Path, split: str, model: Model, params: Params) -> None:
    """Write the features and labels of a split, set after set.

    Where there are several sets, the features of each are kept in a git-ignored scratch folder until the set or the
    backbone changes: a set that is added costs its own, and one that is left out and comes back costs none.
    """
    folders = shards.training(split)
    features, labels = rows.create(folder, split, shards.counts(folders)["images"], width)
    if len(folders) == len(params.training_sets) == 1:
        extract(forward, features, labels, folders[0], params)
        return
    scratch, row = project_root() / ".scratch" / "features" / model, 0
    versions = [version(library) for library in ("tensorflow", "keras")]
    code = [*CODE, Path(str(assembly.__file__)).with_name(f"{model}.py")]
    common = digest(Path(f"data/weights/{model}.weights.h5"), code, params.features.seen, params.image.size, versions)
    with hold(scratch):
        for there in folders:
            images = shards.counts([there])["images"]
            kept = scratch / f"{there.name}-{split}" / digest(common, shards.summary(there))
            if not kept.exists():
                shutil.rmtree(kept.parent, ignore_errors=True)  # of what the set was before
                with publish(kept) as part:
                    part.mkdir()
                    extract(forward, *rows.create(part, split, images, width), there, params)
            features[row : row + images], labels[row : row + images] = rows.read(kept, split)
            row += images


def extract(forward: Network, features: np.ndarray, labels: np.ndarray, there: Path, params: Params) -> None:
    """Fill in the features and labels of the faces in a folder of shards, batch after batch, straight to disk."""
    row = 0
    described = f"features of {there.name}, {there.parent.name}"
    with progress(total=len(labels), desc=described, unit="image") as bar:
        for faces, classes, _ in shards.faces([there], size=params.image.size, batch_size=params.features.batch_size):
            features[row : row + len(faces)] = forward(faces)
            labels[row : row + len(faces)] = classes
            row += len(faces)
            bar.update(len(faces))
    print(f"{described}: {row} rows of {features.shape[1]}")


if __name__ == "__main__":
    run(main)
