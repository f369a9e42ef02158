"""data/manifest.csv: one row an image that takes part: ``member,label,split,group``."""

from pathlib import Path

import pandas as pd

from stages.errors import UserError
from stages.files import publish

COLUMNS = {"member": "str", "label": "int8", "split": "str", "group": "int64"}


def write(manifest: pd.DataFrame, path: Path | str) -> None:
    """Publish the manifest, sorted by split then member."""
    with publish(path) as part:
        by_name = manifest["member"].argsort().to_numpy()
        by_split = manifest["split"].iloc[by_name].argsort(kind="stable").to_numpy()
        manifest.iloc[by_name[by_split]].to_csv(part, index=False, columns=list(COLUMNS))


def read(path: Path | str) -> pd.DataFrame:
    """The manifest: ``member`` (str), ``label`` (int8: 1 fake, 0 real), ``split`` (str), ``group`` (int64).

    Raises :class:`UserError` if it is missing or no manifest.
    """
    try:
        manifest = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False)  # a member may be called NA
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the split stage first (`dvc repro split`)") from None
    except ValueError as error:
        raise UserError(f"{path} is no manifest ({error}); write it again with `dvc repro -f split`") from None
    if list(manifest) != list(COLUMNS):
        raise UserError(
            f"{path} has the columns {', '.join(manifest.columns)}, not {', '.join(COLUMNS)}; run `dvc repro -f split`"
        )
    return manifest
