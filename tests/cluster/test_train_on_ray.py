"""Fine-tuning on workers that Ray places: processes on this machine, with a real backbone of random weights."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from stages import baseline, train_on_ray, weights
from tests import test_finetune
from tests.test_finetune import MODEL, SETTINGS

pytest.importorskip("ray", reason="Ray is not installed; `make cluster-test` does that")
ROOT = Path(__file__).parents[2]
pack = test_finetune.pack  # a fixture


def start(*arguments):
    """The command at work."""
    environment = {"HOSTS_PATIENCE": "60"} | os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "stages.train_on_ray", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def train(*arguments):
    """The exit code, and what it says."""
    process = start(*arguments)
    try:
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, said


@pytest.fixture
def project(tmp_path, monkeypatch, write_params, command, pack, float32):
    """A project in which the baseline ran."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    write_params(SETTINGS)
    pack()
    command(weights.main, MODEL)
    command(baseline.main, MODEL)
    return tmp_path


def test_two_workers_that_ray_places_train_one_detector(project):
    code, said = train(MODEL, "--workers", "2")
    assert code == 0, said
    assert "2 hosts share each batch, 2 devices in all" in said
    assert f"{MODEL}-finetune: validation AUC" in said
    assert (project / f"data/models/{MODEL}-finetune.keras").exists()
    assert list((project / ".scratch").iterdir()) == []


def test_a_worker_that_is_killed_takes_its_stage_with_it_and_the_run_ends_in_a_sentence(project, monkeypatch):
    monkeypatch.setenv("HOSTS_PATIENCE", "600")
    monkeypatch.setenv("RAY_process_group_cleanup_enabled", "false")  # as where all of Ray is killed at once
    process, stages = start(MODEL, "--workers", "2"), {}
    while len(stages) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
        for child in psutil.Process(process.pid).children(recursive=True):
            if command_of(child)[1:3] == ["-m", "stages.finetune"]:
                stages[json.loads(child.environ()["TF_CONFIG"])["task"]["index"]] = child
    stages[1].suspend()  # so that the chief waits for it, and has nothing to say
    while not (line := process.stdout.readline()).startswith("device: "):
        assert line
    stages[0].parent().kill()
    stages[0].wait(30)
    stages[1].kill()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "failed:\nThe actor died" in said
    assert said.splitlines()[-1].startswith("error: 2 of 2 workers failed; mend what they say above")
    assert "Traceback" not in said


def command_of(process):
    """The command line of a process, if it is there."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def test_what_the_workers_that_fail_say_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = train(MODEL)
    assert code == 1
    assert said.count("error: params.yaml is missing") == 2
    assert "\nworker 1, " in said
    assert "error: 2 of 2 workers failed; mend what they say above" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--cpus", "-1"], ["--gpus", "-1"]])
def test_numbers_that_are_none_are_refused(capsys, command, arguments):
    with pytest.raises(SystemExit, match="2"):
        command(train_on_ray.main, MODEL, *arguments)
    assert "--workers and --cpus must be at least 1, --gpus at least 0" in capsys.readouterr().err


def test_more_than_the_cluster_has_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = train(MODEL, "--cpus", "1000")
    assert code == 1
    assert "the cluster has no room for 2 workers of 1000 cores and 0 GPUs" in said
    assert "Traceback" not in said
