"""The stage that fetches one archive, whatever the source."""

import sys
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import download
from stages.errors import UserError, run
from stages.files import read_json, sha256

REPO = Path(__file__).parents[1]
ARCHIVE, SOURCE = Path("data/raw/faces.zip"), Path("data/raw/faces.json")


def fetch(name="faces"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["download", name])
        download.main()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project as the working directory; call it to write its params.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)

    def write(source, path=None, seed=1, **others):
        params = YAML(typ="safe").load(REPO / "params.yaml")
        params["sets"]["faces"] |= {
            "source": source,
            "sample": {"faces_per_class": 8, "size": 32, "seed": seed},
            "path": path,
        }
        params["sets"] |= others
        params["weights"]["source"] = "random"
        params["split"]["method"] = "stratified"
        YAML().dump(params, Path("params.yaml"))

    return write


@pytest.fixture
def faces():
    """Make a folder of faces."""

    def make(root, *kinds):
        for kind in kinds:
            path = Path(root, kind, "1.jpg")
            path.parent.mkdir(parents=True)
            path.write_bytes(b"content")

    return make


def test_the_sample(project, capsys):
    project("sample")
    fetch()
    record = read_json(SOURCE)
    assert record["source"] == "sample"
    assert record["images"] == 16
    assert record["bytes"] == ARCHIVE.stat().st_size
    assert record["sha256"] == sha256(ARCHIVE)
    assert len(zipfile.ZipFile(ARCHIVE).namelist()) == 16
    out = capsys.readouterr().out
    assert out.startswith("data/raw/faces.zip: 16 images from sample, 0.0 MB, sha256 ")
    assert record["sha256"][:12] in out


def test_the_sample_depends_on_its_seed_alone(project):
    digests = []
    for seed in (1, 1, 2):
        project("sample", seed=seed)
        fetch()
        digests.append(read_json(SOURCE)["sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_a_folder(project, faces, capsys):
    faces("mine", "real", "fake", "other")
    Path("mine/real/2.jpg").symlink_to("nowhere")
    project("folder", "mine")
    fetch()
    record = read_json(SOURCE)
    assert record == {
        "source": "folder",
        "bytes": ARCHIVE.stat().st_size,
        "path": str(Path("mine").absolute()),
        "images": 2,
        "counts": {"fake": 1, "real": 1},
        "skipped": {"other files": 1, "links that lead nowhere": 1},
        "sha256": sha256(ARCHIVE),
    }
    out = capsys.readouterr().out
    assert "2 images from folder" in out
    assert "skipped: 1 links that lead nowhere, 1 other files\n" in out


def test_a_folder_is_looked_for_in_the_real_root_of_a_temporary_experiment(project, faces, tmp_path, monkeypatch):
    faces(tmp_path / "root/mine", "real", "fake")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    project("folder", "mine")
    fetch()
    assert read_json(SOURCE)["path"] == str(tmp_path / "root/mine")
    assert ARCHIVE.exists()


@pytest.mark.parametrize(
    ("kinds", "said"), [((), "mine does not exist"), (("real",), "no file in a folder named fake")]
)
def test_nothing_half_written_stays_after_an_error(project, faces, kinds, said):
    faces("mine", *kinds)
    project("folder", "mine")
    with pytest.raises(UserError, match=said):
        fetch()
    assert not Path("data/raw").exists() or list(Path("data/raw").iterdir()) == []


def test_an_error_leaves_the_former_archive_alone(project):
    project("sample")
    fetch()
    before = ARCHIVE.read_bytes(), SOURCE.read_bytes()
    project("folder", "mine")
    with pytest.raises(UserError, match="mine does not exist"):
        fetch()
    assert (ARCHIVE.read_bytes(), SOURCE.read_bytes()) == before
    assert sorted(path.name for path in Path("data/raw").iterdir()) == ["faces.json", "faces.zip"]


@pytest.mark.parametrize("where", ["data", "data/raw"])
def test_a_file_in_place_of_the_output_folder_is_named(project, where):
    project("sample")
    Path(where).parent.mkdir(exist_ok=True)
    Path(where).write_text("in the way")
    with pytest.raises((SystemExit, NotADirectoryError, FileExistsError), match="data/raw"):
        run(fetch)
    assert Path(where).read_text() == "in the way"


def test_an_output_that_may_not_be_written_is_named(project, monkeypatch):
    project("sample")

    def refused(self, *_, **__):  # as a read-only folder does, but for root as well
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(SystemExit, match="error: no permission for data/raw; make it readable and writable for you"):
        run(fetch)
    assert not Path("data").exists()


def test_a_set_may_hold_one_class_where_it_is_not_the_only_one_to_learn_from(project, faces):
    faces("camera", "real")
    licence = {"licence": "CC0", "generator": "none"}
    project("sample", camera={"source": "folder", "use": "test", "path": "camera", **licence})
    fetch("camera")
    assert read_json("data/raw/camera.json")["counts"] == {"real": 1}
    assert read_json("data/raw/camera.json").items() >= licence.items()
    assert Path("data/raw/camera.zip").exists()
    assert not ARCHIVE.exists()


def test_a_missing_folder_of_a_set_is_named_with_its_key(project):
    project("sample", other={"source": "folder", "use": "test", "path": "nowhere"})
    with pytest.raises(UserError, match=r"nowhere does not exist; set sets\.other\.path to a folder or \.zip"):
        fetch("other")


def test_a_set_without_a_class_folder_is_refused(project, faces):
    faces("other", "faces")
    project("sample", other={"source": "folder", "use": "test", "path": "other"})
    with pytest.raises(UserError, match=r"it needs files in real/ or in fake/, alone"):
        fetch("other")


def test_an_unknown_set_is_named_with_those_there_are(project):
    project("sample")
    with pytest.raises(UserError, match=r"params\.yaml has no set 'other'; it has: faces"):
        fetch("other")
