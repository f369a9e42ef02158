"""How far a loop is: a bar on a terminal; elsewhere, in a file say, a line now and then."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

PAUSE = 15.0  # s before the first line, and between two

Item = TypeVar("Item")


class Lines(tqdm):
    """A bar that is printed as lines, and not at all where the loop is done within the pause."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        often = {"mininterval": PAUSE, "miniters": 1, "delay": PAUSE}
        super().__init__(*arguments, **options | often, ncols=0, gui=True)  # not drawn by tqdm itself

    def display(self, *_: Any, **__: Any) -> None:
        """Print the line."""
        print(self, file=sys.stderr, flush=True)


def progress(iterable: Iterable[Item] | None = None, **options: Any) -> "tqdm[Item]":
    """:class:`tqdm.tqdm` of these options where standard error is a terminal, else :class:`Lines`."""
    return (tqdm if sys.stderr.isatty() else Lines)(iterable, **options)
