"""The hooks of pre-commit run on this repository, and refuse what they are for; so do checks of the recipes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
BY_LINT = "ruff-check,ruff-format,mypy"  # which `make lint` runs


def hooks(folder: Path, home: Path, *names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    git_free = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        [sys.executable, "-m", "pre_commit", "run", *names, "--all-files"],
        cwd=folder,
        env={**git_free, "PRE_COMMIT_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_this_repository_passes(tmp_path: Path) -> None:
    result = hooks(ROOT, tmp_path, SKIP=BY_LINT)
    assert result.returncode == 0, result.stdout


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with our hooks, and with something in it for each of them to refuse."""
    folder = tmp_path_factory.mktemp("spoilt")
    shutil.copy(ROOT / ".pre-commit-config.yaml", folder)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / ".gitignore").write_text(".venv\n")
    (folder / "module.py").write_text("import os\nx  =  1\n")
    (folder / "broken.yaml").write_text("a: [1\n")
    (folder / "big.txt").write_text("x" * 600_000)
    for name in ("docs", "pretrained"):
        (folder / name).mkdir()
    for name in ("pretrained/network.tflite", "copy.tflite"):
        (folder / name).write_bytes(bytes(600_000))
    for name in ("face.JPG", "docs/face.jpeg"):
        Image.new("RGB", (8, 8)).save(folder / name, "JPEG")
    Image.new("RGB", (8, 8)).save(folder / "docs/curve.png")
    recipe = (ROOT / ".github/workflows/ci.yml").read_text()
    (folder / ".github/workflows").mkdir(parents=True)
    (folder / ".github/workflows/ci.yml").write_text(recipe.replace("runs-on:", "runs-at:", 1))
    (folder / ".github/workflows/loose.yml").write_text(
        recipe.replace("checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8", "checkout@main")
    )
    for arguments in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(
    ("hook", "says"),
    [
        ("ruff-check", ["F401"]),
        ("ruff-format", ["module.py"]),
        ("yaml", ["broken.yaml"]),
        ("large-files", ["big.txt", "copy.tflite"]),
        ("no-faces", ["face.JPG", "docs/face.jpeg", "copy.tflite"]),
        ("workflow-schema", ["ci.yml"]),
        ("workflow-security", ["loose.yml"]),
    ],
)
def test_each_hook_refuses_what_it_is_for(hook: str, says: list[str], spoilt: Path, tmp_path: Path) -> None:
    result = hooks(spoilt, tmp_path, hook)
    assert result.returncode == 1, result.stdout
    for word in says:
        assert word in result.stdout
    assert not any(name in result.stdout for name in ("curve.png", "network.tflite"))


def test_images_are_built_of_files_that_docker_may_see_by_targets_that_make_has() -> None:
    recipe = (ROOT / "Dockerfile").read_text()
    (copied,) = re.findall(r"^COPY --chown=me (.+) \./$", recipe, re.MULTILINE)
    (served,) = re.findall(r"COPY (.+) /tmp/$", (ROOT / "compose.yaml").read_text(), re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {*copied.split(), *served.split()} == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).is_file() for name in copied.split())
    (target,) = re.findall(r"make \"(.+)\"$", recipe, re.MULTILINE)
    for gpu in ("", "1"):
        name = subprocess.run(
            ["sh", "-c", f'echo "{target}"'], env={"GPU": gpu}, capture_output=True, text=True, check=True
        ).stdout.strip()
        assert f"\n{name}: requirements.txt" in (ROOT / "Makefile").read_text()
