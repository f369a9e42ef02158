"""Rows of features and their labels: one pair of files a split, so that no one holds them all.

``<split>.features.npy`` is float32, rows × width; ``<split>.labels.npy`` int8, 1 fake, 0 real.
"""

from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

Rows = tuple[np.ndarray, np.ndarray]  # features (rows × width) and labels (rows)


def create(folder: Path, split: str, count: int, width: int) -> Rows:
    """New files for the rows of a split, mapped, to be filled."""
    features = open_memmap(folder / f"{split}.features.npy", "w+", np.float32, (count, width))
    return features, open_memmap(folder / f"{split}.labels.npy", "w+", np.int8, (count,))


def read(folder: Path, split: str) -> Rows:
    """The rows of a split, mapped from their files."""
    features, labels = (np.load(folder / f"{split}.{kind}.npy", mmap_mode="r") for kind in ("features", "labels"))
    return features, labels
