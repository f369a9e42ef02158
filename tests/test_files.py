"""Publishing: whole or not at all."""

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.errors import UserError
from stages.files import in_memory, project_root, publish, read_json, reading, sha256, user_path, write_json


def in_process(folder, code):
    """Another process, in a folder, with pipes."""
    imports = "import os, signal; from pathlib import Path; from stages.files import hold, publish"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", f"{imports}\n{code}"], cwd=folder, env=environment, text=True, **pipes
    )


def tree(folder):
    """Every file below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_when_it_is_whole(tmp_path):
    place = tmp_path / "new" / "folder" / "table.csv"
    with publish(place) as part:
        part.write_text("half")
        assert not place.exists()
        assert part.name == place.name  # writers choose a format by the suffixes
        part.write_text("whole")
    assert tree(tmp_path) == {"new/folder/table.csv": "whole"}
    assert [path.name for path in place.parent.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    (tmp_path / "table.csv").write_text("old")

    def fail():
        with publish(tmp_path / "table.csv") as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert tree(tmp_path) == {"table.csv": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_block_that_makes_nothing_leaves_what_was_there(tmp_path):
    (tmp_path / "table.csv").write_text("old")
    with pytest.raises(FileNotFoundError), publish(tmp_path / "table.csv"):
        pass
    assert tree(tmp_path) == {"table.csv": "old"}


def test_a_folder_replaces_a_folder(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "old").write_text("old")
    with publish(tmp_path / "shards") as part:
        part.mkdir()
        (part / "new").write_text("new")
        assert tree(tmp_path / "shards") == {"old": "old"}
    assert tree(tmp_path) == {"shards/new": "new"}


@pytest.mark.parametrize("make", ["mkdir", "touch"])
def test_what_lies_in_the_way_is_left_there_and_named(tmp_path, make):
    place = tmp_path / "table"
    (place / "precious").mkdir(parents=True) if make == "touch" else place.write_text("precious")
    sentence = r"table is a .* where a .* belongs; move it away and run again$"
    with pytest.raises(UserError, match=sentence), publish(place) as part:
        getattr(part, make)()
    assert place.read_text() == "precious" if make == "mkdir" else (place / "precious").exists()
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("make", ["mkdir", "touch"])
def test_what_a_killed_writer_left_is_gone_after_the_next(tmp_path, make):
    ended = in_process(tmp_path, f"with publish('table') as part: part.{make}(); os.kill(os.getpid(), signal.SIGKILL)")
    assert ended.communicate() == ("", "")
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "table").exists()
    with publish(tmp_path / "table") as part:
        assert not part.exists()
        part.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_two_at_one_place_work_one_after_the_other(tmp_path):
    """The first waits for a line on its standard input; the second says that it waits for the first."""
    work = "with publish('table') as part: part.mkdir(); print('at work', flush=True); input(); (part / '{}').touch()"
    first = in_process(tmp_path, work.format("first"))
    assert first.stdout.readline() == "at work\n"
    second = in_process(tmp_path, work.format("second"))
    assert second.stderr.readline() == "waiting for another run, which is at work in .table.part\n"
    for one, name in ((first, "first"), (second, "second")):
        one.communicate("go on\n")
        assert one.returncode == 0
        assert [path.name for path in (tmp_path / "table").iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_a_folder_that_is_held_is_free_when_its_holder_is_killed(tmp_path):
    holder = in_process(tmp_path, "with hold(Path('scratch')): print('at work', flush=True); input()")
    assert holder.stdout.readline() == "at work\n"
    waiting = in_process(tmp_path, "with hold(Path('scratch')): print('at work')")
    assert "waiting for another run, which is at work in scratch" in waiting.stderr.readline()
    holder.kill()
    assert waiting.communicate()[0] == "at work\n"
    holder.communicate()


def test_a_full_disk_is_said_with_the_name_of_what_was_written(tmp_path):
    def fail():
        with publish(tmp_path / "table.csv") as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "another.csv")  # as shutil names what it copies

    with pytest.raises(UserError, match=r"^the disk is full \(while writing \S*/table.csv\); free some space"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_the_disk_takes_a_part_of_is_not_published(tmp_path):
    size, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, most))  # bytes, as on a disk with so much room
    try:
        with pytest.raises(OSError), publish(tmp_path / "a.jpg") as part, in_memory(part) as picture:  # noqa: PT011
            Image.new("RGB", (8, 8)).save(picture, "JPEG")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    assert list(tmp_path.iterdir()) == []


def test_what_is_published_is_readable_as_any_other_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with publish(tmp_path / "file") as part:
        part.write_text("")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_temporary_file_lies_on_the_same_disk(tmp_path):
    with publish(tmp_path / "file") as part:
        assert part.parent.parent == tmp_path
        part.write_text("")


def test_json_keeps_its_keys_in_order_and_ends_with_a_line(tmp_path):
    write_json(tmp_path / "figures.json", {"b": 1.5, "a": None})
    assert (tmp_path / "figures.json").read_text() == '{\n  "b": 1.5,\n  "a": null\n}\n'
    assert list(read_json(tmp_path / "figures.json")) == ["b", "a"]


def test_json_refuses_what_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "figures.json", {"auc": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_json_that_is_missing_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"figures.json is missing; make it with `dvc repro`"):
        read_json(tmp_path / "figures.json")


@pytest.mark.parametrize("junk", [b"", b'{"auc": 0.9', b"\xff\xfe", b"[" * 3 + b"\0"])
def test_json_that_is_damaged_says_what_to_do(tmp_path, junk):
    (tmp_path / "figures.json").write_bytes(junk)
    with pytest.raises(UserError, match=r"figures.json is damaged \(.*\); delete it, and `dvc repro` makes it again$"):
        read_json(tmp_path / "figures.json")


@pytest.mark.parametrize("junk", [b"", b"PAR1", b"junk" * 100])
def test_a_table_that_is_damaged_says_what_to_do(tmp_path, junk):
    (tmp_path / "index.parquet").write_bytes(junk)
    for read in (pd.read_parquet, pq.ParquetFile):
        with pytest.raises(UserError, match=r"index.parquet is damaged \(.*\); delete it"), reading("index.parquet"):
            read(tmp_path / "index.parquet")


def test_what_the_disk_refuses_is_no_damage(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_json(tmp_path)


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3_000_000)])
def test_a_digest_is_that_of_the_whole_file(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_the_root_is_here_unless_dvc_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert project_root() == tmp_path.resolve()
    monkeypatch.setenv("DVC_ROOT", "")
    assert project_root() == tmp_path.resolve()
    monkeypatch.setenv("DVC_ROOT", "/real/project")
    assert project_root() == Path("/real/project")


def test_a_persons_path_belongs_to_the_real_root(monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "/real/project")
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("faces") == Path("/real/project/faces")
    assert user_path("/mnt/faces") == Path("/mnt/faces")
    assert user_path("~/faces") == Path("/home/me/faces")
    assert os.fspath(user_path("../faces")) == "/real/project/../faces"
    with pytest.raises(UserError, match=r"^~nobody-here/faces names no home folder that can be found; write the path"):
        user_path("~nobody-here/faces")
