"""The archive of faces: a zip that is read in place, never extracted and never trusted.

Which member is a face, of which class and split, :mod:`stages.faces.layout` says; all others are only counted. A face
that must not be read stays in the listing, with the reason.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stages.errors import UserError
from stages.faces.layout import LABELS, place_of

# The largest corpus we know has 140,005 members of 29 kB, 4 GB in all, and a table of contents of 15 MB.
MAX_MEMBERS = 1_000_000  # the table costs Python about 0.7 kB a member, in every worker
MAX_TABLE_BYTES = 128 * 2**20  # 1,000,000 members with names of 80 characters; zipfile reads it in one piece
MAX_FACE_BYTES = 64 * 2**20  # a face of 4,000 x 5,000 px without compression; a worker holds one at a time
MAX_TOTAL_BYTES = 512 * 2**30  # a hundred times the largest corpus: more would keep a machine busy for days
MAX_RATIO = 100  # images hardly shrink when zipped; deflate reaches 1,032 on zeros
RATIO_FLOOR_BYTES = 2**20  # below this a high ratio (a blank bitmap) does no harm

SUPPORTED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what every zip program writes


class MemberError(ValueError):
    """A member that cannot be read; the message is the verdict, such as ``damaged in the archive``."""


@dataclass(frozen=True, slots=True)
class Member:
    """A face in the archive. ``problem`` is why it must not be read; None where it may."""

    name: str
    label: int
    split: str | None
    size: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What an archive holds: its faces, in its own order, and the number of other members."""

    faces: list[Member]
    other: int


class _Measured(io.BufferedReader):
    """A file that refuses to be read in huge pieces: only a huge table of contents asks for one."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_TABLE_BYTES:
            raise UserError(
                f"{self.name}: its table of contents has {size / 2**20:,.0f} MB, and an archive of faces may have "
                f"{MAX_TABLE_BYTES / 2**20:,.0f}; pack fewer faces"
            )
        return super().read(size)


class _Archive(zipfile.ZipFile):
    """A zip that closes its file with itself (ZipFile leaves open what it did not open)."""

    def close(self) -> None:
        file = self.fp
        super().close()
        if file is not None:
            file.close()


def open_archive(path: Path | str) -> zipfile.ZipFile:
    """Open a zip for reading, to be used in a ``with``. Raises :class:`UserError` if it is missing or no sound zip."""
    if not Path(path).is_file():
        raise UserError(f"{path} is missing; run the download stage first (`dvc repro download`)")
    file = _Measured(io.FileIO(path))
    try:
        return _Archive(file)
    except UnicodeDecodeError:
        file.close()
        raise UserError(f"{path}: a member's name claims to be UTF-8 and is not; pack the archive again") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        file.close()
        raise UserError(f"{path} is not a sound zip file ({error}); fetch or pack it again") from None


def listing(archive: zipfile.ZipFile, *, both: bool = True) -> Listing:
    """The faces in the archive, each with its label, its official split and, where it must not be read, the reason.

    Raises :class:`UserError` if there are no faces, if one class is missing (with ``both``), or if there is too much of
    anything.
    """
    path, infos = archive.filename or "the archive", archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise UserError(f"{path} has {len(infos):,} members, more than {MAX_MEMBERS:,}; pack fewer faces")
    times = Counter(info.filename for info in infos)
    faces = [face for info in infos if (face := _face(info, times[info.filename])) is not None]
    total = sum(face.size for face in faces if face.problem is None)
    if total > MAX_TOTAL_BYTES:
        limit = MAX_TOTAL_BYTES / 2**30
        raise UserError(f"{path} would unpack to {total / 2**30:,.0f} GB, more than {limit:,.0f}; pack fewer faces")
    if not faces:
        raise UserError(f"{path} has {len(infos):,} members and no faces; put images into folders named real and fake")
    for name, label in LABELS.items():
        if both and not any(face.label == label for face in faces):
            raise UserError(f"{path} has {len(faces):,} images and none of them is {name}; add a folder named {name}")
    return Listing(faces, len(infos) - len(faces))


def read(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a member, at most ``MAX_FACE_BYTES``, checked against its CRC. Raises :class:`MemberError`."""
    try:
        with archive.open(name) as file:
            data = file.read(MAX_FACE_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
        raise MemberError("damaged in the archive") from None
    if len(data) > MAX_FACE_BYTES:
        raise MemberError("too large")
    return data


def _face(info: zipfile.ZipInfo, times: int) -> Member | None:
    """The member as a face, or None if it is none. ``times``: how many members bear its name."""
    place = None if info.is_dir() else place_of(info.filename)
    if place is None:
        return None
    return Member(info.filename, LABELS[place.kind], place.split, info.file_size, problem_of(info, times))


def problem_of(info: zipfile.ZipInfo, times: int) -> str | None:
    """Why a member must not be read, or None."""
    path = PurePosixPath(info.filename.replace("\\", "/"))
    mode = info.external_attr >> 16
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or not info.filename.isprintable():
        return "unsafe name"
    if times > 1:
        return "name used more than once"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "not a regular file"
    if info.flag_bits & 0x1:
        return "encrypted"
    if info.compress_type not in SUPPORTED:
        return "unsupported compression"
    if info.file_size > MAX_FACE_BYTES:
        return "too large"
    if info.file_size > RATIO_FLOOR_BYTES and info.file_size > MAX_RATIO * info.compress_size:
        return "compressed like a zip bomb"
    return None
