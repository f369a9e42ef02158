"""Stages and DVC itself are killed at any moment, again and again; the run that is left alone ends as if never killed.

KILLS=100 pytest -s tests/faults        # or `make faults`; some 25 minutes on two cores
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ruamel.yaml import YAML

from tests.clones import call, clone, environment

ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}  # so sums repeat bit for bit on a CPU
KILLS = int(os.environ.get("KILLS", "0"))
LONGEST = 15.0  # s between two kills: a few stages, or the start of TensorFlow and some training
pytestmark = pytest.mark.skipif(not KILLS, reason="set KILLS=100, or type `make faults`: it takes some 25 minutes")


def fresh(folder: Path) -> Path:
    """A clone with the tiny preset, whose training repeats bit for bit, and lasts long enough to be killed in."""
    clone(folder)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["training"]["deterministic"] = True
    for detector in params["detectors"].values():
        detector["finetune"]["epochs"] = 4
    yaml.dump(params, folder / "params.yaml")
    return folder


def figures(project: Path) -> dict[str, Any]:
    """All figures of all detectors, and who won."""
    files = [*sorted(project.glob("data/figures/*.json")), project / "data/leaderboard.json"]
    return {file.name: json.loads(file.read_text()) for file in files}


def stage_of(process: psutil.Process) -> str | None:
    """The stage that a process is of, by its command; None for others."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return None
    return next((word.removeprefix("stages.") for word in command if word.startswith("stages.")), None)


def repro(project: Path) -> None:
    """Run the pipeline, undisturbed."""
    call(project, "env", *(f"{name}={value}" for name, value in ONE_THREAD.items()), "dvc", "repro")


def disturb(project: Path, moments: random.Random, killed: Counter[str]) -> None:
    """Run the pipeline to its end, and kill its stage, or DVC, as often as it does not get there in time."""
    while sum(killed.values()) < KILLS:
        dvc = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=project,
            env=environment() | ONE_THREAD,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _, said = dvc.communicate(timeout=moments.uniform(0.5, LONGEST))
            assert dvc.returncode == 0, said
            return
        except subprocess.TimeoutExpired:
            below = psutil.Process(dvc.pid).children(recursive=True)
            stages = {process: stage for process in below if (stage := stage_of(process))}
            victim = moments.choice([psutil.Process(dvc.pid), *stages])
            killed[stages.get(victim, "DVC")] += 1
            with suppress(psutil.NoSuchProcess):
                victim.kill()
            dvc.communicate()
            _, outlived = psutil.wait_procs(below, timeout=10)
            assert not outlived, "a stage or one of its workers outlived DVC"
    repro(project)


def test_the_run_that_is_left_alone_ends_as_if_it_had_never_been_killed(tmp_path: Path) -> None:
    started = time.monotonic()
    undisturbed = fresh(tmp_path / "undisturbed")
    repro(undisturbed)
    alone = time.monotonic() - started
    wanted, moments, killed, runs = figures(undisturbed), random.Random(20), Counter[str](), 0
    started = time.monotonic()
    while sum(killed.values()) < KILLS:
        project = fresh(tmp_path / str(runs))
        disturb(project, moments, killed)
        runs += 1
        assert figures(project) == wanted
        assert not [path for path in project.rglob(".*.part") if ".dvc" not in path.parts], "what a killed writer left"
        assert [path.name for path in (project / ".scratch").iterdir() if path.is_dir()] == ["scores"]
        shutil.rmtree(project)
    lost = (time.monotonic() - started - runs * alone) / sum(killed.values())
    print(f"\n{sum(killed.values())} kills in {runs} runs, none ended otherwise; {lost:.0f} s lost a kill")
    for stage, times in sorted(killed.items()):
        print(f"| {stage} | {times} | 0 |")
