"""How a stage publishes what it made: beside its place, then moved in with ``os.replace``, whole or not at all."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import UserError


@contextmanager
def publish(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any error it is removed.

    The temporary path keeps the suffixes of ``path`` (writers choose a format by them) and does not exist yet:
    the block may make a file or a folder there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        part = holder / path.name
        yield part
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(part, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Publish ``content`` as JSON, keys in their order, NaN refused (it is not JSON)."""
    with publish(path) as part:
        part.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file. Raises :class:`UserError` where a stage has not written it yet."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; make it with `dvc repro`") from None


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*ingredients: Any) -> str:
    """16 hexadecimal digits that name what something was made of: JSON-ready values, and others by their text."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True, default=str).encode()).hexdigest()[:16]


def project_root() -> Path:
    """The project's real root: ``DVC_ROOT`` where DVC runs a stage elsewhere (``dvc exp run --temp``), else here."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def user_path(path: str) -> Path:
    """A path from params.yaml, which is relative to the project's real root, not to an experiment's temporary one."""
    return project_root() / Path(path).expanduser()
