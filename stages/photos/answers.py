"""A photo to answers: one a face, or one that says that there is no face, or one that says why it was not read.

Several detectors answer together. Their probability is that of the mean of their calibrated logits: the mean of
calibrated probabilities would be too unsure (Ranjan & Gneiting 2010, doi:10.1111/j.1467-9868.2009.00726.x), and nearly
blind to how sure one of them is. Their verdict is "real" or "fake" only where all say so: then it is wrong no more
often than each of them alone, on any faces. A face is unlike the training faces where one of them says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit, logit

from stages.errors import UserError
from stages.faces import processing
from stages.photos import alignment, finder
from stages.photos.exported import Detector, Floats
from stages.photos.inputs import Photo

Box = tuple[int, int, int, int]  # left, top, right, bottom in px, right and bottom excluded
Faces = Literal["auto", "find", "whole"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the detectors make of one face."""

    probability: float  # P(fake), calibrated
    verdict: str  # real, uncertain or fake
    crop: Image.Image  # what they saw, size × size
    unlike: bool  # the training faces
    heat: Floats  # size × size: where it comes from, in calibrated logits; their mean is about that of the probability


@dataclass(frozen=True, slots=True)
class Answer:
    """One row. ``face`` counts the faces of a photo from 1; 0 where there is none, or the photo was not read.

    ``enlarged``: the photo shows the face in fewer pixels than the detector takes, so its finest traces are missing.
    """

    file: str
    face: int = 0
    box: Box | None = None
    judgement: Judgement | None = None
    enlarged: bool = False
    error: str = ""

    @property
    def verdict(self) -> str:
        """``real``, ``uncertain``, ``fake``, ``no face``, or empty where the photo was not read."""
        return self.judgement.verdict if self.judgement else "" if self.error else "no face"


def one_size(detectors: Sequence[Detector]) -> int:
    """The side of the images that all the detectors take. Raises :class:`UserError` where these differ in any way."""
    if len({detector.takes for detector in detectors}) > 1:
        listed = "; ".join(f"{detector.name} {detector.takes}" for detector in detectors)
        raise UserError(f"the detectors take different images ({listed}); ask each of them alone")
    return detectors[0].size


def answers(photo: Photo, detectors: Sequence[Detector], faces: Faces) -> Iterator[Answer]:
    """The answers for one photo.

    ``faces`` "find" looks for faces and aligns each as FFHQ does, "whole" takes the picture for one aligned face, and
    "auto" does the latter where the picture has exactly the size of the detectors' images, unless the faces in these
    were found too.
    """
    if photo.pixels is None:
        yield Answer(photo.name, error=photo.problem)
        return
    size = one_size(detectors)
    picture = Image.fromarray(photo.pixels)
    if faces == "whole" or (faces == "auto" and picture.size == (size, size) and not detectors[0].align):
        crop = processing.whole(picture, size, detectors[0].jpeg)
        yield Answer(photo.name, 1, (0, 0, *picture.size), judge(crop, detectors), enlarged=min(picture.size) < size)
        return
    found = finder.find(picture)
    for number, face in enumerate(found, start=1):
        low, high = np.clip(np.rint(face.box).astype(int).reshape(2, 2), 0, picture.size)
        box = int(low[0]), int(low[1]), int(high[0]), int(high[1])
        judgement = judge(alignment.align(picture, face, size), detectors)
        yield Answer(photo.name, number, box, judgement, enlarged=alignment.side(face) < size)
    if not found:
        yield Answer(photo.name)


def judge(crop: Image.Image, detectors: Sequence[Detector]) -> Judgement:
    """What the detectors make of an aligned face of their size, processed as their images were."""
    crop = processing.seen(crop, detectors[0].jpeg)
    logits, verdicts, heats, unlike = [], set(), [], False
    for detector in detectors:
        raw, evidence, distance = detector.judge(np.asarray(crop))
        reading = detector.calibration
        logits.append(reading.scaled(np.array(raw)))
        verdicts.add(str(reading.verdict(np.array(raw))))
        unlike |= bool(reading.unlike(np.array(distance)))
        heat = Image.fromarray(reading.scaled(evidence).astype(np.float32))
        heats.append(np.asarray(heat.resize(crop.size, Image.Resampling.BICUBIC)))
    verdict = verdicts.pop() if len(verdicts) == 1 else "uncertain"
    return Judgement(float(expit(np.mean(logits))), verdict, crop, unlike, np.mean(heats, axis=0))


def limits(detectors: Sequence[Detector]) -> tuple[float | None, float | None]:
    """Calibrated probabilities: real below the first, fake from the second on; None where no probability is.

    Several detectors have none in common, since each keeps its own.
    """
    if len(detectors) > 1:
        return None, None
    reading = detectors[0].calibration
    scores: NDArray[np.float64] = np.array([reading.real_below, reading.fake_from])
    low, high = reading.probability(logit(np.clip(scores, 0, 1)))
    return (
        float(low) if np.isfinite(reading.real_below) else None,
        float(high) if np.isfinite(reading.fake_from) else None,
    )
