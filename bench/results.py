"""The results on real faces: a row of docs/results.csv for each detector of a run, and the tables made of them.

    python -m bench.results record SET --command "dvc exp run …" [--left-out NAME] [--to FILE]
    python -m bench.results table SET … [--n-train N]
    python -m bench.results curve SET
    python -m bench.results check
    python -m bench.results write

``record`` is for after a run or ``dvc exp apply``: it takes the detectors whose figures are up to date, by ``dvc
status``. A newer measurement of the same detector on the same faces with the same seed replaces the older. ``table``
prints Markdown: "a (b–c)" is a figure with its interval, "a (b to c)" the mean and the range of several seeds.
``curve`` writes docs/learning_curve.csv and draws docs/learning_curve.png of it. ``check`` says whether each table of
README.md and docs/*.md between ``<!-- results: SET … -->`` and ``<!-- /results -->`` is what ``table SET …`` prints,
and so for ``generators`` (:mod:`bench.generators`); ``write`` puts it there.
"""

import argparse
import csv
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean

import pandas as pd
from dvc.repo import Repo

from bench import generators
from bench.curve import draw, exponent, power_law
from stages.errors import UserError, run
from stages.files import commit, publish, read_json
from stages.params import detectors_of, load

Row = dict[str, str]

RESULTS, CURVE = Path("docs/results.csv"), Path("docs/learning_curve.csv")
FIGURES = ("roc_auc", "roc_auc_low", "roc_auc_high", "accuracy", "average_precision")
KEY = ("set", "left_out", "n_train", "detector", "seed")
COLUMNS = (*KEY, *FIGURES, "n", "seconds", "commit", "command")
HEAD = ("detector", "training faces", "ROC AUC", "accuracy", "average precision", "training, s", "n")
TABLE = re.compile(r"<!-- (results|generators): (.+?) -->\n(.*?)<!-- /\1 -->", re.DOTALL)
OPEN = re.compile(r"<!-- (?:results|generators): ")
MIN_SIZES = 3  # a line through two has no interval


