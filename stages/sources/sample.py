"""The built-in sample: two classes of drawn faces that differ in nothing but the traces of how they were made.

Both classes show the same distribution of procedural scenes. *Real* faces pass through a camera: optics, sensor noise,
a Bayer mosaic and its interpolation, which leave their own correlations (Popescu & Farid 2005,
doi:10.1109/TSP.2005.855406). *Fake* faces pass through the tail of a generator: repeated up-sampling whose overlap is
uneven, with noise and detail added at every scale, which leaves a faint lattice (Odena et al. 2016,
doi:10.23915/distill.00003; Zhang, Karaman & Chang 2019, arXiv:1907.06515; Durall et al. 2020, arXiv:2003.01826; Frank
et al. 2020, arXiv:2003.08685; Wang et al. 2020, arXiv:1912.11035). Then both are brought to size and coded as JPEG in
the same way. Brightness, colour, sharpness and file size are alike in distribution, so a detector must find the traces.
"""

import io
import math
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter

from stages.faces.layout import LABELS
from stages.progress import progress

Array = NDArray[np.floating[Any]]

JPEG_QUALITY = 92
OVERSAMPLING = 2  # a face is made at this many times its size, then brought to it
GAMMA = 2.2  # a pixel's value is light ** (1 / GAMMA)

# The camera. Ranges here and below are wide and overlap in effect, so that sharpness and file size hardly tell the
# classes apart; they were set by measurement (tests/sources/test_sample.py keeps them honest).
OPTICS_BLUR = (0.5, 1.0)  # px of the oversampled picture, standard deviation
SENSOR_NOISE = (0.02, 0.08)  # standard deviation at full exposure, as a fraction of it
READ_NOISE = 0.2  # of the sensor noise, independent of the light

# The generator.
SYNTHESIS_BLUR = (0.7, 1.2)  # px of the oversampled picture, standard deviation; a demosaic blurs the camera's too
SCALE_NOISE = (0.004, 0.026)  # standard deviation of the noise that every scale adds, as a fraction of white
# How much more the even outputs of each up-sampling get than the odd ones, for red, green and blue, coarse to fine.
# Networks trained on photographs see the first one's lattice, untrained ones rather the second's; there the signs
# differ, as learned filters do, which spares the luma and so sharpness and file size. Resizing erases a third lattice.
UNEVENNESS = ((0.016, 0.016, 0.016), (0.03, -0.016, 0.03), (0.0, 0.0, 0.0))


def fetch(faces_per_class: int, size: int, seed: int, archive: Path) -> dict[str, Any]:
    """Draw ``faces_per_class`` faces of each class, ``size`` px square, into a new zip at ``archive``.

    The bytes depend on the three numbers alone (and on the versions of numpy, scipy and Pillow). Returns provenance.
    """
    with (
        zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members,
        progress(total=len(LABELS) * faces_per_class, desc="drawing faces", unit="face") as bar,
    ):
        for name, label in LABELS.items():
            for number in range(faces_per_class):
                member = zipfile.ZipInfo(f"{name}/{number:05d}.jpg", date_time=(1980, 1, 1, 0, 0, 0))
                member.create_system = 3  # the default depends on the operating system
                members.writestr(member, face(label, number, size, seed))
                bar.update()
    return {
        "images": len(LABELS) * faces_per_class,
        "faces_per_class": faces_per_class,
        "size": size,
        "seed": seed,
        "description": "drawn faces: real ones through a camera model, fake ones through a generator's up-sampling",
    }


def face(label: int, number: int, size: int, seed: int) -> bytes:
    """Face ``number`` of class ``label`` (1 fake, 0 real) as an RGB JPEG, ``size`` px square.

    It is the same face however many others are drawn.
    """
    rng = np.random.default_rng([seed, label, number])
    coarsest = 2 ** len(UNEVENNESS)
    scene = draw(OVERSAMPLING * math.ceil(size / coarsest) * coarsest, rng)
    return encode(generator(scene, rng) if label else camera(scene, rng), size)


