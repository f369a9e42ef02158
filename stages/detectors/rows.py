"""Rows of features and their labels: one pair of files a split, so that no one holds them all.

``<split>.features.npy`` is float32, rows × width; ``<split>.labels.npy`` int8, 1 fake, 0 real.
"""

import os
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

Rows = tuple[np.ndarray, np.ndarray]  # features (rows × width) and labels (rows)


def create(folder: Path, split: str, count: int, width: int) -> Rows:
    """New files for the rows of a split, mapped, to be filled; a disk without room for them is an OSError."""
    features = _mapped(folder / f"{split}.features.npy", np.float32, (count, width))
    return features, _mapped(folder / f"{split}.labels.npy", np.int8, (count,))


def _mapped(path: Path, kind: type, shape: tuple[int, ...]) -> np.ndarray:
    rows = open_memmap(path, "w+", kind, shape)
    if hasattr(os, "posix_fallocate"):  # Macs lack it. A full disk kills a process that writes into a map
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return rows


def read(folder: Path, split: str) -> Rows:
    """The rows of a split, mapped from their files."""
    features, labels = (np.load(folder / f"{split}.{kind}.npy", mmap_mode="r") for kind in ("features", "labels"))
    return features, labels
