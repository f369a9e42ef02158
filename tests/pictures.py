"""Pictures without a face, and archives of them, for tests of what looks at archives alone."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from stages.files import write_json


def picture(seed, side=32):
    """A picture like no other seed's."""
    colours = np.random.default_rng(seed).integers(0, 256, (16, 17, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC)


def encoded(picture, kind="JPEG", **options):
    """Its bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def faces(count):
    """``count`` sound JPEGs a class."""
    return {
        f"{kind}/{number:03}.jpg": encoded(picture(number + 1000 * (kind == "fake")))
        for kind in ("real", "fake")
        for number in range(count)
    }


def archive(name, members):
    """Lay {name: bytes} where the stage `download` would lay the set ``name``."""
    Path("data/raw").mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(f"data/raw/{name}.zip", "w") as file:
        for member, data in members.items():
            file.writestr(member, data)
    write_json(f"data/raw/{name}.json", {})
