"""A face to the square that a detector is fed: cut out as FFHQ's are."""

import numpy as np
from PIL import Image

from stages.photos.finder import Face, Points

SUPERSAMPLING = 4  # FFHQ turns at 4,096 px and then shrinks to 1,024


def quad(face: Face) -> Points:
    """The corners of FFHQ's crop, 4 × 2 px: upper left, lower left, lower right, upper right.

    Karras et al. 2019 (arXiv:1812.04948, appendix A; `recreate_aligned_images` of the data set's script) take the mean
    of the landmarks of either eye and of the two corners of the mouth; here they are BlazeFace's eyes and mouth.
    """
    left, right = face.eyes
    eyes = (left + right) / 2
    across, down = right - left, face.mouth - eyes
    x = across + np.array([down[1], -down[0]])
    x *= max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = eyes + down * 0.1
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def side(face: Face) -> float:
    """The side of FFHQ's crop in px of the picture: below the detector's size, the face is enlarged."""
    corners = quad(face)
    return float(np.hypot(*(corners[3] - corners[0])))


def align(picture: Image.Image, face: Face, size: int) -> Image.Image:
    """The face, upright, as FFHQ crops it: RGB, ``size × size``.

    A large face is shrunk first, without aliasing. Beyond the picture's edge lies its mirror image, as in FFHQ (which
    also blurs it).
    """
    corners = quad(face)
    length = side(face)
    margin = length * 0.1
    low, high = np.floor(corners.min(axis=0) - margin), np.ceil(corners.max(axis=0) + margin)
    window = np.concatenate([np.clip(low, 0, None), np.minimum(high, picture.size)]).astype(int)
    part = picture.crop((int(window[0]), int(window[1]), int(window[2]), int(window[3])))
    before, after = window[:2] - low, high - window[2:]
    pad = np.stack([before, after]).astype(int)
    pixels = np.pad(np.asarray(part), [tuple(pad[:, 1]), tuple(pad[:, 0]), (0, 0)], mode="reflect")
    corners = corners - low
    if (shrink := int(length / size * 0.5)) > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(shrink))
        corners = corners / shrink
    big = size * SUPERSAMPLING
    turned = Image.fromarray(pixels).transform(
        (big, big), Image.Transform.QUAD, [float(v) for v in corners.ravel()], Image.Resampling.BILINEAR
    )
    return turned.resize((size, size), Image.Resampling.LANCZOS)
