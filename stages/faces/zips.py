"""A zip that is read where it lies, its table of contents too: memory stays the same however many members there are.

:mod:`zipfile` holds the whole table, 100 MB for 140,000 members, in every process that opens it. Here a member is named
by the place (bytes from the start of the file) of its entry in the table. Unpacking and checksums are zipfile's own.
The format is PKWARE's APPNOTE.TXT 6.3.10; numbers such as 4.3.12 are its sections.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipExtFile, ZipInfo

SUPPORTED = (ZIP_STORED, ZIP_DEFLATED)  # what every zip program writes

_LOCAL = struct.Struct("<4s22x2H")  # 4.3.7: signature, lengths of name and extra field
_ENTRY = struct.Struct("<4s4x2H4xLLL3H4xLL")  # 4.3.12, all but versions, dates, disks and internal attributes
_END_64 = struct.Struct("<4s28xQQQ")  # 4.3.14: signature, entries, size and offset of the table
_LOCATOR_64 = struct.Struct("<4s16x")  # 4.3.15
_END = struct.Struct("<4s6xHLLH")  # 4.3.16: signature, entries, size and offset of the table, length of the comment
_WIDE = 0xFFFFFFFF  # 4.5.3: the number is in the extra field 1, in 64 bits
_ENCRYPTED, _UTF8 = 0x1, 0x800  # 4.4.4


class File(Protocol):
    """A file that can be opened more than once: a path, or what is like one."""

    def is_file(self) -> bool:
        """Whether it is there."""

    def open(self, mode: Literal["rb"], /) -> io.BufferedReader:
        """The file, to be read from any place."""


class Zip:
    """An open zip, to be used in a ``with``. Raises BadZipFile for what is none; one member can be open at a time.

    A copy by :mod:`pickle` opens the file anew.
    """

    def __init__(self, path: File | str) -> None:
        self.path = Path(path) if isinstance(path, str) else path
        self._table, self._data = self.path.open("rb"), self.path.open("rb")  # each keeps its place, and its buffer
        try:
            self.start, self.table_bytes, self._shift = self._find_table()
        except BaseException:
            self.close()
            raise

    def __reduce__(self) -> tuple[type["Zip"], tuple[File]]:
        return Zip, (self.path,)

    def __enter__(self) -> "Zip":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._table.close()
        self._data.close()

    def members(self) -> Iterator[tuple[int, ZipInfo]]:
        """Every member but folders, in the order of the table: the place of its entry, and what the entry says.

        Raises BadZipFile where the table is damaged, and UnicodeDecodeError for a name that is not the UTF-8 it claims.
        """
        place = self.start
        while place < self.start + self.table_bytes:
            info, _, length = self._entry(place)
            if not info.filename.endswith(("/", "\\")):  # zips made by Windows have backslashes
                yield place, info
            place += length

    def open(self, place: int) -> ZipExtFile:
        """The content of the member whose entry is at ``place``; reading on to the end checks its CRC-32.

        Raises BadZipFile if the member is encrypted, compressed in another way than ``SUPPORTED``, or not where the
        table says.
        """
        info, name, _ = self._entry(place)
        if info.flag_bits & _ENCRYPTED:
            raise BadZipFile(f"{info.filename!r} is encrypted")
        if info.compress_type not in SUPPORTED:
            raise BadZipFile(
                f"{info.filename!r} is compressed by method {info.compress_type}, and only deflate, the usual, is read"
            )
        elsewhere = BadZipFile(f"{info.filename!r} is not where the table of contents says")
        start = self._shift + info.header_offset
        if not 0 <= start < self.start:
            raise elsewhere
        self._data.seek(start)
        signature, name_length, extra_length = _LOCAL.unpack(_exactly(self._data.read(_LOCAL.size), _LOCAL.size))
        if signature != b"PK\x03\x04" or self._data.read(name_length) != name:
            raise elsewhere
        self._data.seek(extra_length, 1)
        return ZipExtFile(self._data, "r", info)

    def _find_table(self) -> tuple[int, int, int]:
        """Where the table starts, its size, and how far the file's start lies from where offsets count, in bytes."""
        size = self._table.seek(0, 2)
        longest = _END_64.size + _LOCATOR_64.size + _END.size + 0xFFFF  # the comment at the end has that many bytes
        self._table.seek(max(0, size - longest))
        tail = self._table.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < _END.size:
            raise BadZipFile("File is not a zip file")
        _, _, length, offset, _ = _END.unpack_from(tail, at)
        end = size - len(tail) + at
        before = at - _LOCATOR_64.size - _END_64.size  # where the record of 64 bits lies, if there is one
        has_64 = (
            before >= 0
            and tail.startswith(b"PK\x06\x06", before)
            and tail.startswith(b"PK\x06\x07", before + _END_64.size)
        )
        if has_64:
            _, _, length, offset = _END_64.unpack_from(tail, before)
            end -= at - before
        start = end - length
        if start < 0:
            raise BadZipFile("its table of contents does not fit into the file")
        return start, length, start - offset

    def _entry(self, place: int) -> tuple[ZipInfo, bytes, int]:
        """The entry at ``place``: what it says, the name as it stands there, and the length of the entry in bytes."""
        self._table.seek(place)
        head = _exactly(self._table.read(_ENTRY.size), _ENTRY.size)
        signature, flags, method, crc, packed, size, *lengths, attributes, offset = _ENTRY.unpack(head)
        if signature != b"PK\x01\x02":
            raise BadZipFile("its table of contents is damaged")
        name = _exactly(self._table.read(lengths[0]), lengths[0])
        info = ZipInfo(name.decode("utf-8" if flags & _UTF8 else "cp437"))
        info.flag_bits, info.compress_type, info.CRC, info.external_attr = flags, method, crc, attributes
        extra = _exactly(self._table.read(lengths[1]), lengths[1])
        info.file_size, info.compress_size, info.header_offset = _widened(extra, size, packed, offset)
        return info, name, _ENTRY.size + sum(lengths)


def _exactly(data: bytes, size: int) -> bytes:
    """``data``, if there are ``size`` bytes of it."""
    if len(data) < size:
        raise BadZipFile("it ends too early")
    return data


def _widened(extra: bytes, *numbers: int) -> list[int]:
    """The numbers, those of 32 one-bits replaced by the next of 64 bits in the extra field (4.5.3)."""
    wide: list[int] = []
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            field = extra[4 : 4 + length]
            wide = list(struct.unpack_from(f"<{len(field) // 8}Q", field))
        extra = extra[4 + length :]
    if numbers.count(_WIDE) > len(wide):
        raise BadZipFile("a number of 64 bits is missing in its table of contents")
    return [wide.pop(0) if number == _WIDE else number for number in numbers]
