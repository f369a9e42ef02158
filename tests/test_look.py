"""Stage `look`: what it writes changes where a person's own files do, and only then."""

import os
import zipfile
from pathlib import Path
from typing import get_args

import pytest
from ruamel.yaml import YAML

from stages import look
from stages.errors import UserError
from stages.files import read_json
from stages.params import FaceSet, Weights


@pytest.fixture
def looked(tmp_path, monkeypatch, write_params, command):
    """A function that looks, with changes to params.yaml, and gives what is known of faces, weights or a set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name in ("faces/real/1.jpg", "faces/fake/1.jpg", "mine/resnet50.weights.h5"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("content")

    def looked(what, changes):
        write_params(changes)
        command(look.main, *([] if what == "weights" else [what]))
        return read_json("data/own/weights.json" if what == "weights" else f"data/own/sets/{what}.json")

    return looked


FACES = {"sets.faces.source": "folder", "sets.faces.path": "faces", "weights.source": "random"}


def test_every_source_says_whether_it_is_looked_at():
    sources = {name for section in (FaceSet, Weights) for name in get_args(section.model_fields["source"].annotation)}
    values = YAML(typ="safe").load(Path(look.__file__).with_suffix(".yaml"))["data/own"]
    assert set(values) == sources
    assert [name for name, value in values.items() if value != value] == ["folder"]  # NaN


def test_where_nothing_is_named_nothing_is_known(looked):
    assert looked("faces", {}) == looked("weights", {}) == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda: Path("faces/real/2.jpg").write_text("added"),
        lambda: Path("faces/real/1.jpg").unlink(),
        lambda: Path("faces/real/1.jpg").rename("faces/real/2.jpg"),
        lambda: Path("faces/real/1.jpg").rename("faces/fake/2.jpg"),
        lambda: Path("faces/real/1.jpg").write_text("longer content"),
        lambda: os.utime("faces/real/1.jpg", ns=(1, 1)),
    ],
    ids=["added", "removed", "renamed", "of another class", "another size", "another time"],
)
def test_a_change_of_faces_is_seen(looked, change):
    before = looked("faces", FACES)
    assert before["files"] == 2
    assert looked("faces", FACES) == before
    change()
    assert looked("faces", FACES) != before


def test_what_is_no_image_changes_nothing(looked):
    before = looked("faces", FACES)
    for name in ("notes.txt", "real/.DS_Store", "real/Thumbs.db"):
        Path("faces", name).write_text("changed")
    assert looked("faces", FACES) == before


def test_no_image_is_read(looked, monkeypatch):
    def refused(*_):
        raise AssertionError

    monkeypatch.setattr(Path, "read_bytes", refused)
    Path("faces/real/1.jpg").unlink()
    os.mkfifo("faces/pipe")
    Path("faces/real/1.jpg").symlink_to("../fake/1.jpg")
    assert looked("faces", FACES)["files"] == 2


def test_a_change_of_a_zip_is_seen(looked):
    with zipfile.ZipFile("faces.zip", "w") as archive:
        archive.writestr("real/1.jpg", b"1")
    before = looked("faces", FACES | {"sets.faces.path": "faces.zip"})
    with zipfile.ZipFile("faces.zip", "a") as archive:
        archive.writestr("real/2.jpg", b"2")
    assert looked("faces", FACES | {"sets.faces.path": "faces.zip"}) != before


def test_a_change_of_weights_is_seen(looked):
    named = {"weights.source": "folder", "weights.folder": "mine"}
    before = looked("weights", named)
    Path("mine/notes.txt").write_text("no weights")
    assert looked("weights", named) == before
    os.utime("mine/resnet50.weights.h5", ns=(1, 1))
    assert looked("weights", named) != before


def test_a_change_of_one_set_is_none_of_another(looked):
    sets = {"sets.other": {"source": "folder", "use": "test", "path": "faces"}}
    before, sample = looked("other", sets), looked("faces", sets)
    Path("faces/fake/2.jpg").write_text("added")
    assert looked("other", sets) != before
    assert looked("faces", sets) == sample == {}


def test_an_unknown_set_is_one_sentence(looked):
    with pytest.raises(UserError, match=r"params\.yaml has no set 'other'; it has: faces"):
        looked("other", {})


def test_where_a_folder_is_missing_what_is_known_stays(looked, capsys):
    before = looked("faces", FACES)
    Path("faces").rename("away")
    assert looked("faces", FACES) == before
    assert (
        f"{Path('faces').absolute()} is not there, or has no such files, so what is known of it stays"
        in capsys.readouterr().out
    )
    Path("data/own/sets/faces.json").unlink()
    assert looked("faces", FACES) == {}


def test_a_folder_is_looked_for_in_the_real_root_of_a_temporary_experiment(looked, tmp_path, monkeypatch):
    before = looked("faces", FACES)
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "temporary")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert looked("faces", FACES) == before
