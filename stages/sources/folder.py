"""A person's own faces: a folder, packed into a zip, or a zip, verified and copied.

:mod:`stages.faces.classes` says which file is an image of which class. Nothing here looks inside one; the index does.
Links are followed wherever they lead: caches, such as Hugging Face's and DVC's, are made of links to another folder.
"""

import os
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.errors import UserError
from stages.faces.classes import lacks, rule_of
from stages.faces.layout import LABELS, Place, is_clutter
from stages.faces.zips import Zip
from stages.params import Classes
from stages.progress import progress

CHUNK = 1 << 20  # bytes
OTHER, DANGLING = "other files", "links that lead nowhere"  # what is skipped
MAX_EXPANSION = 100  # times its own size that a zip may unpack to; images hardly shrink, so more is a zip bomb


def fetch(
    path: Path,
    archive: Path,
    *,
    key: str = "path",
    both: bool = True,
    classes: Classes | None = None,
) -> dict[str, Any]:
    """Pack the folder, or copy the zip, at ``path`` into a zip at ``archive``; return provenance.

    The same files give the same archive, byte for byte. ``key`` is the parameter that names ``path``, and ``classes``
    tell where its classes lie. Raises :class:`UserError` if ``path`` is missing, is neither a folder nor a sound zip,
    cannot be read, or lacks one of the classes (with ``both``) or both of them (without).
    """
    if path.is_dir():
        counts, skipped = _pack(path.resolve(), archive, classes)
    elif path.is_file():
        # A copy and not a hard link: its owner may write into the original, and would change our hashed data with it.
        shutil.copyfile(path, archive)
        try:
            verify(archive)
        except zipfile.BadZipFile as error:
            raise UserError(
                f"{path} is not a sound zip ({error}); make it again, or name the folder it was made from"
            ) from None
        counts, skipped = count(archive, classes)
    else:
        raise UserError(f"{path} does not exist; set {key} to a folder or .zip of faces")
    require_classes(counts, str(path), both=both, classes=classes)
    return {"path": str(path), **summary(counts, skipped)}


def summary(counts: Counter[Place], skipped: Counter[str]) -> dict[str, Any]:
    """What a provenance says of :func:`count`'s counts: images in all, by place, and what was skipped, by kind."""
    by_place = {str(place): counts[place] for place in sorted(counts, key=str)}
    return {"images": counts.total(), "counts": by_place, "skipped": dict(sorted(skipped.items()))}


def require_classes(counts: Counter[Place], name: str, *, both: bool = True, classes: Classes | None = None) -> None:
    """Raise :class:`UserError` about the source ``name`` unless ``counts``, by place, holds both classes, or any."""
    missing = [kind for kind in LABELS if not any(place.kind == kind for place in counts)]
    if missing and (both or len(missing) == len(LABELS)):
        if classes:
            raise UserError(f"{name} has no {' and no '.join(missing)} images: {lacks(classes, missing)}")
        needs = "both classes, files in real/ and files in fake/" if both else "files in real/ or in fake/"
        raise UserError(
            f"{name} has no file in a folder named {missing[0]}; it needs {needs}, "
            "alone or under train/, valid/ and test/"
        )


def verify(archive: Path) -> None:
    """Check every member of a zip against its CRC-32.

    Raises :class:`zipfile.BadZipFile`, with the reason, for anything but a sound, unencrypted zip of sane size.
    """
    try:
        with Zip(archive) as members:
            size, unpacked = archive.stat().st_size, 0
            with progress(total=size, desc="verifying the archive", unit="B", unit_scale=True) as bar:
                for place, member in members.members():
                    unpacked += max(member.file_size, member.compress_size)  # entries may share bytes
                    if unpacked > MAX_EXPANSION * size:
                        raise zipfile.BadZipFile(
                            f"it would unpack to more than {MAX_EXPANSION} times its size, as no images do"
                        )
                    with members.open(place) as content:
                        while content.read(CHUNK):
                            pass
                    bar.update(member.compress_size)
    except (zlib.error, EOFError, ValueError) as error:
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error


def count(archive: Path, classes: Classes | None = None) -> tuple[Counter[Place], Counter[str]]:
    """Count the images in each place of a zip that :func:`verify` found sound, and what is no image."""
    counts, skipped = Counter[Place](), Counter[str]()
    with Zip(archive) as members:
        rule = rule_of(classes, ((info.filename, place) for place, info in members.members()), members.open)
        for _, info in members.members():
            if where := rule(info.filename):
                counts[where] += 1
            else:
                skipped[OTHER] += 1
    return counts, skipped


def images(folder: Path, classes: Classes | None = None) -> tuple[dict[str, Place | None], Counter[str]]:
    """The images in a folder, each with its place, and how many files are none, by kind.

    Images are named by their paths below the folder, in the order of names. The table of their labels, if they have
    one, stands behind them, without a place.
    """
    found, skipped = dict[str, Place | None](), Counter[str]()
    files = sorted(path.relative_to(folder).as_posix() for path in _walk(folder))
    sound = ((member, folder / member) for member in files if (folder / member).is_file())
    rule = rule_of(classes, sound, lambda path: path.open("rb"))
    for member in files:
        path, place = folder / member, rule(member)
        if place and path.is_file():
            found[member] = place
        else:
            skipped[OTHER if path.exists() else DANGLING] += 1
    if classes and classes.labels:
        found.setdefault(classes.labels.file, None)
    return found, skipped


def _pack(folder: Path, archive: Path, classes: Classes | None) -> tuple[Counter[Place], Counter[str]]:
    """Pack the images of a folder, sorted by name, with fixed times; count them by place, and what is no image."""
    found, skipped = images(folder, classes)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members:
        for member in progress(found, desc="packing faces", unit="file"):
            _add(members, member, folder / member)
    return Counter(filter(None, found.values())), skipped


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file under a folder, wherever links lead; a folder of clutter is one.

    ``above`` are the real paths of the folders that lead here: a link back to one is a loop, and holds nothing new.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {folder} ({error.strerror}); make it readable for you and run again") from None
    for path in paths:
        if path.is_dir() and not is_clutter(path.name):
            yield from _walk(path, (*above, here))
        else:
            yield path


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
