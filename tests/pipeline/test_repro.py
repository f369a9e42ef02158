"""The real `dvc repro`, from a fresh clone to the leaderboard, on the tiny preset; then what re-runs when."""

import csv
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from ruamel.yaml import YAML

from tests.clones import ROOT, call, change, clone, ran

DETECTORS = [f"{model}-{phase}" for model in ("resnet50", "densenet121") for phase in ("baseline", "finetune")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what git would commit now, with the tiny preset applied."""
    return clone(tmp_path_factory.mktemp("clone") / "project")


@pytest.fixture(scope="module")
def first(project: Path) -> str:
    """What the first run prints."""
    return call(project, "dvc", "repro")


def make(project: Path, target: str) -> str:
    """What a target of the Makefile prints, in the environment that runs the tests."""
    return call(project, "make", "--no-print-directory", "-o", ".venv/.runtime", target)


def test_one_command_makes_four_compared_detectors(project: Path, first: str) -> None:
    assert len(ran(first)) == 28
    for name in DETECTORS:
        metrics = json.loads((project / f"data/figures/{name}.json").read_text())
        assert metrics["n"] == 20
        assert 0 <= metrics["roc_auc_low"] <= metrics["roc_auc"] <= metrics["roc_auc_high"] <= 1
        assert metrics["weights"] == "random"
        plots = ("roc", "pr", "confusion", "scores", "report", "operating_points", "answers", "reliability")
        for plot in (*plots, "robustness", "sets"):
            assert len(pd.read_csv(project / f"plots/detectors/{name}/{plot}.csv")) > 0
        assert (project / f"data/models/{name}.csv").is_file() == name.endswith("finetune")
        assert (project / f"data/explanations/{name}/sheet.jpg").is_file()
    board = json.loads((project / "data/leaderboard.json").read_text())
    assert board["champion"] in DETECTORS
    assert sorted(pd.read_csv(project / "plots/leaderboard.csv")["detector"]) == sorted(DETECTORS)
    assert "Leaderboard on 20 test images" in first
    assert "dvc plots show" in first
    assert "MLflow: 4 sent" in first


def test_nothing_runs_twice(project: Path, first: str) -> None:
    (project / ".dvc/tmp/rwlock").write_text("")  # as a DVC that was killed may leave it
    assert ran(make(project, "repro")) == []
    assert call(project, "dvc", "status") == "Data and pipelines are up to date.\n"


def test_no_warning_of_a_library_reaches_the_terminal(first: str) -> None:
    for word in ("Warning", "E0000", "W0000", "I0000", "Traceback"):
        assert word not in first


def test_only_the_passes_of_scoring_are_kept_in_the_scratch_folder(project: Path, first: str) -> None:
    assert [path.name for path in (project / ".scratch").iterdir() if path.is_dir()] == ["scores"]


def test_every_metric_and_plot_is_gits_and_every_face_is_dvcs(project: Path, first: str) -> None:
    status = call(project, "git", "status", "--porcelain", "--untracked-files=all")
    written = {line[3:] for line in status.splitlines()}
    assert {"dvc.lock", "metrics/champion.json", "plots/leaderboard.png"} <= written
    assert not [name for name in written if name.startswith(("data/", "mlflow.db", "mlartifacts"))]


def test_metrics_and_plots_are_shown(project: Path, first: str) -> None:
    shown = json.loads(call(project, "dvc", "metrics", "show", "--json"))[""]["data"]
    assert set(shown) == {f"metrics/{name}.json" for name in ("champion", *DETECTORS)}
    assert max(map(len, call(project, "dvc", "metrics", "show").splitlines())) <= 120
    assert "file://" in call(project, "dvc", "plots", "show")
    page = (project / "dvc_plots/index.html").read_text()
    assert "cdn.jsdelivr" not in page
    for title in ("ROC curve, test images", "Confusion matrix", "Leaderboard", "Loss, training images"):
        assert title in page


RATE = "detectors.densenet121.finetune.learning_rate"  # which changes one detector, for better or worse
COMMIT, EXPERIMENT, METRICS, PLOTS, BACK = (
    line.removeprefix("$ ").partition("  #")[0]
    for block in re.findall(r"^```console\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    if "lower-rate" in block
    for line in block.splitlines()
)


def typed(folder: Path, line: str) -> str:
    """What a line of the README prints."""
    return call(folder, "bash", "-c", line)


def test_an_experiment_reruns_only_what_depends_on_its_change(project: Path, first: str) -> None:
    call(project, "dvc", "remote", "add", "--default", "storage", str(project.parent / "storage"))
    typed(project, COMMIT)
    stages = ran(typed(project, EXPERIMENT))
    dependent = [f"{stage}@densenet121-finetune" for stage in ("score", "evaluate", "explain")]
    assert sorted(stages) == sorted(["params", "finetune@densenet121", *dependent, "compare", "report"])


@pytest.fixture(scope="module")
def experiment(project: Path, first: str) -> Path:
    """The project right after the experiment `lower-rate`, whatever of this module runs."""
    if "lower-rate" not in call(project, "dvc", "exp", "list", "--name-only"):
        test_an_experiment_reruns_only_what_depends_on_its_change(project, first)
    return project


def rate(project: Path) -> float:
    params = YAML(typ="safe").load(project / "params.yaml")
    return float(params["detectors"]["densenet121"]["finetune"]["learning_rate"])


def leave(project: Path) -> None:
    """Back to the commit."""
    typed(project, BACK)


def run_queue(project: Path) -> str:
    """The queue's last status. A worker may stop early (treeverse/dvc#10562): when none is seen, start one again."""
    call(project, "dvc", "queue", "start")
    unseen = 0
    for _ in range(300):
        time.sleep(4)
        status = call(project, "dvc", "queue", "status")
        if not re.search("Queued|Running", status):
            break
        unseen = unseen + 1 if "0 active, 0 idle" in status else 0
        if unseen == 8:  # longer than a worker takes to start
            call(project, "dvc", "queue", "start")
            unseen = 0
    return status


def shown(project: Path) -> dict[str, dict[str, str]]:
    """The rows of `dvc exp show` by the name of the experiment, or of the revision."""
    rows = csv.DictReader(call(project, "dvc", "exp", "show", "--csv").splitlines())
    return {row["Experiment"] or row["rev"]: row for row in rows}


def test_an_experiment_is_compared_with_the_commit(experiment: Path) -> None:
    rows = json.loads(call(experiment, "dvc", "params", "diff", "--json"))
    assert [list(keys) for keys in rows.values()] == [[RATE]]
    changed = json.loads(call(experiment, "dvc", "metrics", "diff", "--json"))
    detectors = {"metrics/densenet121-finetune.json"}
    assert detectors <= set(changed) <= detectors | {"metrics/champion.json"}
    assert "densenet121-finetune" in typed(experiment, METRICS)
    assert "file://" in typed(experiment, PLOTS)
    page = (experiment / "dvc_plots/index.html").read_text()
    assert '"rev": "workspace"' in page
    assert '"rev": "HEAD"' in page
    assert [shown(experiment)[name][RATE] for name in ("workspace", "lower-rate")] == ["0.0005", "0.0005"]
    table = make(experiment, "experiments").splitlines()
    columns = [column.strip() for column in table[0].split("|")[1:-1]]
    figures = {
        f"metrics/{name}.json:{figure}" for name in ("champion", *DETECTORS) for figure in ("roc_auc", "accuracy")
    }
    assert columns[:2] == ["Experiment", "Created"]
    assert {RATE} <= set(columns[2:]) <= {RATE} | figures
    assert any("[lower-rate]" in line for line in table)


def test_one_goes_back_to_the_commit_and_to_the_experiment_without_training(experiment: Path) -> None:
    record = experiment / "data/models/densenet121-finetune.json"
    changed = record.read_text()
    leave(experiment)
    assert (rate(experiment), record.read_text() == changed) == (0.001, False)
    assert ran(call(experiment, "dvc", "repro")) == []
    call(experiment, "dvc", "exp", "apply", "lower-rate")
    assert (rate(experiment), record.read_text() == changed) == (0.0005, True)
    assert ran(call(experiment, "dvc", "repro")) == []
    leave(experiment)


def test_a_setting_that_was_run_before_is_not_trained_again(experiment: Path) -> None:
    leave(experiment)
    change(experiment, RATE, 0.0005)
    printed = call(experiment, "dvc", "repro", "explain@densenet121-finetune")
    assert "Stage 'finetune@densenet121' is cached" in printed
    assert ran(printed) == ["evaluate@densenet121-finetune"]  # git's tables are not in DVC's cache
    leave(experiment)


def test_a_grid_runs_in_the_queue_and_is_found_in_mlflow_by_its_names(experiment: Path) -> None:
    """Another seed for the intervals: the cheapest grid there is, for it runs no network."""
    leave(experiment)
    said = call(experiment, "dvc", "exp", "run", "--queue", "-S", "evaluate.seed=1,2")
    names = re.findall("Queued experiment '(.+)'", said)
    assert len(names) == 2
    status = run_queue(experiment)
    assert status.count("Success") == 2, status
    rows = shown(experiment)
    assert [rows[name]["evaluate.seed"] for name in names] == ["1", "2"]

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{experiment / 'mlflow.db'}")
    search = re.search("tags.dvc_experiment LIKE '.+'", (ROOT / "docs/experiments.md").read_text())
    assert search
    for name in (*names, "lower-rate"):
        found = client.search_runs(["1"], search[0].replace("lower-rate", name))
        assert sorted(run.info.run_name for run in found) == sorted(DETECTORS)
    rates = {run.data.params["learning_rate"] for run in found if run.info.run_name == "densenet121-finetune"}
    assert rates == {"0.0005"}  # a detector that changed is a run of its own


def test_a_clone_with_the_remote_has_all_and_trains_nothing(experiment: Path) -> None:
    leave(experiment)
    origin, clone = (experiment.parent / name for name in ("origin.git", "clone"))
    call(experiment, "dvc", "push")
    call(experiment, "git", "clone", "-q", "--bare", ".", str(origin))
    call(experiment, "git", "remote", "add", "origin", str(origin))

    call(experiment, "git", "clone", "-q", str(origin), str(clone))
    call(clone, "dvc", "pull")
    assert ran(call(clone, "dvc", "repro")) == []
    model = "data/models/resnet50-finetune.keras"
    assert (clone / model).read_bytes() == (experiment / model).read_bytes()

    call(experiment, "dvc", "exp", "push", "origin", "lower-rate")
    call(clone, "dvc", "exp", "pull", "origin", "lower-rate")
    call(clone, "dvc", "exp", "apply", "lower-rate")
    assert rate(clone) == 0.0005
    assert ran(call(clone, "dvc", "repro")) == []


def test_the_ci_recipe_says_what_a_change_does_to_the_metrics(experiment: Path) -> None:
    steps = YAML(typ="safe").load(ROOT / ".github/workflows/ci.yml")["jobs"]["metrics"]["steps"]
    (script,) = (step["run"] for step in steps if step.get("name") == "compare")
    leave(experiment)
    head = call(experiment, "git", "rev-parse", "HEAD").strip()
    call(experiment, "dvc", "exp", "apply", "lower-rate")
    comments = []
    for message in ("a lower rate", "nothing"):
        call(experiment, "git", "commit", "-q", "--allow-empty", "-a", "-m", message)
        call(experiment, "env", "GITHUB_STEP_SUMMARY=/dev/null", "bash", "-euo", "pipefail", "-c", script)
        comments.append((experiment / "comment.md").read_text())
    call(experiment, "git", "reset", "-q", "--hard", head)
    assert "| metrics/densenet121-finetune.json |" in comments[0]
    assert "No committed metric changes." not in comments[0]
    assert comments[1].endswith("No committed metric changes.\n")


def test_the_notebook_runs_from_top_to_bottom(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Colab or Kaggle, but in a copy of the code whose libraries are there."""
    leave(experiment)
    notebook = nbformat.read(ROOT / "notebook.ipynb", 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in cells if cell.outputs or cell.execution_count], "clear the outputs before you commit"
    cells[0].source = cells[0].source.replace('PHOTOS = ""', 'PHOTOS = "faces.zip"')
    shutil.copy(experiment / "data/raw/faces.zip", experiment)

    (experiment / ".venv/bin").mkdir(parents=True)  # no environment, for ours is on the path; make finds it up to date
    for file in ("bin/python", ".runtime", ".runtime-gpu"):
        (experiment / ".venv" / file).touch()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": experiment}}).execute()

    text = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    images = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert ran(text) == []  # all was made before
    assert "metrics/resnet50-finetune.json" in text
    assert len(images) == 2
    assert text.count("faces.zip/") == 80
    assert (experiment / "real-or-generated.zip").stat().st_size > 10**6


def test_a_new_set_to_test_on_trains_nothing(experiment: Path) -> None:
    leave(experiment)
    sample = {"faces_per_class": 8, "size": 48, "seed": 21}
    others = {"source": "sample", "use": "test", "sample": sample, "generator": "of other faces"}
    change(experiment, "sets.others", others)
    name = "resnet50-baseline"
    stages = ran(call(experiment, "dvc", "repro", "finetune", f"evaluate@{name}"))
    of_set = [f"{stage}@others" for stage in ("look", "download", "index", "preprocess")]
    assert sorted(stages) == sorted([*of_set, "audit", "split", f"score@{name}", f"evaluate@{name}"])
    scores = pd.read_parquet(experiment / f"data/scores/{name}.parquet")
    assert (scores["split"] == "unseen").sum() == (scores["set"] == "others").sum() == 16
    table = pd.read_csv(experiment / f"plots/detectors/{name}/sets.csv").set_index("set")
    assert table[["generator", "seen", "n"]].fillna("").to_dict("index") == {
        "test": {"generator": "", "seen": True, "n": 20},
        "faces": {"generator": "", "seen": True, "n": 20},
        "others": {"generator": "of other faces", "seen": False, "n": 16},
    }
    leave(experiment)


def test_a_misspelt_parameter_stops_the_run_before_anything_starts(project: Path, first: str) -> None:
    change(project, "training.sede", 1)
    printed = call(project, "dvc", "repro", refused=True)
    assert "unknown key 'sede'; did you mean seed?" in printed
    assert ran(printed) == ["params"]
    assert "Traceback" not in printed
