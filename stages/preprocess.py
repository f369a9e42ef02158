"""Stage `preprocess`: the images of each split, shuffled into shards, in the bytes that they came in.

Reads ``data/raw/faces.zip``, ``data/index.parquet`` and ``data/manifest.csv``; writes ``data/shards/``. Nothing is
re-encoded, since compression is evidence; the few images that TensorFlow would decode differently (CMYK, 16 bits,
EXIF-rotated, other formats) are stored as lossless PNG of the pixels that the index saw.
"""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from tqdm import tqdm

from stages.errors import UserError, run
from stages.faces import archive, manifest, records, shards
from stages.faces.layout import SPLITS
from stages.files import publish, reading
from stages.params import load

ARCHIVE, INDEX, MANIFEST, SHARDS = (
    Path(path) for path in ("data/raw/faces.zip", "data/index.parquet", "data/manifest.csv", "data/shards")
)


def main() -> None:
    """Write the shards of all splits."""
    params = load()
    images = with_places(manifest.read(MANIFEST))
    with archive.open_archive(ARCHIVE) as faces, publish(SHARDS) as folder:
        folder.mkdir()
        summaries = {}
        for split in SPLITS:
            shuffled = images[images["split"] == split].sample(frac=1, random_state=params.split.seed)
            stream = tqdm(
                records.read(faces, shuffled), total=len(shuffled), desc=f"{split} shards", unit="image", disable=None
            )
            summaries[split] = shards.write(stream, len(shuffled), folder, split, params.shards.images)
        shards.write_summary(folder, summaries)
    print("; ".join(f"{split}: {s['images']:,} images in {s['shards']} shards" for split, s in summaries.items()))


def with_places(images: pd.DataFrame) -> pd.DataFrame:
    """The images of a manifest, with the ``place`` and the ``encoding`` that the index found for each.

    Raises :class:`UserError` if the index does not know them all: the manifest was made from another one. (A merge does
    the same in three times the memory.)
    """
    with reading(INDEX), pq.ParquetFile(INDEX) as file:
        table = file.read(["member", "place", "encoding", "verdict"])
    index: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    index = index[index.pop("verdict") == "ok"]  # the only ones whose names are sure to be unique
    rows = pd.Index(index.pop("member")).get_indexer(images["member"])
    if missing := int((rows < 0).sum()):
        raise UserError(
            f"{MANIFEST} names {missing:,} images that {INDEX} does not know as sound (such as "
            f"{images['member'][rows < 0].iloc[0]!r}); write it again with `dvc repro -f split`"
        )
    return images.assign(place=index["place"].to_numpy()[rows], encoding=index["encoding"].array.take(rows))


if __name__ == "__main__":
    run(main)
