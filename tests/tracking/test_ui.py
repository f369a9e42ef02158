"""`make ui`: MLflow's page of the runs, its address last."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from stages.errors import UserError
from stages.tracking import ui
from tests.conftest import PARAMS
from tests.tracking.conftest import ROOT, SETTINGS, answering, free_port, mlflow_client


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which nothing was run; the current folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS, tmp_path)
    return tmp_path


def make_ui(folder: Path, port: int) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), "-o", ".venv/.runtime", "ui", f"PORT={port}"],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_the_page_of_the_runs_is_named_last_and_is_there(folder: Path, empty_database: Path) -> None:
    """Whatever the experiment's number and the project's path."""
    project = folder / "odd?name #1"
    project.mkdir()
    shutil.copy(PARAMS, project)
    shutil.copy(empty_database, project / "mlflow.db")
    client = mlflow_client(f"sqlite+pysqlite:///{project / 'mlflow.db'}".replace("?", "%3F"))
    client.create_experiment("of another project")
    number = client.create_experiment("real-or-generated-faces")
    assert number != "1"
    port = free_port()
    process = make_ui(project, port)
    assert process.stdout
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("open "):
                break
        view = f"http://127.0.0.1:{port}/#/experiments/{number}/runs?workflowType=machine_learning"
        assert lines[-1] == f"open {view} (Ctrl-C stops the server)\n", lines
        with urllib.request.urlopen(view, timeout=60) as page:
            assert b"MLflow" in page.read()
        experiment = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id={number}"
        with urllib.request.urlopen(experiment, timeout=60) as answer:
            assert b"real-or-generated-faces" in answer.read()
    finally:
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        rest = process.communicate()[0]
    assert "Traceback" not in rest
    assert sorted(path.name for path in folder.iterdir()) == ["odd?name #1", "params.yaml"]


def test_a_port_that_is_taken_is_said_so(folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        process = make_ui(folder, port)
        printed = process.communicate()[0]
    assert process.returncode != 0
    assert f"error: cannot listen on port {port}; free it or choose another: make ui PORT=5001\n" in printed
    assert "Traceback" not in printed


def test_a_server_elsewhere_is_named_and_none_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ui"])
    with answering(200, b'{"experiment": {"experiment_id": "7", "name": "real-or-generated-faces"}}') as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//person:secret@"))
        ui.main()
        assert capsys.readouterr().out == f"open {uri}/#/experiments/7/runs?workflowType=machine_learning\n"
    with pytest.raises(UserError, match=f"^MLflow at {uri} does not answer .*Connection refused"):
        ui.main()
