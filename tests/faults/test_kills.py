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
from tests.reliability import tally

ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}  # so sums repeat bit for bit on a CPU
KILLS = int(os.environ.get("KILLS", "0"))
PAUSE = 5.0  # s at most between two looks: less than a stage with TensorFlow takes
pytestmark = pytest.mark.skipif(not KILLS, reason="set KILLS=100, or type `make faults`: it takes some 25 minutes")


def fresh(folder: Path) -> Path:
    """A clone with the tiny preset, whose training repeats bit for bit, and lasts long enough to be killed in.

    One backbone has stages of every kind; a second one would double the time.
    """
    clone(folder)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["models"] = ["resnet50"]
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


def unlock(project: Path, counts: Counter[str]) -> None:
    """Do what `make repro` does first, for a DVC that was killed as it wrote its own lock."""
    lock = project / ".dvc/tmp/rwlock"
    if lock.exists() and not lock.read_bytes():
        lock.unlink()
        counts["locks"] += 1


def disturb(project: Path, moments: random.Random, killed: Counter[str], counts: Counter[str]) -> None:
    """Run the pipeline to its end, and kill its stage, or DVC, at random moments on its way there."""
    while sum(killed.values()) < KILLS:
        unlock(project, counts)
        dvc = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=project,
            env=environment() | ONE_THREAD,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while True:
            with suppress(subprocess.TimeoutExpired):
                _, said = dvc.communicate(timeout=moments.uniform(0.2, PAUSE))
                assert dvc.returncode == 0, said
                return
            below = psutil.Process(dvc.pid).children(recursive=True)
            stages = {process: stage for process in below if (stage := stage_of(process))}
            at_work = next(iter(stages.values()), "DVC")
            if moments.random() < 1 / (1 + killed[at_work]):  # so that every stage gets its share, the short ones too
                break
        names = {psutil.Process(dvc.pid): "DVC", **stages}
        victim = min(names, key=lambda process: killed[names[process]])
        with suppress(psutil.NoSuchProcess):
            victim.kill()
            killed[names[victim]] += 1
        dvc.communicate()
        _, outlived = psutil.wait_procs(below, timeout=10)
        assert not outlived, "a stage or one of its workers outlived DVC"
        counts["tried"] = sum(killed.values())
    unlock(project, counts)
    repro(project)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """The figures of a run that nobody disturbed, and how many seconds it took."""
    started = time.monotonic()
    project = fresh(tmp_path_factory.mktemp("undisturbed") / "project")
    repro(project)
    return figures(project), time.monotonic() - started


def test_the_run_that_is_left_alone_ends_as_if_it_had_never_been_killed(
    undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    wanted, alone = undisturbed
    moments, killed, runs = random.Random(20), Counter[str](), 0
    started = time.monotonic()
    with tally("a stage or DVC itself is killed", "tests/faults/test_kills.py") as counts:
        while sum(killed.values()) < KILLS:
            project = fresh(tmp_path / str(runs))
            disturb(project, moments, killed, counts)
            runs += 1
            assert figures(project) == wanted
            assert not [path for path in project.rglob(".*.part") if ".dvc" not in path.parts], "what a writer left"
            assert [path.name for path in (project / ".scratch").iterdir() if path.is_dir()] == ["scores"]
            shutil.rmtree(project)
    lost = (time.monotonic() - started - runs * alone) / sum(killed.values())
    print(f"\n{sum(killed.values())} kills in {runs} runs, none ended otherwise; {lost:.0f} s lost a kill")
    print(f"{counts['locks']} times DVC left an empty lock")
    for stage, times in sorted(killed.items()):
        print(f"| {stage} | {times} | 0 |")


def test_two_runs_of_one_commit_give_equal_figures_bit_for_bit(
    undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    with tally("two runs of one commit", "tests/faults/test_kills.py") as counts:
        again = fresh(tmp_path / "again")
        repro(again)
        counts["tried"] += 1
        assert figures(again) == undisturbed[0]
