"""A project as the stages leave it, an MLflow database, a server, and ways to look into them."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import tracking
from stages.files import sha256
from stages.params import Params, load
from stages.scoring import calibration
from stages.scoring.calibration import Calibration

ROOT = Path(__file__).parents[2]
DETECTORS = ("resnet50-baseline", "resnet50-finetune", "densenet121-baseline", "densenet121-finetune")
WINNER = "resnet50-finetune"
SIZE = 32
SETTINGS = ("MLFLOW_", "DVC_")  # of the person who runs the tests


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as the stages leave it: four tiny detectors with their records, metrics and tables."""
    import keras

    folder = tmp_path_factory.mktemp("written")
    shutil.copy(ROOT / "params.yaml", folder)
    for number, name in enumerate(DETECTORS):
        write_detector(folder, name, number)
        keras.utils.set_random_seed(number)
        images = keras.Input((None, None, 3))
        pooled = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.Rescaling(1 / 255)(images))
        logit = keras.layers.Dense(1, name="logit")(pooled)
        keras_file = folder / f"data/models/{name}.keras"
        keras.Model(images, keras.layers.Activation("sigmoid", name="probability")(logit)).save(keras_file)
        np.savez(keras_file.with_suffix(".npz"), kernel=np.array([[1.0], [-1.0], [0.0]]), bias=np.zeros(1))
        edit(keras_file.with_suffix(".json"), model_sha256=sha256(keras_file))
    shutil.copy(folder / f"data/models/{WINNER}.keras", folder / "data/champion.keras")
    write_json(folder / "data/leaderboard.json", {"champion": WINNER})
    write_set(folder, "faces", {"source": "sample", "sha256": "5" * 64})
    write_json(folder / "data/training.json", {"train": {"faces": {}}, "valid": {"faces": {}}})
    return folder


def write_set(folder: Path, name: str, source: dict[str, str]) -> None:
    """What the stages leave of a set, as far as tracking looks."""
    for split, digit in (("valid", "1"), ("test", "2")):
        write_json(folder / f"data/shards/{split}/{name}/shards.json", {"sha256": digit * 64})
    write_json(folder / f"data/raw/{name}.json", source)
    sheet = folder / f"data/contact_sheets/{name}.jpg"
    sheet.parent.mkdir(exist_ok=True)
    sheet.write_bytes(b"\xff\xd8 not looked at \xff\xd9")


