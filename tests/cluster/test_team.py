"""docs/team.md, walked: a pipeline tracked and shared through the servers of compose.yaml, as processes.

PostgreSQL is Debian's, the store is moto's, and MLflow is started with the command and settings of ``compose.yaml``.
"""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from stages.scoring import calibration
from tests.clones import ROOT, call, clone, environment
from tests.tracking.conftest import free_port, mlflow_client, running, served

COMPOSE = YAML(typ="safe").load(ROOT / "compose.yaml")
SECRETS = {"POSTGRES_PASSWORD": "p@ss/w0rd:%", "AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": "s3cret"}
SECRET = SECRETS["AWS_SECRET_ACCESS_KEY"]
POSTGRES = next((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
if found := shutil.which("initdb"):
    POSTGRES = Path(found).resolve().parent
LACKING = [name for name in ("boto3", "dvc_s3", "moto", "psycopg2") if not find_spec(name)]
LACKING += [] if POSTGRES else ["PostgreSQL (Debian's package postgresql)"]
shared = pytest.mark.skipif(bool(LACKING), reason=f"{', '.join(LACKING)} not installed; `make cluster-test` says more")
NAME = "real-or-generated-faces"


def commands(start):
    """The commands of docs/team.md from the one that starts so, to the end of its block."""
    blocks = re.findall(r"^```console\n(.*?)^```", (ROOT / "docs/team.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks if f"$ {start}" in block for line in block.splitlines()]
    return lines[next(number for number, line in enumerate(lines) if line.startswith(start)) :]


def test_the_compose_file_is_one_and_asks_for_every_secret():
    call(ROOT, "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    asked = re.findall(r"\$\{(\w+)(:\?\w[^}]+)?", (ROOT / "compose.yaml").read_text())
    assert {name: bool(sentence) for name, sentence in asked} == {**dict.fromkeys(SECRETS, True), "LISTEN": False}
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("${LISTEN:-127.0.0.1}:") for port in ports)
    call(ROOT, "git", "check-ignore", "--no-index", ".env")


@pytest.fixture(scope="module")
def database():
    """The address of a PostgreSQL server, which refuses to be root."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own folders are closed to other users
    other = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    options = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **other}
    if other:
        shutil.chown(folder, "nobody", "nogroup")
    (folder / "password").write_text(SECRETS["POSTGRES_PASSWORD"])
    (folder / "password").chmod(0o644)
    port = free_port()
    login = ["--username=mlflow", "--auth=scram-sha-256", "--pwfile=password"]
    subprocess.run([POSTGRES / "initdb", "--pgdata=data", "--no-sync", *login], check=True, **options)
    start = [POSTGRES / "postgres", "-D", "data", "-F", "-k", folder, "-h", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(start, **options)
    try:
        for line in server.stdout:
            if "ready to accept connections" in line:
                break
        else:
            pytest.fail("PostgreSQL did not start")
        create = [POSTGRES / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
        subprocess.run(create, check=True, env={**os.environ, "PGPASSWORD": SECRETS["POSTGRES_PASSWORD"]})
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A client of an S3 store with the buckets of compose.yaml, and its address."""
    import boto3

    folder, port = tmp_path_factory.mktemp("store"), free_port()
    address = f"http://127.0.0.1:{port}"
    program = str(Path(sys.executable).with_name("moto_server"))
    keys = dict(zip(("aws_access_key_id", "aws_secret_access_key"), list(SECRETS.values())[1:], strict=True))
    with running(folder, f"{address}/moto-api/", program, "--host", "127.0.0.1", "--port", str(port)):
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)
        for bucket in COMPOSE["services"]["store"]["environment"]["S3_BUCKET"].split(","):
            client.create_bucket(Bucket=bucket)
        yield client, address


@contextmanager
def refusing(address):
    """For a while the store answers 403, for nobody told it of the key."""

    def demand(after):
        request = urllib.request.Request(f"{address}/moto-api/reset-auth", after, {"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()

    demand(b"0")
    try:
        yield
    finally:
        demand(b"inf")


@pytest.fixture(scope="module")
def server(database, store, tmp_path_factory):
    """The address of the MLflow server: the one of compose.yaml, with other addresses."""
    service, port = COMPOSE["services"]["mlflow"], free_port()
    places = {"@database/": f"@{database}/", "http://store:8333": store[1], "0.0.0.0": "127.0.0.1", "5000": str(port)}

    def here(text):
        for name, place in places.items():
            text = text.replace(name, place)
        return re.sub(r"\$\{(\w+)[^}]*\}", lambda found: SECRETS[found[1]], text)

    settings = {name: here(value) for name, value in service["environment"].items()}
    folder, address = tmp_path_factory.mktemp("mlflow"), f"http://127.0.0.1:{port}"
    command = here(service["command"]).split()
    with running(folder, f"{address}/health", *command, "--workers=1", env=environment() | settings):
        yield address
    assert not [path for path in folder.rglob("*") if path.suffix != ".log"]  # all is in the database and the store


@pytest.fixture(scope="module")
def member(server, store, tmp_path_factory):
    """A member's clone, and a function that runs a line of the docs there: first, the project set up for the team."""
    folder = clone(tmp_path_factory.mktemp("team") / "project")

    def typed(place, line, **options):
        line = line.replace("http://127.0.0.1:8333", store[1])
        return call(place, "env", f"MLFLOW_TRACKING_URI={server}", "bash", "-c", line, **options)

    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("  - densenet121\n", "", 1))  # one backbone is enough
    for line in commands("dvc remote add"):
        typed(folder, line)
    asked, *lines = commands("read -rs")
    typed(folder, "\n".join([f"{asked.partition('#')[0]} <<< {SECRET}", *lines]))
    assert SECRET not in call(folder, "git", "grep", "s3://dvc") + call(folder, "git", "diff")
    return folder, typed


@pytest.fixture(scope="module")
def repro(member):
    """What the pipeline prints, in the member's clone."""
    folder, typed = member
    said = typed(folder, "dvc repro")
    typed(folder, 'git add . && git commit -m "My run"')
    return said


@shared
def test_the_pipeline_tracks_its_run_in_the_servers(member, repro, server, store):
    folder, typed = member
    assert "MLflow: 2 sent" in repro
    winner = json.loads((folder / "data/leaderboard.json").read_text())["champion"]
    assert f"Registry: {NAME} version 1 ({winner}) is now the champion" in repro
    assert not list(folder.glob("mlflow.db*"))
    client = mlflow_client(server)
    (experiment,) = client.search_experiments(filter_string=f"name = '{NAME}'")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 2
    objects = [item["Key"] for item in store[0].list_objects_v2(Bucket="mlflow")["Contents"]]
    assert sum(key.endswith(".keras") for key in objects) == 2
    assert "MLflow: 2 already there" in typed(folder, "make -o .venv/.runtime track")


@shared
def test_a_second_clone_has_all_and_trains_nothing_though_the_store_refused_at_first(member, repro, store, tmp_path):
    folder, typed = member
    client, address = store
    with refusing(address):
        said = typed(folder, "dvc push", refused=True)
    assert said.count("ERROR:") == 1, said
    assert "Traceback" not in said
    assert not client.list_objects_v2(Bucket="dvc").get("Contents")
    typed(folder, "dvc push")

    other = tmp_path / "other"
    call(tmp_path, "git", "clone", "-q", str(folder), str(other))
    # The key from the environment; the first clone has it by --local.
    pull = f"AWS_ACCESS_KEY_ID=team AWS_SECRET_ACCESS_KEY={SECRET} dvc pull"
    with refusing(address):
        said = typed(other, pull, refused=True)
    assert "Traceback" not in said
    files = [path.relative_to(folder) for path in (folder / "data").rglob("*") if path.is_file()]
    assert not [path for path in files if (other / path).exists()]
    typed(other, pull)
    assert sum(path.suffix == ".keras" for path in files) >= 3
    for path in files:
        assert (other / path).read_bytes() == (folder / path).read_bytes(), path
    assert "Running stage" not in typed(other, "dvc repro")
    assert "MLflow: 2 already there" in typed(other, "make -o .venv/.runtime track")

    reading = other / "data/exported/resnet50-baseline/calibration.json"
    content = json.loads(reading.read_text())
    reading.unlink()  # DVC's cache may have the same file
    reading.write_text(json.dumps(content | {"intercept": 0.125}))
    with refusing(address):
        said = typed(other, "python -m stages.tracking", refused=True)
    assert said.startswith("error: MLflow at http://127.0.0.1")
    assert "did not take resnet50-baseline" in said
    assert "too many 500 error responses" in said  # the server's own log says that the store refused
    assert said.count("\n") == 1, said
    assert "MLflow: 1 updated, 1 already there" in typed(other, "python -m stages.tracking")


@shared
def test_the_registered_champion_is_served_without_a_clone_or_a_key(member, repro, server, tmp_path):
    face = io.BytesIO()
    Image.new("RGB", (48, 48), (90, 120, 150)).save(face, "PNG")
    content = {"dataframe_records": [{"image": base64.b64encode(face.getvalue()).decode()}]}
    with served(tmp_path, environment() | {"MLFLOW_TRACKING_URI": server}) as address:
        header = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/invocations", json.dumps(content).encode(), header)
        with urllib.request.urlopen(request, timeout=60) as answer:
            (row,) = json.load(answer)["predictions"]
    assert (row["error"], row["verdict"] in calibration.VERDICTS, 0 < row["probability"] < 1) == (None, True, True)
