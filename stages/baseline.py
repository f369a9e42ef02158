"""Stage `baseline`: transfer learning with a frozen backbone. Only the head trains, on the features, in seconds.

Reads ``data/features/M/`` and ``data/weights/M.weights.h5``; writes ``data/models/M-baseline.keras``, the
training record beside it, and ``plots/M-baseline/history.csv``.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.preprocessing import StandardScaler

from stages.backend import keras
from stages.detectors import assembly, levels, record, training
from stages.detectors.device import prepare
from stages.errors import run
from stages.files import read_json
from stages.params import load

CHUNK = 8192  # rows read at a time for the moments: 64 MB of ResNet50's features


class FeatureBatches(keras.utils.PyDataset):
    """Batches of (features, labels n × 1) straight from the files, in a new order every epoch."""

    def __init__(self, folder: Path, split: str, batch_size: int, seed: int) -> None:
        super().__init__()
        self.features = np.load(folder / f"{split}.features.npy", mmap_mode="r")
        self.labels = np.load(folder / f"{split}.labels.npy", mmap_mode="r")
        self.batch_size = batch_size
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.sort(self.order[index * self.batch_size : (index + 1) * self.batch_size])  # sorted: disks like it
        return self.features[rows], self.labels[rows, np.newaxis]

    def on_epoch_end(self) -> None:
        """Draw the next order."""
        self.order = self.random.permutation(len(self.labels))


def main() -> None:
    """Train the baseline of one backbone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    model = parser.parse_args().model
    params = load()
    fit = params.detectors[model].baseline
    device = prepare("float32", params.training.seed, params.training.deterministic)
    folder = Path(f"data/features/{model}")
    train = FeatureBatches(folder, "train", fit.batch_size, params.training.seed)
    valid = FeatureBatches(folder, "valid", fit.batch_size, params.training.seed)

    head = assembly.head(*moments(train.features), fit.dropout)
    training.compile_model(head, keras.optimizers.Adam(fit.learning_rate))
    made_of = read_json(folder / "features.json")
    scratch = training.scratch_folder(f"{model}-baseline", fit.model_dump(), params.training.model_dump(), made_of)
    rows = training.fit(head, train, valid, epochs=fit.epochs, patience=fit.patience, scratch=scratch)

    module = levels.Levels(assembly.backbone_module(model), **made_of["seen"])
    backbone = module.backbone(f"data/weights/{model}.weights.h5")
    assembly.save(module, backbone, head, Path(f"data/models/{model}-baseline.keras"))
    training.write_history(Path(f"plots/{model}-baseline/history.csv"), rows)
    record.write(
        model,
        "baseline",
        rows,
        device=device,
        weights=made_of["weights"],
        images={split: made_of[split]["images"] for split in ("train", "valid")},
        samples_per_epoch=len(train.labels),
        image_size=params.image.size,
        trainable_parameters=sum(weight.shape.num_elements() for weight in head.trainable_weights),
    )
    training.forget(scratch)


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each column, read in chunks of rows."""
    scaler = StandardScaler()
    for start in range(0, len(features), CHUNK):
        scaler.partial_fit(features[start : start + CHUNK])
    return scaler.mean_, scaler.var_


if __name__ == "__main__":
    run(main)
