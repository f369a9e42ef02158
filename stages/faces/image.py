"""One image: bytes to pixels and facts, by Pillow, with limits; and pixels to a lossless PNG.

Bytes are untrusted: only common still formats are tried, the size is checked in the header before anything is decoded,
and truncated files are refused. Of an animation the first frame counts, and of metadata the EXIF orientation, where it
can be read. Colour profiles are ignored, as TensorFlow ignores them.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageStat, UnidentifiedImageError

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF")
UNREAD = {  # formats that people have all the same, by how their files begin
    "HEIC": re.compile(rb".{4}ftyp(hei|hev|mif1|msf1)", re.DOTALL),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "JPEG XL": re.compile(rb"\0\0\0\x0cJXL |\xff\x0a"),
}
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 65_000_000  # a phone's photograph of 64 megapixels, 9248 × 6936
PEAK_BYTES = 17 * MAX_PIXELS  # 1.1 GB, what decoding a WebP takes at most; an AVIF takes 10 a pixel, the others 8
MAX_SCANS = 100  # of a JPEG; a progressive one has about ten, and each takes as long as a whole baseline one
BAND = 2**15  # px turned into RGB at a time: few enough for the cache
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height

# A part of a JPEG: a marker, two bytes of length, and content; after SOS comes coded data, up to the next marker that
# neither restarts it (D0 to D7) nor stands for a byte FF (00).
PART = re.compile(rb"\xff+([\xc0-\xcf\xda-\xfe])(..)", re.DOTALL)
NEXT = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, with Huffman codes: what every decoder takes
SOS, EOI = 0xDA, b"\xff\xd9"
JPEG_METADATA = (*range(0xE2, 0xEE), 0xEF, 0xFE)  # not JFIF and Adobe, which tell the colours, nor EXIF and XMP
PNG_OPTIONS = (b"tRNS", b"eXIf")  # the other optional chunks are metadata


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
        orientation = _orientation(image)
        swapped = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation) in TURNED  # by Pillow, of a TIFF
        turned = orientation in TURNED and not swapped
        width, height = reversed(image.size) if turned else image.size
        plain = image.format == "JPEG" and image.mode in ("L", "RGB") and orientation == 1 and _jpeg(data)[1]
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
    channels, CMYK is converted without a profile. Raises :class:`ImageError`, or MemoryError where there is no room.
    """
    with _opened(data) as image:
        image.load()
        orientation = _orientation(image)  # Pillow has turned a TIFF by now
        pixels = np.empty((image.height, image.width, 3), np.uint8)
        rows = max(BAND // image.width, 1)
        for top in range(0, image.height, rows):
            band = image.crop((0, top, image.width, min(top + rows, image.height)))
            pixels[top : top + rows] = np.asarray(_rgb(band))
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


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
        bare = _jpeg(data)[0] if data.startswith(JPEG) else _png(data) if data.startswith(PNG) else data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files; verdicts are ours
            with Image.open(io.BytesIO(bare), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        for name, beginning in UNREAD.items():
            if beginning.match(data):
                raise ImageError(f"{name}, which is not read; save it as JPEG or PNG") from None
        raise ImageError("not an image") from None
    except Image.DecompressionBombError:
        raise ImageError(f"larger than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's readers raise anything on hostile bytes: struct.error, KeyError, SyntaxError…
        np.empty(PEAK_BYTES, np.uint8)  # MemoryError if that was why: those of WebP and AVIF do not say
        raise ImageError("truncated" if "truncated" in str(error).lower() else "damaged") from None


def _jpeg(data: bytes) -> tuple[bytes, bool]:
    """A JPEG without its metadata, and whether it is whole: well-formed up to EOI, each coefficient to its last bit.

    Of others, decoders make what they like: TensorFlow's fails, or smooths what is missing otherwise than Pillow's.
    Raises :class:`ImageError` at too many scans.
    """
    kept, place, end = [], 0, 2
    scans, wanted = 0, 0
    lacking = dict[tuple[int, int], int]()  # bits, of each coefficient of each component
    while scans <= MAX_SCANS and (part := PART.match(data, end)):
        kind, start, end = part[1][0], end, part.end(1) + int.from_bytes(part[2])
        content = data[part.end() : end]
        if kind == SOS:
            scans += 1
            if len(content) in (6, 8, 10):
                coefficients = product(content[1:-3:2], range(content[-3], content[-2] + 1))
                lacking.update(dict.fromkeys(coefficients, content[-1] & 15))
            following = NEXT.search(data, end)
            end = following.start() if following else len(data)
        elif kind in FRAMES and len(content) >= 6:
            wanted = 64 * content[5]
        elif kind in JPEG_METADATA:
            kept.append(data[place:start])
            place = end
    ended = data.startswith(EOI, end)
    if scans + (0 if ended else data.count(b"\xff\xda", end)) > MAX_SCANS:
        raise ImageError(f"a JPEG of more than {MAX_SCANS} scans")
    return b"".join([*kept, data[place:]]), ended and len(lacking) == wanted > 0 == sum(lacking.values())


def _png(data: bytes) -> bytes:
    """A PNG without its metadata."""
    kept, place, end = [], 0, 8
    while end < len(data):
        start, end = end, end + 12 + int.from_bytes(data[end : end + 4])
        kind = data[start + 4 : start + 8]
        if kind[:1].islower() and kind not in PNG_OPTIONS:
            kept.append(data[place:start])
            place = end
    return b"".join([*kept, data[place:]])


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where none can be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as hostile as the rest
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


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
    return image if image.mode == "RGB" else image.convert("RGB")


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


def colours(rgb: Pixels) -> dict[str, float]:
    """Mean and standard deviation of each channel (0–255), by their names in the index."""
    found = ImageStat.Stat(Image.fromarray(rgb))
    return {
        f"{figure}_{channel}": value
        for figure, values in (("mean", found.mean), ("std", found.stddev))
        for channel, value in zip(("red", "green", "blue"), values, strict=True)
    }
