"""One image: bytes to pixels and facts, by Pillow, with limits; and pixels to a lossless PNG.

Bytes are untrusted: only common still formats are tried, the size is checked in the header before anything is decoded,
and truncated files are refused. Of an animation the first frame counts. Colour profiles are ignored, as TensorFlow
ignores them.
"""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 50_000_000  # a phone's largest ordinary photograph; 150 MB decoded
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class ImageError(ValueError):
    """Bytes that are no usable image; the message is the verdict, such as ``truncated``."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the header of an image says.

    ``width`` and ``height`` are px as seen, after EXIF rotation. ``encoding`` is ``original`` where TensorFlow decodes
    the bytes as they are to the picture that :func:`decode` gives, else ``png``: decode and store with
    :func:`encode_png`. ``jpeg_quality`` (1–100) and ``quantisation`` (8 hex digits) are None where there are no tables.
    """

    format: str
    mode: str
    width: int
    height: int
    encoding: str
    jpeg_quality: int | None
    quantisation: str | None


def inspect(data: bytes) -> Facts:
    """The facts in the header; no pixel is decoded. Raises :class:`ImageError`."""
    with _opened(data) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        width, height = reversed(image.size) if orientation in TURNED else image.size
        plain = image.format == "JPEG" and image.mode in ("L", "RGB") and orientation == 1
        tables = getattr(image, "quantization", None) or {}
        return Facts(
            format=image.format or "",
            mode=image.mode,
            width=width,
            height=height,
            encoding="original" if plain else "png",
            jpeg_quality=_quality(tables[0]) if 0 in tables else None,
            quantisation=_digest(tables) if tables else None,
        )


def decode(data: bytes) -> Pixels:
    """The picture as a person sees it: RGB, uint8, height × width × 3.

    EXIF rotation is applied, transparent parts lie on white, 16 bits are scaled to 8, grey is repeated in all three
    channels, CMYK is converted without a profile. Raises :class:`ImageError`.
    """
    with _opened(data) as image:
        image.load()
        return np.asarray(_rgb(ImageOps.exif_transpose(image)))


def encode_png(rgb: Pixels) -> bytes:
    """A PNG that decodes to exactly ``rgb`` (uint8, height × width × 3)."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected uint8 of height × width × 3, got {rgb.dtype} of {rgb.shape}")
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The image, its header read and found harmless; all that goes wrong in the block becomes :class:`ImageError`."""
    if not data:
        raise ImageError("empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files; verdicts are ours
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError("too many pixels")
                yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Image.DecompressionBombError:
        raise ImageError("too many pixels") from None
    except Exception as error:  # Pillow's readers raise anything on hostile bytes: struct.error, KeyError, SyntaxError…
        raise ImageError("truncated" if "truncated" in str(error).lower() else "damaged") from None


def _rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB."""
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(f"32-bit {image.mode} pixels")  # their range is anyone's guess
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image.convert("RGB")


def _digest(tables: dict[int, list[int]]) -> str:
    """Eight hexadecimal digits that name a set of quantisation tables."""
    return hashlib.blake2b(repr(sorted(tables.items())).encode(), digest_size=4).hexdigest()


def _quality(luminance: list[int]) -> int:
    """The quality setting (1–100) of libjpeg whose luminance table is nearest to this one."""
    return int(np.abs(_standard_tables() - np.asarray(luminance)).sum(axis=1).argmin()) + 1


@cache
def _standard_tables() -> NDArray[np.int64]:
    """The luminance tables of libjpeg for qualities 1 to 100: int64, 100 × 64. Pillow is asked for them."""
    tables = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("L", (8, 8)).save(buffer, "JPEG", quality=quality)
        tables.append(Image.open(buffer).quantization[0])  # type: ignore[attr-defined]
    return np.array(tables)
