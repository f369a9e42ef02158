"""The training record: what a detector was made of and what that cost, beside its ``.keras`` file."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stages.backend import keras
from stages.detectors.device import Device
from stages.files import sha256, write_json


def write(
    model: str,
    phase: str,
    *,
    device: Device,
    weights: dict[str, Any],
    images: dict[str, int],
    image_size: int,
    trained: "keras.Layer",
    val_auc: float,
    seconds: float,
    epochs: int | None = None,
    best_epoch: int | None = None,
    crops: int | None = None,
) -> None:
    """Publish ``data/models/M-P.json`` for a detector that is saved.

    ``trained`` is the part of the network that was; ``seconds`` are those of its training alone. ``epochs`` were run,
    over so many ``crops`` in all; a head that is solved has neither. ``ended`` is now.
    """
    path = Path(f"data/models/{model}-{phase}.keras")
    speed = None if crops is None else round(crops / seconds, 2)
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
            "best_epoch": best_epoch,
            "best_val_auc": val_auc,
            "trainable_parameters": sum(weight.shape.num_elements() for weight in trained.trainable_weights),
            "train_seconds": round(seconds, 2),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "images_per_second": speed,
            "model_sha256": sha256(path),
        },
    )
    where = "" if epochs is None else f" in epoch {best_epoch} of {epochs}"
    pace = "" if speed is None else f" ({speed:,.1f} images/s on {device.name})"
    print(f"{model}-{phase}: validation AUC {val_auc:.4f}{where}, {seconds:.0f} s of training{pace}")
