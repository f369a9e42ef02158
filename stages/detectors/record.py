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
    frozen_layers: str | None = None,
) -> None:
    """Publish ``data/models/M-P.json`` for a detector that is saved, from its training journal.

    ``samples_per_epoch`` counts what an epoch sees: crops, or rows of features. ``frozen_layers`` is the precision in
    which their outputs were kept and trained on, if they were. Times are seconds, of training alone; ``waiting`` is the
    share of them in which the next batch was not ready.
    """
    best = best_of(rows)
    seconds = sum(row["seconds"] or 0.0 for row in rows)
    waits = [(row["waiting"], row["seconds"]) for row in rows if row["waiting"] is not None and row["seconds"]]
    waiting = sum(share * time for share, time in waits) / sum(time for _, time in waits) if waits else None
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
            "waiting": None if waiting is None else round(waiting, 4),
            "frozen_layers": frozen_layers,
            "model_sha256": sha256(path),
        },
    )
    print(
        f"{model}-{phase}: validation AUC {best['val_auc']:.3f} in epoch {int(best['epoch'] or 0)} of {epochs}, "
        f"{seconds:.0f} s of training"
    )
    if speed is not None:
        waited = "" if waiting is None else f", {waiting:.1%} of the time waiting for data"
        print(f"{model}-{phase}: {speed:,.1f} images/s on {device.name}{waited}")
