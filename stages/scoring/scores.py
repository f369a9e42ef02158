"""One detector's scores on one split under one condition, read from its table and fit to make figures of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.errors import UserError

COLUMNS = ["member", "label", "logit", "score", "distance"]


@dataclass(frozen=True)
class Scores:
    """Scores of n images, in the order of their members."""

    member: NDArray[np.str_]  # (n,) the image's set and its name in the archive
    label: NDArray[np.int8]  # (n,) 1 fake, 0 real
    logit: NDArray[np.float64]  # (n,) finite
    score: NDArray[np.float64]  # (n,) P(fake), in [0, 1]
    distance: NDArray[np.float64]  # (n,) from the training faces, about 1 for these

    def of(self, members: NDArray[np.str_]) -> "Scores":
        """Those of the named images."""
        kept = np.isin(self.member, members)
        return Scores(*(getattr(self, column)[kept] for column in COLUMNS))


def conditions(path: Path | str) -> list[tuple[str, str]]:
    """The splits of a table and the conditions of each, in their order."""
    table = pq.read_table(path, columns=["split", "condition"]).to_pandas()
    return list(table.drop_duplicates().itertuples(index=False, name=None))


def read(path: Path | str, split: str, condition: str = "clean") -> Scores:
    """The scores of ``split`` (valid, test) under ``condition`` ("clean": on the images as they are), of all sets.

    Scores are stored as float32 and widened here, so that a threshold between two of them stays between them.
    Raises :class:`UserError` where the table is missing or broken, a score is not a number, or a class is absent.
    """
    found = _read(path, [("split", "=", split), ("condition", "=", condition)])
    for value, name in ((1, "fake"), (0, "real")):
        if not (found.label == value).any():
            raise UserError(
                f"{path}: the {split} split has no {name} image among {len(found.label)}, so nothing can be told "
                f"apart; give it some (sets and split in params.yaml) and run `dvc repro`"
            )
    return found


def read_set(path: Path | str, name: str) -> Scores:
    """The scores of the test images of one set, seen or not, as they are. A class may be absent."""
    return _read(path, [("split", "in", ("test", "unseen")), ("condition", "=", "clean"), ("set", "=", name)])


def _read(path: Path | str, wanted: list[tuple[str, str, Any]]) -> Scores:
    """The rows that match."""
    try:
        table = pq.read_table(path, columns=COLUMNS, filters=wanted).sort_by("member")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; make it with `dvc repro`") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a table of scores ({error}); delete it and run `dvc repro`") from None
    member, label, logit, score, distance = (table[column].to_numpy() for column in COLUMNS)
    broken = ~(np.isfinite(logit) & np.isfinite(score))
    if broken.any():
        raise UserError(
            f"{path}: the score of {member[broken][0]} is not a finite number ({broken.sum()} of {len(score)} "
            f"are not); the training diverged, so lower its learning_rate in params.yaml and run `dvc repro`"
        )
    return Scores(member.astype(np.str_), label, *(column.astype(np.float64) for column in (logit, score, distance)))
