"""Where an image belongs, by its path, and which files are no images: one rule for folders, zips and photos to judge.

An image belongs to the nearest folder above it that is named after a class: ``real`` or ``fake``. A folder named after
a split says its official one, ``train``, ``valid`` or ``test``: the nearest above the class, or else the nearest below.
People write these names in many ways (``0_real``, ``Training``, ``val``, ``training_fake``, ``test_set``): each word of
a name must be a known one. A set may say its classes in other ways too, which are in :mod:`stages.faces.classes`.
"""

import re
from functools import lru_cache
from typing import NamedTuple

LABELS = {"real": 0, "fake": 1}
SPLITS = ("train", "valid", "test")

_WORDS = {
    "real": "real",
    "fake": "fake",
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
    "testing": "test",
    **dict.fromkeys(("face", "faces", "image", "images", "set"), ""),  # may stand beside, and say nothing
}

# What systems and programs leave beside pictures: files and folders by their names, files by the ends of their names.
_CLUTTER = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini", "icon\r"}
_CLUTTER_ENDS = ("zone.identifier", ".xmp", ".aae")


class Place(NamedTuple):
    """A class ("real" or "fake") and an official split ("train", "valid", "test", or None)."""

    kind: str
    split: str | None

    def __str__(self) -> str:
        """Such as ``train/fake``, or ``fake`` where there is no split."""
        return f"{self.split}/{self.kind}" if self.split else self.kind


def is_clutter(path: str) -> bool:
    """Whether a path, of a zip or below a folder, is hidden or in a hidden folder, or what systems leave behind."""
    parts = _parts(path.lower())
    hidden = any(part.startswith(".") and part not in (".", "..") for part in parts)
    return hidden or not _CLUTTER.isdisjoint(parts) or parts[-1].endswith(_CLUTTER_ENDS)


def place_of(path: str, kind: str | None = None) -> Place | None:
    """The place of a member of an archive, or of a path below a folder; None for what is no image of either class.

    ``kind`` is the class where something else than a folder's name says it; the split is the folders' all the same.
    """
    *folders, name = _parts(path)
    by_folder = split = below = None
    for folder in reversed(folders):
        named = _named_after(folder)
        by_folder = by_folder or next((name for name in named if name in LABELS), None)
        found = next((name for name in named if name in SPLITS), None)
        if by_folder:
            split = split or found
        else:
            below = below or found
    kind = kind or by_folder
    return Place(kind, split or below) if kind and name and not is_clutter(path) else None


def _parts(path: str) -> list[str]:
    """The names in a path; zips made by Windows have backslashes between them."""
    return path.replace("\\", "/").split("/")


@lru_cache(maxsize=1024)  # a hundred thousand images share a few folders
def _named_after(folder: str) -> list[str]:
    """The class, the split, or both, that a folder is named after; none if it has another word, or two of a kind."""
    words = [_WORDS.get(word) for word in re.findall(r"[^\W\d_]+", folder.lower())]
    named = {word for word in words if word}
    if None in words or any(len(named.intersection(kinds)) > 1 for kinds in (LABELS, SPLITS)):
        return []
    return list(named)