def main() -> None:
    """Do what the command line asks for."""
    arguments = parser().parse_args()
    match arguments.action:
        case "record":
            record(arguments.set, arguments.left_out, arguments.command, arguments.to)
        case "table":
            print(table(arguments.sets, arguments.n_train))
        case "curve":
            curve(arguments.set)
        case "check":
            for page in pages():
                if page.read_text(encoding="utf-8") != renewed(page):
                    raise UserError(f"a table of {page} is not that of {RESULTS}; run `python -m bench.results write`")
        case "write":
            for page in pages():
                text = renewed(page)
                with publish(page) as part:
                    part.write_text(text, encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    for action in ("record", "curve"):
        actions.add_parser(action).add_argument("set", metavar="SET", help="a name for the faces and how they are used")
    actions.add_parser("table").add_argument("sets", metavar="SET", nargs="+", help="several: a column says which")
    recording = actions.choices["record"]
    recording.add_argument("--command", required=True, help="the command that ran, for who wants to run it again")
    recording.add_argument("--left-out", default="", metavar="NAME", help="what the training faces lack")
    recording.add_argument("--to", type=Path, default=RESULTS, metavar="FILE", help=f"default: {RESULTS}")
    actions.choices["table"].add_argument("--n-train", type=int, metavar="N", help="of this many training faces alone")
    actions.add_parser("check")
    actions.add_parser("write")
    return parser


def record(name: str, left_out: str, command: str, to: Path) -> None:
    """Add the rows of the detectors that are here, in the place of older ones."""
    run_of = {"set": name, "left_out": left_out, "commit": commit(), "command": command}
    rows = [run_of | measured for measured in detectors()]
    if not rows:
        raise UserError("no detector here has figures that are up to date; make them with `dvc repro`")
    every = {key(row): row for row in [*read(to), *rows]}
    with publish(to) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(every[one] for one in sorted(every))
    for row in rows:
        print(f"{row['detector']}: AUC {row['roc_auc']} of {row['n_train']} training faces, in {to}")


def detectors() -> Iterator[Row]:
    """What was measured of each detector whose figures are of the present parameters, data and code."""
    params = load()
    with Repo() as repo:
        for detector, _, _ in detectors_of(params.models):
            # not only whether the files are there: those of an earlier run stay where another runs some stages alone
            stale = repo.status(targets=[f"evaluate@{detector}"], with_deps=True)
            if not all(stage.startswith("look") for stage in stale):  # it always has to run where a folder is named
                print(f"{detector} is not recorded: its figures are not up to date", file=sys.stderr)
                continue
            figures = read_json(f"data/figures/{detector}.json")
            made = read_json(f"data/models/{detector}.json")
            yield {
                "detector": detector,
                "n_train": str(made["train_images"]),
                "seed": str(params.training.seed),
                **{figure: f"{figures[figure]:.6f}" for figure in FIGURES},
                "n": str(figures["n"]),
                "seconds": f"{made['train_seconds']:.1f}",
            }


def key(row: Row) -> tuple[str, str, int, str, int]:
    """What a row is of; also the order of rows."""
    name, left_out, n_train, detector, seed = (row[column] for column in KEY)
    return name, left_out, int(n_train), detector, int(seed)


def read(path: Path) -> list[Row]:
    """The rows of a table of results; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rows_of(name: str, n_train: int | None = None) -> list[Row]:
    """The rows of a set, in their order; if asked, those of so many training faces alone."""
    if found := [row for row in read(RESULTS) if row["set"] == name and n_train in (None, int(row["n_train"]))]:
        return sorted(found, key=key)
    faces = "" if n_train is None else f" with {n_train} training faces"
    raise UserError(f"{RESULTS} has no row of the set {name}{faces}; `python -m bench.results record {name}` adds some")


def table(sets: Sequence[str], n_train: int | None) -> str:
    """The rows of sets as Markdown; those that differ in their seed alone are one line."""
    lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1))]
    names, left_out = ["set", "---"], ["left out", "---"]
    rows = (row for name in sets for row in rows_of(name, n_train))
    for (name, lacks, *_), seeds in groupby(rows, lambda row: key(row)[:-1]):
        lines.append(line(list(seeds)))
        names.append(name)
        left_out.append(lacks or "nothing")
    if set(left_out[2:]) != {"nothing"}:
        lines = [(lacks, *cells) for lacks, cells in zip(left_out, lines, strict=True)]
    if len(sets) > 1:
        lines = [(name, *cells) for name, cells in zip(names, lines, strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def line(seeds: Sequence[Row]) -> tuple[str, ...]:
    """The cells of one detector, of one seed or several."""

    def figure(column: str, form: str = ".4f") -> str:
        values = [float(row[column]) for row in seeds]
        if len(values) == 1:
            return f"{values[0]:{form}}"
        return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    first = seeds[0]
    if len(seeds) == 1:
        auc = f"{figure('roc_auc')} ({float(first['roc_auc_low']):.4f}–{float(first['roc_auc_high']):.4f})"
    else:
        auc = f"{figure('roc_auc')}, {len(seeds)} seeds"
    faces = " or ".join(f"{n:,}" for n in sorted({int(row["n"]) for row in seeds}))
    figures = (auc, figure("accuracy"), figure("average_precision"), figure("seconds", ",.0f"))
    return first["detector"], f"{int(first['n_train']):,}", *figures, faces


def curve(name: str) -> None:
    """Write a set's errors over the number of training faces that lack nothing, with each detector's power law."""
    found = pd.DataFrame(rows_of(name), columns=COLUMNS)
    tables = [pd.DataFrame(columns=["detector", "kind", "images", "error", "low", "high"])]
    for detector, part in found[found["left_out"] == ""].groupby("detector"):
        # the logarithm of no error at all is not a number, nor can it be drawn
        ends = {"error": "roc_auc", "low": "roc_auc_high", "high": "roc_auc_low"}
        errors = {column: 1 - part[auc].astype(float) for column, auc in ends.items()}
        measured = pd.DataFrame({"images": part["n_train"].astype(int), **errors})
        measured = measured[measured["error"] > 0].assign(kind="measured", detector=detector)
        tables.append(measured)
        if measured["images"].nunique() < MIN_SIZES:
            print(f"{detector}: no line, which takes {MIN_SIZES} numbers of training faces and errors above 0")
            continue
        law = power_law(measured, load().evaluate.confidence)
        tables.append(law.assign(detector=detector))
        far = law.iloc[-1]
        print(
            f"{detector}: 1 - AUC falls as n^{exponent(measured):.2f}; the line at {far['images']:,.0f} training faces "
            f"({far['kind']}) is {far['error']:.4f} ({far['low']:.4f} to {far['high']:.4f})"
        )
    table = pd.concat(tables).astype(dict.fromkeys(("images", "error", "low", "high"), float))
    with publish(CURVE) as part:
        table.to_csv(part, index=False, float_format="%.6g")
    with publish(CURVE.with_suffix(".png")) as part:
        draw(table, part)


def pages() -> list[Path]:
    """The pages that may hold tables."""
    return [Path("README.md"), *sorted(Path("docs").glob("*.md"))]


def renewed(page: Path) -> str:
    """A page, each table as the command prints it."""
    text = page.read_text(encoding="utf-8")

    def now(found: re.Match[str]) -> str:
        kind, said = found[1], found[2]
        if kind == "results":
            arguments = parser().parse_args(["table", *shlex.split(said)])
            made = table(arguments.sets, arguments.n_train)
        else:
            made = generators.shown(said)
        return f"<!-- {kind}: {said} -->\n\n{made}\n\n<!-- /{kind} -->"

    if any(OPEN.search(found[3]) for found in TABLE.finditer(text)) or len(TABLE.findall(text)) != len(
        OPEN.findall(text)
    ):
        raise UserError(f"a table of {page} begins with <!-- NAME: … --> and has no end; write <!-- /NAME --> below it")
    return TABLE.sub(now, text)


if __name__ == "__main__":
    run(main)
