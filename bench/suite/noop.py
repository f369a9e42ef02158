"""`dvc repro` with nothing to do: the seconds until it says so, for the whole pipeline as it is committed.

In a copy of what git has, every output is a file or folder of a few bytes, and ``dvc commit`` writes down that they are
what the stages made. DVC compares digests, remembers those of files that did not change, and so does the same work as
after a real run, whatever the outputs hold. That nothing ran is checked.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Result, SkipError, seconds
from bench.project import ROOT

PROJECT = False
ROUNDS = 7
DONE = "Data and pipelines are up to date."


def measure() -> Iterator[Result]:
    """Seconds of ``dvc repro``."""
    with tempfile.TemporaryDirectory(prefix="noop-") as folder:
        copy = Path(folder, "project")
        take_copy(copy)
        stages = pretend(copy)
        said = dvc(copy, "repro")
        if DONE not in said:
            raise SkipError(f"dvc repro had something to do: {said.strip().splitlines()[-1]}")
        values = [seconds(lambda: dvc(copy, "repro")) for _ in range(ROUNDS)]
    what = f"dvc repro of {stages} stages with nothing to do"
    yield Result("noop", what, values, 4, better="lower", unit="s", details={"stages": stages})


def take_copy(copy: Path) -> None:
    """What git has or would take, as a repository of its own."""
    try:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SkipError(f"it needs a git checkout of the project: {error}") from None
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)


def pretend(copy: Path) -> int:
    """Make every output that is missing, and what is read of it, commit them all; return the number of stages."""
    from dvc.repo import Repo

    with Repo(str(copy)) as repo:
        paths = [Path(one.fs_path) for one in (*repo.index.outs, *repo.index.deps)]
        count = len(list(repo.index.stages))
    for path in paths:
        if path.exists():
            continue
        file = path if path.suffix else path / "part"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(path.relative_to(copy)))
    dvc(copy, "commit", "--force", "--quiet")
    return count


def dvc(copy: Path, *arguments: str) -> str:
    """What a command of DVC prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True, text=True).stdout