def encode(picture: Array, size: int) -> bytes:
    """A gamma-coded picture in [0, 1] as an RGB JPEG, ``size`` px square: the same way for both classes."""
    pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    return jpeg.getvalue()


# --- The camera -------------------------------------------------------------------------------------------------------


def camera(scene: Array, rng: np.random.Generator) -> Array:
    """Photograph a scene: optics, a colour filter array, shot and read noise, interpolation, gamma.

    Takes and gives height × width × 3, float32 in [0, 1], gamma-coded; height and width are even.
    """
    raw = mosaic(_blur(scene, OPTICS_BLUR, rng) ** GAMMA)
    noise = _log_uniform(rng, SENSOR_NOISE)
    raw += noise * np.sqrt(raw + READ_NOISE**2) * rng.standard_normal(raw.shape, np.float32)
    return np.clip(demosaic(raw), 0, 1) ** np.float32(1 / GAMMA)


def mosaic(light: Array) -> Array:
    """What a sensor under an RGGB Bayer filter sees: height × width × 3 to height × width, both even."""
    raw = light[:, :, 1].copy()
    raw[0::2, 0::2] = light[0::2, 0::2, 0]
    raw[1::2, 1::2] = light[1::2, 1::2, 2]
    return raw


def demosaic(raw: Array) -> Array:
    """Colour from an RGGB mosaic, bilinear: height × width, both even, to height × width × 3.

    A missing value is the mean of its nearest neighbours of that colour; the border is mirrored, which keeps the
    pattern.
    """
    sites = np.zeros((*raw.shape, 3), np.float32)
    sites[0::2, 0::2, 0] = raw[0::2, 0::2]
    sites[0::2, 1::2, 1] = raw[0::2, 1::2]
    sites[1::2, 0::2, 1] = raw[1::2, 0::2]
    sites[1::2, 1::2, 2] = raw[1::2, 1::2]
    corner = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 4
    quincunx = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32) / 4
    kernels = (corner, quincunx, corner)
    return np.stack([convolve(sites[:, :, c], kernels[c], mode="mirror") for c in range(3)], axis=2)


# --- The generator ----------------------------------------------------------------------------------------------------


def generator(scene: Array, rng: np.random.Generator) -> Array:
    """Synthesise a scene from coarse to fine, as the tail of a convolutional generator does.

    Every scale is up-sampled with an uneven overlap, gets the detail that even up-sampling would lack, and noise, as in
    StyleGAN (arXiv:1812.04948). Takes height × width × 3, float32 in [0, 1], gamma-coded, both multiples of 8, and
    gives the same, but for values that noise takes a little out of range.
    """
    scales = [_blur(scene, SYNTHESIS_BLUR, rng)]
    for _ in UNEVENNESS:
        scales.insert(0, halve(scales[0]))
    strength = _log_uniform(rng, SCALE_NOISE)
    image = scales[0]
    for (coarse, fine), unevenness in zip(pairwise(scales), UNEVENNESS, strict=True):
        detail = fine - upsample(coarse)
        noise = strength * rng.standard_normal(fine.shape, np.float32)
        image = upsample(image, unevenness) + detail + noise
    return image


def upsample(image: Array, unevenness: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Array:
    """Double height and width of height × width × channels by a 3 × 3 transposed convolution of stride 2.

    ``unevenness`` u, one a channel, makes the separable kernel [(1 - u) / 2, 1 + u, (1 - u) / 2]: at 0 it is bilinear
    interpolation, else even outputs get 1 + u and odd ones 1 - u, the checkerboard of Odena et al. (2016). The last
    line is repeated beyond the border; but for that the mean stays.
    """
    even, odd = 1 + np.array(unevenness, np.float32), 1 - np.array(unevenness, np.float32)
    for axis in (0, 1):
        lines = np.moveaxis(image, axis, 0)
        following = np.concatenate((lines[1:], lines[-1:]))
        doubled = np.stack((even * lines, odd * (lines + following) / 2), axis=1).reshape(-1, *lines.shape[1:])
        image = np.moveaxis(doubled, 0, axis)
    return image


def halve(image: Array) -> Array:
    """Halve height and width of height × width × channels, both even: the mean of 2 × 2 pixels."""
    height, width, channels = image.shape
    halved: Array = image.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))
    return halved


