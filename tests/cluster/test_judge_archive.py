"""The command `judge_archive`: it says what `predict` says, once a photo, whatever is killed, refused or gone."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages import judge_archive, predict
from stages.errors import UserError
from tests.tracking.conftest import free_port

ROOT = Path(__file__).parents[2]
NAME = "stages.judge_archive"
LACKING = [name for name in ("ray", "s3fs", "moto") if not find_spec(name)]
on_ray = pytest.mark.skipif(bool(LACKING), reason=f"{', '.join(LACKING)} not installed; type `make cluster-test`")
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def here(bright, tmp_path, monkeypatch):
    """A project with a detector of 64 px that takes bright for fake, as working directory."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(bright / "data")
    return tmp_path


@pytest.fixture
def album(here, portrait, png, noise):
    """A folder with faces, none, several kinds of damage, clutter, and a zip."""
    folder = here / "album"
    (folder / "deep/er").mkdir(parents=True)
    for level in range(0, 256, 15):
        Image.new("RGB", (64, 64), (level,) * 3).save(folder / f"{level:03}.png")
    portrait.save(folder / "deep/portrait.jpg")
    (folder / "deep/er/=none.png").write_bytes(png(noise(0, 80, 100)))
    (folder / "cut.jpg").write_bytes((folder / "deep/portrait.jpg").read_bytes()[:900])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").write_text("nobody asked for it")
    with zipfile.ZipFile(folder / "deep/more.zip", "w") as more:
        for level in (0, 255):
            more.write(folder / f"{level:03}.png", f"in/{level}.png")
        more.writestr("../evil.png", b"")
    return folder


@pytest.fixture
def portraits(here, portrait):
    """A folder whose 40 photos take some seconds: each is searched for faces."""
    (here / "portraits").mkdir()
    for number in range(40):
        portrait.save(here / f"portraits/{number:02}.jpg")
    return here / "portraits"


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", NAME, *map(str, arguments)],
        env=os.environ | KEYS | {"PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def judge(*arguments, **environment):
    """The exit code, and what it says after the line that names who answers, which `predict` has too."""
    process = start(*arguments, **environment)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said.removeprefix("densenet121-baseline answers: it is the champion here\n")


def rows(out):
    return ds.dataset(out, format="parquet").to_table().to_pylist()


def by_predict(capsys, command, *paths):
    """What `predict` says of the same photos, in the columns of the shards."""
    capsys.readouterr()
    with pytest.raises(SystemExit, match=str(predict.UNREAD)):
        command(predict.main, *map(str, paths), "--format", "jsonl")
    found = map(json.loads, capsys.readouterr().out.splitlines())
    return [{"path": row.pop("file"), **row} for row in found]


def in_order(rows):
    return sorted(rows, key=lambda row: (row["path"], row["face"] or 0))


def first_shard(out, process, already=0):
    """Wait until there is something new in OUT, and more to come."""
    while len(list(out.glob("faces-*"))) == already:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@on_ray
def test_it_says_what_predict_says_and_judges_nothing_twice(album, capsys, command):
    code, said = judge(album, "out", "--shard", 4)
    assert (code, "26 photos judged; 21 faces" in said, "1 skipped" in said) == (predict.UNREAD, True, True), said
    assert in_order(rows("out")) == in_order(by_predict(capsys, command, album))
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("faces-*")}
    code, said = judge(album, "out", "--shard", 4)
    assert (code, "nothing to judge: the rows of all 26 photos" in said) == (0, True), said
    shutil.copy(album / "000.png", album / "new.png")
    code, said = judge(album, "out", "--shard", 5)
    assert (code, "1 photos judged, beside 26 judged before" in said) == (0, True), said
    assert in_order(rows("out")) == in_order(by_predict(capsys, command, album))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(Path().rglob(".*.part"))


@on_ray
def test_a_listing_is_judged_row_by_row(album, capsys, command):
    paths = [str(album / "000.png"), "album/deep/more.zip", str(album / "000.png"), "missing.jpg", ""]
    pq.write_table(pa.table({"path": paths}), "list.parquet")
    code, said = judge("list.parquet", "out")
    assert (code, "6 photos judged" in said) == (predict.UNREAD, True), said
    assert in_order(rows("out")) == in_order(by_predict(capsys, command, *paths[:2], *paths[3:]))


@on_ray
def test_each_photo_is_there_once_after_kills_of_driver_and_actor(portraits, tmp_path):
    out = tmp_path / "out"
    process = start(portraits, out, "--shard", 2)
    first_shard(out, process)
    below = psutil.Process(process.pid).children(recursive=True)
    below = [child for child in below if "Agent" not in name(child)]  # Ray's own look for its server for a minute more
    assert any(name(child).startswith("ray::MapWorker") for child in below)
    process.kill()
    process.communicate()
    again = start(portraits, out, "--shard", 2)  # while what the other left may still be at work
    actors = []
    while not actors:
        assert again.poll() is None, again.communicate()
        time.sleep(0.02)
        family = psutil.Process(again.pid).children(recursive=True)
        actors = [child for child in family if name(child).startswith("ray::MapWorker")]
    first_shard(out, again, len(list(out.glob("faces-*"))))
    actors[0].kill()
    said, _ = again.communicate(timeout=300)
    assert (again.returncode, " judged before" in said) == (0, True), said
    assert Counter(row["path"] for row in rows(out)) == {str(path): 1 for path in portraits.iterdir()}
    _, outlived = psutil.wait_procs(below, timeout=30)
    assert not outlived


