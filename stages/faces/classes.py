"""Where the classes of a set lie: in the names of its folders, in its paths, or in a table of labels beside the images.

The parameters are :class:`stages.params.Classes`, None for the names of folders. A table is a CSV inside the folder or
zip, with a header; its paths count from the root of either, or from the table's own folder, and a file name that only
one image has is enough, with or without its ending. Whatever says the class, the official split is what folders say.
"""

import csv
import io
import posixpath
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from zipfile import ZipExtFile

from stages.errors import UserError
from stages.faces.layout import LABELS, Place, is_clutter, place_of
from stages.params import Classes, Labels

LONGEST = 2**20  # characters of a line of a table; what has more is no table, and is not to fill the memory

File = TypeVar("File")
Rule = Callable[[str], Place | None]

_short = reprlib.Repr()
_short.maxstring = 200


@dataclass(frozen=True)
class By:
    """A rule that asks ``kind_of`` for the class ("real", "fake" or None) of each path, written with ``/``."""

    kind_of: Callable[[str], str | None]

    def __call__(self, path: str) -> Place | None:
        """The place of a path, as :func:`stages.faces.layout.place_of` gives it."""
        kind = None if is_clutter(path) else self.kind_of(_posix(path))
        return place_of(path, kind) if kind else None


def rule_of(
    classes: Classes | None, files: Iterable[tuple[str, File]], read: Callable[[File], io.BufferedReader | ZipExtFile]
) -> Rule:
    """The rule of a set: a function, picklable, that gives the place of a path, or None for what is no image of it.

    ``files`` are all files of the set, by their paths below its root, with what ``read`` takes to open one; they are
    looked at only if there is a table. The rule raises :class:`UserError` for a path that matches both classes; this
    function, for a table that is missing, is not CSV in UTF-8, or does not give images of the set one class each.
    """
    if classes is None:
        return place_of
    if classes.labels is None:
        return By(partial(_by_pattern, classes))
    by_path = {_posix(path): file for path, file in files if not is_clutter(path)}
    if classes.labels.file not in by_path:
        tables = ", ".join(map(_short.repr, sorted(path for path in by_path if path.lower().endswith(".csv"))[:5]))
        raise UserError(
            f"classes.labels.file is {classes.labels.file!r}, and no such file is in the folder or zip; write its "
            f"path below the root (the .csv files there: {tables or 'none'})"
        )
    with read(by_path[classes.labels.file]) as file:
        return By(_kinds(classes, classes.labels, by_path, file).get)


def lacks(classes: Classes | None, missing: Sequence[str]) -> str:
    """Why a set has no image of the ``missing`` classes, or what to do, as the second half of a sentence."""
    if classes is None:
        return f"put images into folders named {' and '.join(missing)}"
    if classes.labels and classes.by_words:
        return f"no label in {classes.labels.file} says {' or '.join(missing)}"
    given = [f"classes.{kind} = {pattern!r}" for kind in missing if (pattern := classes.pattern(kind))]
    if not given:
        return f"set {' and '.join(f'classes.{kind}' for kind in missing)}"
    return f"no {f'label in {classes.labels.file}' if classes.labels else 'path'} matches {' or '.join(given)}"


def _posix(path: str) -> str:
    """A path with ``/`` between its names, without detours."""
    return posixpath.normpath(path.replace("\\", "/"))


def _by_pattern(classes: Classes, text: str) -> str | None:
    """The class of a path, or of a label, by the regular expressions; None if neither is found in it."""
    found = [kind for kind in LABELS if (pattern := classes.pattern(kind)) and re.search(pattern, text)]
    if len(found) > 1:
        given = " and ".join(f"classes.{kind} = {classes.pattern(kind)!r}" for kind in found)
        raise UserError(f"{_short.repr(text)} matches both {given}; make one of them stricter")
    return found[0] if found else None


def _by_word(label: str) -> str:
    """The class that a label says in a usual word."""
    if label.lower() not in LABELS:  # nor digits: in some tables 1 is real
        raise UserError(
            f"the label {_short.repr(label)} is unknown; write real or fake, or set classes.real and classes.fake to "
            "regular expressions for labels"
        )
    return label.lower()


def _kinds(
    classes: Classes, labels: Labels, paths: Iterable[str], file: io.BufferedReader | ZipExtFile
) -> dict[str, str]:
    """The class of each of the paths that the table names with a label of a class."""
    paths = set(paths)
    alone: dict[str, str | None] = {}  # file names, with and without their endings: the path, if only one has it
    for path in paths:
        file_name = posixpath.basename(path)
        for name in {file_name, posixpath.splitext(file_name)[0]}:
            alone[name] = None if name in alone else path
    home = posixpath.dirname(labels.file)
    kind_of = _by_word if classes.by_words else partial(_by_pattern, classes)
    kinds: dict[str, str] = {}
    for place, cell, label in _rows(labels, file):
        try:
            kind = kind_of(label)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        if kind is None:  # its image may be missing: a folder is packed without those that are not taken
            continue
        path = _posix(cell)
        if re.match(r"/|[A-Za-z]:|\.\.(/|$)", path):
            raise UserError(f"{place}: {_short.repr(cell)} leads out of the set; write a path below its root")
        below_home = posixpath.join(home, path)
        image = next((there for there in (path, below_home) if there in paths), alone.get(posixpath.basename(path)))
        if image is None:
            raise UserError(
                f"{place}: {_short.repr(cell)} names no file of the set, or is a name that several have; "
                "write the whole path of an image that is there"
            )
        if kinds.setdefault(image, kind) != kind:
            raise UserError(f"{place}: {_short.repr(cell)} has another label further up; keep one of the two rows")
    return kinds


def _rows(labels: Labels, file: io.BufferedReader | ZipExtFile) -> Iterator[tuple[str, str, str]]:
    """Of each row of the table: what to call its place in messages, its path and its label."""
    table = labels.file
    rows = csv.reader(_lines(io.TextIOWrapper(file, "utf-8-sig", newline="")), strict=True, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(filter(None, rows), [])]
        columns = []
        for column in (labels.path, labels.label):
            if header.count(column) != 1:
                raise UserError(
                    f"{table} has {'several columns' if column in header else 'no column'} {column!r}; the columns of "
                    f"its header are: {', '.join(map(_short.repr, header[:20])) or 'none'}"
                )
            columns.append(header.index(column))
        place = None
        for row in filter(None, rows):
            place = f"{table}, line {rows.line_num}"
            if len(row) != len(header):
                raise UserError(
                    f"{place}: {len(row)} cells, but {len(header)} in the header; put cells with commas in quotes"
                )
            path, label = (row[column] for column in columns)
            yield place, path, label.strip()
        if place is None:
            raise UserError(f"{table} has no row below its header; write one for each image")
    except UnicodeDecodeError:
        raise UserError(f"{table} is not in UTF-8; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{table}, line {rows.line_num}: this is no CSV ({error}); save it as CSV in UTF-8") from None


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a text. Raises :class:`csv.Error` for one that is too long."""
    while line := text.readline(LONGEST):
        if len(line) == LONGEST:
            raise csv.Error("the line has no end")
        yield line