def _blur(picture: Array, deviations: tuple[float, float], rng: np.random.Generator) -> Array:
    """A Gaussian blur, its standard deviation drawn evenly from a range in px."""
    deviation = rng.uniform(*deviations)
    blurred: Array = gaussian_filter(picture, (deviation, deviation, 0), truncate=3)
    return blurred


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> np.float32:
    """A number between the bounds, each ratio equally likely."""
    return np.float32(np.exp(rng.uniform(*np.log(bounds))))


# --- The scene --------------------------------------------------------------------------------------------------------


def _colour(*rgb: float) -> Array:
    """A colour that paints: 3 × 1 × 1, as pictures are 3 × height × width while they are painted."""
    return np.array(rgb, np.float32).reshape(3, 1, 1)


SKINS = [
    _colour(0.98, 0.86, 0.76),
    _colour(0.94, 0.78, 0.65),
    _colour(0.85, 0.66, 0.51),
    _colour(0.71, 0.50, 0.36),
    _colour(0.52, 0.35, 0.25),
    _colour(0.38, 0.25, 0.19),
]
HAIRS = [
    _colour(0.10, 0.08, 0.08),
    _colour(0.23, 0.15, 0.10),
    _colour(0.42, 0.27, 0.15),
    _colour(0.75, 0.58, 0.33),
    _colour(0.60, 0.28, 0.13),
    _colour(0.66, 0.65, 0.64),
]
IRISES = [
    _colour(0.25, 0.15, 0.08),
    _colour(0.42, 0.30, 0.14),
    _colour(0.30, 0.45, 0.30),
    _colour(0.28, 0.45, 0.62),
    _colour(0.40, 0.45, 0.50),
]
LIP = _colour(0.75, 0.25, 0.28)
BLUSH = _colour(1.05, 0.75, 0.72)  # times the skin


