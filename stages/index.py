"""Stage `index`: what is in the archive of a set, image by image.

Reads ``data/raw/NAME.zip`` and ``NAME.json``. Writes ``data/index/NAME.parquet`` (one row a face),
``data/quarantine/NAME.csv`` and ``data/contact_sheets/NAME.jpg``. Every image is opened, decoded and hashed, by one
process a core. Images that cannot be used are quarantined: they keep their row, with the reason as their verdict, and
are listed in the quarantine (member, reason). Other sets, seeds and fractions of a split do not matter here.
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
from PIL import Image, ImageDraw

from stages import params
from stages.errors import UserError, run
from stages.faces import archive, duplicates, image
from stages.faces.archive import Member
from stages.faces.layout import LABELS
from stages.faces.zips import Zip
from stages.files import in_memory, publish, read_json
from stages.lifetime import end_with
from stages.progress import progress

ARCHIVES, INDEXES, QUARANTINE, SHEETS = (
    Path(path) for path in ("data/raw", "data/index", "data/quarantine", "data/contact_sheets")
)

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

OTHER = "other_files"  # in the metadata of an index
CHUNK = 64  # images a worker describes at a time
ROW_GROUP = 10_000  # rows, so that readers need not hold the whole index
MAX_WORKERS = 16  # each takes 100 MB, and more while it decodes a large image (image.PEAK_BYTES at most)
SHEET_FACES = 8  # of each class
SHEET_SIDE = 128  # px


def main() -> None:
    """Index the archive of a set."""
    name = params.set_argument(main.__doc__)
    settings = params.load()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what is freed
    pa.set_cpu_count(1)  # and so does the system's, in every thread
    path, index, quarantine = ARCHIVES / f"{name}.zip", INDEXES / f"{name}.parquet", QUARANTINE / f"{name}.csv"
    index.parent.mkdir(parents=True, exist_ok=True)
    classes = read_json(ARCHIVES / f"{name}.json").get("classes")
    both = settings.needs_both(name)
    with archive.open_archive(path) as faces, tempfile.TemporaryFile(dir=index.parent) as rows:
        other = _describe_all(path, faces, rows, both, classes)
        _check(path, rows, settings.data.max_quarantined, both)
        with publish(index) as part:
            _write_index(rows, other, part)

        with pq.ParquetFile(index) as file:
            found: pd.DataFrame = file.read(["label", "verdict"]).to_pandas(split_blocks=True, self_destruct=True)
        sound = found["verdict"] == "ok"
        with publish(SHEETS / f"{name}.jpg") as part, in_memory(part) as sheet:
            _contact_sheet(faces, index, found["label"].where(sound)).save(sheet, "JPEG", quality=90)
    quarantined = _rows(index, np.flatnonzero(~sound), "member", "verdict").rename(columns={"verdict": "reason"})
    with publish(quarantine) as part:
        quarantined.to_csv(part, index=False)
    count = {kind: int((found["label"][sound] == label).sum()) for kind, label in LABELS.items()}
    print(
        f"{index}: {sound.sum():,} images ({count['real']:,} real, {count['fake']:,} fake), "
        f"{len(quarantined):,} quarantined ({quarantine}), {other:,} other files skipped"
    )
    for reason, images in quarantined["reason"].value_counts().items():
        print(f"  {images:,} quarantined: {reason}")


def _describe_all(path: Path, faces: Zip, rows: IO[bytes], both: bool, classes: dict[str, Any] | None) -> int:
    """Write one row a face into ``rows``, in the archive's order; return the number of other members.

    The rows are made by parallel processes that each open the archive. They wait in a file: there may be a million.
    """
    members, other = archive.listing(faces, both=both, classes=params.Classes(**classes) if classes else None)
    chunks = [members[start : start + CHUNK] for start in range(0, len(members), CHUNK)]
    workers = min(os.cpu_count() or 1, MAX_WORKERS, len(chunks))
    with (
        pa.ipc.new_stream(rows, SCHEMA) as writer,
        progress(total=len(members), desc="index", unit="image") as bar,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (path, os.getpid())) as pool,
    ):
        try:
            for batch in pool.map(_describe_chunk, chunks):
                writer.write_batch(batch)
                bar.update(len(batch))
        except BrokenProcessPool:
            raise UserError(
                f"{path}: a process died while reading images, likely for lack of memory; free some and run again"
            ) from None
    return other


def _batches(rows: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """The rows that were described, some at a time."""
    rows.seek(0)
    return iter(pa.ipc.open_stream(rows))


def _check(path: Path, rows: IO[bytes], max_quarantined: float, both: bool) -> None:
    """Raise :class:`UserError` if too many images are unusable, or if none is left, of either class with ``both``."""
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
            f"{path}: {bad:,} of {total:,} images cannot be used, most often as {reason} (such as "
            f"{examples[reason]!r}), more than data.max_quarantined = {max_quarantined:g} allows; mend the archive or "
            "raise that key"
        )
    for name, label in LABELS.items():
        if not sound[label] and (both or not sound.total()):
            raise UserError(f"{path}: not one {name} image can be used; mend the archive")


def _write_index(rows: IO[bytes], other: int, path: Path) -> None:
    """The rows as Parquet, which says, too, how many other members the archive has."""
    with pq.ParquetWriter(path, SCHEMA.with_metadata({OTHER: str(other)})) as writer:
        for table in _gather(_batches(rows), ROW_GROUP):
            writer.write_table(table)


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


def _start_worker(path: Path, parent: int) -> None:
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
    return row | {"dhash": duplicates.dhash(rgb), "verdict": "ok", **image.colours(rgb)}


def _rows(index: Path, numbers: duplicates.Integers, *columns: str) -> pd.DataFrame:
    """Some rows of an index, by their numbers, read in pieces."""
    found, start = [], 0
    with pq.ParquetFile(index) as file:
        for batch in file.iter_batches(ROW_GROUP, columns=columns):
            found.append(batch.take(numbers[(numbers >= start) & (numbers < start + len(batch))] - start))
            start += len(batch)
    rows: pd.DataFrame = pa.Table.from_batches(found).to_pandas()
    return rows


def _contact_sheet(faces: Zip, index: Path, labels: pd.Series) -> Image.Image:
    """A row of faces for each class, evenly drawn from the archive, under the name of the class.

    ``labels``: of every row of the index, missing where the image cannot be used.
    """
    caption = 16
    sheet = Image.new("RGB", (SHEET_FACES * SHEET_SIDE, len(LABELS) * (SHEET_SIDE + caption)), "white")
    for row, (name, label) in enumerate(LABELS.items()):
        top = row * (SHEET_SIDE + caption)
        ImageDraw.Draw(sheet).text((4, top + 2), name, "black")
        found = np.flatnonzero(labels == label)
        shown = found[np.linspace(0, len(found) - 1, min(SHEET_FACES, len(found))).astype(int)]
        for column, (member, place) in enumerate(_rows(index, shown, "member", "place").to_numpy()):
            face = Image.fromarray(image.decode(archive.read(faces, member, place)))
            sheet.paste(face.resize((SHEET_SIDE, SHEET_SIDE)), (column * SHEET_SIDE, top + caption))
    return sheet


if __name__ == "__main__":
    run(main)
