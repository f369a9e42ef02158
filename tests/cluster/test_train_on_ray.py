"""Fine-tuning on workers that Ray places: processes on this machine, with a real backbone of random weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages import baseline, weights
from tests import test_finetune
from tests.test_finetune import MODEL, SETTINGS

pytest.importorskip("ray", reason="Ray is not installed; `make cluster-test` does that")
ROOT = Path(__file__).parents[2]
pack = test_finetune.pack  # a fixture


def train(*arguments):
    """The exit code, and what it says."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "stages.train_on_ray", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


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


def test_more_than_the_cluster_has_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = train(MODEL, "--cpus", "1000")
    assert code == 1
    assert "the cluster has no room for 2 workers of 1000 cores and 0 GPUs" in said
    assert "Traceback" not in said
