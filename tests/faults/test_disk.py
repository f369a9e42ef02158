"""A disk that is full, or may not be written to, at each stage: one sentence, nothing half-written, and on it goes.

The project, with its scratch folder and TMPDIR, lies on a small file system of its own, in memory. `make faults` tries
more sizes than `make test`.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.clones import ROOT, environment
from tests.reliability import tally

PAGE = 4096  # bytes, of which such a file system gives out whole ones
SIZE = 6  # MB
THOROUGH = bool(os.environ.get("KILLS"))
LEFT = (0, 1, 3, 8, 24) if THOROUGH else (1,)  # pages
STAGES = ["download faces", "index faces"]
STAGES += ["audit", "split", "preprocess faces", "evaluate resnet50 baseline"] if THOROUGH else []
FULL = ("error: the disk is full (while writing ", "); free some space and run again")
READ_ONLY = ("error: no permission for ", "; make it readable and writable for you and run again")


def mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of 80 small faces, and a detector's scores, alone on a file system."""
    folder = tmp_path_factory.mktemp("disk")
    try:
        mounted = mount("-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(folder))
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"only who may mount file systems can try a full one ({mounted.stderr.strip()})")
    try:
        params = YAML(typ="safe").load(ROOT / "params.yaml")
        params["sets"]["faces"]["sample"] |= {"faces_per_class": 40, "size": 48}
        params["evaluate"]["resamples"] = 200
        YAML().dump(params, folder / "params.yaml")
        for name in ("tmp", "data/models", "data/scores"):
            (folder / name).mkdir(parents=True)
        record = {"weights": {"source": "random", "asked": "auto"}, "device": "CPU"}
        (folder / "data/models/resnet50-baseline.json").write_text(json.dumps(record))
        label = np.arange(200) % 2
        scores = pd.DataFrame({"set": "faces", "split": np.repeat(["valid", "test"], 100), "condition": "clean"})
        scores["member"], scores["label"] = [f"{number:03}.jpg" for number in range(200)], label.astype(np.int8)
        scores["logit"] = (np.random.default_rng(0).normal(size=200) + 2 * label - 1).astype(np.float32)
        scores["score"] = (1 / (1 + np.exp(-scores["logit"]))).astype(np.float32)
        scores["distance"] = np.float32(1)
        scores.to_parquet(folder / "data/scores/resnet50-baseline.parquet")
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def run(stage: str, project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *f"stages.{stage}".split()],
        cwd=project,
        env=environment() | {"PYTHONPATH": str(ROOT), "TMPDIR": str(project / "tmp")},
        capture_output=True,
        text=True,
        check=False,
    )


def fill(filler: Path, left: int) -> None:
    """Leave so many pages."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            file.truncate(max(0, file.tell() // PAGE - left) * PAGE)


def written(project: Path) -> dict[str, str]:
    """The digest of every file but the filler."""
    files = [path for path in project.rglob("*") if path.is_file() and path.name != "filler"]
    return {str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refuses(stage: str, project: Path, sentence: tuple[str, str]) -> bool:
    """Whether a stage refuses, in this sentence alone; else it has succeeded."""
    ended = run(stage, project)
    if ended.returncode == 0:
        return False
    *_, last = ended.stderr.splitlines()
    assert ended.returncode == 1, ended.stderr
    assert last.startswith(sentence[0]), ended.stderr
    assert last.endswith(sentence[1]), ended.stderr
    assert "Traceback" not in ended.stderr
    return True


def test_a_stage_without_room_refuses_and_leaves_nothing_half_written(project: Path) -> None:
    filler = project / "filler"
    with tally("a full or read-only disk", "tests/faults/test_disk.py") as counts:
        for stage in STAGES:
            before, left_behind = written(project), []
            for left in LEFT:
                fill(filler, left)
                counts["tried"] += refuses(stage, project, FULL)
                left_behind.append(written(project))
                filler.unlink()
            assert mount("-o", "remount,ro", str(project)).returncode == 0
            counts["tried"] += 1
            assert refuses(stage, project, READ_ONLY)
            assert mount("-o", "remount,rw", str(project)).returncode == 0
            ended = run(stage, project)
            assert ended.returncode == 0, ended.stderr
            whole = written(project)
            assert not [path for path in whole if ".part" in path]
            assert whole.keys() > before.keys()
            for files in left_behind:
                assert files.items() <= whole.items(), "something half-written"
    assert counts["tried"] >= 2 * len(STAGES)