def name(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@on_ray
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_archive_that_goes_away_leaves_no_row_behind_and_is_judged_when_it_is_back(portraits, tmp_path, kind):
    source, out = portraits, tmp_path / "out"
    if kind == "zip":
        source = Path(shutil.make_archive("archive", "zip", portraits))
    process = start(source, out, "--shard", 2)
    first_shard(out, process)
    away = source.rename(tmp_path / "away")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert said.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said
    assert all(row["error"] is None for row in rows(out))
    assert 0 < len(rows(out)) < 40
    away.rename(source)
    code, said = judge(source, out, "--shard", 2)
    assert code == 0, said
    assert len({row["path"] for row in rows(out)}) == len(rows(out)) == 40


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a store on this machine, and what a program must know to find it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    import boto3

    keys = dict(zip(("aws_access_key_id", "aws_secret_access_key", "region_name"), KEYS.values(), strict=True))
    client = boto3.client("s3", endpoint_url=endpoint, **keys)
    client.create_bucket(Bucket="bucket")
    yield client, {"AWS_ENDPOINT_URL": endpoint}
    server.stop()


@on_ray
def test_from_a_store_to_a_store(bucket, album, capsys, command):
    client, environment = bucket
    for path in filter(Path.is_file, album.rglob("*")):
        client.upload_file(str(path), "bucket", str(path.relative_to(album.parent)))
    for again in (False, True):
        code, said = judge("s3://bucket/album", "s3://bucket/out", "--shard", 5, **environment)
        assert code == (0 if again else predict.UNREAD), said
        assert ("nothing to judge" if again else "26 photos judged") in said
    Path("out").mkdir()
    for item in client.list_objects_v2(Bucket="bucket", Prefix="out/faces-")["Contents"]:
        client.download_file("bucket", item["Key"], item["Key"])
    wanted = by_predict(capsys, command, album)
    for row in wanted:
        row["path"] = row["path"].replace(str(album.parent), "s3://bucket")
    assert in_order(rows("out")) == in_order(wanted)

    listed = ["s3://bucket/album/000.png", "s3://bucket/album/missing.png"]
    pq.write_table(pa.table({"path": listed}), "list.parquet")
    assert judge("list.parquet", "listed", **environment)[0] == predict.UNREAD
    assert [row["error"] for row in in_order(rows("listed"))] == [None, "no such file"]

    code, said = judge("s3://bucket/album", "s3://bucket/album/out", **environment)
    assert (code, "lies in s3://bucket/album and would be judged too" in said) == (1, True), said
    code, said = judge("album", "s3://nowhere/out", **environment)
    assert (code, "Traceback" in said) == (1, False), said


@on_ray
@pytest.mark.parametrize("answer", [403, 503, None])
def test_a_store_that_refuses_ends_the_run_in_a_sentence(album, answer):
    port, server = free_port(), None
    if answer:

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_PUT = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
    endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    for source, out in (("s3://bucket/album", "out"), ("album", "s3://bucket/out")):
        code, said = judge(source, out, **endpoint)
        assert (code, "cannot be reached" in said, len(said.splitlines())) == (1, True, 1), said
    assert not Path("out").exists()
    if server:
        server.shutdown()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing", "out"], "missing is missing; name a folder"),
        (["album", "album/out"], "would be judged too"),
        (["album", "album"], "would be judged too"),
        (["album", "link"], "would be judged too"),
        (["none.parquet", "out"], "is no Parquet file with a column `path`"),
        (["album/notes.parquet", "out"], "is no Parquet file with a column `path`"),
        (["album", "out", "--detector", "xception"], "there is no exported detector 'xception'"),
        (["album", "other"], "holds answers of vgg, model 1, and these would be of densenet121-baseline"),
        (["foo://bar", "out"], "foo://bar cannot be opened"),
    ],
)
def test_what_cannot_be_is_refused_at_once(arguments, sentence, album, command):
    pq.write_table(pa.table({"file": ["a"]}), "none.parquet")
    (album / "notes.parquet").write_text("no Parquet")
    Path("link").symlink_to(album / "deep")
    Path("other").mkdir()
    Path("other/_detector.json").write_text('{"detector": "vgg", "made_of": "1"}')
    Path("other/faces-0.parquet").touch()
    with pytest.raises(UserError, match=sentence.replace("`", ".")):
        command(judge_archive.main, *arguments)
    assert not Path("out").exists()
    assert sorted(path.name for path in Path("other").iterdir()) == ["_detector.json", "faces-0.parquet"]


def test_without_ray_it_says_what_to_install(album, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed; run .* requirements-cluster\.txt"):
        command(judge_archive.main, "album", "out")


@on_ray
def test_a_cluster_that_is_not_there_or_has_other_code_is_refused(album, tmp_path):
    port = free_port()
    code, said = judge(album, "out", "--address", f"127.0.0.1:{port}")
    assert (code, said.startswith(f"error: no Ray cluster answers at 127.0.0.1:{port}")) == (1, True), said
    shutil.copytree(ROOT / "stages", "elsewhere/stages", ignore=shutil.ignore_patterns("__pycache__"))
    with Path("elsewhere/stages/photos/finder.py").open("a") as file:
        file.write("# changed\n")
    ray = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=1", f"--port={port}"]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = os.environ | token | {"PYTHONPATH": str(tmp_path / "elsewhere")}
    with subprocess.Popen(
        [*ray, "--include-dashboard=false", "--object-store-memory=100000000"], env=environment, stdout=subprocess.PIPE
    ) as cluster:
        try:
            while b"Ray runtime started" not in (line := cluster.stdout.readline()):
                assert line
            code, said = judge(album, "out", "--address", f"127.0.0.1:{port}", **token)
        finally:
            cluster.send_signal(signal.SIGTERM)
    assert (code, "has other code in" in said, "Traceback" in said) == (1, True, False), said
    assert not list(Path("out").glob("faces-*"))
