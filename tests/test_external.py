"""The stage `external`, on sets of one class and of two, with faces that the corpus has, and files that are none."""

import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from stages import external, index
from stages.errors import UserError
from stages.faces import shards
from stages.files import read_json

EXTERNAL = Path("data/external")


@pytest.fixture
def project(tmp_path, monkeypatch, write_params, noise, png):
    """A function that indexes a corpus of eight faces, makes sets {name: {file: bytes}}, and runs the stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    faces = Path("corpus")
    for number in range(8):
        path = faces / ("real", "fake")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(noise(number, 64, 64)))
    rows = [
        {"dhash": external.duplicates.dhash(noise(number, 64, 64)), "verdict": "ok" if number else "truncated"}
        for number in range(8)
    ]
    Path("data").mkdir()
    pd.DataFrame(rows).to_parquet(index.INDEX)

    def project(sets, **changes):
        for name, files in sets.items():
            for file, content in files.items():
                path = Path("sets", name, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        write_params({"external": {name: f"sets/{name}" for name in sets}, **changes})
        external.main()
        return read_json(EXTERNAL / "sources.json")

    return project


def packed(name):
    return {
        member.decode(): (label, image)
        for images, labels, members in shards.faces(EXTERNAL, name, size=64, batch_size=3)
        for image, label, member in zip(images.numpy(), labels.numpy(), members.numpy(), strict=True)
    }


def test_a_set_is_packed_under_its_name_byte_for_byte(project, noise, png):
    faces = {f"{kind}/{n}.png": png(noise(100 + n, 64, 64)) for n, kind in enumerate(("real", "fake", "fake"))}
    sources = project({"other": faces})
    assert {key: sources["other"][key] for key in ("images", "real", "fake", "quarantined", "in_corpus")} == {
        "images": 3,
        "real": 1,
        "fake": 2,
        "quarantined": 0,
        "in_corpus": 0,
    }
    found = packed("other")
    assert {member: label for member, (label, _) in found.items()} == {
        "real/0.png": 0,
        "fake/1.png": 1,
        "fake/2.png": 1,
    }
    assert (found["fake/2.png"][1] == noise(102, 64, 64)).all()


def test_a_set_may_hold_one_class_and_there_may_be_several(project, noise, png, capsys):
    sources = project(
        {
            "StyleGAN2": {"fake/0.png": png(noise(100, 64, 64))},
            "camera": {"real/0.png": png(noise(101, 64, 64)), "notes.txt": b"from my own camera"},
        }
    )
    assert [(sources[name]["real"], sources[name]["fake"]) for name in ("StyleGAN2", "camera")] == [(0, 1), (1, 0)]
    assert list(packed("camera")) == ["real/0.png"]
    assert sources["camera"]["skipped"] == {"other files": 1}
    assert "external/camera: 1 real, 0 fake; left out: 0 quarantined, 0 that the corpus has too, 1 other files" in (
        capsys.readouterr().out
    )


def test_faces_that_the_corpus_has_too_are_left_out_even_saved_again(project, noise, png, capsys):
    again = io.BytesIO()
    Image.fromarray(noise(3, 64, 64)).save(again, "JPEG", quality=95)
    sources = project(
        {
            "other": {
                "fake/same.png": png(noise(1, 64, 64)),
                "fake/again.jpg": again.getvalue(),
                "real/quarantined.png": png(noise(0, 64, 64)),  # the corpus could not use it, so it is new
                "fake/new.png": png(noise(100, 64, 64)),
            }
        }
    )
    assert sources["other"]["in_corpus"] == 2
    assert set(packed("other")) == {"real/quarantined.png", "fake/new.png"}
    assert "1 real, 1 fake; left out: 0 quarantined, 2 that the corpus has too" in capsys.readouterr().out


def test_without_any_set_the_folder_says_so(project, capsys):
    assert project({}) == {}
    assert read_json(EXTERNAL / "shards.json") == {}
    assert "no external sets; name some in params.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"fake/0.png": b"no image", "fake/1.png": b"nor this"}, "external.other: 2 of 2 images cannot be used, most "),
        ({"faces/0.png": b""}, "has no file in a folder named real; it needs files in real/ or in fake/, alone"),
    ],
)
def test_a_set_without_usable_images_is_refused(project, files, message):
    with pytest.raises(UserError, match=message):
        project({"other": files}, **{"data.max_quarantined": 1.0})
    assert not EXTERNAL.exists()


def test_a_set_of_nothing_but_the_corpus_is_refused(project, noise, png):
    with pytest.raises(UserError, match=r"external.other: all 1 images are in the corpus too"):
        project({"other": {"fake/0.png": png(noise(1, 64, 64))}})


def test_more_bad_images_than_allowed_are_refused(project, noise, png):
    files = {f"real/{n}.png": png(noise(100 + n, 64, 64)) for n in range(3)} | {"real/bad.png": b"no image"}
    with pytest.raises(UserError, match=r"1 of 4 images cannot be used, most often as not an image, and .* = 0.2"):
        project({"other": files}, **{"data.max_quarantined": 0.2})
    assert project({"other": files}, **{"data.max_quarantined": 0.25})["other"]["quarantined"] == 1


def test_a_missing_folder_is_named_with_its_key(project):
    with pytest.raises(UserError, match=r"sets/other does not exist; set external.other to a folder or .zip"):
        project({"other": {}})
