"""Stage `index`: what is in the archive, image by image, and what that says about the corpus.

Reads ``data/raw/faces.zip``. Writes ``data/index.parquet`` (one row a face), ``metrics/data.json``,
``plots/data/`` (``counts.csv``, ``properties.csv``, ``file_size.csv``), ``data/quarantine.csv`` and
``data/contact_sheet.jpg``. Every image is opened, decoded and hashed, by one process a core. Images that cannot be used
are quarantined: they keep their row, with the reason as their verdict, and are listed in ``data/quarantine.csv``
(member, reason). Neither seeds nor fractions of a split matter here.
"""

import hashlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
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
from stages.faces.zips import Zip
from stages.files import publish, write_json

ARCHIVE = "data/raw/faces.zip"
INDEX = "data/index.parquet"
QUARANTINE = "data/quarantine.csv"

# What a worker finds out about one face. ``place`` is that of its entry in the archive's table of contents; the last
# six columns, channel means and deviations (0–255), serve the audit.
SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("place", pa.int64()),
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
MAX_WORKERS = 16  # each takes 100 MB
SHEET_FACES = 8  # of each class
SHEET_SIDE = 128  # px


def main() -> None:
    """Index the archive."""
    data = params.load().data
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what is freed
    with archive.open_archive(ARCHIVE) as faces:
        table, other = _describe_all(faces)
        index = table.to_pandas(split_blocks=True)
        _check(index, data.max_quarantined)
        ok = (index["verdict"] == "ok").to_numpy()
        likeness = duplicates.alike(duplicates.hash_bytes(index.pop("dhash")[ok]), data.near_duplicate_bits)
        index["group"] = -1
        index.loc[ok, "group"] = likeness.group
        sheet = _contact_sheet(faces, index[ok])

    with publish(INDEX) as part:
        table = table.append_column("group", pa.array(index["group"], pa.int64()))
        pq.write_table(table, part, row_group_size=ROW_GROUP)
    del table  # before the audit, which needs the most memory
    figures = audit.figures(index, likeness, other)
    quarantined = index.loc[~ok, ["member", "verdict"]].rename(columns={"verdict": "reason"})
    with publish(QUARANTINE) as part:
        quarantined.to_csv(part, index=False)
    with publish("data/contact_sheet.jpg") as part:
        sheet.save(part, quality=90)
    for name, plot in (("counts", audit.counts), ("properties", audit.properties), ("file_size", audit.file_sizes)):
        with publish(f"plots/data/{name}.csv") as part:
            plot(index).to_csv(part, index=False)
    write_json("metrics/data.json", figures)
    _summarise(figures, quarantined["reason"], data.max_shortcut_auc)


def _describe_all(faces: Zip) -> tuple[pa.Table, int]:
    """One row a face, in the archive's order, and the number of other members.

    The rows are made by parallel processes that each open the archive. They wait in a file, since there is room for
    them in memory only when the processes have ended.
    """
    members, other = archive.listing(faces)
    chunks = [members[start : start + CHUNK] for start in range(0, len(members), CHUNK)]
    workers = min(os.cpu_count() or 1, MAX_WORKERS, len(chunks))
    with tempfile.TemporaryFile(dir=Path(ARCHIVE).parent) as file:
        with (
            pa.ipc.new_stream(file, SCHEMA) as rows,
            tqdm(total=len(members), desc="index", unit="image", disable=None) as bar,
            ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (ARCHIVE,)) as pool,
        ):
            try:
                for batch in pool.map(_describe_chunk, chunks):
                    rows.write_batch(batch)
                    bar.update(len(batch))
            except BrokenProcessPool:
                raise UserError(
                    f"{ARCHIVE}: a process died while reading images, likely for lack of memory; "
                    "free some and run again"
                ) from None
        file.seek(0)
        return pa.ipc.open_stream(file).read_all(), other


_archive: Zip  # of this worker process


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
    row: dict[str, Any] = {
        "member": member.name,
        "place": member.place,
        "label": member.label,
        "split": member.split,
        "bytes": member.size,
    }
    if member.problem:
        return row | {"verdict": member.problem}
    try:
        data = archive.read(_archive, member.name, member.place)
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


def _contact_sheet(faces: Zip, images: pd.DataFrame) -> Image.Image:
    """A row of faces for each class, evenly drawn from the archive, under the name of the class."""
    caption = 16
    sheet = Image.new("RGB", (SHEET_FACES * SHEET_SIDE, len(LABELS) * (SHEET_SIDE + caption)), "white")
    for row, (name, label) in enumerate(LABELS.items()):
        top = row * (SHEET_SIDE + caption)
        ImageDraw.Draw(sheet).text((4, top + 2), name, "black")
        for column, (member, place) in enumerate(_evenly(images[images["label"] == label])):
            face = Image.fromarray(image.decode(archive.read(faces, member, place)))
            sheet.paste(face.resize((SHEET_SIDE, SHEET_SIDE)), (column * SHEET_SIDE, top + caption))
    return sheet


def _evenly(images: pd.DataFrame) -> Iterator[tuple[str, int]]:
    """The names and places of at most ``SHEET_FACES`` of the images, evenly spaced."""
    rows = images.iloc[np.linspace(0, len(images) - 1, min(SHEET_FACES, len(images))).astype(int)]
    return zip(rows["member"], rows["place"], strict=True)


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
