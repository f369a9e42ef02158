"""Stage `baseline`: transfer learning with a frozen backbone. Only the head trains, on the features, in seconds.

It starts at the linear discriminant of the training features, which is epoch 0, and goes on from there by gradients.

Reads ``data/features/M/`` and ``data/weights/M.weights.h5``; writes ``data/models/M-baseline.keras``, the
training record beside it, and ``plots/detectors/M-baseline/history.csv``.
"""

import argparse
from pathlib import Path

import numpy as np

from stages.backend import keras
from stages.detectors import assembly, discriminant, levels, record, rows, training
from stages.detectors.device import prepare
from stages.errors import run
from stages.files import read_json
from stages.params import Baseline, load


class FeatureBatches(keras.utils.PyDataset):
    """Batches of (features, labels n × 1) in a new order every epoch; the arrays may be mapped files."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, done: int) -> None:
        """``done`` epochs were drawn before, by a run that was killed."""
        super().__init__()
        self.features, self.labels, self.batch_size = features, labels, batch_size
        self.random = np.random.default_rng(seed)
        for _ in range(done + 1):
            self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.sort(self.order[index * self.batch_size : (index + 1) * self.batch_size])  # sorted: disks like it
        return self.features[chosen], self.labels[chosen, np.newaxis]

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
    train, valid = rows.read(folder, "train"), rows.read(folder, "valid")
    made_of = read_json(folder / "features.json")
    scratch = training.scratch_folder(f"{model}-baseline", fit.model_dump(), params.training.model_dump(), made_of)
    head, journal, best = fit_head(train, valid, fit, params.training.seed, scratch)

    module = levels.Levels(assembly.backbone_module(model), **made_of["seen"])
    backbone = module.backbone(f"data/weights/{model}.weights.h5")
    assembly.save(module, backbone, head, Path(f"data/models/{model}-baseline.keras"))
    training.write_history(Path(f"plots/detectors/{model}-baseline/history.csv"), journal)
    record.write(
        model,
        "baseline",
        journal,
        best,
        device=device,
        weights=made_of["weights"],
        images={split: made_of[split]["images"] for split in ("train", "valid")},
        samples_per_epoch=len(train[1]),
        image_size=params.image.size,
        trainable_parameters=sum(weight.shape.num_elements() for weight in head.trainable_weights),
    )
    training.forget(scratch)


def fit_head(
    train: rows.Rows, valid: rows.Rows, fit: Baseline, seed: int, scratch: Path
) -> "tuple[keras.Model, list[training.Row], training.Row]":
    """A head trained on features and labels, its journal, and its best row; a killed run resumes in scratch."""
    head = discriminant.head(train, valid)
    training.compile_model(head, keras.optimizers.Adam(fit.learning_rate))
    journal, best = training.fit(
        head,
        FeatureBatches(*train, fit.batch_size, seed, training.completed_epochs(scratch)),
        np.asarray(valid[0]),
        valid[1],
        epochs=fit.epochs,
        patience=fit.patience,
        scratch=scratch,
        keep_start=True,
    )
    return head, journal, best


if __name__ == "__main__":
    run(main)
