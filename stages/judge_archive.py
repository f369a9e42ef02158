"""Command: judge an archive of any size on Ray. ``python -m stages.judge_archive IN OUT``.

IN is a folder, a zip, or a Parquet file that lists photos in its column ``path``. IN, OUT and what is listed lie on
disks that all machines see under the same paths, or in stores, at addresses such as ``s3://bucket/folder``. One process
lists the photos and hands them out in slices; actors, one a core, open the detector once and judge as `predict` does.

OUT gets a Parquet file for each slice, whole or not at all, and a photo whose row is there is never judged again.
Slices are cut before what is done is left out, and a file is named after the photos in it: if a kill has a slice
judged twice, its file replaces itself. Exit codes are those of `predict`.
"""

import argparse
import errno
import io
import json
import os
import pickle
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import stages
from stages.cluster import PATIENCE, connect, within
from stages.errors import UserError, refusal, run
from stages.files import digest, hold
from stages.photos import exported, inputs, stores
from stages.photos.answers import answers
from stages.photos.exported import Detector
from stages.photos.inputs import MISSING, Entry, Photo, printable
from stages.photos.stores import StoredFile, StoreError, asking, is_address, place
from stages.predict import UNREAD, add_detectors, cautions, open_detectors, row
from stages.progress import progress

LISTING, SHARD = ".parquet", "faces-{}.parquet"
DETECTOR = "_detector.json"  # readers of Parquet skip what begins with _
READERS = 32  # threads that read the shards of OUT
EVERYWHERE = "", "\U0010ffff"  # the range of a shard that does not tell its own


@dataclass(frozen=True, slots=True)
class Job:
    """What every process has to know."""

    source: str
    out: str
    size: int  # photos in a slice
    detectors: list[str]
    folder: str  # where the driver works
    made_of: str  # the digest of code and detectors

    def enter(self) -> None:
        """Work where the driver does. Raises :class:`UserError` if other code or detectors lie there."""
        try:
            os.chdir(self.folder)
            same = made_of(self.detectors) == self.made_of
        except OSError:
            same = False
        if not same:
            raise UserError(
                f"{socket.gethostname()} has other code in {Path(stages.__file__).parent}, or other detectors in "
                f"{self.folder}/{exported.FOLDER}, than the machine that started this; bring them there and run again"
            )


def main() -> None:
    """Judge what is not judged yet; exit with 3 if some could not be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="IN")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--address", help="of a Ray cluster, such as 10.0.0.1:6379; without it, this machine is one")
    parser.add_argument("--shard", type=int, default=1000, metavar="N", help="photos in a file of OUT (default: 1000)")
    add_detectors(parser)
    arguments = parser.parse_args()
    if arguments.shard < 1:
        parser.error("--shard must be at least 1")

    names = known(open_detectors(arguments.detector))
    source, out = (path if is_address(path) else os.path.abspath(path) for path in (arguments.source, arguments.out))  # noqa: PTH100
    job = Job(source, out, arguments.shard, names, str(Path.cwd()), made_of(names))
    try:
        check_source(job)
        with nullcontext() if is_address(out) else hold(Path(out)):
            shards = shards_of(job)
            connect(arguments.address)
            tally = judge(job, shards)
    except StoreError as error:
        raise UserError(str(error)) from None
    tell(tally, out)


def known(detectors: list[Detector]) -> list[str]:
    """The names of the detectors, after what to know before their answers."""
    for sentence in cautions(detectors):
        print(f"warning: {sentence}", file=sys.stderr, flush=True)
    return [detector.name for detector in detectors]


def made_of(names: list[str]) -> str:
    """What the answers come from, the code of stages/ and the files of the detectors, as one digest."""
    code = Path(stages.__file__).parent
    return digest({str(path.relative_to(code)): path for path in code.rglob("*.py")}, *map(files_of, names))


def files_of(name: str) -> dict[str, Path]:
    """The files of an exported detector by their names."""
    return {file: exported.folder_of(name) / file for file in (exported.NETWORK, exported.READING, exported.FACTS)}


def check_source(job: Job) -> None:
    """Raise :class:`UserError` where IN is missing, holds OUT or, as a listing, lists nothing."""
    (fs, source), (other, out) = place(job.source), place(job.out)
    with within(PATIENCE, job.source):
        look_for(job.source)
    if fs == other:
        source, out = (path if is_address(job.source) else os.path.realpath(path) for path in (source, out))
        if f"{out}/".startswith(f"{source}/"):
            raise UserError(f"{job.out} lies in {job.source} and would be judged too; write elsewhere")
    if is_listing(job.source):
        next(listed(job.source), None)


def look_for(source: str) -> None:
    """Raise :class:`UserError` if IN is not there."""
    fs, path = place(source)
    try:
        with asking(source):
            fs.info(path)
    except FileNotFoundError:
        raise UserError(f"{source} is missing; name a folder, a zip or a Parquet listing that is there") from None


def shards_of(job: Job) -> list[str]:
    """The names of OUT's shards. OUT remembers who judges: raises :class:`UserError` if that was another detector."""
    fs, out = place(job.out)
    judge = {"detector": "+".join(job.detectors), "made_of": digest(*map(files_of, job.detectors))}
    note = f"{out}/{DETECTOR}"
    with within(PATIENCE, job.out), asking(job.out):
        fs.exists(note)
    with asking(job.out):
        try:
            shards = [path.rpartition("/")[2] for path in fs.ls(out, detail=False)]
        except FileNotFoundError:
            shards = []
        earlier = json.loads(fs.cat_file(note)) if DETECTOR in shards else judge
    shards = [name for name in shards if name.startswith(SHARD.partition("{")[0])]
    if shards and earlier != judge:
        raise UserError(
            f"{job.out} holds answers of {earlier['detector']}, model {earlier['made_of']}, and these would be of "
            f"{judge['detector']}, model {judge['made_of']}; write them elsewhere"
        )
    stores.put(fs, note, json.dumps(judge).encode())
    return shards


