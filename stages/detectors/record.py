"""The training record: what a detector was made of and what that cost, beside its ``.keras`` file."""

from pathlib import Path
from typing import Any

from stages.detectors.device import Device
from stages.detectors.training import Row
from stages.files import sha256, write_json


def write(
    model: str,
    phase: str,
    rows: list[Row],
    best: Row,
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
    seconds = sum(row["seconds"] or 0.0 for row in rows)
    epochs = int(rows[-1]["epoch"] or 0)
    speed = epochs * samples_per_epoch / seconds if seconds else None
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
            "images_per_second": None if speed is None else round(speed, 2),
            "model_sha256": sha256(path),
        },
    )
    pace = "" if speed is None else f" ({speed:,.1f} images/s on {device.name})"
    print(
        f"{model}-{phase}: validation AUC {best['val_auc']:.4f} in epoch {int(best['epoch'] or 0)} of {epochs}, "
        f"{seconds:.0f} s of training{pace}"
    )
