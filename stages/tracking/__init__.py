"""Tracking: MLflow as a mirror of the files that the stages wrote, one run a detector.

Files are the truth. This module reads them (``data/models/M-P.keras`` and its record,
``data/exported/M-P/calibration.json``, ``data/figures/M-P.json``, ``plots/detectors/M-P/``, ``data/raw/`` and, where
they are there, ``data/contact_sheets/``, ``data/explanations/M-P/`` and ``data/report/M-P.md``) and writes none, so it
also sends what an absent server missed (``make track``) and what DVC restored from its cache without running. A run is
found by the digest of its model. Its tag ``mirror_digest``, set last, is the digest of all that it shows: the same
files are never sent twice, a run that was cut off is completed, and a new evaluation updates its run. It sends another
copy of the model only where the calibration, which MLflow serves with it, has changed. At the end the winner is
registered (``registry.py``).

Copies of a project may send to one server at once. What each of them sends to one run is the same, so it is there once;
of two runs (or models, or versions) that both have made, both keep the same one, and who made the other deletes it.

The server is ``MLFLOW_TRACKING_URI``, or else ``mlflow.db`` and ``mlartifacts/`` in the project's root. One that is
away costs one request, 12 s at most; a slow one needs a larger ``MLFLOW_HTTP_REQUEST_TIMEOUT`` (s). No server keeps the
stage that mirrors longer than two minutes; what is not sent by then waits for ``make track``.
"""

import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from stages.errors import UserError, disk_is_full
from stages.files import project_root, read_json, sha256
from stages.params import Params
from stages.tracking import registry
from stages.tracking.content import (
    CALIBRATION,
    Detector,
    curves,
    description,
    detectors,
    figures,
    parameters,
    source_file,
    tags,
)
from stages.tracking.packaging import package

METRICS_A_REQUEST = 1000  # MLflow's limit
PATIENCE = 120.0  # s that a stage waits for all of it
PLACES = [  # table and column of every place of artifacts in MLflow's database
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
]


class NotSentError(UserError):
    """The server is away, or refused; the files are as they were."""


def mirror(params: Params) -> None:
    """Send what the server lacks. Whatever keeps it from that costs a warning, never the stage that calls this."""

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"MLflow took longer than {PATIENCE:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    try:
        with _turn():  # the turns of others do not count
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, 10)  # and again: a library may take it for its own error
            send(params)
    except (UserError, TimeoutError) as error:
        print(f"warning: {error}", file=sys.stderr)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def send(params: Params, *, promote: bool = False) -> None:
    """Make sure that the server holds one complete run of every detector on disk; print what that took.

    The winner is registered too, and with ``promote`` it becomes the champion whatever the champion is.

    Raises :class:`NotSentError` where the server did not take one, and :class:`UserError` where there is none, or
    where its files disagree.
    """
    found = list(detectors(params))
    if not found:
        raise UserError("there is no detector to track yet; run `dvc repro` first")
    winner = registry.winner(found)
    if promote and not winner:
        raise UserError("there is no winner of these detectors to promote; run `dvc repro` first")
    quieten_mlflow()
    import mlflow

    uri, before = address(), os.environ.get("MLFLOW_TRACKING_URI")
    answers: list[str] = []
    try:
        mlflow.set_tracking_uri(uri)  # a client's own server is not enough: models:/… is sought on this one
        for answer in _send_all(uri, found, winner, params, promote=promote):
            answers.append(answer)  # one by one: those before an error count
    except UserError:
        raise
    except Exception as error:  # of MLflow, requests, SQLAlchemy, or all that a server's nonsense makes them trip over
        steps = [detector.name for detector in found] + ["the registration of the winner"] * bool(winner)
        left = ", ".join(steps[len(answers) :])
        raise NotSentError(
            f"MLflow at {without_secrets(uri)} did not take {left} ({reason(error)}); "
            "every file is in place, and `make track` (python -m stages.tracking) sends them later"
        ) from None  # a traceback would show MLflow's own messages, and with them the password
    finally:
        mlflow.set_tracking_uri(before)
    took, registered = answers[: len(found)], answers[len(found) :]
    counts = ", ".join(f"{count} {what}" for what, count in Counter(took).items())
    place = f"experiment {params.tracking.experiment} at {without_secrets(uri)}"
    print(f"MLflow: {counts} ({place}); `make ui` shows them")
    for sentence in registered:
        print(sentence)


