"""Clones of the project, and commands in them, for tests that run the pipeline as a user does."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]


def clone(folder: Path) -> Path:
    """A clone of what git would commit now, with the tiny preset applied and committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    call(folder, "git", "init", "-q")
    call(folder, "git", "config", "user.name", "A Newcomer")
    call(folder, "git", "config", "user.email", "newcomer@example.org")
    call(folder, sys.executable, "-m", "stages.preset", "tiny")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-q", "-m", "tiny")
    return folder


def call(folder: Path, *command: str, refused: bool = False) -> str:
    """What a command prints in a project, which must succeed, or be ``refused``."""
    result = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == refused, f"{command}: {result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def git(*arguments: str) -> str:
    """What git prints, here, for somebody who commits."""
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def environment() -> dict[str, str]:
    """Ours, without the settings of the person who runs the tests, and with this Python's commands first."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    return environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}


def ran(output: str) -> list[str]:
    """The stages that a `dvc repro` ran, by what it printed."""
    return re.findall(r"Running stage '(.+)':", output)


def change(project: Path, key: str, value: object) -> None:
    """Change a parameter, by its dotted key."""
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    *path, last = key.split(".")
    section = params
    for part in path:
        section = section[part]
    section[last] = value
    yaml.dump(params, project / "params.yaml")
