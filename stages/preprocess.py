"""Stage `preprocess`: the images of each split of a set, shuffled into shards, in their own bytes or all processed.

Reads ``data/raw/NAME.zip``, ``data/index/NAME.parquet`` and ``data/manifests/NAME.csv``; writes
``data/shards/SPLIT/NAME/``, which is empty where the set has no image in that split. Unless ``image.jpeg`` or
``image.align`` asks for it (:mod:`stages.faces.processing`), nothing is re-encoded, since compression is evidence; the
few images that TensorFlow would decode differently (CMYK, 16 bits, EXIF-rotated, other formats) are stored as lossless
PNG of the pixels that the index saw. A member's name begins with that of its set. ``data/processed/NAME.json`` says how
many images had no face and, of processed ones, how well the classes can still be told apart without looking at one.
"""

from itertools import chain, islice, starmap
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from stages.errors import UserError, run
from stages.faces import archive, audit, manifest, records, shards
from stages.faces.layout import SPLITS
from stages.files import publish, reading, write_json
from stages.params import load, set_argument
from stages.progress import progress

ARCHIVES, INDEXES, MANIFESTS, PROCESSED = (
    Path(path) for path in ("data/raw", "data/index", "data/manifests", "data/processed")
)


def main() -> None:
    """Write the shards of a set."""
    name = set_argument(main.__doc__)
    params = load()
    images = with_places(manifest.read(MANIFESTS / f"{name}.csv"), INDEXES / f"{name}.parquet")
    counts = []
    with archive.open_archive(ARCHIVES / f"{name}.zip") as faces:
        for split in SPLITS:
            shuffled = images[images["split"] == split].sample(frac=1, random_state=params.split.seed)
            with publish(shards.folder(split, name)) as part:
                part.mkdir()
                stream = progress(
                    starmap(shards.Record, records.read(name, faces, shuffled, **params.image.processing)),
                    total=len(shuffled),
                    desc=f"{name}, {split} shards",
                    unit="image",
                )
                counts.append(shards.write(stream, len(shuffled), part, params.shards.images))
    said = (
        f"{split}: {count['images']:,} images in {count['shards']} shards"
        for split, count in zip(SPLITS, counts, strict=True)
    )
    print(f"{name}, {'; '.join(said)}")
    found: dict[str, float | None] = {"without_face": len(images) - sum(int(count["images"]) for count in counts)}
    if params.image.jpeg or params.image.align:
        found |= shortcuts(name, images)
        auc = "unknown, too few images of a class" if found["shortcut_auc"] is None else f"{found['shortcut_auc']:.2f}"
        print(f"processed alike: {found['without_face']:,} left out without a face; shortcut AUC now: {auc}")
    write_json(PROCESSED / f"{name}.json", found)


def shortcuts(name: str, images: pd.DataFrame) -> dict[str, float | None]:
    """:func:`stages.faces.audit.shortcut_auc` of what the shards of a set hold, and its interval.

    ``images``: those of the manifest. Compressed alike, a busier face is still a larger file.
    """
    groups = {f"{name}/{member}": group for member, group in zip(images["member"], images["group"], strict=True)}
    stored = chain.from_iterable(shards.stored(shards.folder(split, name)) for split in SPLITS)
    some = islice(stored, None, None, len(images) // audit.SHORTCUT_IMAGES + 1)
    rows = [
        {"label": record.label, "group": groups[record.member], **audit.described(record.image)}
        for record in progress(some, desc=f"{name}, shortcuts", unit="image", leave=False)
    ]
    auc, low, high = audit.shortcut_auc(pd.DataFrame(rows))
    return {"shortcut_auc": auc, "shortcut_auc_low": low, "shortcut_auc_high": high}


def with_places(images: pd.DataFrame, index: Path) -> pd.DataFrame:
    """The images of a manifest, with the ``place`` and the ``encoding`` that the index found for each.

    Raises :class:`UserError` if the index does not know them all: the manifest was made from another one. (A merge does
    the same in three times the memory.)
    """
    with reading(index), pq.ParquetFile(index) as file:
        table = file.read(["member", "place", "encoding", "verdict"])
    known: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    known = known[known.pop("verdict") == "ok"]  # the only ones whose names are sure to be unique
    rows = pd.Index(known.pop("member")).get_indexer(images["member"])
    if missing := int((rows < 0).sum()):
        raise UserError(
            f"{MANIFESTS / index.stem}.csv names {missing:,} images that {index} does not know as sound (such as "
            f"{images['member'][rows < 0].iloc[0]!r}); write it again with `dvc repro -f split`"
        )
    return images.assign(place=known["place"].to_numpy()[rows], encoding=known["encoding"].array.take(rows))


if __name__ == "__main__":
    run(main)