def address() -> str:
    """The server's address. Raises :class:`NotSentError` where it cannot be one (MLflow would fall over it)."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _own_database()
    try:
        urlsplit(uri)
    except ValueError:  # its message may hold the password
        raise NotSentError(
            "MLFLOW_TRACKING_URI is no address; mend it (in a password, write %5B for [ and so on), "
            "and `make track` (python -m stages.tracking) sends the runs"
        ) from None
    return uri


def _own_database() -> str:
    from sqlalchemy import URL

    # with its driver, or MLflow makes a folder of the escaped name
    return URL.create("sqlite+pysqlite", database=str(project_root() / "mlflow.db")).render_as_string()


def without_secrets(text: str) -> str:
    """The text with every ``//user:password@`` in it cut to ``//``, and every ``?password=…`` to ``?…``.

    MLflow's own messages repeat the address, and a database takes its password in either place.
    """
    return re.sub(r"\?\S+", "?…", re.sub(r"//[^/\s:@]*(:\S*)?@", "//", text))


def reason(error: Exception) -> str:
    """What went wrong, short: where the system refused (a connection, a file), what it said, else the first line."""
    from mlflow.exceptions import MlflowException
    from urllib3.exceptions import MaxRetryError

    last, cause = error, error.__cause__ or error.__context__
    while cause:
        last = cause if isinstance(cause, OSError) else last
        cause = cause.__cause__ or cause.__context__
    if last.args and isinstance(last.args[0], MaxRetryError):  # it begins with an address of any length
        last = last.args[0].reason or last
    if disk_is_full(error) or disk_is_full(last):  # MLflow says that it was downloading, for it packs a model so
        return f"a disk is full: that of {tempfile.gettempdir()} (TMPDIR names another), of the project, or of MLflow"
    lines = without_secrets(str(last)).strip().splitlines() or [""]
    kind = "" if lines[0] and isinstance(last, (OSError, MlflowException)) else f"{type(last).__name__}: "
    return textwrap.shorten(f"{kind}{lines[0]}", 200, placeholder=" …")


def quieten_mlflow() -> None:
    """Short waits, no chatter amid a stage's output; what the user has set stays. Call it before MLflow is imported."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "12",  # s; MLflow's own is 120
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # MLflow's own is 7, 4 minutes in all; `make track` is our retry
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",  # only `download` and `weights` speak to the world
        "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what it logs as an error, it raises too
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])  # where MLflow was imported before
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 1  # where a database is away; MLflow's own is 10, 2 minutes in all


def _send_all(
    uri: str, found: list[Detector], winner: Detector | None, params: Params, *, promote: bool
) -> Iterator[str]:
    """Bring the runs of the detectors up to date, one by one, then register the winner; yield what came of each."""
    from mlflow import MlflowClient

    with _turn():
        client = MlflowClient(uri)
        experiment = _experiment(client, params.tracking.experiment, uri)
        for detector in found:
            yield _send_detector(client, experiment, detector, params)
        if winner:
            model = _model(client, _run(client, experiment, winner), winner)
            yield registry.register(client, params.tracking.experiment, winner, model, promote=promote)


def _turn() -> FileLock:
    """A lock that whoever sends holds: experiments that DVC runs side by side have runs in common."""
    lock = project_root() / ".scratch/tracking.lock"
    lock.parent.mkdir(exist_ok=True)
    return FileLock(lock, is_singleton=True)  # a process may take it twice


def _experiment(client: Any, name: str, uri: str) -> str:
    """The id of the experiment, made if need be. A plain database keeps its artifacts in the project's root."""
    artifacts = project_root() / "mlartifacts"
    is_server = uri.startswith(("http", "databricks"))  # then it chooses the place itself
    experiment = registry.found_or_made(
        lambda: client.get_experiment_by_name(name),
        lambda: client.create_experiment(name, None if is_server else artifacts.as_uri()),
    )
    if uri == _own_database() and artifacts.is_dir():
        _follow(artifacts.as_uri())
    return str(experiment.experiment_id)


def _follow(now: str) -> None:
    """Where the project was moved or copied, tell its database: it holds the place of every artifact in full."""
    elsewhere = "artifact_location LIKE 'file:%/mlartifacts' AND artifact_location != ?"
    with closing(sqlite3.connect(project_root() / "mlflow.db")) as database, database:
        places = database.execute(f"SELECT DISTINCT artifact_location FROM experiments WHERE {elsewhere}", [now])
        moved = [before for (before,) in places]
        for before, (table, column) in product(moved, PLACES):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (before, now))
    if moved:
        print("MLflow: the project lies elsewhere now; its runs and models follow")


