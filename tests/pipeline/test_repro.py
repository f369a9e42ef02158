"""The real `dvc repro`, from a fresh clone to the leaderboard, on the tiny preset; then what re-runs when."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
DETECTORS = [f"{model}-{phase}" for model in ("resnet50", "densenet121") for phase in ("baseline", "finetune")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what git would commit now, with the tiny preset applied."""
    folder = tmp_path_factory.mktemp("clone") / "project"
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


@pytest.fixture(scope="module")
def first(project: Path) -> str:
    """What the first run prints."""
    return call(project, "dvc", "repro")


def call(folder: Path, *command: str, refused: bool = False) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == refused, f"{command}: {result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(.+)':", output)


def change(project: Path, key: str, value: object) -> None:
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    *path, last = key.split(".")
    section = params
    for part in path:
        section = section[part]
    section[last] = value
    yaml.dump(params, project / "params.yaml")


def test_one_command_makes_four_compared_detectors(project: Path, first: str) -> None:
    assert len(ran(first)) == 28
    for name in DETECTORS:
        metrics = json.loads((project / f"metrics/detectors/{name}.json").read_text())
        assert metrics["n"] == 20
        assert 0 <= metrics["roc_auc_low"] <= metrics["roc_auc"] <= metrics["roc_auc_high"] <= 1
        assert metrics["weights"] == "random"
        plots = ("history", "roc", "pr", "confusion", "scores", "report", "operating_points", "answers", "reliability")
        for plot in (*plots, "robustness", "external", "deletion"):
            assert len(pd.read_csv(project / f"plots/{name}/{plot}.csv")) > 0
        assert (project / f"data/explanations/{name}/sheet.jpg").is_file()
    board = json.loads((project / "metrics/leaderboard.json").read_text())
    assert board["champion"] in DETECTORS
    assert sorted(pd.read_csv(project / "plots/leaderboard.csv")["detector"]) == sorted(DETECTORS)
    assert "Leaderboard on 20 test images" in first
    assert "dvc plots show" in first
    assert "MLflow: 4 sent" in first


def test_nothing_runs_twice(project: Path, first: str) -> None:
    assert ran(call(project, "dvc", "repro")) == []


def test_no_warning_of_a_library_reaches_the_terminal(first: str) -> None:
    for word in ("Warning", "E0000", "W0000", "I0000", "Traceback"):
        assert word not in first


def test_only_the_passes_of_scoring_are_kept_in_the_scratch_folder(project: Path, first: str) -> None:
    assert [path.name for path in (project / ".scratch").iterdir() if path.is_dir()] == ["scores"]


def test_an_external_set_costs_its_own_passes_and_no_training(project: Path, first: str) -> None:
    others = project / "others/fake"
    others.mkdir(parents=True)
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(others / f"{number}.png")
    printed = call(project, "dvc", "exp", "run", "-n", "elsewhere", "-S", "+external.noise=others")
    assert not {stage.split("@")[0] for stage in ran(printed)} & {
        "download",
        "index",
        "features",
        "baseline",
        "finetune",
    }
    assert "external/noise: 0 real, 6 fake" in printed
    assert "noise (0/6)" in printed
    assert len(list((project / ".scratch/scores/resnet50-baseline").iterdir())) == 8
    call(project, "git", "checkout", "-q", "--", ".")
    call(project, "dvc", "checkout", "-q", "--force")


def test_every_metric_and_plot_is_gits_and_every_face_is_dvcs(project: Path, first: str) -> None:
    status = call(project, "git", "status", "--porcelain", "--untracked-files=all")
    written = {line[3:] for line in status.splitlines()}
    assert {"dvc.lock", "metrics/leaderboard.json", "plots/leaderboard.png"} <= written
    assert not [name for name in written if name.startswith(("data/", "mlflow.db", "mlartifacts"))]


def test_metrics_and_plots_are_shown(project: Path, first: str) -> None:
    shown = json.loads(call(project, "dvc", "metrics", "show", "--json"))[""]["data"]
    assert set(shown) == {"metrics/data.json", "metrics/leaderboard.json"} | {
        f"metrics/detectors/{name}.json" for name in DETECTORS
    }
    assert all(len(file["data"]) <= 24 for file in shown.values())
    assert "file://" in call(project, "dvc", "plots", "show")
    page = (project / "dvc_plots/index.html").read_text()
    assert "cdn.jsdelivr" not in page
    for title in ("ROC curve, test images", "Confusion matrix", "Leaderboard", "Loss, training images"):
        assert title in page


def test_a_changed_rate_reruns_only_what_depends_on_it(project: Path, first: str) -> None:
    call(project, "git", "add", "-A")
    call(project, "git", "commit", "-q", "-m", "first run")
    change(project, "detectors.densenet121.finetune.learning_rate", 0.0007)
    rows = json.loads(call(project, "dvc", "params", "diff", "--json"))
    assert [list(keys) for keys in rows.values()] == [["detectors.densenet121.finetune.learning_rate"]]
    assert ran(call(project, "dvc", "repro")) == [
        "params",
        "finetune@densenet121",
        "score@densenet121-finetune",
        "evaluate@densenet121-finetune",
        "compare",
    ]
    changed = json.loads(call(project, "dvc", "metrics", "diff", "--json"))
    assert set(changed) <= {"metrics/detectors/densenet121-finetune.json", "metrics/leaderboard.json"}


def test_a_misspelt_parameter_stops_the_run_before_anything_starts(project: Path, first: str) -> None:
    change(project, "training.sede", 1)
    printed = call(project, "dvc", "repro", refused=True)
    assert "unknown key 'sede'; did you mean seed?" in printed
    assert ran(printed) == ["params"]
    assert "Traceback" not in printed
