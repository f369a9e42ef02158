"""Where an image belongs, by its path: to the nearest folder ``real`` or ``fake`` above it, upper or lower case.

A folder ``train``, ``valid`` or ``test`` above it names its official split. What is hidden or in a
hidden folder, and what operating systems leave behind, is no image.
"""

from pathlib import PurePosixPath
from typing import NamedTuple

LABELS = {"real": 0, "fake": 1}
SPLITS = ("train", "valid", "test")


class Place(NamedTuple):
    """A class ("real" or "fake") and an official split ("train", "valid", "test", or None)."""

    kind: str
    split: str | None

    def __str__(self) -> str:
        """Such as ``train/fake``, or ``fake`` where there is no split."""
        return f"{self.split}/{self.kind}" if self.split else self.kind


def place_of(member: str) -> Place | None:
    """The place of a member of an archive, or of a path below a folder; None for what is no image of either class."""
    path = PurePosixPath(member.replace("\\", "/"))
    folders = [folder.lower() for folder in reversed(path.parts[:-1])]
    kind = next((folder for folder in folders if folder in LABELS), None)
    hidden = any(part.startswith(".") and part != ".." for part in path.parts)
    if kind is None or hidden or path.name.lower() == "thumbs.db" or "__macosx" in folders:
        return None
    return Place(kind, next((folder for folder in folders if folder in SPLITS), None))