def judge(job: Job, shards: list[str]) -> Counter[str]:
    """Judge what the shards lack, on all cores of the cluster, and count."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # byte: each slice goes to an actor as soon as it is cut
    warnings.filterwarnings("ignore", module="ray")  # that one slice does not keep all actors busy
    actors = max(1, int(ray.cluster_resources().get("CPU", 1)))
    told = (
        ray.data.from_items([0])
        .map_batches(hand_out, fn_args=(job, shards), num_cpus=0)
        .map_batches(
            Judge,
            fn_constructor_args=(job,),
            batch_size=None,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
        )
    )
    tally = Counter[str]()
    try:
        with progress(unit="photo", leave=False) as bar:
            for row in told.iter_rows():
                said = pickle.loads(row["said"])
                if isinstance(said, str):
                    raise UserError(said)
                tally += said
                bar.update(said["judged"])
    finally:
        ray.shutdown()
    return tally


def tell(tally: Counter[str], out: str) -> None:
    """Say what was done; exit with 3 if some could not be read. Raises :class:`UserError` if some went away."""
    if tally["skipped"]:
        print(f"{tally['skipped']:,} skipped: hidden, or left by an operating system", file=sys.stderr)
    if tally["gone"]:
        raise UserError(
            f"{tally['gone']:,} photos could no longer be reached after they were listed; {tally['judged']:,} are "
            "judged: run again for the others"
        )
    if not tally["judged"] + tally["done"]:
        raise UserError("no photo is there; name a folder, a zip or a Parquet listing that holds some")
    if not tally["judged"]:
        print(f"nothing to judge: the rows of all {tally['done']:,} photos are in {out}")
        return
    before = f", beside {tally['done']:,} judged before" if tally["done"] else ""
    print(f"{tally['judged']:,} photos judged{before}; {tally['faces']:,} faces; rows in {out}")
    if tally["unread"]:
        print(f"{tally['unread']:,} could not be read", file=sys.stderr)
        sys.exit(UNREAD)


def is_listing(source: str) -> bool:
    """Whether IN lists photos."""
    return source.lower().endswith(LISTING)


def listed(source: str) -> Iterator[str]:
    """The paths of a listing, read part by part. Raises :class:`UserError` if it is none."""
    fs, path = place(source)
    with StoredFile(fs, path).open() as file:
        try:
            for batch in pq.ParquetFile(file).iter_batches(columns=["path"]):
                yield from (path or "" for path in batch.column("path").cast(pa.string()).to_pylist())
        except (pa.ArrowException, KeyError) as error:
            why = " ".join(str(error).split())
            raise UserError(f"{source} is no Parquet file with a column `path` of texts ({why})") from None


def entries(source: str, skipped: list[str]) -> Iterator[Entry]:
    """All photos of IN, always in the same order."""
    if is_listing(source):
        for path in listed(source):
            if is_address(path):
                yield from stores.of_file(StoredFile(*place(path)), skipped)
            else:
                yield from inputs.entries([path], skipped)
    elif is_address(source):
        yield from stores.entries(source, skipped)
    else:
        yield from inputs.entries([source], skipped)


class Done:
    """What the shards of OUT hold. In memory are two names a shard; the others are read where a slice may have some."""

    def __init__(self, out: str, shards: list[str]) -> None:
        self.fs, self.out = place(out)
        self.shards = set(shards)

    def among(self, names: list[str]) -> set[str]:
        """Those of the names whose rows are there."""
        if SHARD.format(digest(names)) in self.shards:
            return set(names)
        if not self.shards:
            return set()
        near = pc.and_(pc.less_equal(self.ranges["low"], max(names)), pc.greater_equal(self.ranges["high"], min(names)))
        found = set[str]()
        for shard in self.ranges["shard"].filter(near).to_pylist():
            found.update(self.open(shard).read(["path"])["path"].to_pylist())
        return found.intersection(names)

    @cached_property
    def ranges(self) -> Any:
        """The first and the last name of each shard, by the order of the alphabet."""
        with ThreadPoolExecutor(READERS) as pool:
            low, high = zip(*pool.map(self.range_of, self.shards), strict=True)
        return pa.table({"shard": list(self.shards), "low": low, "high": high})

    def range_of(self, shard: str) -> tuple[str, str]:
        """The first and the last name of a shard."""
        facts = self.open(shard).metadata.row_group(0).column(0).statistics
        return (facts.min, facts.max) if facts and facts.has_min_max else EVERYWHERE

    def open(self, shard: str) -> Any:
        """A shard. Raises :class:`UserError` if it is damaged."""
        path = f"{self.out}/{shard}"
        with asking(path):
            data = self.fs.cat_file(path)
        try:
            return pq.ParquetFile(io.BytesIO(data))
        except pa.ArrowException as error:
            raise UserError(f"{path} is damaged ({error}); delete it, and run again to judge its photos anew") from None


def slices(job: Job, shards: list[str]) -> Iterator[bytes]:
    """The photos to judge, slice by slice, and counts of the others: pickled, as Ray moves them."""
    job.enter()
    done, skipped, tally = Done(job.out, shards), list[str](), Counter[str]()
    source = entries(job.source, skipped)
    while cut := dict(islice(source, job.size)):  # a listing may name a photo twice
        names = [printable(name) for name in cut]
        before = done.among(names)
        left = [entry for name, entry in zip(names, cut.items(), strict=True) if name not in before]
        if any(isinstance(problem, str) for _, problem in left):
            look_for(job.source)  # which may have gone away, and that is no problem of a photo
        there = [entry for entry in left if entry[1] != MISSING or is_listing(job.source) or os.path.lexists(entry[0])]
        tally += Counter(done=len(cut) - len(left), gone=len(left) - len(there), skipped=len(skipped))
        skipped.clear()
        if there:
            yield pickle.dumps((there, tally))
            tally.clear()
    yield pickle.dumps(([], tally + Counter(skipped=len(skipped))))


def hand_out(_: Any, job: Job, shards: list[str]) -> Iterator[dict[str, list[bytes]]]:
    """Ray's task that lists."""
    yield from said(slices(job, shards))


