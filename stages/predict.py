"""Command: real or generated? ``python -m stages.predict PATH…`` judges the faces of any photos.

A PATH is a file, a folder, a glob in quotes, a zip archive (read in place), or ``-`` for a list of paths on standard
input. The champion answers or, where there is none or a worthless one, the detector that the repository brings along
(``pretrained``), unless ``--detector`` names another; several answer together (:mod:`stages.photos.answers`).
Exit codes: 0 every file was read (a photo without a face is an answer); 1 nothing could be judged, and a sentence says
why; 2 the command line is wrong; 3 some files could not be read, and their rows say why.
"""

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, get_args

from stages.errors import UserError, run
from stages.files import digest, in_memory, publish, read_json
from stages.photos import exported, heatmap
from stages.photos.answers import Answer, Faces, answers, limits, one_size
from stages.photos.exported import Detector
from stages.photos.inputs import photos
from stages.progress import progress
from stages.scoring.calibration import FALSE_MARKS, Calibration

FIELDS = (
    "file", "face", "left", "top", "right", "bottom", "enlarged", "unlike", "probability", "verdict",
    "real_below", "fake_from", "detector", "model", "error",
)  # fmt: skip
UNREAD = 3  # exit code
LEADERBOARD = Path("data/leaderboard.json")
NAME_BYTES = 200  # of a photo's path in a heat map's name; file systems take 255 in all
UNLIKE = "unlike the training faces"
CAVEAT = "A detector knows the generators that it learned from; an answer is no proof about any one picture."


def main() -> None:
    """Judge photos; exit with 3 if some could not be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH")
    add_detectors(parser)
    parser.add_argument(
        "--faces",
        choices=get_args(Faces),
        default="auto",
        help="find: look for faces; whole: take each picture for an aligned face; auto: whole if it has just the "
        "detector's size, and the faces that the detector learned from were not found by us, else find (default)",
    )
    parser.add_argument("--format", choices=("table", "csv", "json", "jsonl"), default="table")
    parser.add_argument("--heatmaps", type=Path, metavar="DIR", help="write where each answer comes from, as pictures")
    arguments = parser.parse_args()

    detectors = open_detectors(arguments.detector)
    for sentence in cautions(detectors):
        print(f"warning: {sentence}", file=sys.stderr, flush=True)
    judged, unread, skipped = 0, 0, list[str]()
    encoding = None if arguments.format == "table" else "utf-8"  # a terminal's own; programs expect UTF-8
    sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")  # type: ignore[union-attr]

    def stream() -> Iterator[Answer]:
        nonlocal judged, unread
        for photo in progress(photos(arguments.paths, skipped), unit="photo", leave=False):
            for answer in answers(photo, detectors, arguments.faces):
                judged += 1
                unread += bool(answer.error)
                if arguments.heatmaps and answer.judgement:
                    with publish(arguments.heatmaps / heatmap_name(answer)) as part, in_memory(part) as picture:
                        heatmap.overlay(answer.judgement).save(picture, "PNG")
                yield answer

    WRITERS[arguments.format](stream(), detectors, sys.stdout)
    if skipped:
        print(f"{len(skipped)} skipped: hidden, or left by an operating system", file=sys.stderr)
    if unread:
        print(f"{unread} could not be read", file=sys.stderr)
        sys.exit(UNREAD)
    if not judged:
        raise UserError("no photo is there; name photos, or folders and zips that hold some")


def add_detectors(parser: argparse.ArgumentParser) -> None:
    """The option that names detectors, which the page has too."""
    parser.add_argument(
        "--detector", action="append", metavar="NAME", help="resnet50-finetune, pretrained …; repeat it to ask several"
    )


def open_detectors(names: list[str] | None, threads: int | None = None) -> list[Detector]:
    """The detectors by name, or the best one here; standard error says which answer. Raises :class:`UserError`."""
    if names:
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"--detector names {twice[0]} twice; name each once")
        detectors = [exported.load(exported.folder_of(name), threads) for name in names]
        why = "--detector asks for it"
        one_size(detectors)
    else:
        detector, why = best(threads)
        detectors = [detector]
    print(f"{' with '.join(detector.name for detector in detectors)} answers: {why}", file=sys.stderr, flush=True)
    return detectors


def best(threads: int | None = None) -> tuple[Detector, str]:
    """The champion or, if the repository brings a detector along, that where there is none worth asking; and why."""
    pretrained = exported.PRETRAINED.is_dir()
    if pretrained and not LEADERBOARD.exists():
        why = "there is no champion here"
    elif pretrained and not (file := exported.FOLDER / read_json(LEADERBOARD)["champion"] / exported.READING).is_file():
        why = f"the champion here, {file.parent.name}, is not evaluated yet"
    else:
        champion = exported.load(exported.FOLDER / read_json(LEADERBOARD)["champion"], threads)
        if not (pretrained and worthless([champion])):
            return champion, "it is the champion here"
        why = f"the champion here, {champion.name}, is worth nothing for photographs"
    return exported.load(exported.PRETRAINED, threads), f"it came with the repository, and {why}"


def cautions(detectors: Sequence[Detector]) -> list[str]:
    """What to know before the answers, a sentence for each detector that has one."""
    return [f"{detector.name}: {detector.caution.sentence}" for detector in detectors if detector.caution]


def worthless(detectors: Sequence[Detector]) -> bool:
    """Whether the answers about photographs are worth nothing, because one of the detectors is."""
    return any(detector.caution and detector.caution.worthless for detector in detectors)


def heatmap_name(answer: Answer) -> str:
    """The file of a heat map: the end of the photo's path, its digest, as two may end alike, and the face's number."""
    path = answer.file.replace("\\", "/").strip("./").replace("/", "_")
    end = path.encode()[-NAME_BYTES:].decode(errors="ignore")
    return f"{end}-{digest(answer.file)}-{answer.face}.png"


def row(answer: Answer, detectors: Sequence[Detector]) -> dict[str, Any]:
    """An answer by ``FIELDS``; None where there is nothing to say."""
    box = answer.box or (None,) * 4
    unlike = answer.judgement.unlike if answer.judgement else None
    probability = round(answer.judgement.probability, 6) if answer.judgement else None
    real_below, fake_from = (None if limit is None else round(limit, 6) for limit in limits(detectors))
    names, models = ("+".join(parts) for parts in zip(*((d.name, d.sha256) for d in detectors), strict=True))
    verdict, error = answer.verdict or None, answer.error or None
    values = (
        answer.file, answer.face or None, *box, answer.enlarged if answer.face else None, unlike, probability, verdict,
        real_below, fake_from, names, models, error,
    )  # fmt: skip
    return dict(zip(FIELDS, values, strict=True))


def write_table(stream: Iterator[Answer], detectors: Sequence[Detector], out: TextIO) -> None:
    """For people: a table, then how to read it."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {} if worthless(detectors) else {"real": "blue", "fake": "dark_orange", "uncertain": "yellow"}
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("File", overflow="fold")
    table.add_column("Face, px", no_wrap=True)
    table.add_column("P(fake)", justify="right", no_wrap=True)
    table.add_column("Answer", overflow="fold")
    enlarged = False
    for answer in stream:
        place = "{}–{}, {}–{}".format(*(answer.box[i] for i in (0, 2, 1, 3))) if answer.box else ""
        place += " *" if answer.enlarged else ""
        enlarged |= answer.enlarged
        probability = f"{answer.judgement.probability:.3f}" if answer.judgement else ""
        said = Text(answer.error or answer.verdict, "red" if answer.error else colours.get(answer.verdict, ""))
        if answer.judgement and answer.judgement.unlike:
            said.append(f", {UNLIKE}")
        table.add_row(Text(answer.file), place, probability, said)
    console = Console(file=out)
    console.print(table)
    if enlarged:
        console.print("* enlarged: the photo shows the face in fewer pixels than the detector takes", soft_wrap=True)
    for detector in detectors:
        console.print(f"{detector.name}, model {detector.sha256[:12]}: {promise(detector)}", soft_wrap=True)
    console.print(CAVEAT, soft_wrap=True)