def _send_detector(client: Any, experiment: str, detector: Detector, params: Params) -> str:
    """Bring the one run of a detector up to date; return `sent`, `updated` or `already there`.

    What the run has is not sent again: parameters cannot be changed, and a metric would become a second point.
    """
    from mlflow.entities import Metric, Param, RunTag

    labels, values = tags(detector, params), parameters(detector, params)
    same = _run(client, experiment, detector)
    if same and (name := labels.get("dvc_experiment")):  # it may have made this detector, or share it with another
        names = same.data.tags.get("dvc_experiment", "").split(", ")
        labels["dvc_experiment"] = ", ".join(dict.fromkeys([*filter(None, names), name]))
        client.set_tag(same.info.run_id, "dvc_experiment", labels["dvc_experiment"])
    if same and same.data.tags.get("mirror_digest") == detector.digest:
        return "already there"
    start, end = detector.trained
    note = {"mlflow.note.content": description(detector, params)}  # at first alone: a person may write another later
    known = same or client.create_run(experiment, start, labels | note, detector.name)
    run_id = known.info.run_id
    registry.found_or_made(
        lambda: values.keys() <= client.get_run(run_id).data.params.keys(),
        lambda: client.log_batch(
            run_id, params=[Param(*item) for item in values.items() if item[0] not in known.data.params]
        ),
    )
    registry.found_or_made(
        lambda: client.get_run(run_id).inputs.dataset_inputs, lambda: client.log_inputs(run_id, _datasets(params))
    )
    model_id, is_new = _send_model(client, known, detector, values, params.image.jpeg)
    # The times of points hang on the training alone: a point that is sent again is the same point. A complete run has
    # its curves, and other times if the same model was trained again.
    complete, points = "mirror_digest" in known.data.tags, []
    if not complete:
        points += [Metric(p.name, p.value, start + int(p.seconds * 1000), p.epoch) for p in curves(detector)]
    for name, value in figures(detector).items():
        if is_new or known.data.metrics.get(name) != value:
            past = client.get_metric_history(run_id, name) if name in known.data.metrics else []
            last = max(past, key=lambda point: point.timestamp, default=None)
            when = last.timestamp + (last.value != value) if last else end
            points.append(Metric(name, value, when, 0, model_id=model_id))
    for first in range(0, len(points), METRICS_A_REQUEST):
        client.log_batch(run_id, metrics=points[first : first + METRICS_A_REQUEST])
    _send_artifacts(client, run_id, detector)
    if not complete:
        client.set_terminated(run_id, end_time=end)
    if _run(client, experiment, detector).info.run_id != run_id:  # another mirror has made one meanwhile
        if not same:
            client.delete_logged_model(model_id)
            client.delete_run(run_id)
        return _send_detector(client, experiment, detector, params)
    labels["mirror_digest"] = detector.digest
    client.log_batch(run_id, tags=[RunTag(*item) for item in labels.items()])
    return "updated" if complete else "sent"


def _datasets(params: Params) -> list[Any]:
    """The sets to learn from, as MLflow's column "Dataset" shows them: a name, and a digest of the archive."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = InputTag("mlflow.data.context", "training")
    found = []
    for name in params.learned_sets:
        source = read_json(source_file(name))
        digest = source["sha256"][:32]  # MLflow takes 36 characters
        found.append(DatasetInput(Dataset(name, digest, source["source"], json.dumps(source)), [context]))
    return found


def _run(client: Any, experiment: str, detector: Detector) -> Any:
    """The run of a detector, or None. Of several a complete one, for that one stays; else one that all mirrors choose.

    (It is sought again before it is called complete. So it would take a mirror that stands still at that moment, for as
    long as another sends everything, to have two.)
    """
    key = {"model_sha256": detector.record["model_sha256"], "model": detector.model, "phase": detector.phase}
    query = " and ".join(f"tags.{name} = '{value}'" for name, value in key.items())
    found = client.search_runs([experiment], query)
    return min(found, key=lambda run: ("mirror_digest" not in run.data.tags, run.info.run_id), default=None)


def _model(client: Any, run: Any, detector: Detector) -> Any:
    """The model that a run has, with the calibration that the detector has now, or None; of several as in `_run`."""
    query = f"source_run_id = '{run.info.run_id}' and tags.calibration_sha256 = '{sha256(detector.files[CALIBRATION])}'"
    found = client.search_logged_models([run.info.experiment_id], query)
    return min(found, key=lambda model: (model.status != "READY", model.model_id), default=None)


def _outputs(run: Any) -> list[str]:
    """The ids of the models that a run lists as its own."""
    return [output.model_id for output in run.outputs.model_outputs] if run.outputs else []


def _send_artifacts(client: Any, run_id: str, detector: Detector) -> None:
    """Upload the files that a run shows, and figures drawn of them, under the same names for every detector.

    The figures lie at the top, for MLflow's comparison shows only what all runs have there.
    """
    from stages.tracking.drawing import draw

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, file in detector.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(file, folder / name)
        draw(folder / "tables", folder, detector.name)
        client.log_artifacts(run_id, temporary)


def _send_model(
    client: Any, run: Any, detector: Detector, values: dict[str, str], jpeg: int | None
) -> tuple[str, bool]:
    """Upload the model unless the run has it; one that was cut off is not READY, and is completed.

    Return its id, and whether it was uploaded.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    experiment, run_id = run.info.experiment_id, run.info.run_id
    known = _model(client, run, detector)
    if known and known.status == LoggedModelStatus.READY:
        return str(known.model_id), False
    if sha256(detector.keras) != detector.record["model_sha256"]:
        raise UserError(f"{detector.keras} is not the file that its record describes; `dvc repro` makes both again")
    labels = {"calibration_sha256": sha256(detector.files[CALIBRATION])}
    logged = known or client.create_logged_model(experiment, detector.name, run_id, labels, values)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        package(detector, logged, folder, jpeg)
        client.log_model_artifacts(logged.model_id, str(folder))
    if _model(client, run, detector).model_id != logged.model_id:  # another mirror has made one meanwhile
        if not known:
            client.delete_logged_model(logged.model_id)
        return _send_model(client, run, detector, values, jpeg)
    registry.found_or_made(  # MLflow refuses the same one a second time
        lambda: logged.model_id in _outputs(client.get_run(run_id)),
        lambda: client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)]),
    )
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id), True
