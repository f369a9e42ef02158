"""Whether a detector can be worth anything for photographs, before any figure is looked at."""

from collections.abc import Iterable
from typing import NamedTuple


class Caution(NamedTuple):
    """A sentence that belongs above all figures. ``worthless``: no answer about a photograph is worth showing."""

    sentence: str
    worthless: bool


def source(sources: Iterable[str]) -> str:
    """Where the faces of several sets came from, in one word: sample only if all of them did."""
    others = sorted(set(sources) - {"sample"})
    return " and ".join(others) or "sample"


def caution(source: str, weights: str) -> Caution | None:
    """What to know of a detector before its figures; None where they alone tell what it is worth.

    ``source``: where its faces came from, as :func:`source` says it. ``weights``: what its backbone started from
    (imagenet, folder or random).
    """
    if source == "sample":
        return Caution("Worth nothing for photographs: it was trained only on drawn faces.", True)
    if weights == "random":
        return Caution(
            "Do not rely on it yet: its backbone started from random weights, not from ImageNet's; train it again with "
            "those, or test it on other people's faces.",
            False,
        )
    return None