def said(work: Iterable[bytes]) -> Iterator[dict[str, list[bytes]]]:
    """What a process hands on; if it refuses, its sentence, which Ray would bury in an error of its own."""
    try:
        for part in work:
            yield {"said": [part]}
    except Exception as error:
        sentence = str(error) if isinstance(error, StoreError) else refusal(error)
        if not sentence:
            raise
        yield {"said": [pickle.dumps(sentence)]}


class GoneError(Exception):
    """A photo was listed and cannot be reached now, which tells nothing of it."""


class Judge:
    """Ray's actor: one core, the detectors opened once."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        """Judge slices."""
        yield from said(map(self.judge, batch["said"]))

    @cached_property
    def detectors(self) -> list[Detector]:
        """The detectors, on one thread each."""
        self.job.enter()
        return open_detectors(self.job.detectors, threads=1)

    def judge(self, handed: bytes) -> bytes:
        """Judge a slice and write its shard; give the counts."""
        try:
            content = pickle.loads(handed)  # opens zips
        except (OSError, BadZipFile) as error:
            raise UserError(f"a zip of {self.job.source} cannot be opened any more ({error}); run again") from None
        if isinstance(content, str):
            return handed
        left, tally = content
        rows, judged = list[dict[str, Any]](), list[str]()
        for name, source in left:
            try:
                (photo,) = inputs.read([(name, source if isinstance(source, str) else partial(reached, source))])
            except GoneError:
                tally["gone"] += 1
                continue
            judged.append(photo.name)
            rows += (row(answer, self.detectors) for answer in answers(photo, self.detectors, "auto"))
        if rows:
            buffer = io.BytesIO()
            columns = ["path", *self.schema.names[1:]]
            pq.write_table(pa.Table.from_pylist(rows, self.schema).rename_columns(columns), buffer)
            fs, out = place(self.job.out)
            stores.put(fs, f"{out}/{SHARD.format(digest(judged))}", buffer.getvalue())
        tally += Counter(
            judged=len(judged),
            faces=sum(row["face"] is not None for row in rows),
            unread=sum(row["error"] is not None for row in rows),
        )
        return pickle.dumps(tally)

    @cached_property
    def schema(self) -> pa.Schema:
        """`predict`'s columns and their types: those of a face's row and of an error's, as a shard may lack either."""
        size = self.detectors[0].size
        photos = Photo("", np.zeros((size, size, 3), np.uint8)), Photo("", None, "no photo")
        rows = [row(answer, self.detectors) for photo in photos for answer in answers(photo, self.detectors, "whole")]
        found = pa.Table.from_pylist(rows).schema
        return pa.schema([f.with_type(pa.float64()) if pa.types.is_null(f.type) else f for f in found])  # a limit


def reached(source: Callable[[], bytes]) -> bytes:
    """What a photo's file holds. Raises :class:`GoneError` if its disk or its file is away."""
    try:
        return source()
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):  # for long, so it is an answer
            raise
        raise GoneError from None


if __name__ == "__main__":
    from stages import judge_archive  # as Ray's processes know it, not as __main__

    run(judge_archive.main)
