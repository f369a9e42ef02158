"""Photos in a store, such as S3, by addresses like ``s3://bucket/folder``: listed and read through fsspec.

Of a zip only the parts that are asked for are read. That a store refuses, fails or does not answer tells nothing of a
photo, so it is no problem of the photo's but a :class:`StoreError`, which ends the run.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from stages.errors import UserError
from stages.faces import archive
from stages.faces.image import ImageError
from stages.faces.layout import is_clutter
from stages.files import publish
from stages.photos.inputs import MISSING, Entry, of_zip

BUFFER = 2**18  # bytes asked for at a time of a zip: some ten faces, or the entries of 2,000


class StoreError(Exception):
    """A store that refused, failed or did not answer, in a sentence."""


@contextmanager
def asking(what: object) -> Iterator[None]:
    """Ask a store for something. Raises :class:`StoreError`, or FileNotFoundError where that is its answer."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # each store's library has its own, often no OSError
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise StoreError(f"{what} cannot be reached ({why}); mend that and run again: what is judged stays") from None


def gone(what: object) -> StoreError:
    """That something has no place in its store, or none any more."""
    return StoreError(f"{what} is not there, or not any more; bring it back, or run again without it")


def place(path: str) -> tuple[AbstractFileSystem, str]:
    """The file system of an address or of a local path, and the path there. Raises :class:`UserError` for others."""
    if not is_address(path):
        return LocalFileSystem(), os.path.abspath(path)  # noqa: PTH100 - Path's leaves `..` in
    try:
        fs, inside = url_to_fs(path, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UserError(f"{path} cannot be opened: {error}; `pip install` what it names, or mend the address") from None
    return fs, inside.rstrip("/")


def is_address(path: str) -> bool:
    """Whether a path is one of a store, not of a disk."""
    return "://" in path


def put(fs: AbstractFileSystem, path: str, data: bytes) -> None:
    """Write a file, whole or not at all: stores show an object when all of it has come."""
    if isinstance(fs, LocalFileSystem):
        with publish(path) as part:
            part.write_bytes(data)
    else:
        try:
            with asking(fs.unstrip_protocol(path)):
                fs.pipe_file(path, data)
        except FileNotFoundError:  # there is no such bucket
            raise gone(fs.unstrip_protocol(path)) from None


def entries(address: str, skipped: list[str]) -> Iterator[Entry]:
    """What :func:`stages.photos.inputs.entries` gives of a path: the photos below an address, or that it names."""
    fs, root = place(address)
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with asking(address):
                listed = fs.ls(folder, detail=True)
        except FileNotFoundError:
            raise gone(folder) from None
        below = []
        for info in sorted(listed, key=itemgetter("name")):
            path = info["name"].rstrip("/")
            if path == folder and info["type"] == "directory":  # S3 lists a folder's mark within it
                continue
            if path != root and is_clutter(path.rpartition("/")[2]):
                skipped.append(path)
            elif info["type"] == "directory":
                below.append(path)
            else:
                yield from of_file(StoredFile(fs, path, info["size"]), skipped)
        waiting += reversed(below)


def of_file(file: "StoredFile", skipped: list[str]) -> Iterator[Entry]:
    """The photo in a file, or those of a zip."""
    if file.path.lower().endswith(".zip"):
        yield from of_zip(file, skipped)
    else:
        yield str(file), file.read


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a store; it can be pickled, and opened as a path can. ``size`` (bytes) is known if it was listed."""

    fs: AbstractFileSystem
    path: str
    size: int | None = None

    def __str__(self) -> str:
        return str(self.fs.unstrip_protocol(self.path))

    def is_file(self) -> bool:
        """True: who listed it knows."""
        return True

    def open(self, _: str = "rb", /) -> io.BufferedReader:
        """The file, read in parts of ``BUFFER`` bytes."""
        return io.BufferedReader(_Parts(self), BUFFER)

    def length(self) -> int:
        """The size in bytes."""
        with asking(self):
            return int(self.fs.size(self.path) if self.size is None else self.size)

    def part(self, start: int, end: int) -> bytes:
        """The bytes from ``start`` on, up to ``end``. Raises FileNotFoundError if it is gone."""
        if end <= start:  # a range that S3 refuses
            return b""
        with asking(self):
            return bytes(self.fs.cat_file(self.path, start=start, end=end))

    def read(self) -> bytes:
        """All of it. Raises :class:`ImageError` if it is no photo or never was, FileNotFoundError if it is gone."""
        try:
            size = self.length()
            if size > archive.MAX_FACE_BYTES:
                raise ImageError("too large")
            return self.part(0, size)
        except FileNotFoundError:
            if self.size is None:
                raise ImageError(MISSING) from None
            raise


class _Parts(io.RawIOBase):
    """A stored file as Python's buffers read one."""

    def __init__(self, file: StoredFile) -> None:
        self._file, self._at, self._size = file, 0, file.length()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._next(self._size)

    def _next(self, size: int) -> bytes:
        try:
            data = self._file.part(self._at, min(self._at + size, self._size))
        except FileNotFoundError:
            raise gone(self._file) from None
        self._at += len(data)
        return data
