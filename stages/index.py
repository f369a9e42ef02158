"""Stage `index`: what is in the archive, image by image, and what that says about the corpus.

Reads ``data/raw/faces.zip``. Writes ``data/index.parquet`` (one row a face), ``metrics/data.json``,
``plots/data/counts.csv``, ``plots/data/file_size.csv``, ``data/quarantine.csv`` and ``data/contact_sheet.jpg``. Every
image is opened, decoded and hashed, by one process a core. Images that cannot be used are quarantined: they keep their
row, with the reason as their verdict, and are listed in ``data/quarantine.csv`` (member, reason). Neither seeds nor
fractions of a split matter here.
"""

import hashlib
import multiprocessing
import os
import signal
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageStat
from tqdm import tqdm

from stages import params
from stages.errors import UserError, run
from stages.faces import archive, audit, duplicates, image
from stages.faces.archive import Member
from stages.faces.layout import LABELS
from stages.files import publish, write_json

ARCHIVE = "data/raw/faces.zip"
INDEX = "data/index.parquet"
QUARANTINE = "data/quarantine.csv"

# What a worker finds out about one face. The last six columns, channel means and deviations (0–255), serve the audit.
SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("label", pa.int8()),
        ("split", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("format", pa.string()),
        ("mode", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("encoding", pa.string()),
        ("jpeg_quality", pa.int8()),
        ("quantisation", pa.string()),
        ("dhash", pa.string()),
        ("verdict", pa.string()),
        *[(f"{figure}_{channel}", pa.float32()) for figure in ("mean", "std") for channel in ("red", "green", "blue")],
    ]
)

CHUNK = 64  # images a worker describes at a time
ROW_GROUP = 10_000  # rows, so that readers need not hold the whole index
MAX_WORKERS = 16  # each holds the archive's table of contents, 100 MB for 140,000 images
SHEET_FACES = 8  # of each class
SHEET_SIDE = 128  # px


def main() -> None:
    """Index the archive."""
    data = params.load().data
    with archive.open_archive(ARCHIVE) as faces:
        listing = archive.listing(faces)
        table = _describe_all(listing.faces)
        index = table.to_pandas()
        _check(index, data.max_quarantined)
        ok = (index["verdict"] == "ok").to_numpy()
        likeness = duplicates.alike(duplicates.hash_bytes(index.loc[ok, "dhash"]), data.near_duplicate_bits)
        index["group"] = -1
        index.loc[ok, "group"] = likeness.group
        figures = audit.figures(index, likeness, listing.other)
        sheet = _contact_sheet(faces, index[ok])

    table = table.append_column("group", pa.array(index["group"], pa.int64()))
    with publish(INDEX) as part:
        pq.write_table(table, part, row_group_size=ROW_GROUP)
    quarantined = index.loc[~ok, ["member", "verdict"]].rename(columns={"verdict": "reason"})
    with publish(QUARANTINE) as part:
        quarantined.to_csv(part, index=False)
    with publish("data/contact_sheet.jpg") as part:
        sheet.save(part, quality=90)
    with publish("plots/data/counts.csv") as part:
        audit.counts(index).to_csv(part, index=False)
    with publish("plots/data/file_size.csv") as part:
        audit.file_sizes(index).to_csv(part, index=False)
    write_json("metrics/data.json", figures)
    _summarise(figures, quarantined["reason"], data.max_shortcut_auc)


def _describe_all(members: list[Member]) -> pa.Table:
    """One row a member, in their order, made by parallel processes that each open the archive."""
    chunks = [members[start : start + CHUNK] for start in range(0, len(members), CHUNK)]
    workers = min(os.cpu_count() or 1, MAX_WORKERS, len(chunks))
    batches = []
    with (
        tqdm(total=len(members), desc="index", unit="image", disable=None) as bar,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (ARCHIVE,)) as pool,
    ):
        try:
            for batch in pool.map(_describe_chunk, chunks):
                batches.append(batch)
                bar.update(len(batch))
        except BrokenProcessPool:
            raise UserError(
                f"{ARCHIVE}: a process died while reading images, likely for lack of memory; free some and run again"
            ) from None
    return pa.Table.from_batches(batches, SCHEMA)


_archive: zipfile.ZipFile  # of this worker process


def _start_worker(path: str) -> None:
    """Open the archive once in a worker; leave Ctrl-C to the parent."""
    global _archive
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _archive = archive.open_archive(path)


