"""Memory: the peak of stage `baseline` and of steps of fine-tuning, with 20,000 images against 2,000.

The shards hold the training faces of 256 px (25 kB each) again and again. They are brought to 32 px, so that the
networks are quick: what could grow with the number of images (reading, shuffling, results) holds encoded bytes and
features, not pixels. Each peak is a process of its own, by the kernel's account (VmHWM: what was resident, mapped files
included), so this needs Linux.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from bench.measure import Result, SkipError, over, take_turns
from bench.project import ROOT, write_params
from bench.suite.input import encoded
from stages.backend import keras
from stages.detectors import assembly, densenet121, training
from stages.faces import shards

SLOW = True
FEW, MANY, ROUNDS = 2_000, 20_000, 1
SIDE, BATCH, STEPS = 32, 32, 20
BASELINE = ["-m", "stages.baseline", "densenet121"]
TRAINING = ["-c", "from bench.suite.memory import train; train()"]


def measure() -> Iterator[Result]:
    """Peaks of both jobs at both sizes."""
    if not Path("/proc/self/status").exists():
        raise SkipError("it reads /proc, which this system lacks")
    for images in (FEW, MANY):
        make_project(Path(str(images)), images)
    jobs = {
        "memory.baseline": ("the baseline", BASELINE),
        "memory.training": (f"{STEPS} steps of training", TRAINING),
    }
    for name, (what, command) in jobs.items():
        sides = {str(images): partial(peak, command, Path(str(images))) for images in (FEW, MANY)}
        megabytes = take_turns(sides, ROUNDS)
        yield Result(
            name,
            f"peak memory of {what}, {MANY:,} images / {FEW:,}",
            over(megabytes[str(MANY)], megabytes[str(FEW)]),
            1.15,
            better="lower",
            details={"megabytes": {images: [round(value) for value in values] for images, values in megabytes.items()}},
        )


def make_project(folder: Path, images: int) -> None:
    """A project with so many training images, in the middle of the one that is here."""
    (folder / "data").mkdir(parents=True)
    for name in ("weights", "training.json"):
        (folder / "data" / name).symlink_to(Path("data", name).resolve())
    faces = [shards.Record(face["image"], int(face["label"]), face["member"].decode()) for face in encoded()]
    for split, count in {"train": images, "valid": len(faces)}.items():
        path = folder / shards.folder(split, "faces")
        path.mkdir(parents=True)
        shards.write(islice(cycle(faces), count), count, path, 1000)
    with chdir(folder):
        write_params({"image.size": SIDE, "image.crop": SIDE, "features.batch_size": 128})


def peak(arguments: list[str], folder: Path) -> float:
    """The most memory that a Python process held at once, in MB."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, stdout=sys.stderr) as process:
        kilobytes = 0
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            kilobytes = max([kilobytes, *(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)])
            time.sleep(0.05)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return kilobytes * 1024 / 1e6


def train() -> None:
    """Take a few steps as stage `finetune` does, all layers, fresh crops."""
    backbone = densenet121.backbone()
    width = backbone.output_shape[-1]
    head = assembly.head(np.zeros(width), np.ones(width))
    detector = assembly.detector(densenet121, backbone, head)
    training.compile_model(detector, keras.optimizers.AdamW(1e-5))
    data = shards.augmented(shards.training("train"), size=SIDE, crop=SIDE, batch_size=BATCH, seed=1)
    detector.fit(data, steps_per_epoch=STEPS, verbose=2)
