"""The archive of faces: a zip that is read in place, never extracted and never trusted.

Which member is a face, of which class and split, :mod:`stages.faces.classes` says; all others are only counted. A face
that must not be read stays in the listing, with the reason.
"""

import stat
import unicodedata
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from stages.errors import UserError
from stages.faces.classes import Rule, lacks, rule_of
from stages.faces.layout import LABELS
from stages.faces.zips import SUPPORTED, File, Zip
from stages.params import Classes

# The largest corpus we know has 140,005 members of 29 kB, 4 GB in all, and a table of contents of 15 MB.
MAX_MEMBERS = 1_000_000  # each costs about 0.3 kB of memory
MAX_TABLE_BYTES = 128 * 2**20  # 1,000,000 members with names of 80 characters
MAX_FACE_BYTES = 64 * 2**20  # a face of 4,000 x 5,000 px without compression; a worker holds one at a time
MAX_TOTAL_BYTES = 512 * 2**30  # a hundred times the largest corpus: more would keep a machine busy for days
MAX_RATIO = 100  # images hardly shrink when zipped; deflate reaches 1,032 on zeros
RATIO_FLOOR_BYTES = 2**20  # below this a high ratio (a blank bitmap) does no harm

NAMESAKE = "name used more than once"  # as the problem of a member


class MemberError(ValueError):
    """A member that cannot be read; the message is the verdict, such as ``damaged in the archive``."""


@dataclass(frozen=True, slots=True)
class Member:
    """A face in the archive, ``size`` bytes unpacked, its entry at ``place``.

    ``problem`` is why it must not be read; None where it may.
    """

    name: str
    label: int
    split: str | None
    size: int
    place: int
    problem: str | None


class Listing(NamedTuple):
    """What an archive holds: its faces, in its own order, and the number of other members."""

    faces: list[Member]
    other: int


def open_archive(path: File | str) -> Zip:
    """Open a zip for reading, to be used in a ``with``. Raises :class:`UserError` if it is missing or no sound zip."""
    path = Path(path) if isinstance(path, str) else path
    if not path.is_file():
        raise UserError(f"{path} is missing; run the download stage first (`dvc repro download`)")
    try:
        return Zip(path)
    except zipfile.BadZipFile as error:
        raise _unsound(path, error) from None


def listing(archive: Zip, *, both: bool = True, classes: Classes | None = None) -> Listing:
    """The faces in the archive, each with its label, its official split and, where it must not be read, the reason.

    Raises :class:`UserError` if there are no faces, if one class is missing (with ``both``), if there is too much of
    anything, or where ``classes`` (None: the names of folders) do not say what is what.
    """
    path = archive.path
    if archive.table_bytes > MAX_TABLE_BYTES:
        raise UserError(
            f"{path}: its table of contents has {archive.table_bytes / 2**20:,.0f} MB, and that of an archive of faces "
            f"may have {MAX_TABLE_BYTES / 2**20:,.0f}; pack fewer faces"
        )
    faces: list[Member] = []
    other = 0
    try:
        rule = rule_of(classes, ((info.filename, place) for place, info in archive.members()), archive.open)
        for place, info in archive.members():
            if len(faces) + other == MAX_MEMBERS:
                raise UserError(f"{path} has more than {MAX_MEMBERS:,} members; pack fewer faces")
            if face := _face(rule, place, info):
                faces.append(face)
            else:
                other += 1
    except UnicodeDecodeError:
        raise UserError(f"{path}: a member's name claims to be UTF-8 and is not; pack the archive again") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _unsound(path, error) from None
    total = sum(face.size for face in faces if face.problem is None)
    if total > MAX_TOTAL_BYTES:
        limit = MAX_TOTAL_BYTES / 2**30
        raise UserError(f"{path} would unpack to {total / 2**30:,.0f} GB, more than {limit:,.0f}; pack fewer faces")
    if not faces:
        raise UserError(f"{path} has {other:,} members and no faces; {lacks(classes, list(LABELS))}")
    for name, label in LABELS.items():
        if both and not any(face.label == label for face in faces):
            raise UserError(f"{path} has {len(faces):,} images and none of them is {name}; {lacks(classes, [name])}")
    return Listing(_without_namesakes(faces), other)


def read(archive: Zip, name: str, place: int) -> bytes:
    """The bytes of a member, at most ``MAX_FACE_BYTES``, checked against its CRC. Raises :class:`MemberError`."""
    try:
        with archive.open(place) as file:
            found, data = file.name, file.read(MAX_FACE_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError):
        raise MemberError("damaged in the archive") from None
    if found != name:
        raise MemberError("not where the index found it")
    if len(data) > MAX_FACE_BYTES:
        raise MemberError("too large")
    return data


def _unsound(path: object, error: Exception) -> UserError:
    return UserError(f"{path} is not a sound zip file ({error}); fetch or pack it again")


def _face(rule: Rule, place: int, info: zipfile.ZipInfo) -> Member | None:
    """The member as a face, or None if it is none."""
    where = rule(info.filename)
    if where is None:
        return None
    return Member(info.filename, LABELS[where.kind], where.split, info.file_size, place, problem_of(info))


def _without_namesakes(faces: list[Member]) -> list[Member]:
    """The faces; those that share a name must not be read, for nobody knows which is meant."""
    times = Counter(face.name for face in faces)
    return [replace(face, problem=NAMESAKE) if times[face.name] > 1 and not face.problem else face for face in faces]


def problem_of(info: zipfile.ZipInfo) -> str | None:
    """Why a member must not be read, or None."""
    mode = info.external_attr >> 16
    if _is_unsafe(info.filename):
        return "unsafe name"
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


def _is_unsafe(name: str) -> bool:
    """Whether a name names nothing, points out of the archive or to a drive, or would command the terminal."""
    path = PureWindowsPath(name)  # which knows both kinds of slashes
    return (
        not path.name
        or bool(path.anchor)
        or ".." in path.parts
        or any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
    )