class Canvas:
    """A square picture to paint on. Coordinates run from -1 to 1, x to the right, y down; colours are RGB in [0, 1]."""

    def __init__(self, side: int) -> None:
        axis = (np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1
        self.x, self.y = np.meshgrid(axis, axis)
        self.pixel = 2 / side
        self.rgb = np.zeros((3, side, side), np.float32)

    def pose(self, x: float, y: float, tilt: float) -> None:
        """Move the origin to a point and turn the axes by ``tilt`` radians: what is painted from now on moves along."""
        dx, dy = self.x - x, self.y - y
        cosine, sine = math.cos(tilt), math.sin(tilt)
        self.x, self.y = dx * cosine + dy * sine, dy * cosine - dx * sine

    def paint(self, mask: Array, colour: Any) -> None:
        """Cover the picture with a colour (or with a picture) where ``mask`` is 1, mix where it is between 0 and 1."""
        self.rgb += mask * (colour - self.rgb)

    def ellipse(self, x: float, y: float, width: float, height: float, taper: float = 0) -> Array:
        """The mask of an ellipse with these half-axes; ``taper`` narrows it towards the bottom."""
        dx, dy = self._from(x, y, width, height)
        dx /= 1 - taper * np.clip(dy, 0, 1)
        return self.inside((1 - np.sqrt(dx * dx + dy * dy)) * min(width, height))

    def inside(self, distance: Array) -> Array:
        """The mask of where a signed distance is positive, its edge a pixel wide."""
        mask: Array = np.clip(distance / self.pixel + 0.5, 0, 1)
        return mask

    def glow(self, x: float, y: float, width: float, height: float) -> Array:
        """A mask that is 1 at a point and fades away as a Gaussian."""
        dx, dy = self._from(x, y, width, height)
        mask: Array = np.exp(-(dx * dx + dy * dy) / 2)
        return mask

    def _from(self, x: float, y: float, width: float, height: float) -> tuple[Array, Array]:
        """How far every pixel is from a point, in widths to the right and in heights down."""
        return (self.x - x) / width, (self.y - y) / height

    def texture(self, rng: np.random.Generator, width: float, height: float) -> Array:
        """Random texture of mean 0 and standard deviation 1, its features this wide and high."""
        noise = rng.standard_normal(self.x.shape, np.float32)
        rough: Array = gaussian_filter(noise, (height / self.pixel, width / self.pixel), mode="wrap", truncate=2.5)
        rough -= rough.mean()
        rough /= rough.std()
        return rough


def draw(side: int, rng: np.random.Generator) -> Array:
    """The portrait of nobody, ``side`` px square: height × width × 3, float32 in [0, 1], gamma-coded."""
    canvas = Canvas(side)
    skin, hair = _blend(rng, SKINS), _blend(rng, HAIRS)
    width, height = rng.uniform(0.44, 0.52), rng.uniform(0.60, 0.68)
    strands = hair * (1 + rng.uniform(0.15, 0.3) * canvas.texture(rng, 0.015, 0.12))
    _background(canvas, rng)
    canvas.pose(rng.uniform(-0.07, 0.07), rng.uniform(-0.07, 0.07), rng.uniform(-0.12, 0.12))
    _bust(canvas, rng, skin, strands, width, height)
    _head(canvas, rng, skin, width, height)
    _eyes(canvas, rng, hair, width)
    _nose_and_mouth(canvas, rng, skin, width)
    _fringe(canvas, rng, strands, width, height)
    return np.clip(np.moveaxis(canvas.rgb, 0, 2), 0, 1)


def _blend(rng: np.random.Generator, palette: list[Array]) -> Array:
    """A colour between two random neighbours of a palette."""
    first = rng.integers(len(palette) - 1)
    share = rng.uniform()
    return (1 - share) * palette[first] + share * palette[first + 1]


def _background(canvas: Canvas, rng: np.random.Generator) -> None:
    """Two muted colours that run into each other, and a blurred something."""
    one, other = (_colour(*(rng.uniform(0.2, 0.85) + rng.uniform(-0.12, 0.12, 3))) for _ in range(2))
    angle = rng.uniform(0, 2 * math.pi)
    canvas.paint(np.ones_like(canvas.x), one)
    canvas.paint(np.clip(0.5 + 0.4 * (canvas.x * math.cos(angle) + canvas.y * math.sin(angle)), 0, 1), other)
    canvas.rgb *= 1 + rng.uniform(0.03, 0.12) * canvas.texture(rng, 0.15, 0.15)


def _bust(canvas: Canvas, rng: np.random.Generator, skin: Any, strands: Any, width: float, height: float) -> None:
    """What lies behind the head: hair, neck, clothes."""
    length = rng.uniform(0.0, 0.5)
    canvas.paint(
        canvas.ellipse(0, -0.12 + length, width + rng.uniform(0.05, 0.16), height + 0.02 + length * 0.8), strands
    )
    canvas.paint(canvas.ellipse(0, 0.75, 0.24, 0.5), 0.78 * skin)
    cloth = _colour(*rng.uniform(0.1, 0.9, 3)) * (1 + rng.uniform(0.02, 0.1) * canvas.texture(rng, 0.02, 0.02))
    canvas.paint(canvas.ellipse(0, 1.35, rng.uniform(0.8, 1.0), 0.58), cloth)


def _head(canvas: Canvas, rng: np.random.Generator, skin: Any, width: float, height: float) -> None:
    """Ears and a head, lit from one side, with cheeks and pores."""
    light = rng.uniform(-0.3, 0.3)
    x, y = canvas.x / width, canvas.y / height
    shade = 1.05 + light * x - 0.05 * y - 0.18 * (x * x + y * y)
    lit = skin * shade * (1 + rng.uniform(0.01, 0.04) * canvas.texture(rng, 0.012, 0.012))
    for side in (-1, 1):
        canvas.paint(canvas.ellipse(side * width, 0.05, 0.07, 0.13), 0.9 * lit)
    canvas.paint(canvas.ellipse(0, 0, width, height, taper=rng.uniform(0.1, 0.3)), lit)
    blush = rng.uniform(0.05, 0.3)
    for side in (-1, 1):
        canvas.paint(blush * canvas.glow(side * 0.55 * width, 0.2, 0.1, 0.08), skin * BLUSH)


def _eyes(canvas: Canvas, rng: np.random.Generator, hair: Any, width: float) -> None:
    """Sockets, whites, irises, pupils, a glint, lids and brows."""
    apart, size, open_, iris = 0.42 * width, rng.uniform(0.09, 0.12), rng.uniform(0.4, 0.62), _blend(rng, IRISES)
    gaze, brow, raised = rng.uniform(-0.02, 0.02), rng.uniform(0.018, 0.035), rng.uniform(0.13, 0.18)
    for x in (-apart, apart):
        canvas.paint(0.3 * canvas.glow(x, -0.08, 0.12, 0.09), canvas.rgb * 0.6)
        white = canvas.ellipse(x, -0.05, size, size * open_)
        canvas.paint(canvas.ellipse(x, -0.065, size * 1.1, size * open_ * 1.05), _colour(0.15, 0.10, 0.09))
        canvas.paint(white, _colour(0.93, 0.92, 0.90))
        canvas.paint(white * canvas.ellipse(x + gaze, -0.05, 0.058, 0.058), iris)
        canvas.paint(white * canvas.ellipse(x + gaze, -0.05, 0.026, 0.026), _colour(0.03, 0.03, 0.03))
        canvas.paint(canvas.ellipse(x + gaze - 0.02, -0.07, 0.014, 0.014), _colour(1, 1, 1))
        arch = raised - 0.4 * (canvas.x - x) ** 2 / size
        along = canvas.ellipse(x, -0.05 - raised, size * 1.35, 0.2)
        canvas.paint(0.85 * along * canvas.inside(brow - np.abs(canvas.y + 0.05 + arch)), 0.7 * hair)


def _nose_and_mouth(canvas: Canvas, rng: np.random.Generator, skin: Any, width: float) -> None:
    """A nose made of light and shadow; lips that smile more or less."""
    side, wide = float(rng.choice((-1, 1))), rng.uniform(0.06, 0.09)
    canvas.paint(0.35 * canvas.glow(side * 0.06, 0.1, 0.03, 0.12), canvas.rgb * 0.6)
    canvas.paint(0.4 * canvas.glow(-side * 0.01, 0.12, 0.025, 0.1), np.minimum(canvas.rgb * 1.25, 1))
    canvas.paint(0.5 * canvas.glow(0, 0.235, wide, 0.02), canvas.rgb * 0.5)
    for x in (-0.6 * wide, 0.6 * wide):
        canvas.paint(0.7 * canvas.ellipse(x, 0.225, 0.022, 0.014), 0.3 * skin)
    smile, mouth, thick = rng.uniform(-0.3, 1.8), rng.uniform(0.17, 0.25), rng.uniform(0.03, 0.05)
    bend = canvas.y - 0.40 + smile * canvas.x**2
    taper = 1 - (canvas.x / mouth) ** 2
    lips = 0.55 * skin + 0.45 * LIP * rng.uniform(0.7, 1.1)
    canvas.paint(canvas.inside(thick * taper - np.abs(bend)), lips)
    canvas.paint(canvas.inside(0.2 * thick * taper - np.abs(bend)), 0.35 * lips)
    canvas.paint(0.35 * canvas.glow(0, 0.40 + 1.6 * thick, 0.1, 0.02), canvas.rgb * 0.7)


def _fringe(canvas: Canvas, rng: np.random.Generator, strands: Any, width: float, height: float) -> None:
    """The hair that frames the forehead, with a parting."""
    parting, line, drop = rng.uniform(-0.3, 0.3), rng.uniform(-0.5, -0.38), rng.uniform(0.3, 1.6)
    hairline = canvas.y - line - drop * (canvas.x - parting) ** 2
    crown = canvas.ellipse(0, -0.08, width + 0.05, height + 0.04)
    canvas.paint(crown * canvas.inside(-hairline), strands)
    canvas.paint(0.3 * crown * canvas.glow(parting, line - 0.12, 0.25, 0.06), np.minimum(canvas.rgb * 1.5, 1))
