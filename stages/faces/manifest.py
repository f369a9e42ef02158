"""data/manifests/NAME.csv: one row an image that takes part: ``member,label,split,group``."""

from pathlib import Path

import pandas as pd

from stages.errors import UserError
from stages.faces.layout import LABELS, SPLITS
from stages.files import publish

COLUMNS = {"member": "str", "label": "int8", "split": "str", "group": "int64"}
CHUNK = 2_000  # rows turned into text at a time


def write(manifest: pd.DataFrame, path: Path | str) -> None:
    """Publish the manifest, sorted by split then member."""
    by_name = manifest["member"].argsort().to_numpy()
    split = pd.factorize(manifest["split"], sort=True)[0]
    order = by_name[split[by_name].argsort(kind="stable")]
    with publish(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        for start in range(0, len(order), CHUNK):
            rows = manifest.iloc[order[start : start + CHUNK]]
            rows.to_csv(file, index=False, header=start == 0, columns=list(COLUMNS))


def read(path: Path | str) -> pd.DataFrame:
    """The manifest: ``member`` (str), ``label`` (int8: 1 fake, 0 real), ``split`` (str), ``group`` (int64).

    Raises :class:`UserError` if it is missing or no manifest.
    """
    try:
        manifest = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False)  # a member may be called NA
        if list(manifest) != list(COLUMNS):
            raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
        for column, known in (("label", LABELS.values()), ("split", SPLITS)):
            if not manifest[column].isin(list(known)).all():
                raise ValueError(f"a {column} is none of {', '.join(map(str, known))}")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the split stage first (`dvc repro split`)") from None
    except (ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no manifest ({reason}); write it again with `dvc repro -f split`") from None
    return manifest
