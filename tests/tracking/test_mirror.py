"""The MLflow mirror: one complete run a detector, sent once, whatever happens to the server."""

import contextlib
import errno
import json
import multiprocessing
import os
import re
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from stages import tracking
from stages.errors import UserError
from stages.files import digest, sha256
from stages.params import Params, load
from tests.tracking.conftest import (
    DETECTORS,
    ROOT,
    SIZE,
    WINNER,
    Server,
    answering,
    command,
    edit,
    free_port,
    mlflow_client,
    write_set,
)


def runs(client: Any) -> dict[str, Any]:
    """All runs by name; no name twice."""
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def held(client: Any) -> dict[str, Any]:
    """All that a second sending could double or change: ids, models, and every point of every metric."""
    return {
        name: (
            run.info.run_id,
            [
                (m.model_id, m.status)
                for m in client.search_logged_models([run.info.experiment_id], f"source_run_id='{run.info.run_id}'")
            ],
            {key: points(client, run, key) for key in run.data.metrics},
        )
        for name, run in runs(client).items()
    }


def points(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))


def artifacts(client: Any, run: Any, folder: str | None = None) -> set[str]:
    found: set[str] = set()
    for item in client.list_artifacts(run.info.run_id, folder):
        found |= artifacts(client, run, item.path) if item.is_dir else {item.path}
    return found


