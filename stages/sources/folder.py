"""A person's own faces: a folder, packed into a zip, or a zip, verified and copied.

:mod:`stages.faces.layout` says which file is an image of which class. Nothing here looks inside one; the index does.
"""

import errno
import lzma
import os
import shutil
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.errors import UserError
from stages.faces.layout import LABELS, Place, place_of
from stages.faces.zips import Zip

CHUNK = 1 << 20  # bytes
MAX_EXPANSION = 100  # times its own size that a zip may unpack to; images hardly shrink, so more is a zip bomb


def fetch(path: Path, archive: Path, *, key: str = "data.folder.path", both: bool = True) -> dict[str, Any]:
    """Pack the folder, or copy the zip, at ``path`` into a zip at ``archive``; return provenance.

    The same files give the same archive, byte for byte. ``key`` is the parameter that names ``path``. Raises
    :class:`UserError` if ``path`` is missing, is neither a folder nor a sound zip, cannot be read, or lacks one of the
    classes (with ``both``) or both of them (without).
    """
    if path.is_dir():
        counts, left_out = _pack(path.resolve(), archive)
    elif path.is_file():
        # A copy and not a hard link: its owner may write into the original, and would change our hashed data with it.
        shutil.copyfile(path, archive)
        try:
            counts, left_out = verify(archive), {}
        except zipfile.BadZipFile as error:
            raise UserError(
                f"{path} is not a sound zip ({error}); make it again, or name the folder it was made from"
            ) from None
    else:
        raise UserError(f"{path} does not exist; set {key} to a folder or .zip with real/ and fake/ in it")
    require_classes(counts, str(path), both=both)
    return {"path": str(path), **summary(counts), **left_out}


def summary(counts: Counter[Place]) -> dict[str, Any]:
    """What a provenance says of :func:`verify`'s counts: ``images`` in all, and ``counts`` by place as text."""
    return {"images": counts.total(), "counts": {str(place): counts[place] for place in sorted(counts, key=str)}}


def require_classes(counts: Counter[Place], name: str, *, both: bool = True) -> None:
    """Raise :class:`UserError` about the source ``name`` unless ``counts``, by place, holds both classes, or any."""
    missing = [kind for kind in LABELS if not any(place.kind == kind for place in counts)]
    if missing and (both or len(missing) == len(LABELS)):
        needs = "both classes, files in real/ and files in fake/" if both else "files in real/ or in fake/"
        raise UserError(
            f"{name} has no file in a folder named {missing[0]}; it needs {needs}, "
            "alone or under train/, valid/ and test/"
        )


def verify(archive: Path) -> Counter[Place]:
    """Check every member of a zip against its CRC-32; count the images in each place.

    Raises :class:`zipfile.BadZipFile`, with the reason, for anything but a sound, unencrypted zip of sane size.
    """
    counts: Counter[Place] = Counter()
    try:
        with Zip(archive) as members:
            size, unpacked = archive.stat().st_size, 0
            with tqdm(total=size, desc="verifying the archive", unit="B", unit_scale=True, disable=None) as bar:
                for place, member in members.members():
                    unpacked += member.file_size
                    if unpacked > MAX_EXPANSION * size:
                        raise zipfile.BadZipFile(
                            f"it would unpack to more than {MAX_EXPANSION} times its size, as no images do"
                        )
                    with members.open(place) as content:
                        while content.read(CHUNK):
                            pass
                    if where := place_of(member.filename):
                        counts[where] += 1
                    bar.update(member.compress_size)
    except (zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError) as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error
    except OSError as error:
        # zipfile seeks to where a damaged directory sends it, and bz2 reports bad data as an OSError without a number.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise zipfile.BadZipFile(str(error)) from error
    return counts


def _pack(folder: Path, archive: Path) -> tuple[Counter[Place], dict[str, int]]:
    """Pack what lies in class folders, sorted by name, with fixed times; count it by place, and what was left out."""
    left_out = {"other_files_left_out": 0, "links_left_out": 0}
    chosen: list[str] = []
    for path in _walk(folder):
        member = path.relative_to(folder).as_posix()
        if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(folder)):
            left_out["links_left_out"] += 1
        elif place_of(member) and path.is_file():
            chosen.append(member)
        else:
            left_out["other_files_left_out"] += 1
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members:
        for member in tqdm(sorted(chosen), desc="packing faces", unit="file", disable=None):
            _add(members, member, folder / member)
    return Counter(place for member in chosen if (place := place_of(member))), left_out


def _walk(folder: Path) -> Iterator[Path]:
    """Every file and every link under a folder; hidden ones are passed over, and links to folders are not entered."""

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read {error.filename} ({error.strerror}); make it readable for you and run again")

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield from (Path(root, name) for name in (*links, *files) if not name.startswith("."))


def _add(members: zipfile.ZipFile, member: str, path: Path) -> None:
    """Stream one file into the archive as ``member``, stored as it is, dated 1980 and made by nobody in particular."""
    info = zipfile.ZipInfo(member, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    try:
        with path.open("rb") as source:
            info.file_size = path.stat().st_size  # tells zipfile whether the member needs 64-bit sizes
            with members.open(info, "w") as target:
                shutil.copyfileobj(source, target, CHUNK)
    except (PermissionError, FileNotFoundError) as error:
        raise UserError(f"cannot read {path} ({error.strerror}); make it readable for you and run again") from None
    except UnicodeEncodeError:
        raise UserError(
            f"the name of {os.fsencode(path)!r} is not valid UTF-8; rename the file and run again"
        ) from None
