"""A detector as the pipeline leaves it, or the repository brings it along: a folder with all that judging takes.

``network.tflite`` takes one RGB image, float32 1 × size × size × 3 in 0–255, and gives its logit, its evidence, the map
whose mean is the logit, and its distance from the training faces; ``detector.json`` says whose they are. Both come from
the stage `score`. ``calibration.json``, from `evaluate`, says how to read logit and distance.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from stages.errors import UserError
from stages.faces.image import Pixels
from stages.files import read_json
from stages.quiet import without_harmless_lines
from stages.reporting.worth import Caution, caution
from stages.scoring import calibration
from stages.scoring.calibration import Calibration

Floats = NDArray[np.float32]
Network = Callable[[Floats], tuple[Floats, Floats, Floats]]  # size × size × 3 to logit, evidence (2-d) and distance

FOLDER = Path("data/exported")
PRETRAINED = Path("pretrained")  # of the repository itself (stages.pretrained): there before anything is trained
NETWORK, READING, FACTS = "network.tflite", "calibration.json", "detector.json"


@dataclass(frozen=True, slots=True)
class Detector:
    """An opened detector. It judges one image at a time and is not for several threads at once."""

    name: str
    size: int  # px, the side of the images that it takes
    source: str  # what it was trained on: sample, folder or kaggle
    weights: str  # what its backbone started from: imagenet, random or folder
    sha256: str  # of the .keras file that it was exported from
    calibration: Calibration
    network: Network
    jpeg: int | None = None  # quality at which its images were saved; None: they came as they were
    align: bool = False  # whether the faces in its images were found and aligned

    @property
    def takes(self) -> str:
        """The images that it takes, in words."""
        return f"{self.size} px{f', JPEG {self.jpeg}' if self.jpeg else ''}{', aligned' if self.align else ''}"

    @property
    def caution(self) -> Caution | None:
        """What to know before its answers."""
        return caution(self.source, self.weights)

    def judge(self, image: Pixels) -> tuple[float, Floats, float]:
        """The logit of an image (size × size × 3, 0–255), its evidence, 2-d, and its distance from the training faces.

        Positive evidence speaks for fake; the distance is about 1 for training faces.
        """
        logit, evidence, distance = self.network(image.astype(np.float32))
        return float(logit), evidence, float(distance)


def folder_of(name: str) -> Path:
    """Where the detector of that name lies, if there is one."""
    return PRETRAINED if name == PRETRAINED.name else FOLDER / name


def load(folder: Path, threads: int | None = None) -> Detector:
    """Open an exported detector, to run on all cores or so many threads. Raises :class:`UserError` without one."""
    if not folder.is_dir():
        others = sorted(FOLDER.glob("[!.]*")) + [PRETRAINED] * PRETRAINED.is_dir()  # hidden ones are unfinished
        known = ", ".join(other.name for other in others) or "none; make them with `dvc repro`"
        raise UserError(f"there is no exported detector {folder.name!r}; there are: {known}")
    for name in (NETWORK, READING, FACTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; {remedy(folder)}")
    facts = read_json(folder / FACTS)
    if missing := {"detector", "size", "source", "weights", "sha256"} - facts.keys():
        raise UserError(
            f"{folder / FACTS} is of an older version: it lacks {', '.join(sorted(missing))}; {remedy(folder)}"
        )
    reading = calibration.read(folder / READING)
    if reading.model not in (None, facts["sha256"]):  # a run was stopped between score and evaluate
        raise UserError(f"{folder / READING} is of another network than the one beside it; {remedy(folder)}")
    return Detector(
        name=facts["detector"],
        size=facts["size"],
        source=facts["source"],
        weights=facts["weights"],
        sha256=facts["sha256"],
        calibration=reading,
        network=network(folder / NETWORK, threads),
        jpeg=facts.get("jpeg"),  # an older version has neither
        align=facts.get("align", False),
    )


def remedy(folder: Path) -> str:
    """What brings an incomplete or damaged folder back."""
    if folder == PRETRAINED:
        return f"bring it back with `git restore {PRETRAINED}`"
    return f"make it again with `dvc repro evaluate@{folder.name}`"


def network(path: Path, threads: int | None = None) -> Network:
    """The network of an exported detector. Raises :class:`UserError` if it is damaged."""
    try:
        with without_harmless_lines():
            interpreter = Interpreter(str(path), num_threads=threads or os.cpu_count())
            interpreter.allocate_tensors()
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {remedy(path.parent)}") from None

    (image_of,) = (place["index"] for place in interpreter.get_input_details())
    outputs = [place["index"] for place in interpreter.get_output_details()]  # in the Keras model's order
    if len(outputs) != 3:
        raise UserError(f"{path} is of an older version: it gives no distance; {remedy(path.parent)}")

    def run(image: Floats) -> tuple[Floats, Floats, Floats]:
        interpreter.set_tensor(image_of, image[np.newaxis])
        interpreter.invoke()
        logit, evidence, distance = (interpreter.get_tensor(output)[0] for output in outputs)
        return logit[0], evidence, distance[0]

    return run
