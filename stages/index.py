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
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

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
from stages.lifetime import end_with

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
MAX_WORKERS = 16  # each takes 100 MB, and more while it decodes a large image (image.PEAK_BYTES at most)
SHEET_FACES = 8  # of each class
SHEET_SIDE = 128  # px


def main() -> None:
    """Index the archive."""
    data = params.load().data
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what is freed
    pa.set_cpu_count(1)  # and so does the system's, in every thread
    Path(INDEX).parent.mkdir(exist_ok=True)
    with archive.open_archive(ARCHIVE) as faces, tempfile.TemporaryFile(dir=Path(INDEX).parent) as rows:
        other = _describe_all(faces, rows)
        _check(rows, data.max_quarantined)
        likeness = duplicates.alike(duplicates.hash_bytes(_sound(rows, "dhash")), data.near_duplicate_bits)
        files = np.unique(duplicates.hash_bytes(_sound(rows, "sha256")), axis=0, return_inverse=True)[1].ravel()
        with publish(INDEX) as part:
            _write_index(rows, likeness.group, part)

    with pq.ParquetFile(INDEX) as file:  # without names and digests, which take most of the room
        index: pd.DataFrame = file.read(audit.COLUMNS).to_pandas(split_blocks=True, self_destruct=True)
    sound = index["verdict"] == "ok"
    with publish("data/contact_sheet.jpg") as part:
        _contact_sheet(index["label"].where(sound)).save(part, quality=90)
    quarantined = _rows(np.flatnonzero(~sound), "member", "verdict").rename(columns={"verdict": "reason"})
    with publish(QUARANTINE) as part:
        quarantined.to_csv(part, index=False)
    index = index[sound]
    for name, plot in (("counts", audit.counts), ("properties", audit.properties), ("file_size", audit.file_sizes)):
        with publish(f"plots/data/{name}.csv") as part:
            plot(index).to_csv(part, index=False)
    figures = audit.figures(index, likeness, files, quarantined=len(quarantined), other=other)
    write_json("metrics/data.json", figures)
    _summarise(figures, quarantined["reason"], data.max_shortcut_auc)


def _describe_all(faces: Zip, rows: IO[bytes]) -> int:
    """Write one row a face into ``rows``, in the archive's order; return the number of other members.

    The rows are made by parallel processes that each open the archive. They wait in a file: there may be a million.
    """
    members, other = archive.listing(faces)
    chunks = [members[start : start + CHUNK] for start in range(0, len(members), CHUNK)]
    workers = min(os.cpu_count() or 1, MAX_WORKERS, len(chunks))
    with (
        pa.ipc.new_stream(rows, SCHEMA) as writer,
        tqdm(total=len(members), desc="index", unit="image", disable=None) as bar,
        ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _start_worker, (ARCHIVE, os.getpid())
        ) as pool,
    ):
        try:
            for batch in pool.map(_describe_chunk, chunks):
                writer.write_batch(batch)
                bar.update(len(batch))
        except BrokenProcessPool:
            raise UserError(
                f"{ARCHIVE}: a process died while reading images, likely for lack of memory; free some and run again"
            ) from None
    return other


def _batches(rows: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """The rows that were described, some at a time."""
    rows.seek(0)
    return iter(pa.ipc.open_stream(rows))


def _check(rows: IO[bytes], max_quarantined: float) -> None:
    """Raise :class:`UserError` if too many images are unusable, or if a class has none left."""
    sound, reasons, examples = Counter[int](), Counter[str](), dict[str, str]()
    for batch in _batches(rows):
        for member, label, verdict in zip(
            *(batch[key].to_pylist() for key in ("member", "label", "verdict")), strict=True
        ):
            if verdict == "ok":
                sound[label] += 1
            else:
                reasons[verdict] += 1
                examples.setdefault(verdict, member)
    bad, total = reasons.total(), reasons.total() + sound.total()
    if bad > max_quarantined * total:
        reason = reasons.most_common(1)[0][0]
        raise UserError(
            f"{ARCHIVE}: {bad:,} of {total:,} images cannot be used, most often as {reason} (such as "
            f"{examples[reason]!r}), more than data.max_quarantined = {max_quarantined:g} allows; mend the archive or "
            "raise that key"
        )
    for name, label in LABELS.items():
        if not sound[label]:
            raise UserError(f"{ARCHIVE}: not one {name} image can be used; mend the archive")


def _sound(rows: IO[bytes], column: str) -> Iterator[str]:
    """The values of a column for the images that can be used: those that have a perceptual hash."""
    for batch in _batches(rows):
        yield from batch[column].filter(batch["dhash"].is_valid()).to_pylist()


def _write_index(rows: IO[bytes], groups: duplicates.Integers, path: Path) -> None:
    """The rows as Parquet, with the group of each image that can be used, and -1 for the others."""
    done = 0
    with pq.ParquetWriter(path, SCHEMA.append(pa.field("group", pa.int64()))) as writer:
        for table in _gather(_batches(rows), ROW_GROUP):
            group = np.full(len(table), -1)
            sound = table["dhash"].is_valid().to_numpy()
            group[sound] = groups[done : done + sound.sum()]
            done += sound.sum()
            writer.write_table(table.append_column("group", pa.array(group)))


def _gather(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The same rows, at least ``size`` at a time but for the last."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= size:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


_archive: Zip  # of this worker process


def _start_worker(path: str, parent: int) -> None:
    """Open the archive once in a worker; leave Ctrl-C to the parent process, and end with it."""
    global _archive
    end_with(parent, os.getpid())
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


def _rows(numbers: duplicates.Integers, *columns: str) -> pd.DataFrame:
    """Some rows of the index, by their numbers, read in pieces."""
    found, start = [], 0
    with pq.ParquetFile(INDEX) as file:
        for batch in file.iter_batches(ROW_GROUP, columns=columns):
            found.append(batch.take(numbers[(numbers >= start) & (numbers < start + len(batch))] - start))
            start += len(batch)
    rows: pd.DataFrame = pa.Table.from_batches(found).to_pandas()
    return rows


def _contact_sheet(labels: pd.Series) -> Image.Image:
    """A row of faces for each class, evenly drawn from the archive, under the name of the class.

    ``labels``: of every row of the index, missing where the image cannot be used.
    """
    caption = 16
    sheet = Image.new("RGB", (SHEET_FACES * SHEET_SIDE, len(LABELS) * (SHEET_SIDE + caption)), "white")
    with archive.open_archive(ARCHIVE) as faces:
        for row, (name, label) in enumerate(LABELS.items()):
            top = row * (SHEET_SIDE + caption)
            ImageDraw.Draw(sheet).text((4, top + 2), name, "black")
            found = np.flatnonzero(labels == label)
            shown = found[np.linspace(0, len(found) - 1, min(SHEET_FACES, len(found))).astype(int)]
            for column, (member, place) in enumerate(_rows(shown, "member", "place").to_numpy()):
                face = Image.fromarray(image.decode(archive.read(faces, member, place)))
                sheet.paste(face.resize((SHEET_SIDE, SHEET_SIDE)), (column * SHEET_SIDE, top + caption))
    return sheet


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
