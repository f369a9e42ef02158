"""How a stage publishes what it made: beside its place, then moved in with ``os.replace``, whole or not at all."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stages.errors import DiskFullError, UserError, disk_is_full


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Make ``folder`` and work there alone: another process that wants to says so, and waits.

    The lock, a file beside it, goes with its process, however that ends. The block may remove the folder.
    """
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for another run, which is at work in {folder}", file=sys.stderr)
        lock.acquire()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # who waits for it sees that it is gone, and makes another
        lock.release()


@contextmanager
def publish(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any error it is removed.

    The temporary path keeps the suffixes of ``path`` (writers choose a format by them) and does not exist yet:
    the block may make a file or a folder there. What a killed writer left is removed by the next one. Raises
    :class:`UserError` if a folder lies where a file belongs, or the other way round.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_name(f".{path.name}.part")
    part = holder / path.name
    with hold(holder):
        try:
            for left in holder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield part
            part.lstat()  # FileNotFoundError, if nothing was made
            for made in part.rglob("*") if part.is_dir() else [part]:
                if made.is_file():  # bytes before the name, or a power cut may leave the name alone
                    with made.open("rb") as file:
                        os.fsync(file.fileno())
            if path.exists() and path.is_dir() != part.is_dir():
                lies, belongs = ("folder", "file") if path.is_dir() else ("file", "folder")
                raise UserError(f"{path} is a {lies} where a {belongs} belongs; move it away and run again")
            old = holder / f"{path.name}.old"
            if path.is_dir():
                os.replace(path, old)
            try:
                os.replace(part, path)
            except BaseException:
                if old.exists():
                    os.replace(old, path)
                raise
        except Exception as error:
            if disk_is_full(error) and not isinstance(error, UserError):
                raise DiskFullError(path) from error
            raise
        finally:
            shutil.rmtree(holder, ignore_errors=True)


@contextmanager
def in_memory(path: Path) -> Iterator[io.BytesIO]:
    """Yield a buffer for a picture, which becomes the file at ``path``.

    Pillow, and Matplotlib through it, takes a disk that is full after a part of the last bytes for one that took all.
    """
    buffer = io.BytesIO()
    yield buffer
    path.write_bytes(buffer.getbuffer())


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Publish ``content`` as JSON, keys in their order, NaN refused (it is not JSON)."""
    with publish(path) as part:
        part.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file. Raises :class:`UserError` where a stage has not written it yet, or it is damaged."""
    with reading(path):
        return json.loads(Path(path).read_text(encoding="utf-8"))


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Read a file that a stage wrote. Raises :class:`UserError` where it is missing or, says the library, damaged."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing; make it with `dvc repro`") from None
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk refused
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}); delete it, and `dvc repro` makes it again") from None


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*ingredients: Any) -> str:
    """16 hexadecimal digits that name what something was made of: JSON-ready values, and the content of paths."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True, default=sha256).encode()).hexdigest()[:16]


def commit() -> str:
    """The commit whose code made what is here. Parameters may differ from it: the command says how.

    Raises :class:`UserError` where git knows none, or ``stages/`` has changes that are in none.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"git cannot tell the commit of this folder: {done.stderr.strip()}")
        return done.stdout.strip()

    if git("status", "--porcelain", "--", "stages"):
        raise UserError("stages/ has changes that are in no commit, so nobody could run this again; commit them first")
    return git("rev-parse", "--short", "HEAD")


def project_root() -> Path:
    """The project's real root: ``DVC_ROOT`` where DVC runs a stage elsewhere (``dvc exp run --temp``), else here."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def user_path(path: str) -> Path:
    """A path from params.yaml, which is relative to the project's real root, not to an experiment's temporary one.

    Raises :class:`UserError` for a ``~`` that stands for nobody's home.
    """
    try:
        return project_root() / Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path} names no home folder that can be found; write the path without ~") from None