def warning(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed: one line, a warning."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("warning: ")
    assert len(printed.err.splitlines()) == 1
    return printed.err


def test_the_command_makes_one_complete_run_a_detector(written: Path, tmp_path: Path) -> None:
    """From nothing: no database yet, nothing set, as `make track` is first run."""
    folder = tmp_path / "odd?name #1 of 100%41"
    shutil.copytree(written, folder)
    before = set(tmp_path.rglob("*"))
    result = command(folder)
    assert (result.returncode, result.stderr) == (0, "")
    made = {path.relative_to(folder).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert made == {".scratch", "mlartifacts", "mlflow.db"}
    uri = f"sqlite+pysqlite:///{tmp_path}/odd%3Fname %231 of 100%2541/mlflow.db"
    assert result.stdout.splitlines() == [
        f"MLflow: 4 sent (experiment real-or-generated-faces at {uri}); `make ui` shows them",
        f"Registry: real-or-generated-faces version 1 ({WINNER}) is now the champion",
    ]

    client = mlflow_client(uri)
    found = runs(client)
    assert set(found) == set(DETECTORS)
    for phase in ("baseline", "finetune"):  # the compare page has no gaps within a phase
        of_phase = [run.data for name, run in found.items() if name.endswith(phase)]
        assert (
            len({frozenset(data.metrics) for data in of_phase})
            == len({frozenset(data.params) for data in of_phase})
            == 1
        )
    for name, run in found.items():
        assert run.info.status == "FINISHED"
        assert datetime.fromtimestamp(run.info.end_time / 1000, UTC) == datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
        assert run.info.end_time - run.info.start_time == 12_500  # as long as the training
        for number in ("image_size", "image_crop", "augment_blur", "augment_jpeg", "split_seed"):
            float(run.data.params[number])
        for number in ("epochs", "learning_rate", "batch_size", "seed"):  # a baseline has none
            assert (number in run.data.params) == name.endswith("finetune")
        assert run.data.params["features_from_block"] == "conv2"
        assert run.data.params["model"] == run.data.tags["model"] == name.split("-")[0]
        assert run.data.params["phase"] == run.data.tags["phase"] == name.split("-")[1]
        assert run.data.tags["model_sha256"] == sha256(folder / f"data/models/{name}.keras")
        assert run.data.tags["data_digest"] == digest("5" * 64)
        assert (run.data.params["sets"], run.data.params["left_out"]) == ("faces", "")
        assert run.data.tags["mlflow.note.content"].startswith("**Worth nothing for photographs: it was trained")
        (images,) = run.inputs.dataset_inputs
        assert (images.dataset.name, images.dataset.digest) == ("faces", "5" * 32)
        assert len(run.data.tags["params_digest"]) == 64
        assert run.data.tags["dvc_stage"] == "{1}@{0}".format(*name.split("-"))
        metrics = json.loads((folder / f"data/figures/{name}.json").read_text())
        assert {**run.data.metrics, **run.data.tags}.items() >= metrics.items()  # numbers here, words there
        assert run.data.metrics["fit/train_seconds"] == 12.5
        of_sets = {metric: value for metric, value in run.data.metrics.items() if metric.startswith("swaps/")}
        assert of_sets == {"swaps/recall_fake": 0.4, "swaps/tpr_at_fpr_5pct": 0.3}  # it has no real faces
        assert artifacts(client, run) == {
            *(f"{plot}.png" for plot in ("roc", "pr", "confusion", "scores")),
            *(f"tables/{plot}.csv" for plot in ("roc", "pr", "confusion", "scores", "sets", "report")),
            *(("history.png", "tables/history.csv") if name.endswith("finetune") else ()),
            "metrics.json",
            "training.json",
            "calibration.json",
            "sets/faces.json",
            "contact_sheets/faces.jpg",
            "class_activation_maps.jpg",
        }
    fine, base = found["densenet121-finetune"], found["densenet121-baseline"]
    assert points(client, fine, "valid/loss") == [(1, 0.7), (2, 0.6), (3, 0.5)]
    assert [step for step, _ in points(client, fine, "train/loss")] == [1, 2, 3]
    assert points(client, base, "valid/loss") == []  # a baseline has no epochs
    assert len(list((folder / "mlartifacts").rglob("MLmodel"))) == 4
    for figure in (folder / "mlartifacts").rglob("*.png"):
        assert figure.read_bytes().startswith(b"\x89PNG")


def test_of_several_sets_a_run_shows_those_that_it_learned_from(
    project: Path, write_params: Callable[[dict[str, Any]], None]
) -> None:
    sets = load().model_dump()["sets"]
    sets["mine"] = {"source": "folder", "use": "train", "path": "mine"}
    sets["other"] = {"source": "folder", "use": "test", "path": "other"}
    leave_out = ["faces/fake", "mine/real"]
    write_params({"models": ["resnet50"], "sets": sets, "split.leave_out": leave_out, "weights.source": "imagenet"})
    for name, digit in (("mine", "6"), ("other", "7")):
        write_set(project, name, {"source": "folder", "sha256": digit * 64})
    tracking.send(load())
    for run in runs(mlflow_client()).values():
        images = {one.dataset.name: one.dataset for one in run.inputs.dataset_inputs}
        assert {name: (one.digest, one.source_type) for name, one in images.items()} == {
            "faces": ("5" * 32, "sample"),
            "mine": ("6" * 32, "folder"),
        }
        assert (run.data.params["sets"], run.data.params["left_out"]) == ("faces,mine", "faces/fake,mine/real")
        assert run.data.tags["data_digest"] == digest("5" * 64, "6" * 64)
        assert "600 faces of faces, mine (folder)." in run.data.tags["mlflow.note.content"]
        assert "Worth nothing" not in run.data.tags["mlflow.note.content"]  # not all of its faces are drawn
        shown = artifacts(mlflow_client(), run)
        assert shown >= {f"{folder}/{name}" for folder, name in (("sets", "mine.json"), ("contact_sheets", "mine.jpg"))}
        assert not any("other" in name for name in shown)


def test_a_second_time_nothing_is_sent(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    tracking.mirror(params)
    before = held(mlflow_client())
    tracking.mirror(params)
    assert held(mlflow_client()) == before
    assert re.findall("MLflow: (.+?) \\(", capsys.readouterr().out) == ["2 sent", "2 already there"]


def test_a_description_that_a_person_wrote_stays(params: Params) -> None:
    tracking.mirror(params)
    client = mlflow_client()
    run_id = runs(client)["resnet50-finetune"].info.run_id
    client.set_tag(run_id, "mlflow.note.content", "Mine")
    edit(Path("data/figures/resnet50-finetune.json"), roc_auc=0.5)
    tracking.mirror(params)
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "Mine"


def test_the_same_model_trained_again_doubles_no_curve(params: Params) -> None:
    tracking.mirror(params)
    before = held(mlflow_client())
    history = Path("data/models/resnet50-finetune.csv")
    history.write_text(re.sub("4.0$", "5.0", history.read_text(), flags=re.MULTILINE))
    edit(Path("data/models/resnet50-finetune.json"), ended="2026-02-04T04:05:06+00:00", train_seconds=15.5)
    tracking.mirror(params)
    after = held(mlflow_client())
    assert after["resnet50-finetune"][2].pop("fit/train_seconds") == [(0, 12.5), (0, 15.5)]
    before["resnet50-finetune"][2].pop("fit/train_seconds")
    assert after == before


@pytest.mark.parametrize(
    "changes",
    [
        {"ended": "yesterday"},
        {"ended": None},
        {"ended": "1970-01-01T00:00:01+00:00"},
        {"ended": "0001-01-01T00:00:00"},
        {"train_seconds": float("nan")},
        {"train_seconds": -1},
        {"train_seconds": None},
    ],
)
def test_a_training_that_was_at_no_possible_time_is_refused(changes: dict[str, Any], params: Params) -> None:
    edit(Path("data/models/resnet50-baseline.json"), **changes)
    says = r"data/models/resnet50-baseline\.json does not say when its training was .* `dvc repro` makes it again"
    with pytest.raises(UserError, match=says):
        tracking.send(params)
    assert runs(mlflow_client()) == {}


def test_a_changed_evaluation_updates_its_run_without_the_model(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking.mirror(params)
    client = mlflow_client()
    before = held(client)
    edit(Path("data/figures/resnet50-finetune.json"), roc_auc=0.5, brier=0.2)  # lower: the latest counts, not the best
    monkeypatch.setattr("mlflow.MlflowClient.log_model_artifacts", lambda *_: pytest.fail("the model was sent again"))
    tracking.mirror(params)

    assert "MLflow: 1 already there, 1 updated (" in capsys.readouterr().out
    after, run = held(client), runs(client)["resnet50-finetune"]
    assert run.data.metrics["roc_auc"] == 0.5
    assert run.data.metrics["brier"] == 0.2
    assert run.info.run_id == before["resnet50-finetune"][0]
    changed = {"roc_auc", "brier"}
    for name in before:
        assert after[name][:2] == before[name][:2]
        for metric, values in before[name][2].items():
            assert (name == "resnet50-finetune" and metric in changed) or after[name][2][metric] == values


@pytest.mark.parametrize(
    "call",
    [
        "log_batch",
        "log_outputs",
        "log_model_artifacts",
        "finalize_logged_model",
        "log_artifacts",
        "set_terminated",
    ],
)
def test_a_run_that_was_cut_off_is_completed_not_doubled(
    call: str, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process dies after the server did what it asked, in the middle of the second detector."""
    from mlflow import MlflowClient

    true_call: Callable[..., Any] = getattr(MlflowClient, call)
    calls = 0

    def die_the_second_time(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        answer = true_call(*args, **kwargs)
        if calls == (5 if call == "log_batch" else 2):
            raise ConnectionResetError("cut off")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, die_the_second_time)
        tracking.mirror(params)
    assert "did not take resnet50-finetune, the registration of the winner (cut off)" in capsys.readouterr().err
    cut = runs(mlflow_client())["resnet50-finetune"].info.run_id

    tracking.mirror(params)
    assert capsys.readouterr().out.startswith("MLflow: 1 already there, 1 sent (")
    after = held(mlflow_client())
    assert set(after) == set(DETECTORS[:2])
    run_id, models, metrics = after["resnet50-finetune"]
    assert run_id == cut
    assert [status for _, status in models] == ["READY"]
    assert {name: len(values) for name, values in metrics.items()} == {
        name: 3 if name.startswith(("train/", "valid/")) else 1 for name in metrics
    }


def test_tags_tell_where_a_detector_comes_from(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "puffy-daks")
    weights = {"source": "random", "asked": "auto", "sha256": "3" * 64}
    edit(Path("data/models/resnet50-baseline.json"), weights=weights)
    edit(Path("data/figures/resnet50-baseline.json"), weights="random")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    tracking.mirror(params)
    found = {name: run.data.tags for name, run in runs(mlflow_client()).items()}
    for tags in found.values():
        assert tags["dvc_experiment"] == "puffy-daks"
        assert tags["git_commit"] == tags["mlflow.source.git.commit"] == commit
        assert tags["git_dirty"] == "false"  # the files that stages write are no change of the code
    random, imagenet = found["resnet50-baseline"], found["resnet50-finetune"]
    asked = ("weights", "weights_asked", "weights_substituted")
    assert [random[tag] for tag in asked] == ["random", "auto", "true"]
    assert [imagenet[tag] for tag in asked] == ["imagenet", "auto", "false"]


def test_a_user_without_a_name_and_a_folder_without_git_are_no_obstacle(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: {}["as in a container with a bare user id"])
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(Path.cwd().parent))
    tracking.send(params)
    for run in runs(mlflow_client()).values():
        assert not {"mlflow.user", "git_commit", "git_dirty", "dvc_experiment"} & set(run.data.tags)


def test_a_temporary_experiment_sends_to_the_real_project(
    project: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp run --temp` runs stages in another folder, which it removes afterwards."""
    monkeypatch.setenv("DVC_ROOT", str(project))
    shutil.copytree(project, tmp_path / "temporary", ignore=shutil.ignore_patterns("mlflow.db"))
    monkeypatch.chdir(tmp_path / "temporary")
    tracking.mirror(params)
    assert not Path("mlflow.db").exists()
    found = runs(mlflow_client(f"sqlite:///{project / 'mlflow.db'}"))
    assert len(found) == 2
    assert all(run.info.artifact_uri.startswith((project / "mlartifacts").as_uri()) for run in found.values())
    client = mlflow_client(f"sqlite:///{project / 'mlflow.db'}")
    assert client.get_model_version_by_alias("real-or-generated-faces", "champion").tags["detector"] == WINNER


def test_a_project_that_was_moved_takes_its_runs_and_models_along(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    tracking.send(params)
    moved = project.rename(project.with_name("mövéd away"))
    monkeypatch.chdir(moved)
    tracking.send(params)

    uri = f"sqlite:///{moved / 'mlflow.db'}"
    with closing(sqlite3.connect(moved / "mlflow.db")) as database:
        assert str(project) not in "\n".join(database.iterdump())
    for run in runs(mlflow_client(uri)).values():
        assert artifacts(mlflow_client(uri), run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert mlflow.pyfunc.load_model(f"models:/{params.tracking.experiment}@champion")
    assert not project.exists()


def test_a_detector_that_is_not_finished_is_left_out(params: Params) -> None:
    Path("data/figures/resnet50-finetune.json").unlink()
    tracking.mirror(params)
    assert set(runs(mlflow_client())) == {"resnet50-baseline"}


def test_files_that_disagree_are_refused(project: Path, params: Params) -> None:
    says = f"detectors.resnet50.finetune.epochs = {params.detectors['resnet50'].finetune.epochs}"
    lock = "stages: {finetune@resnet50: {params: {params.yaml: {detectors.resnet50.finetune.epochs: 77}}}}"
    Path("dvc.lock").write_text(lock)
    with pytest.raises(UserError, match=re.escape(says) + ", but resnet50-finetune .* with 77"):
        tracking.send(params)
    assert runs(mlflow_client()) == {}
    Path("dvc.lock").write_text(lock.replace("77", str(params.detectors["resnet50"].finetune.epochs)))
    with Path("data/models/resnet50-finetune.keras").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"resnet50-finetune\.keras is not the file that its record describes"):
        tracking.send(params)


def test_a_set_that_was_changed_after_the_training_is_told_by_its_key(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = YAML(typ="safe").load(ROOT / "params.yaml")["sets"]["faces"]
    del locked["sha256"], locked["group_by"]  # which are empty: to leave them out is no change

    def lock(key: str, content: Any) -> None:
        stages = {"download@faces" if key == "sets.faces" else "split": {"params": {"params.yaml": {key: content}}}}
        Path("dvc.lock").write_text(json.dumps({"stages": stages}))

    for key, content in (("sets.faces", locked), ("sets", {"faces": locked})):
        lock(key, content)
        tracking.mirror(params)
        assert capsys.readouterr().err == ""
    locked["sample"]["seed"] = 77
    for key, content in (("sets.faces", locked), ("sets", {"faces": locked})):
        lock(key, content)
        tracking.mirror(params)
        said = warning(capsys)
        assert "params.yaml says sets.faces.sample.seed = 20, but resnet50-baseline was made with 77 (" in said
    lock("sets", {"faces": locked | {"sample": params.sets["faces"].sample.model_dump()}, "old": locked})
    tracking.mirror(params)
    assert "params.yaml says sets.old = None, but" in warning(capsys)


@pytest.mark.parametrize("database", ["not a database", ""])
def test_whatever_is_wrong_costs_the_pipeline_a_warning_only(
    database: str, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    if database:
        Path("mlflow.db").write_text(database * 1000)
    else:
        shutil.rmtree("plots")
    tracking.mirror(params)
    said = warning(capsys)
    assert ("file is not a database" if database else "there is no detector to track yet") in said


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://person:se/cret@127.0.0.1/runs",
        "postgresql://127.0.0.1/runs?user=person&password=se%2Fcret",
        "http://person:cret[@host",
        "http://person:cret@ho℀st",
        "http://127.0.0.1:1?token=cret",
        "no-store://person:se@cret@host",
        "no-store://host?token=cret#cret",
        "sqlite+none:///runs.db?password=cret",
    ],
)
def test_an_address_that_cannot_be_costs_a_warning_without_the_password(
    uri: str, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracking.mirror(params)
    printed = capsys.readouterr().err
    assert printed.startswith(("warning: MLflow at ", "warning: MLFLOW_TRACKING_URI is no address; "))
    assert "`make track`" in printed
    assert len(printed.splitlines()) == 1
    assert "cret" not in printed


SECRETS = {
    name: f"cret-{name}"
    for name in (
        *("KAGGLE_KEY", "KAGGLE_API_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"),
    )
}


@pytest.mark.slow
def test_no_secret_is_printed_or_sent(server: Server, project: Path) -> None:
    """Except to the server that asks for it, in the header of a request."""
    folder = project.parent
    environment = {**SECRETS, "MLFLOW_TRACKING_URI": server.uri.replace("//", "//person:cret-uri@")}
    environment |= {"MLFLOW_LOGGING_LEVEL": "DEBUG", "MLFLOW_TRACKING_USERNAME": "person"}
    sent = command(project, **environment)
    assert sent.returncode == 0, sent.stderr
    server.kill()
    refused = command(project, **environment)
    assert refused.returncode == 1
    places = [sent.stdout, sent.stderr, refused.stdout, refused.stderr]
    places += [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]
    assert len(places) > 100  # the server's database, log and artifacts too
    assert [place for place in places if "cret-" in place] == []


def test_a_full_disk_is_said_to_be_full(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    true_copy: Callable[..., Any] = shutil.copy2

    def full(source: Any, *arguments: Any, **keywords: Any) -> Any:
        if str(source).endswith(".keras"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        return true_copy(source, *arguments, **keywords)

    monkeypatch.setattr("shutil.copy2", full)
    tracking.mirror(params)
    printed = capsys.readouterr()
    assert f"(a disk is full: that of {tmp_path} (TMPDIR names another), of the project, or of MLflow)" in printed.err
    assert len(printed.err.splitlines()) == 1


def test_nothing_to_track_is_an_error_of_the_command(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    result = command(tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: there is no detector to track yet; run `dvc repro` first\n"


def test_an_absent_server_costs_a_sentence(written: Path) -> None:
    uri = f"http://person:secret@127.0.0.1:{free_port()}"
    result = command(written, MLFLOW_TRACKING_URI=uri)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert (
        "did not take resnet50-baseline, resnet50-finetune, densenet121-baseline, densenet121-finetune" in result.stderr
    )
    assert "Connection refused" in result.stderr
    assert "`make track`" in result.stderr
    assert "secret" not in result.stderr


def test_a_hanging_server_costs_one_request(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the user's own timeout counts."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracking.mirror(params)
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # nobody else is waiting
            silent.accept()
    said = warning(capsys)
    assert said.startswith("warning: MLflow at http://127.0.0.1")


@pytest.mark.parametrize(
    ("status", "content", "headers", "reason"),
    [
        (403, b"Forbidden", {}, "403"),
        (401, b'{"error_code": "UNAUTHENTICATED", "message": "log in"}', {}, "log in"),
        (500, b"<html>", {}, "500"),
        (503, b"", {"Retry-After": "3600"}, "503"),
        (429, b"", {"Retry-After": "3600"}, "429"),
        (302, b"", {"Location": "/"}, "redirects"),
        (200, b"<html>Log in</html>", {}, "not in a valid JSON format"),
        (200, b"\xff\xfe\x00", {}, "not in a valid JSON format"),
        (200, b"{", {"Content-Length": "99"}, "IncompleteRead"),
        (200, b'{"experiment": 3}', {}, "Failed to parse experiment"),
        (200, b'{"experiment": {"experiment_id": "1"}, "runs": [{"info": 7}]}', {}, "Failed to parse runs"),
        (200, b"{}", {}, "run_id"),
    ],
)
def test_a_server_that_refuses_or_answers_nonsense_costs_a_sentence(
    status: int,
    content: bytes,
    headers: dict[str, str],
    reason: str,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waits"))
    with answering(status, content, **headers) as uri, monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        tracking.mirror(params)
        with pytest.raises(UserError, match="`make track`"):
            tracking.send(params)
    said = warning(capsys)
    assert f"MLflow at {uri} did not take resnet50-baseline, resnet50-finetune, the registr" in said
    assert reason in said


def test_a_database_that_is_away_is_tried_once(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waits"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}")
    tracking.mirror(params)
    said = warning(capsys)
    assert "unable to open database file" in said


def test_a_server_that_is_too_slow_keeps_no_stage_waiting(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracking.mirror(params)
    said = warning(capsys)
    assert "MLflow took longer than 0.5 s" in said
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.send(params)
    assert set(runs(mlflow_client())) == set(DETECTORS[:2])


def test_a_server_that_dies_half_way_gets_the_rest_later(
    server: Server, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    true_call, calls = MlflowClient.log_model_artifacts, []

    def kill_before_the_second(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            server.kill()
        return true_call(*args)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", kill_before_the_second)
        tracking.mirror(params)
    said = warning(capsys)
    assert f"MLflow at {server.uri} did not take resnet50-finetune, the registration of the winner (" in said

    server.start()
    tracking.mirror(params)
    assert capsys.readouterr().out.startswith("MLflow: 1 already there, 1 sent (")
    client = mlflow_client(server.uri)
    before = held(client)
    assert set(before) == set(DETECTORS[:2])
    tracking.mirror(params)
    assert held(client) == before
    assert not Path("mlartifacts").exists()  # a server keeps its own

    assert client.get_model_version_by_alias("real-or-generated-faces", "champion").tags["detector"] == WINNER
    check_models(client, server.uri)


def check_models(client: Any, uri: str) -> None:
    """Each model loads back from the server as what Keras saved, and predicts what the file does."""
    import keras
    import mlflow

    mlflow.set_tracking_uri(uri)
    faces = np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 3)).astype("float32")
    for name, run in runs(client).items():
        path = f"runs:/{run.info.run_id}/{name}"
        expected = keras.saving.load_model(f"data/models/{name}.keras").predict(faces, verbose=0)
        assert expected.shape == (3, 1)
        np.testing.assert_array_equal(mlflow.keras.load_model(path).predict(faces, verbose=0), expected)
        signature = mlflow.models.get_model_info(path).signature
        assert [(column.name, column.type.name) for column in signature.inputs] == [("image", "string")]
        assert signature.outputs.input_names() == ["probability", "verdict", "unlike", "error"]


def mirror_in_step(folder: Path, uri: str, barriers: dict[str, Any], printed: Path) -> None:
    """Mirror in a process of its own that waits, before its first call of each kind, until the other is there too."""
    from mlflow import MlflowClient

    def in_step(call: str) -> Callable[..., Any]:
        true_call: Callable[..., Any] = getattr(MlflowClient, call)

        def wait_and_call(*arguments: Any, **keywords: Any) -> Any:
            if call in barriers:
                barriers.pop(call).wait(timeout=120)
            return true_call(*arguments, **keywords)

        return wait_and_call

    for call in list(barriers):
        setattr(MlflowClient, call, in_step(call))
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    with printed.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        tracking.mirror(load().model_copy(update={"models": ["resnet50"]}))


CALLS_OF_A_RUN = ("log_batch", "log_inputs", "create_logged_model", "log_outputs", "set_terminated")
CALLS_BEFORE, CALLS_AFTER = ("create_experiment", "create_run"), ("create_registered_model", "create_model_version")


@pytest.mark.slow
@pytest.mark.parametrize("cut_off", [False, True])
def test_two_copies_of_a_project_that_mirror_at_once_make_one_run_a_detector(
    cut_off: bool, params: Params, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both begin at once, or both complete a run that was cut off; each call is made by both at the same moment."""
    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'shared.db')}"
    calls = CALLS_OF_A_RUN if cut_off else (*CALLS_BEFORE, *CALLS_OF_A_RUN, *CALLS_AFTER)
    if cut_off:
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            patch.setattr("mlflow.MlflowClient.log_batch", lambda *_, **__: [][0])
            tracking.mirror(params)
    processes = multiprocessing.get_context("spawn")
    barriers = {call: processes.Barrier(2) for call in calls}
    mirrors = []
    for name in ("one", "other"):
        shutil.copytree(Path.cwd(), tmp_path / name)
        arguments = (tmp_path / name, uri, barriers, tmp_path / f"{name}.txt")
        mirrors.append(processes.Process(target=mirror_in_step, args=arguments))
    for mirror in mirrors:
        mirror.start()
    for mirror in mirrors:
        mirror.join()
        assert mirror.exitcode == 0
    for name in ("one", "other"):
        assert re.fullmatch("MLflow: .*\nRegistry: .* version 1 .*\n", (tmp_path / f"{name}.txt").read_text())

    client = mlflow_client(uri)
    after = held(client)
    assert set(after) == set(DETECTORS[:2])
    for _, models, metrics in after.values():
        assert [status for _, status in models] == ["READY"]
        for values in metrics.values():
            assert len(set(values)) == len(values)  # no point twice
    (version,) = client.search_model_versions()
    assert client.get_run(version.run_id).info.run_name == WINNER