def write_detector(folder: Path, name: str, number: int) -> None:
    """All files of a detector but the model."""
    model, phase = name.split("-")
    record: dict[str, Any] = {
        "model": model,
        "phase": phase,
        "weights": {"source": "imagenet", "asked": "auto", "sha256": "3" * 64},
        "device": "CPU",
        "precision": "float32",
        "train_images": 600,
        "valid_images": 150,
        "image_size": SIZE,
        "epochs": 3 if phase == "finetune" else None,
        "best_epoch": 2 if phase == "finetune" else None,
        "best_val_auc": 0.8 + number / 100,
        "trainable_parameters": 1000 + number,
        "train_seconds": 12.5,
        "ended": "2026-02-03T04:05:06+00:00",
        "images_per_second": 144.0 if phase == "finetune" else None,
    }
    write_json(folder / f"data/models/{name}.json", record)
    figures = {"n": 250, "roc_auc": 0.8 + number / 100, "accuracy": 0.7, "threshold": 0.4, "recall_fake": 0.75}
    figures |= {"n_valid": 150, "valid_roc_auc": 0.9 if name == WINNER else 0.8}
    write_json(folder / f"data/figures/{name}.json", {**figures, "weights": "imagenet", "device": "CPU"})
    reading = Calibration(1.5, 0.25, 0.5, 0.48, 0.6, 0.1, 0.5, 150, unlike_from=0.5)  # half of white, red from green
    calibration.write(folder / f"data/exported/{name}/calibration.json", reading)
    sheet = folder / f"data/explanations/{name}/sheet.jpg"
    sheet.parent.mkdir(parents=True)
    sheet.write_bytes(b"\xff\xd8 not looked at \xff\xd9")
    if phase == "finetune":
        history = [[epoch, (7 - epoch) / 10, 0.6, (8 - epoch) / 10, 0.55, 0.58, 0.001, 4.0] for epoch in range(1, 4)]
        header = "epoch,loss,accuracy,val_loss,val_accuracy,val_auc,learning_rate,seconds"
        write_csv(folder / f"data/models/{name}.csv", header, history)
    curve = [[share / 10, (share / 10) ** 0.4, 1 - share / 10] for share in range(11)]
    write_csv(folder / f"plots/detectors/{name}/roc.csv", "false_positive_rate,true_positive_rate,threshold", curve)
    of_sets = [["test", "", True, 0.9, 0.8, 0.1, 0.85, 0.05], ["swaps", "swaps", False, "", 0.4, "", 0.3, ""]]
    write_csv(
        folder / f"plots/detectors/{name}/sets.csv",
        "set,generator,seen,roc_auc,recall_fake,false_positive_rate,tpr_at_fpr_5pct,fpr_at_fpr_5pct",
        of_sets,
    )
    curve = [[share / 10, 1 - share / 20, 1 - share / 10] for share in range(11)]
    write_csv(folder / f"plots/detectors/{name}/pr.csv", "recall,precision,threshold", curve)
    cells = [
        ["real", "real", 90, 0.72],
        ["real", "fake", 35, 0.28],
        ["fake", "real", 31, 0.25],
        ["fake", "fake", 94, 0.75],
    ]
    write_csv(folder / f"plots/detectors/{name}/confusion.csv", "actual,predicted,count,share", cells)
    bins = [
        [actual, low / 5, low / 5 + 0.2, 25, (low if actual == "fake" else 4 - low) / 10]
        for actual in ("real", "fake")
        for low in range(5)
    ]
    write_csv(folder / f"plots/detectors/{name}/scores.csv", "actual,low,high,count,share", bins)
    report = [["real", "validation", 0.4, 0.7, 0.7, 0.7, 125], ["fake", "validation", 0.4, 0.7, 0.7, 0.7, 125]]
    write_csv(
        folder / f"plots/detectors/{name}/report.csv", "class,threshold_name,threshold,precision,recall,f1,n", report
    )


def write_csv(path: Path, header: str, rows: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database, which takes seconds to make and none to copy."""
    tracking.quieten_mlflow()
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def project(written: Path, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, with a database that holds nothing; the current folder."""
    for name in [name for name in os.environ if name.startswith("DVC_") or name == "MLFLOW_TRACKING_URI"]:
        monkeypatch.delenv(name)
    folder = tmp_path / "project"
    shutil.copytree(written, folder)
    shutil.copy(empty_database, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def params(project: Path) -> Params:
    """One backbone, so two detectors: what holds for them holds for four."""
    return load().model_copy(update={"models": ["resnet50"]})


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m stages.tracking` as a person would, with no settings but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    return subprocess.run(
        [sys.executable, "-m", "stages.tracking", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def mlflow_client(uri: str | None = None) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri or f"sqlite:///{Path('mlflow.db').resolve()}")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real `mlflow server` on loopback."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        folder.mkdir()
        shutil.copy(database, folder / "server.db")
        self.command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--workers", "1"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ]
        self.folder = folder

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # more processes, of no use here
                start_new_session=True,
            )
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.2)
        pytest.fail((self.folder / "log").read_text())

    def kill(self) -> None:
        """Kill the server and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(project: Path, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server(tmp_path / "server", empty_database)
    running.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
    yield running
    running.kill()


@contextmanager
def running(folder: Path, url: str, *command: str, **options: Any) -> Iterator[None]:
    """A process from when it answers at ``url``; what it prints is in ``folder``, in the log of its name."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
    try:
        for _ in range(400):
            try:
                with urllib.request.urlopen(url, timeout=1):
                    break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.3)
        else:
            pytest.fail(log.read_text())
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def served(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a real server of the champion.

    It runs in a folder where Python finds no ``stages`` but the one in the model.
    """
    port = free_port()
    serve = ("mlflow", "models", "serve", "--env-manager", "local", "-m", "models:/real-or-generated-faces@champion")
    with running(folder, f"http://127.0.0.1:{port}/ping", *serve, "--port", str(port), env=environment):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def answering(status: int, content: bytes, **headers: str) -> Iterator[str]:
    """The address of a server on loopback that gives every request one answer, with these headers."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
