"""Stage `index`: an archive as it comes, good and bad images together."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from stages import index
from stages.errors import UserError
from stages.faces import image
from stages.files import write_json
from tests.pictures import archive, encoded, faces, picture

ROOT = Path(__file__).parents[1]
WRITTEN = [
    "data/contact_sheets/faces.jpg",
    "data/index/faces.parquet",
    "data/quarantine/faces.csv",
]


@pytest.fixture
def project(tmp_path, monkeypatch, write_params):
    """A function that writes params.yaml and an archive of {name: bytes} into an empty project."""
    monkeypatch.chdir(tmp_path)

    def project(members=None, max_quarantined=0.5):
        write_params({"data.max_quarantined": max_quarantined})
        if members is not None:
            archive("faces", members)
        else:
            write_json("data/raw/faces.json", {})

    return project


@pytest.fixture
def run(command):
    """A function that runs the stage."""
    return lambda: command(index.main, "faces")


def written():
    return sorted(
        str(path)
        for folder in ("data", "metrics", "plots")
        for path in Path(folder).rglob("*.*")
        if path.parent != Path("data/raw")
    )


def test_every_image_gets_its_row_and_bad_ones_their_reason(project, run, capsys):
    sound = faces(6)
    exif = Image.Exif()
    exif[0x0112] = 6
    members = {
        **sound,
        "test/real/turned.jpg": encoded(picture(50).crop((0, 0, 32, 16)), exif=exif),
        "fake/a png.jpg": encoded(picture(51), "PNG"),
        "fake/again.jpg": sound["fake/000.jpg"],
        "real/nearly.jpg": encoded(picture(1000), quality=80),  # fake/000.jpg at another quality
        "real/half.jpg": sound["real/000.jpg"][:400],
        "real/page.jpg": b"<html>404</html>",
        "../real/evil.jpg": sound["real/000.jpg"],
        "real/void.jpg": b"",
        "list.csv": b"a,b",
    }
    project(members)
    run()
    assert written() == WRITTEN

    table = pd.read_parquet("data/index/faces.parquet").set_index("member")
    assert table.index.tolist() == [name for name in members if name != "list.csv"]
    verdicts = table.loc[table["verdict"] != "ok", "verdict"].to_dict()
    assert verdicts == {
        "real/half.jpg": "truncated",
        "real/page.jpg": "not an image",
        "../real/evil.jpg": "unsafe name",
        "real/void.jpg": "empty",
    }
    assert pd.read_csv("data/quarantine/faces.csv").set_index("member")["reason"].to_dict() == verdicts
    turned, png = table.loc["test/real/turned.jpg"], table.loc["fake/a png.jpg"]
    assert (turned["split"], turned["width"], turned["height"], turned["encoding"]) == ("test", 16, 32, "png")
    assert (png["format"], png["label"], png["encoding"]) == ("PNG", 1, "png")
    assert png["mean_red"] == pytest.approx(np.asarray(picture(51))[..., 0].mean(), abs=0.01)

    out = capsys.readouterr().out
    assert "4 quarantined (data/quarantine/faces.csv)" in out
    assert "1 quarantined: truncated" in out
    assert image.decode(Path("data/contact_sheets/faces.jpg").read_bytes()).shape == (288, 1024, 3)


def test_the_classes_lie_where_the_set_says(project, run):
    project({"people/a.jpg": encoded(picture(0)), "flux/b.jpg": encoded(picture(1)), "list.csv": b""})
    write_json("data/raw/faces.json", {"classes": {"real": "^people/", "fake": "^flux/", "labels": None}})
    run()
    table = pd.read_parquet("data/index/faces.parquet")
    assert dict(zip(table["member"], table["label"], strict=True)) == {"people/a.jpg": 0, "flux/b.jpg": 1}


def test_too_many_bad_images_stop_the_run(project, run):
    project(faces(6) | {"real/bad.jpg": b"?", "fake/bad.jpg": b"?"}, max_quarantined=0.1)
    with pytest.raises(
        UserError, match=r"2 of 14 images cannot be used, most often as not an image \(such as 'real/bad"
    ):
        run()
    assert written() == []


def test_a_class_without_one_sound_image_stops_the_run(project, run):
    project({"real/a.jpg": encoded(picture(0)), "fake/a.jpg": b"?"}, max_quarantined=1.0)
    with pytest.raises(UserError, match="not one fake image can be used"):
        run()
    assert written() == []


def test_workers_end_with_the_stage_however_it_ends(project):
    project(faces(40))
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.index", "faces"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    while not any("spawn_main" in " ".join(child.cmdline()) for child in psutil.Process(stage.pid).children()):
        assert stage.poll() is None
    stage.kill()
    stage.communicate(timeout=60)  # until its workers, which share its standard output, have ended too


def test_a_missing_archive_stops_the_run(project, run):
    project()
    with pytest.raises(UserError, match=r"data/raw/faces\.zip is missing; run the download stage first"):
        run()
    assert written() == []