def _describe_chunk(members: list[Member]) -> pa.RecordBatch:
    """One row a member."""
    return pa.RecordBatch.from_pylist([_describe(member) for member in members], SCHEMA)


def _describe(member: Member) -> dict[str, Any]:
    """The row of one member: as much as could be found out, and the verdict."""
    row: dict[str, Any] = {"member": member.name, "label": member.label, "split": member.split, "bytes": member.size}
    if member.problem:
        return row | {"verdict": member.problem}
    try:
        data = archive.read(_archive, member.name)
        row["sha256"] = hashlib.sha256(data).hexdigest()
        row |= asdict(image.inspect(data))
        rgb = image.decode(data)
    except (archive.MemberError, image.ImageError) as error:
        return row | {"verdict": str(error)}
    colours = ImageStat.Stat(Image.fromarray(rgb))
    return row | {
        "dhash": duplicates.dhash(rgb),
        "verdict": "ok",
        **dict(zip(("mean_red", "mean_green", "mean_blue"), colours.mean, strict=True)),
        **dict(zip(("std_red", "std_green", "std_blue"), colours.stddev, strict=True)),
    }


def _check(index: pd.DataFrame, max_quarantined: float) -> None:
    """Stop if too many images are unusable, or if a class has none left."""
    bad = index[index["verdict"] != "ok"]
    if len(bad) > max_quarantined * len(index):
        reason = bad["verdict"].mode()[0]
        example = bad.loc[bad["verdict"] == reason, "member"].iloc[0]
        raise UserError(
            f"{ARCHIVE}: {len(bad):,} of {len(index):,} images cannot be used, most often as {reason} (such as "
            f"{example!r}), more than data.max_quarantined = {max_quarantined:g} allows; mend the archive or raise "
            "that key"
        )
    for name, label in LABELS.items():
        if not ((index["label"] == label) & (index["verdict"] == "ok")).any():
            raise UserError(f"{ARCHIVE}: not one {name} image can be used; mend the archive")


def _contact_sheet(faces: zipfile.ZipFile, images: pd.DataFrame) -> Image.Image:
    """A row of faces for each class, evenly drawn from the archive, under the name of the class."""
    caption = 16
    sheet = Image.new("RGB", (SHEET_FACES * SHEET_SIDE, len(LABELS) * (SHEET_SIDE + caption)), "white")
    for row, (name, label) in enumerate(LABELS.items()):
        top = row * (SHEET_SIDE + caption)
        ImageDraw.Draw(sheet).text((4, top + 2), name, "black")
        for column, member in enumerate(_evenly(images.loc[images["label"] == label, "member"])):
            face = Image.fromarray(image.decode(archive.read(faces, member)))
            sheet.paste(face.resize((SHEET_SIDE, SHEET_SIDE)), (column * SHEET_SIDE, top + caption))
    return sheet


def _evenly(members: pd.Series) -> Iterator[str]:
    """At most ``SHEET_FACES`` of the members, evenly spaced."""
    places = np.linspace(0, len(members) - 1, min(SHEET_FACES, len(members))).astype(int)
    yield from members.iloc[places]


def _summarise(figures: dict[str, float | None], reasons: pd.Series, max_shortcut_auc: float) -> None:
    """What there is, what was quarantined and why, and a warning if the classes can be told apart without a face."""
    auc = figures["shortcut_auc"]
    print(
        f"{INDEX}: {figures['images']:,} images ({figures['real']:,} real, {figures['fake']:,} fake), "
        f"{figures['quarantined']:,} quarantined ({QUARANTINE}), {figures['other_files']:,} other files skipped"
    )
    for reason, images in reasons.value_counts().items():
        print(f"  {images:,} quarantined: {reason}")
    print(
        f"pairs of duplicates: {figures['exact_duplicates']:,} exact, {figures['near_duplicates']:,} near; "
        f"across splits: {figures['exact_duplicates_across_splits']:,} exact, "
        f"{figures['near_duplicates_across_splits']:,} near"
    )
    print(f"shortcut AUC: {'unknown, too few images' if auc is None else f'{auc:.2f}'}")
    if auc is not None and auc > max_shortcut_auc:
        print(
            f"WARNING: file size, format and average colour alone tell real from fake with AUC {auc:.2f} (more than "
            f"data.max_shortcut_auc = {max_shortcut_auc:g}). A detector trained on these images may learn how the "
            "files were made, and nothing about faces."
        )


if __name__ == "__main__":
    run(main)
