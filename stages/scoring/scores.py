"""One detector's scores on one split, read from its table and fit to make figures of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.errors import UserError

COLUMNS = ["member", "label", "logit", "score"]


@dataclass(frozen=True)
class Scores:
    """Scores of n images, in the order of their members."""

    member: NDArray[np.str_]  # (n,) the image's name in the archive
    label: NDArray[np.int8]  # (n,) 1 fake, 0 real; both occur
    logit: NDArray[np.float64]  # (n,) finite
    score: NDArray[np.float64]  # (n,) P(fake), in [0, 1]


def read(path: Path | str, split: str) -> Scores:
    """The scores of ``split`` (valid or test), on the images as they are (condition "clean").

    Scores are stored as float32 and widened here, so that a threshold between two of them stays between them.
    Raises :class:`UserError` where the table is missing or broken, a score is not a number, or a class is absent.
    """
    wanted = [("split", "=", split), ("condition", "=", "clean")]
    try:
        table = pq.read_table(path, columns=COLUMNS, filters=wanted).sort_by("member")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; make it with `dvc repro`") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a table of scores ({error}); delete it and run `dvc repro`") from None
    member, label, logit, score = (table[column].to_numpy() for column in COLUMNS)
    broken = ~(np.isfinite(logit) & np.isfinite(score))
    if broken.any():
        raise UserError(
            f"{path}: the {split} score of {member[broken][0]} is not a finite number ({broken.sum()} of {len(score)} "
            f"are not); the training diverged, so lower its learning_rate in params.yaml and run `dvc repro`"
        )
    for value, name in ((1, "fake"), (0, "real")):
        if not (label == value).any():
            raise UserError(
                f"{path}: the {split} split has no {name} image among {len(label)}, so nothing can be told apart; "
                f"give it some (data and split in params.yaml) and run `dvc repro`"
            )
    return Scores(member.astype(np.str_), label, logit.astype(np.float64), score.astype(np.float64))