def promise(detector: Detector) -> str:
    """Where a detector's limits lie, what they were chosen for, and how often they were wrong on the test images."""
    real_below, fake_from = limits([detector])
    reals = "never says real" if real_below is None else f"real below {real_below:.3f}"
    fakes = "never says fake" if fake_from is None else f"fake from {fake_from:.3f}"
    reading = detector.calibration
    chosen = f"chosen to be wrong for at most {reading.max_error:.0%} of either class of {reading.n:,} validation faces"
    if not reading.n_answered:
        return f"{reals}, {fakes}: {chosen}; on new faces more may be. {mark(reading)}"
    return (
        f"{reals}, {fakes}: {chosen}; of {reading.n_answered:,} answers on {reading.n_test:,} test faces, "
        f"{reading.wrong:.1%} ({100 * reading.wrong_low:.1f}–{100 * reading.wrong_high:.1f} %) were. {mark(reading)}"
    )


def mark(reading: Calibration) -> str:
    """How many faces a detector falsely marks as unlike its training faces: by choice, and of the test images."""
    if reading.unlike_from == math.inf:
        return f"No face is marked as {UNLIKE}: {reading.n:,} validation faces are too few to choose by."
    chosen = f"Marked as {UNLIKE}: {FALSE_MARKS:.0%} of the validation faces by choice"
    if math.isnan(reading.marked):
        return f"{chosen}; of new faces like them it may be more."
    interval = f"{100 * reading.marked_low:.1f}–{100 * reading.marked_high:.1f} %"
    return f"{chosen}, {reading.marked:.1%} ({interval}) of the test faces."


def write_csv(stream: Iterator[Answer], detectors: Sequence[Detector], out: TextIO) -> None:
    """Comma-separated values, a row as soon as it is known."""
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for answer in stream:
        writer.writerow(row(answer, detectors))
        out.flush()


def write_jsonl(stream: Iterator[Answer], detectors: Sequence[Detector], out: TextIO) -> None:
    """One JSON object a line, as soon as it is known."""
    for answer in stream:
        print(json.dumps(row(answer, detectors), ensure_ascii=False), file=out, flush=True)


def write_json(stream: Iterator[Answer], detectors: Sequence[Detector], out: TextIO) -> None:
    """One JSON array."""
    separator = "[\n"
    for answer in stream:
        out.write(separator + json.dumps(row(answer, detectors), ensure_ascii=False))
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")


WRITERS = {"table": write_table, "csv": write_csv, "json": write_json, "jsonl": write_jsonl}


if __name__ == "__main__":
    run(main)
