"""Stage `preprocess`: the images of each split, shuffled into shards, in the bytes that they came in.

Reads ``data/raw/faces.zip``, ``data/index.parquet`` and ``data/manifest.csv``; writes ``data/shards/``. Nothing is
re-encoded, since compression is evidence; the few images that TensorFlow would decode differently (CMYK, 16 bits,
EXIF-rotated, other formats) are stored as lossless PNG of the pixels that the index saw.
"""

from pathlib import Path

import pandas as pd
from tqdm import tqdm

from stages.errors import run
from stages.faces import archive, manifest, records, shards
from stages.faces.layout import SPLITS
from stages.files import publish
from stages.params import load

ARCHIVE, INDEX, MANIFEST, SHARDS = (
    Path(path) for path in ("data/raw/faces.zip", "data/index.parquet", "data/manifest.csv", "data/shards")
)


def main() -> None:
    """Write the shards of all splits."""
    params = load()
    found = pd.read_parquet(INDEX, columns=["member", "place", "encoding"])
    images = manifest.read(MANIFEST).merge(found, on="member", how="left", validate="one_to_one")
    with archive.open_archive(ARCHIVE) as faces, publish(SHARDS) as folder:
        folder.mkdir()
        summaries = {}
        for split in SPLITS:
            shuffled = images[images["split"] == split].sample(frac=1, random_state=params.split.seed)
            found = tqdm(
                records.read(faces, shuffled), total=len(shuffled), desc=f"{split} shards", unit="image", disable=None
            )
            summaries[split] = shards.write(found, len(shuffled), folder, split, params.shards.images)
        shards.write_summary(folder, summaries)
    print("; ".join(f"{split}: {s['images']:,} images in {s['shards']} shards" for split, s in summaries.items()))


if __name__ == "__main__":
    run(main)
