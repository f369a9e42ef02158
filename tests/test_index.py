"""Stage `index`: an archive as it comes, good and bad images together."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image
from ruamel.yaml import YAML

from stages import index
from stages.errors import UserError
from stages.faces import image
from stages.files import read_json
from stages.sources import folder

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / "params.yaml"
REAL_FACES = ROOT / ".." / "shared" / "faces" / "140k"
WRITTEN = [
    "data/contact_sheet.jpg",
    "data/index.parquet",
    "data/quarantine.csv",
    "metrics/data.json",
    "plots/data/counts.csv",
    "plots/data/file_size.csv",
    "plots/data/properties.csv",
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A function that writes params.yaml and an archive of {name: bytes} into an empty project."""
    monkeypatch.chdir(tmp_path)

    def project(members=None, **changes):
        content = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
        content["data"] |= {"max_quarantined": 0.5, "near_duplicate_bits": 31, "max_shortcut_auc": 0.75} | changes
        with Path("params.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(content, file)
        Path("data/raw").mkdir(parents=True)
        if members is not None:
            with zipfile.ZipFile("data/raw/faces.zip", "w") as archive:
                for name, data in members.items():
                    archive.writestr(name, data)

    return project


def picture(seed, side=32):
    colours = np.random.default_rng(seed).integers(0, 256, (16, 17, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC)


def encoded(picture, kind="JPEG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def faces(count):
    """``count`` sound JPEGs a class."""
    return {
        f"{kind}/{number:03}.jpg": encoded(picture(number + 1000 * (kind == "fake")))
        for kind in ("real", "fake")
        for number in range(count)
    }


def written():
    return sorted(
        str(path)
        for folder in ("data", "metrics", "plots")
        for path in Path(folder).rglob("*.*")
        if path.name != "faces.zip"
    )


def test_every_image_gets_its_row_and_bad_ones_their_reason(project, capsys):
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
    index.main()
    assert written() == WRITTEN

    table = pd.read_parquet("data/index.parquet").set_index("member")
    assert table.index.tolist() == [name for name in members if name != "list.csv"]
    verdicts = table.loc[table["verdict"] != "ok", "verdict"].to_dict()
    assert verdicts == {
        "real/half.jpg": "truncated",
        "real/page.jpg": "not an image",
        "../real/evil.jpg": "unsafe name",
        "real/void.jpg": "empty",
    }
    assert pd.read_csv("data/quarantine.csv").set_index("member")["reason"].to_dict() == verdicts
    assert (table.loc[list(verdicts), "group"] == -1).all()
    group = table["group"]
    assert group["fake/000.jpg"] == group["fake/again.jpg"] == group["real/nearly.jpg"]
    assert group[group >= 0].nunique() == 14

    turned, png = table.loc["test/real/turned.jpg"], table.loc["fake/a png.jpg"]
    assert (turned["split"], turned["width"], turned["height"], turned["encoding"]) == ("test", 16, 32, "png")
    assert (png["format"], png["label"], png["encoding"]) == ("PNG", 1, "png")
    assert png["mean_red"] == pytest.approx(np.asarray(picture(51))[..., 0].mean(), abs=0.01)

    figures = read_json("metrics/data.json")
    assert len(figures) <= 20
    assert {name: figures[name] for name in ("images", "real", "fake", "quarantined", "other_files")} == {
        "images": 16,
        "real": 8,
        "fake": 8,
        "quarantined": 4,
        "other_files": 1,
    }
    assert (figures["exact_duplicates"], figures["exact_duplicates_across_splits"]) == (1, 0)
    assert (figures["near_duplicates"], figures["near_duplicates_across_classes"]) == (2, 2)
    out = capsys.readouterr().out
    assert "4 quarantined (data/quarantine.csv)" in out
    assert "1 quarantined: truncated" in out
    assert image.decode(Path("data/contact_sheet.jpg").read_bytes()).shape == (288, 1024, 3)


def test_duplicates_across_official_splits_are_counted(project):
    sound = {
        f"{split}/{name}": data
        for split, name, data in zip(["train"] * 4 + ["test"] * 4, faces(4), faces(4).values(), strict=True)
    }
    name = next(iter(sound))
    project(sound | {"test/real/copy.jpg": sound[name], "test/real/near.jpg": encoded(picture(0), quality=70)})
    index.main()
    figures = read_json("metrics/data.json")
    assert (figures["exact_duplicates"], figures["exact_duplicates_across_splits"]) == (1, 1)
    assert (figures["near_duplicates"], figures["near_duplicates_across_splits"]) == (2, 1)
    assert pd.read_csv("plots/data/counts.csv")["images"].sum() == 10


def test_a_class_saved_at_another_quality_is_announced_loudly(project, capsys):
    project(
        {
            name: encoded(picture(seed), quality=75 if name.startswith("real") else 90)
            for seed, name in enumerate(faces(40))
        }
    )
    index.main()
    assert read_json("metrics/data.json")["shortcut_auc"] >= 0.95
    properties = pd.read_csv("plots/data/properties.csv").set_index(["property", "label", "value"])["images"]
    assert properties["JPEG quality"].to_dict() == {("real", "75"): 40, ("fake", "90"): 40}
    assert "WARNING: file size, format and average colour alone tell real from fake" in capsys.readouterr().out
    assert Path("data/quarantine.csv").read_text() == "member,reason\n"


def test_too_many_bad_images_stop_the_run(project):
    project(faces(6) | {"real/bad.jpg": b"?", "fake/bad.jpg": b"?"}, max_quarantined=0.1)
    with pytest.raises(
        UserError, match=r"2 of 14 images cannot be used, most often as not an image \(such as 'real/bad"
    ):
        index.main()
    assert written() == []


def test_a_class_without_one_sound_image_stops_the_run(project):
    project({"real/a.jpg": encoded(picture(0)), "fake/a.jpg": b"?"}, max_quarantined=1.0)
    with pytest.raises(UserError, match="not one fake image can be used"):
        index.main()
    assert written() == []


def test_workers_end_with_the_stage_however_it_ends(project):
    project(faces(40))
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.index"], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    while not any("spawn_main" in " ".join(child.cmdline()) for child in psutil.Process(stage.pid).children()):
        assert stage.poll() is None
    stage.kill()
    stage.communicate(timeout=60)  # until its workers, which share its standard output, have ended too


def test_a_missing_archive_stops_the_run(project):
    project()
    with pytest.raises(UserError, match=r"data/raw/faces\.zip is missing; run the download stage first"):
        index.main()
    assert written() == []


real_faces = pytest.mark.skipif(
    not REAL_FACES.is_dir(), reason="needs 1,800 faces of the 140k corpus in ../shared/faces/140k"
)


@real_faces
def test_on_real_faces_exactly_the_known_pairs_are_near_and_there_is_no_shortcut(project, capsys):
    project()
    folder.fetch(REAL_FACES, Path("data/raw/faces.zip"))
    index.main()
    table = pd.read_parquet("data/index.parquet")
    alike = table[table["group"].duplicated(keep=False)]
    known = pd.read_csv(REAL_FACES / "NEAR_DUPLICATES.csv")[["file_a", "file_b"]]
    assert {frozenset(pair) for pair in alike.groupby("group")["member"].apply(list)} == {
        frozenset(pair) for pair in known.to_numpy()
    }
    figures = read_json("metrics/data.json")
    assert (figures["images"], figures["near_duplicates"], figures["quarantined"]) == (1800, 5, 0)
    assert 0.55 <= figures["shortcut_auc"] <= 0.61
    assert table["quantisation"].nunique() == 1
    assert "WARNING" not in capsys.readouterr().out


@real_faces
def test_real_faces_of_which_one_class_was_saved_anew_give_themselves_away(project, capsys):
    real, fake = (sorted((REAL_FACES / kind).iterdir())[:300] for kind in ("real", "fake"))
    saved_anew = {f"fake/{path.name}": encoded(Image.open(path), quality=92) for path in fake}
    project({f"real/{path.name}": path.read_bytes() for path in real} | saved_anew)
    index.main()
    assert read_json("metrics/data.json")["shortcut_auc"] >= 0.95
    assert "WARNING" in capsys.readouterr().out
