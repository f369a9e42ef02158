"""The real Kaggle client against a Kaggle on loopback that fails in every way the true one does."""

import base64
import errno
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from stages import download
from stages.errors import UserError
from stages.files import read_json
from stages.params import Classes
from stages.sources import kaggle as source

REPO = Path(__file__).parents[2]
ARCHIVE, SOURCE = Path("data/raw/faces.zip"), Path("data/raw/faces.json")
KEEP = Path(".scratch/kaggle/someone--faces")
PART = KEEP / "archive.zip.part"


def stage(**environment):
    """The command of the stage, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "stages.download", "faces"],
        env={**os.environ, "PYTHONPATH": str(REPO), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- It works ---------------------------------------------------------------------------------------------------------


def test_publishes_the_archive_and_says_where_it_is_from(kaggle, logged_in, project):
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    record = read_json(SOURCE)
    assert record["source"] == "kaggle"
    assert record["dataset"] == "someone/faces"
    assert record["url"] == "https://www.kaggle.com/datasets/someone/faces"
    assert record["bytes"] == len(kaggle.archive)
    assert record["sha256"] == hashlib.sha256(kaggle.archive).hexdigest()
    assert record["images"] == 6
    assert record["counts"] == {"fake": 3, "real": 3}
    request = next(seen for seen in kaggle.seen if seen.route == "api")
    assert json.loads(request.body) == {"ownerSlug": "someone", "datasetSlug": "faces"}


def test_the_default_data_set_needs_all_six_places_and_names_its_licence(kaggle, logged_in, project, zipped):
    kaggle.archive = zipped(*(f"a/{split}/{kind}" for split in ("train", "valid", "test") for kind in ("real", "fake")))
    project(dataset=source.DEFAULT_DATASET)
    download.main()
    record = read_json(SOURCE)
    assert record["counts"]["valid/fake"] == 3
    assert record["images"] == 18
    assert "CC BY-NC-SA 4.0" in record["licence"]


def test_one_download_serves_sets_that_say_their_classes_in_other_ways(kaggle, logged_in, project, zipped):
    kaggle.archive = zipped("people", "flux/test")

    def fetch(name, **settings):
        return source.fetch("someone/faces", None, Path(name), KEEP, **settings)

    with pytest.raises(UserError, match="has no file in a folder named real; it needs both"):
        fetch("1.zip")
    both = fetch("2.zip", classes=Classes(real="^people/", fake="^flux/"))
    fakes = fetch("3.zip", both=False, classes=Classes(fake=r"flux/test/0\."))
    assert both["counts"] == {"real": 3, "test/fake": 3}
    assert fakes["counts"] == {"test/fake": 1}
    assert fakes["skipped"] == {"other files": 5}
    assert Path("2.zip").read_bytes() == Path("3.zip").read_bytes() == kaggle.archive
    assert kaggle.count("storage") == 1


def test_the_pinned_digest_is_accepted(kaggle, logged_in, project):
    project(sha256=hashlib.sha256(kaggle.archive).hexdigest())
    download.main()
    assert ARCHIVE.exists()


def test_a_verified_archive_is_never_asked_for_again(kaggle, logged_in, project, capsys):
    download.main()
    shutil.rmtree("data")  # as DVC does before it runs a stage
    asked = len(kaggle.seen)
    download.main()
    assert len(kaggle.seen) == asked
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert "not asking Kaggle again" in capsys.readouterr().out


def test_the_sample_and_back_does_not_cost_the_archive(kaggle, logged_in, project):
    download.main()
    asked = len(kaggle.seen)
    shutil.rmtree("data")
    project(source="sample")
    download.main()
    assert read_json(SOURCE)["source"] == "sample"
    assert ARCHIVE.read_bytes() != kaggle.archive
    shutil.rmtree("data")
    project(source="kaggle")
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert len(kaggle.seen) == asked


def test_a_kept_archive_that_changed_is_downloaded_anew(kaggle, logged_in, project):
    download.main()
    (KEEP / "archive.zip").unlink()
    (KEEP / "archive.zip").write_bytes(b"rotten")
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive


# --- Credentials ------------------------------------------------------------------------------------------------------

KEY = '{"username": "someone", "key": "legacy"}'
BEARER = "Bearer KGAT_good"
BASIC = "Basic " + base64.b64encode(b"someone:legacy").decode()


@pytest.mark.parametrize(
    ("files", "environment", "sent"),
    [
        pytest.param({}, {"KAGGLE_API_TOKEN": "KGAT_good"}, BEARER, id="token in the environment"),
        pytest.param(
            {"t": "KGAT_good\n"}, {"KAGGLE_API_TOKEN": "{home}/t"}, BEARER, id="file named in the environment"
        ),
        pytest.param({".kaggle/access_token": "KGAT_good\n"}, {}, BEARER, id="access_token"),
        pytest.param({}, {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "legacy"}, BASIC, id="key in the environment"),
        pytest.param({".kaggle/kaggle.json": KEY}, {}, BASIC, id="kaggle.json"),
        pytest.param({".config/kaggle/kaggle.json": KEY}, {}, BASIC, id="kaggle.json in .config"),
        pytest.param({"k/kaggle.json": KEY}, {"KAGGLE_CONFIG_DIR": "{home}/k"}, BASIC, id="kaggle.json moved"),
    ],
)
def test_credentials_are_found_and_sent_to_kaggle_alone(
    kaggle, project, monkeypatch, tmp_path, files, environment, sent
):
    for name, content in files.items():
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(home=tmp_path / "home"))
    download.main()
    assert ARCHIVE.exists()
    assert {seen.headers["Authorization"] for seen in kaggle.seen if seen.route == "api"} == {sent}
    assert not [seen for seen in kaggle.seen if seen.route == "storage" and "Authorization" in seen.headers]


def test_without_credentials_says_how_to_get_some(kaggle, refusal):
    sentence = refusal()
    assert sentence.startswith("found no Kaggle credentials; create a token at https://www.kaggle.com/settings")
    assert "~/.kaggle/access_token" in sentence
    assert "a set with source: sample needs no account" in sentence
    assert kaggle.seen == []


def test_the_command_without_credentials_prints_that_one_line_and_exits_with_1(kaggle, project):
    process = stage()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("error: found no Kaggle credentials; ")
    assert err.count("\n") == 1
    assert out == ""
    assert not ARCHIVE.exists()


def test_a_token_that_is_not_valid_is_told_from_none(kaggle, refusal, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_other")
    sentence = refusal()
    assert sentence.startswith("Kaggle does not accept the token in KAGGLE_API_TOKEN: mistyped, expired, revoked")
    assert "KGAT_other" not in sentence
    assert kaggle.count("api") == 0


def test_a_kaggle_json_without_a_key_is_named(kaggle, refusal, tmp_path):
    path = tmp_path / "home/.kaggle/kaggle.json"
    path.parent.mkdir()
    path.write_text("{}")
    assert refusal().startswith(f"{path} holds no username and key; ")


def test_a_token_with_a_line_break_is_not_shown(kaggle, refusal, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "hush\nhush")
    sentence = refusal()
    assert "line break" in sentence
    assert "hush" not in sentence


def test_verbose_in_the_environment_shows_no_credentials(kaggle, logged_in, project, monkeypatch, capfd):
    monkeypatch.setenv("VERBOSE", "1")
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    out, err = capfd.readouterr()
    assert "KGAT_good" not in out + err


# --- Kaggle refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "Kaggle refused the credentials (401); create a token at https://www.kaggle.com/settings"),
        (403, "Kaggle denied access to someone/faces (403); open https://www.kaggle.com/datasets/someone/faces"),
        (404, "Kaggle has no data set someone/faces (404); check its spelling in params.yaml"),
    ],
)
def test_a_refusal_says_what_to_do_and_is_not_tried_again(kaggle, logged_in, refusal, waits, status, said):
    kaggle.script["api"] = [kaggle.error(status)]
    assert refusal().startswith(said)
    assert kaggle.count("api") == 1
    assert waits == []


def test_a_token_refused_at_its_introspection(kaggle, logged_in, refusal):
    kaggle.script["token"] = [kaggle.error(401)] * 2
    assert refusal().startswith("Kaggle refused the credentials (401); ")


def test_an_error_inside_a_good_answer(kaggle, logged_in, refusal):
    kaggle.script["api"] = [
        lambda handler: handler.answer(200, b'{"code": 403, "message": "no"}', "application/json", {})
    ]
    assert refusal().startswith("Kaggle denied access to someone/faces (403); ")


def test_too_many_requests_with_a_long_pause_is_left_to_the_person(kaggle, logged_in, refusal, waits):
    kaggle.script["api"] = [kaggle.error(429, Retry_After="3600")]
    assert refusal() == "Kaggle allows no more requests for now (429); wait 3600 s and run again"
    assert waits == []


def test_too_many_requests_with_a_short_pause_is_waited_for(kaggle, logged_in, project, waits):
    kaggle.script["api"] = [kaggle.error(429, Retry_After="7")]
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert waits == [7]


@pytest.mark.parametrize("route", ["token", "api", "storage"])
def test_an_error_of_theirs_is_tried_again(kaggle, logged_in, project, waits, capsys, route):
    # The client asks about the token once while it is imported, and hides what comes of that.
    kaggle.script[route] = [kaggle.error(503)] * (2 if route == "token" else 1)
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert waits == [1]
    assert capsys.readouterr().err == "Kaggle answered with an error (503); trying again in 1 s (1 of 5)\n"


def test_an_error_of_theirs_that_stays_ends_with_advice(kaggle, logged_in, refusal, waits):
    kaggle.script["api"] = [kaggle.error(502)] * 9
    assert refusal() == "Kaggle answered with an error (502); that is theirs to mend, so run again later"
    assert waits == [1, 2, 4, 8, 16]
    assert kaggle.count("api") == 6


# --- The network fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["token", "api", "storage"])
def test_a_server_that_never_answers_is_given_up(kaggle, logged_in, refusal, waits, monkeypatch, route):
    monkeypatch.setattr(source, "TIMEOUT", 0.1)
    kaggle.script[route] = [kaggle.silence] * 9
    assert refusal() == "Kaggle fell silent for 0 s; check the network and run again"
    assert len(waits) == 5


def test_a_connection_that_falls_silent_midway_is_resumed(kaggle, logged_in, project, waits, monkeypatch):
    monkeypatch.setattr(source, "TIMEOUT", 1)
    kaggle.script["storage"] = [kaggle.silent_after(100_000)]
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert kaggle.ranges() == [None, None, "bytes=100000-"]


def test_a_trickle_is_given_up_but_kept(kaggle, logged_in, refusal, waits, monkeypatch):
    monkeypatch.setattr(source, "TIMEOUT", 0.2)
    monkeypatch.setattr(source, "RETRIES", 0)
    kaggle.script["storage"] = [kaggle.trickle]
    assert refusal().startswith("Kaggle fell silent for 0 s; ")
    assert PART.read_bytes() == kaggle.archive[: PART.stat().st_size] != b""


def test_a_long_download_that_is_fast_enough_goes_on(kaggle, logged_in, project, waits, monkeypatch):
    monkeypatch.setattr(source.time, "monotonic", itertools.count(step=1000).__next__)
    monkeypatch.setattr(source, "SLOWEST", 0.001)
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive


def test_a_dropped_connection_is_resumed_where_it_broke(kaggle, logged_in, project, waits):
    kaggle.script["storage"] = [kaggle.broken_after(70_000)]
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    # The client can only ask for all; that answer is left unread, and the rest is asked for by range.
    assert kaggle.ranges() == [None, None, "bytes=70000-"]
    assert kaggle.seen[-1].headers["If-Range"] == kaggle.etag
    assert waits == [1]
    assert sorted(path.name for path in KEEP.iterdir()) == ["archive.json", "archive.zip", "lock"]


def test_an_archive_that_changed_meanwhile_starts_over(kaggle, logged_in, project, waits, zipped):
    def break_and_change(handler):
        kaggle.broken_after(70_000)(handler)
        kaggle.archive, kaggle.etag = zipped("real", "fake", "other"), '"two"'

    kaggle.script["storage"] = [break_and_change]
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert kaggle.ranges() == [None, None]


def test_an_archive_that_changes_between_two_answers_starts_over(kaggle, logged_in, project, waits, zipped):
    def answer_and_change(handler):
        handler.storage()
        kaggle.archive, kaggle.etag = zipped("real", "fake", "other"), '"two"'

    kaggle.script["storage"] = [kaggle.broken_after(70_000), answer_and_change]
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert kaggle.ranges() == [None, None, "bytes=70000-"]


def test_a_storage_that_gives_less_than_the_rest_is_asked_again(kaggle, logged_in, project, waits):
    def some(handler):
        piece, size = kaggle.archive[70_000:90_000], len(kaggle.archive)
        handler.answer(206, piece, "application/zip", {"Content_Range": f"bytes 70000-89999/{size}"})

    kaggle.script["storage"] = [kaggle.broken_after(70_000), lambda handler: handler.storage(), some]
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert kaggle.ranges() == [None, None, "bytes=70000-", None, "bytes=90000-"]


def test_an_archive_of_unknown_size_comes_with_a_warning(kaggle, logged_in, project, capsys):
    def unmeasured(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(kaggle.archive)
        handler.close_connection = True

    kaggle.script["storage"] = [unmeasured]
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert capsys.readouterr().err.startswith("Kaggle does not say how large the archive is")


def test_progress_earns_new_retries(kaggle, logged_in, project, waits, monkeypatch):
    monkeypatch.setattr(source, "PROGRESS", 10_000)
    kaggle.script["storage"] = [*[kaggle.drop] * 5, kaggle.broken_after(20_000), *[kaggle.drop] * 4]
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert waits == [1, 2, 4, 8, 16, 1, 2, 4, 8, 16]


def test_drops_without_progress_are_given_up_and_the_next_run_resumes(kaggle, logged_in, refusal, waits):
    kaggle.script["storage"] = [kaggle.broken_after(70_000), *[kaggle.drop] * 5]
    assert refusal() == (
        "the connection to Kaggle failed or broke; check the network (and HTTPS_PROXY, if you set it) and run again; "
        "the 0.1 MB that came are kept, and the next run resumes"
    )
    download.main()
    assert kaggle.ranges()[-1] == "bytes=70000-"
    assert ARCHIVE.read_bytes() == kaggle.archive


def test_nobody_listens(kaggle, logged_in, refusal, waits, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert refusal().startswith("the connection to Kaggle failed or broke; check the network (and HTTPS_PROXY")
    assert waits == [1, 2, 4, 8, 16]


def test_no_network(kaggle, logged_in, refusal, waits, monkeypatch):
    def unresolved(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    assert refusal().startswith("Kaggle's address cannot be found; this machine seems to have no network")


def test_a_certificate_that_nobody_signed_is_final(kaggle, logged_in, refusal, waits, monkeypatch, tls_storage):
    tls_storage.archive = kaggle.archive
    kaggle.storage_url = f"https://127.0.0.1:{tls_storage.server_port}/archive.zip"
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert refusal().startswith("Kaggle's certificate cannot be trusted (TLS); ")
    assert waits == []
    assert tls_storage.seen == []


def test_a_tls_handshake_that_fails_is_tried_again(kaggle, logged_in, project, waits, monkeypatch):
    kaggle.script["api"] = [
        lambda handler: handler.redirect(f"https://127.0.0.1:{kaggle.server_port}/no-tls-is-spoken-here")
    ]
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert waits == [1]


# --- What comes is not what was asked for -----------------------------------------------------------------------------


def test_a_page_in_place_of_the_archive(kaggle, logged_in, refusal):
    kaggle.script["storage"] = [kaggle.html()]
    sentence = refusal()
    assert sentence.startswith("a zip was expected from Kaggle, but text/html came; ")
    assert not PART.exists()


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ("token", "Kaggle's answer makes no sense; a proxy or a login page may stand between"),
        ("api", "a zip was expected from Kaggle, but text/html came; a proxy or a login page may stand between"),
    ],
)
def test_a_page_in_place_of_kaggles_answers(kaggle, logged_in, refusal, waits, route, said):
    kaggle.script[route] = [kaggle.html()] * 9
    assert refusal().startswith(said)
    assert waits == []


@pytest.mark.parametrize("status", [200, 403])
def test_a_page_in_answer_to_a_resumed_request_spoils_nothing(kaggle, logged_in, refusal, waits, status):
    kaggle.script["storage"] = [
        kaggle.broken_after(70_000),
        lambda handler: handler.storage(),
        kaggle.html(status),
    ]
    refusal()
    assert PART.read_bytes() == kaggle.archive[:70_000]
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert kaggle.ranges()[-1] == "bytes=70000-"


def test_a_truncated_archive_is_deleted_and_downloaded_anew(kaggle, logged_in, refusal):
    whole = kaggle.archive
    kaggle.archive = whole[:-1000]
    assert refusal() == (
        "what came from Kaggle is not a sound zip (File is not a zip file) and was deleted; "
        "run again to download it anew"
    )
    kaggle.archive = whole
    download.main()
    assert ARCHIVE.read_bytes() == whole
    assert kaggle.ranges() == [None, None]


def test_a_damaged_member_is_found(kaggle, logged_in, refusal):
    kaggle.archive = kaggle.archive[:1000] + b"\0" * 10 + kaggle.archive[1010:]
    assert "(Bad CRC-32 for file 'real/0.jpg')" in refusal()


def test_an_archive_with_one_class(kaggle, logged_in, refusal, zipped):
    kaggle.archive = zipped("real")
    assert refusal().startswith("Kaggle's someone/faces has no file in a folder named fake; ")


def test_the_default_data_set_without_a_split(kaggle, logged_in, project, refusal, zipped):
    kaggle.archive = zipped("train/real", "train/fake", "valid/real", "valid/fake", "test/real")
    project(dataset=source.DEFAULT_DATASET)
    assert "lacks test/fake; it has changed" in refusal()


def test_another_digest_than_the_pinned_one(kaggle, logged_in, project, refusal):
    project(sha256="0" * 64)
    digest = hashlib.sha256(kaggle.archive).hexdigest()
    assert refusal().startswith(f"the archive of someone/faces has sha256 {digest}, but params.yaml has sha256: 000")
    asked = len(kaggle.seen)
    project(sha256=digest)
    download.main()
    assert len(kaggle.seen) == asked


# --- This machine fails -----------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_seen_before_the_first_byte(kaggle, logged_in, refusal, monkeypatch):
    free = namedtuple("usage", ["free"])(100_000)
    monkeypatch.setattr(source.shutil, "disk_usage", lambda _: free)
    assert refusal() == (
        f"0.00 GB are still to come from Kaggle, but {KEEP.absolute()} has 0.00 GB free; make room there and run again"
    )
    assert not PART.exists()


def test_a_disk_that_fills_up_keeps_what_came(kaggle, logged_in, refusal):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, hard))  # no file may grow larger
    try:
        sentence = refusal()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert sentence == (
        f"cannot write to {PART.absolute()} (File too large); make room there and run again, the download resumes"
    )
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert kaggle.ranges()[-1] == "bytes=80000-"


def test_a_second_run_at_the_same_time_is_refused(kaggle, logged_in, refusal):
    KEEP.mkdir(parents=True)
    with source.FileLock(KEEP / "lock"):
        assert refusal().startswith("another run is downloading someone/faces to ")
    assert kaggle.seen == []


def test_an_archive_that_came_but_was_not_verified_is_not_downloaded_again(kaggle, logged_in, project, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(source, "verify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download.main()
    kaggle.script["storage"] = [kaggle.silent_after(0)]  # its body is not needed
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive


def test_a_file_system_without_hard_links_gets_a_copy(kaggle, logged_in, project, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", unsupported)
    download.main()
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert ARCHIVE.stat().st_ino != (KEEP / "archive.zip").stat().st_ino


def test_killed_at_any_moment_the_next_run_resumes(kaggle, logged_in, project):
    kept = 0
    for size in (20_000, 90_000, 150_000):
        kaggle.script["storage"] = [kaggle.silent_after(size)] * (1 + bool(kept))
        with stage() as process:
            while not (PART.exists() and PART.stat().st_size == size):
                assert process.poll() is None, process.stderr.read()
                kaggle.released.wait(0.01)
            process.kill()
        assert kaggle.ranges()[-1] == (f"bytes={kept}-" if kept else None)
        assert not ARCHIVE.exists()
        kaggle.script["storage"], kept = [], size
    download.main()
    assert kaggle.ranges()[-1] == "bytes=150000-"
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert zipfile.ZipFile(ARCHIVE).testzip() is None


@pytest.mark.slow
def test_ten_kills_at_random_moments_cost_hardly_a_byte(kaggle, logged_in, project):
    def came():
        return PART.stat().st_size if PART.exists() else 0

    kaggle.script["storage"] = [kaggle.slowly] * 99
    moments, size = random.Random(1), len(kaggle.archive)
    for kill in range(10):
        kept, asked = came(), len(kaggle.ranges())
        with stage() as process:
            while len(kaggle.ranges()) == asked:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.15))
            process.kill()
        assert process.returncode == -9, f"the download was over before kill {kill}"
        assert kaggle.ranges()[asked:] in ([None], [None, f"bytes={kept}-"])  # killed before it asked for the rest?
        assert kept <= came() < size
    kept = came()
    assert kept > size / 4
    download.main()
    assert kaggle.ranges()[-1] == f"bytes={kept}-"
    assert ARCHIVE.read_bytes() == kaggle.archive
    assert kaggle.sent < 1.25 * size
    print(f"{kaggle.sent:,} bytes sent of {size:,}")
