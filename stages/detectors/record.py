"""The training record: what a detector was made of and what that cost, beside its ``.keras`` file."""

from pathlib import Path
from typing import Any

from stages.detectors.device import Device
from stages.detectors.training import Row, best_of
from stages.files import sha256, write_json


def write(
    model: str,
    phase: str,
    rows: list[Row],
    *,
    device: Device,
    weights: dict[str, Any],
    images: dict[str, int],
    samples_per_epoch: int,
    image_size: int,
    trainable_parameters: int,
) -> None:
    """Publish ``data/models/M-P.json`` for a detector that is saved, from its training journal.

    ``samples_per_epoch`` counts what an epoch sees: crops, or rows of features. Times are seconds, of training alone.
    """
    best = best_of(rows)
    seconds = sum(row["seconds"] or 0.0 for row in rows)
    epochs = int(rows[-1]["epoch"] or 0)
    path = Path(f"data/models/{model}-{phase}.keras")
    write_json(
        path.with_suffix(".json"),
        {
            "model": model,
            "phase": phase,
            "weights": weights,
            "device": device.name,
            "precision": device.precision,
            "train_images": images["train"],
            "valid_images": images["valid"],
            "image_size": image_size,
            "epochs": epochs,
            "best_epoch": int(best["epoch"] or 0),
            "best_val_auc": best["val_auc"],
            "trainable_parameters": trainable_parameters,
            "train_seconds": round(seconds, 2),
            "images_per_second": round(epochs * samples_per_epoch / seconds, 2) if seconds else None,
            "model_sha256": sha256(path),
        },
    )
    print(
        f"{model}-{phase}: validation AUC {best['val_auc']:.3f} in epoch {int(best['epoch'] or 0)} of {epochs}, "
        f"{seconds:.0f} s of training"
    )
    if best["epoch"] == 0:
        print(f"note: no epoch was better on the validation images than the baseline, so {model}-{phase} is its copy")
