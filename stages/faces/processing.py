"""One processing for all faces, so that what differs between sets or classes is neither the compressor nor the crop.

With ``image.jpeg`` every face, wherever it comes from, is brought to ``image.size`` and saved anew by one encoder, at
one quality and with one subsampling of the colours: where these differ, detectors learn them (Grommelt et al. 2024,
arXiv:2403.17608). With ``image.align`` it is first found and cut out as in photos. Photos that people judge take the
same steps.
"""

import io

import numpy as np
from PIL import Image

from stages.faces import image


def stored(data: bytes, *, size: int, jpeg: int | None, align: bool) -> bytes | None:
    """What shards hold of an image; of several faces the largest, and None if ``align`` finds no face.

    With ``jpeg`` (a quality, 1–100) or ``align`` it has ``size`` × ``size`` px, and is a JPEG with the first and a PNG
    without; with neither it is a PNG of all its pixels. Raises :class:`stages.faces.image.ImageError`.
    """
    picture = Image.fromarray(image.decode(data))
    if align:
        from stages.photos import alignment, finder  # they load LiteRT

        if not (faces := finder.find(picture)):
            return None
        picture = alignment.align(picture, max(faces, key=alignment.side), size)
    elif jpeg:
        picture = whole(picture, size, jpeg)
    return _jpeg(picture, jpeg) if jpeg else image.encode_png(np.asarray(picture))


def whole(picture: Image.Image, size: int, jpeg: int | None) -> Image.Image:
    """The picture as training sees one that is no crop of ours: untouched if it has the size, else its central square.

    Without ``jpeg`` it is resized as :func:`stages.faces.shards.decode` does it, within one grey level.
    """
    if picture.size == (size, size):
        return picture
    shorter = min(picture.size)
    left, top = (picture.width - shorter) // 2, (picture.height - shorter) // 2
    square = picture.crop((left, top, left + shorter, top + shorter))  # or the filter would reach beyond it
    return square.resize((size, size), Image.Resampling.LANCZOS if jpeg else Image.Resampling.BILINEAR)


def seen(face: Image.Image, jpeg: int | None) -> Image.Image:
    """What a network sees of a face of its size: the face itself or, with ``jpeg``, what that leaves of it."""
    return Image.open(io.BytesIO(_jpeg(face, jpeg))) if jpeg else face


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()
