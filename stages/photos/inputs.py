"""What a person names, to photos: files, folders, globs, zip archives, and lists of them, read one at a time."""

import glob
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile

from stages.errors import UserError, escaped
from stages.faces import archive
from stages.faces.archive import NAMESAKE
from stages.faces.image import ImageError, Pixels, decode
from stages.faces.layout import is_clutter
from stages.faces.zips import File

STDIN = "-"  # as a path: a list of paths on standard input, one a line
MISSING = "no such file"  # as the problem of a photo
FORMULA = ("=", "+", "-", "@")  # a spreadsheet runs a cell that begins so

Entry = tuple[str, Callable[[], bytes] | str]  # a name, and how to read it or the problem with it


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo by its name: its pixels, or the problem that kept it from being read. Exactly one of them is there.

    The texts are safe to print: see :func:`printable`.
    """

    name: str
    pixels: Pixels | None
    problem: str = ""


def photos(paths: Iterable[str], skipped: list[str]) -> Iterator[Photo]:
    """Every photo that ``paths`` name, in their order; of a folder, a zip or a glob all files, by name.

    What is hidden there, or left by an operating system, is appended to ``skipped`` instead.
    """
    return read(entries(paths, skipped))


def read(listed: Iterable[Entry]) -> Iterator[Photo]:
    """The photo of each entry, one at a time."""
    for name, source in listed:
        try:
            if isinstance(source, str):
                raise ImageError(source)
            photo = Photo(printable(name), decode(source()))
        except (ImageError, archive.MemberError, OSError, MemoryError) as error:
            photo = Photo(printable(name), None, printable(_why(error)))
        yield photo


def printable(text: str) -> str:
    """A text that begins with a path, as it may be printed and opened in a spreadsheet.

    Control characters and bytes that are no UTF-8 become escapes; what would be a formula there gets ``./`` before it.
    """
    text = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    text = escaped(text)
    return f"./{text}" if text.startswith(FORMULA) else text


def entries(paths: Iterable[str], skipped: list[str]) -> Iterator[Entry]:
    """What :func:`photos` reads, unread: entries that can be pickled, to be read by another process."""
    for path in paths:
        if path == STDIN:
            lines = (os.fsdecode(line).strip() for line in sys.stdin.buffer)  # file names need not be UTF-8
            yield from entries((line for line in lines if line and line != STDIN), skipped)
        elif not path or "\0" in path:
            yield path, "not a path"
        elif glob.has_magic(path) and not os.path.lexists(path):
            yield from _of_glob(Path(path), skipped)
        else:
            yield from _of_path(Path(path), skipped)


def _of_glob(pattern: Path, skipped: list[str]) -> Iterator[Entry]:
    """What a pattern matches; ``**`` follows no links."""
    first = next(number for number, part in enumerate(pattern.parts) if glob.has_magic(part))
    folder = Path(*pattern.parts[:first])
    try:
        found = set(folder.glob("/".join(pattern.parts[first:])))
    except (OSError, ValueError) as error:
        yield str(pattern), _why(error)
        return
    if not found:
        yield str(pattern), "matches no file"
    hidden_too = any(part.startswith(".") for part in pattern.parts[first:])  # asked for
    for path in sorted(found):
        if not hidden_too and is_clutter(path.relative_to(folder).as_posix()):
            skipped.append(str(path))
        elif found.isdisjoint(path.parents):  # else it comes with a folder
            yield from _of_path(path, skipped)


def _of_path(named: Path, skipped: list[str]) -> Iterator[Entry]:
    """A file, or those of a folder, following links; a folder that several lead to is read once, so that loops end."""
    waiting, seen = [named], set[str]()  # no recursion, as a tree may be deeper than Python allows
    while waiting:
        path = waiting.pop()
        if path != named and is_clutter(path.name):
            skipped.append(str(path))
        elif not os.path.isdir(path):  # noqa: PTH112 - Path's raises where it may not look
            yield from _of_file(path, skipped)
        elif (real := os.path.realpath(path)) not in seen:
            seen.add(real)
            try:
                waiting += sorted(path.iterdir(), reverse=True)
            except OSError as error:
                yield str(path), _why(error)


def _of_file(path: Path, skipped: list[str]) -> Iterator[Entry]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield str(path), _why(error)
        return
    if not stat.S_ISREG(mode):
        yield str(path), "not a regular file"
    elif path.suffix.lower() == ".zip":
        yield from of_zip(path, skipped)
    else:
        yield str(path), partial(_bytes, path)


def of_zip(path: File, skipped: list[str]) -> Iterator[Entry]:
    """The files of a zip, under the limits of :mod:`stages.faces.archive`; nothing is extracted."""
    try:
        opened = archive.open_archive(path)
    except (UserError, OSError) as error:
        yield str(path), _why(error)
        return
    with opened:
        try:
            entries = islice(opened.members(), archive.MAX_MEMBERS + 1)
            members = sorted(entries, key=lambda entry: (entry[1].filename, entry[0]))
        except (BadZipFile, UnicodeDecodeError):
            yield str(path), "its table of contents is damaged"
            return
        except OSError as error:
            yield str(path), _why(error)
            return
        if len(members) > archive.MAX_MEMBERS:
            yield str(path), f"more than {archive.MAX_MEMBERS:,} files in it"
            return
        times = Counter(info.filename for _, info in members)
        for place, info in members:
            name = f"{path}/{info.filename}"
            if is_clutter(info.filename):
                skipped.append(name)
            elif problem := archive.problem_of(info) or (NAMESAKE if times[info.filename] > 1 else None):
                yield name, problem
            else:
                yield name, partial(archive.read, opened, info.filename, place)


def _why(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "memory ran out"
    if isinstance(error, FileNotFoundError):
        return MISSING
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > archive.MAX_FACE_BYTES:
        raise ImageError("too large")
    return path.read_bytes()
