"""Which of the test images show a detector's answers, and which check its evidence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.intp]  # numbers of images


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of answer, and the images chosen to show it."""

    name: str
    title: str  # says how many of how many are shown, and how they were chosen
    of: int  # images with this kind of answer
    shown: Images


def kinds(
    label: NDArray[np.int8],
    logit: NDArray[np.float64],
    called_fake: NDArray[np.bool_],
    most: int,
    generator: np.random.Generator,
) -> list[Kind]:
    """Right and wrong answers on real and fake faces, ``most`` of each: right ones are drawn, wrong ones the most sure.

    The arrays are (n,), label 1 fake, 0 real. A kind that does not occur is there too, and says so.
    """
    found = []
    for name, title, fake, answer in (
        ("right_real", "Real, called real", False, False),
        ("right_fake", "Fake, called fake", True, True),
        ("false_alarms", "False alarms: real, called fake", False, True),
        ("misses", "Misses: fake, called real", True, False),
    ):
        there = np.flatnonzero(((label == 1) == fake) & (called_fake == answer))
        if fake == answer:
            shown, how = draw(there, most, generator), "drawn at random"
        else:
            shown = there[np.argsort(-logit[there] if answer else logit[there], kind="stable")][:most]
            how = "the most confident"
        if not len(there):
            count = f"none among {((label == 1) == fake).sum():,} {'fake' if fake else 'real'} faces"
        elif len(there) <= most:
            count = f"all {len(there)}"
        else:
            count = f"{most} of {len(there):,}, {how}"
        found.append(Kind(name, f"{title} ({count})", len(there), shown))
    return found


def probes(called_fake: NDArray[np.bool_], number: int, generator: np.random.Generator) -> Images:
    """``number`` images drawn, half of those called real, half of those called fake; fewer where there are fewer."""
    halves = [draw(np.flatnonzero(called_fake == answer), number // 2, generator) for answer in (False, True)]
    return np.concatenate(halves)


def draw(images: Images, most: int, generator: np.random.Generator) -> Images:
    """``most`` of the images, or all that there are, drawn without replacement."""
    return generator.permutation(images)[:most]
