"""What a person names, to photos: files, folders, globs, zip archives, and lists of them, read one at a time."""

import glob
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile

from stages.errors import UserError
from stages.faces import archive
from stages.faces.archive import NAMESAKE
from stages.faces.image import ImageError, Pixels, decode

STDIN = "-"  # as a path: a list of paths on standard input, one a line


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo by its name: its pixels, or the problem that kept it from being read. Exactly one of them is there."""

    name: str
    pixels: Pixels | None
    problem: str = ""


def photos(paths: Iterable[str]) -> Iterator[Photo]:
    """Every photo that ``paths`` name, in their order; of a folder or a zip all files that are not hidden, by name."""
    for path in paths:
        if path == STDIN:
            yield from photos(line for line in map(str.strip, sys.stdin) if line and line != STDIN)
        elif Path(path).is_dir():
            for file in sorted(Path(path).rglob("*")):
                if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts):
                    yield from _of_file(file)
        elif not Path(path).exists() and glob.has_magic(path):
            matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - Path has none for absolute patterns
            yield from photos(matches) if matches else [Photo(path, None, "matches no file")]
        else:
            yield from _of_file(Path(path))


def _of_file(path: Path) -> Iterator[Photo]:
    if not path.exists():
        yield Photo(str(path), None, "no such file")
    elif not path.is_file():
        yield Photo(str(path), None, "not a regular file")
    elif path.suffix.lower() == ".zip":
        yield from _of_zip(path)
    else:
        yield _photo(str(path), partial(_bytes, path))


def _of_zip(path: Path) -> Iterator[Photo]:
    """The files of a zip, under the limits of :mod:`stages.faces.archive`; nothing is extracted."""
    try:
        opened = archive.open_archive(path)
    except UserError as error:
        yield Photo(str(path), None, str(error))
        return
    with opened:
        try:
            entries = ((info.filename, place, info) for place, info in opened.members() if not info.is_dir())
            members = sorted(islice(entries, archive.MAX_MEMBERS + 1), key=lambda entry: entry[:2])
        except (BadZipFile, UnicodeDecodeError):
            yield Photo(str(path), None, "its table of contents is damaged")
            return
        if len(members) > archive.MAX_MEMBERS:
            yield Photo(str(path), None, f"more than {archive.MAX_MEMBERS:,} files in it")
            return
        times = Counter(name for name, _, _ in members)
        for name, place, info in members:
            if problem := archive.problem_of(info) or (NAMESAKE if times[name] > 1 else None):
                yield Photo(f"{path}/{name}", None, problem)
            elif not any(part.startswith((".", "__MACOSX")) for part in Path(name).parts):
                yield _photo(f"{path}/{name}", partial(archive.read, opened, name, place))


def _photo(name: str, read: Callable[[], bytes]) -> Photo:
    try:
        return Photo(name, decode(read()))
    except (ImageError, archive.MemberError) as error:
        return Photo(name, None, str(error))
    except OSError as error:
        return Photo(name, None, (error.strerror or str(error)).lower())


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > archive.MAX_FACE_BYTES:
        raise ImageError("too large")
    return path.read_bytes()
