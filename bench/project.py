"""A temporary project with drawn faces of 256 px, made by the pipeline's own stages; no network is needed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
SIZE, CROP, BATCH = 256, 128, 32  # px, px, images: what presets/cpu.yaml trains on
FACES_PER_CLASS = 120


@contextmanager
def project(weights: Path | None, faces_per_class: int = FACES_PER_CLASS) -> Iterator[None]:
    """Go to a project with faces in shards and DenseNet121's starting weights, and remove it afterwards.

    The weights are random; ``weights`` names a folder with others, where accuracies shall mean something.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, chdir(folder):
        write_params(
            {
                "sets.faces.sample.faces_per_class": faces_per_class,
                "sets.faces.sample.size": SIZE,
                "image.size": SIZE,
                "image.crop": CROP,
                "split.fractions": {"train": 0.7, "valid": 0.2, "test": 0.1},
                "shards.images": 50,
                "weights.source": "folder" if weights else "random",
                "weights.folder": str(weights.resolve()) if weights else None,
            }
        )
        print(f"drawing {2 * faces_per_class} faces of {SIZE} px, a quarter of a second each", file=sys.stderr)
        for stage in ("download faces", "index faces", "audit", "split", "preprocess faces", "weights densenet121"):
            run_stage(*stage.split())
        yield


def write_params(changes: dict[str, Any]) -> None:
    """Write ./params.yaml: that of the repository, or the one that is here, with some keys (dotted) changed."""
    yaml = YAML()
    here = Path("params.yaml")
    content = yaml.load(here if here.exists() else ROOT / "params.yaml")
    for key, value in changes.items():
        section = content
        *sections, last = key.split(".")
        for name in sections:
            section = section[name]
        section[last] = value
    yaml.dump(content, here)


def run_here(stage: str, *arguments: str) -> None:
    """Run a stage in this process and this folder: what it takes, without the start of Python and TensorFlow."""
    line, sys.argv = sys.argv, [stage, *arguments]
    try:
        import_module(f"stages.{stage}").main()
    finally:
        sys.argv = line


def run_stage(*words: str) -> None:
    """Run a stage (its name and arguments) in this folder; what it prints goes to stderr."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", f"stages.{words[0]}", *words[1:]], env=environment, check=True, stdout=2)
