"""Stage `preprocess`: bytes stay as they came, but for the images that TensorFlow would see otherwise."""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages import preprocess
from stages.backend import tf
from stages.errors import UserError
from stages.faces import image, manifest, shards
from stages.faces.zips import Zip
from stages.files import read_json

SHARDS = Path("data/shards")


def pack():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["preprocess", "faces"])
        preprocess.main()


def encoded(picture, kind="JPEG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def plain(noise):
    """Twelve ordinary JPEGs, one of them grey."""
    faces = {f"real/{number:02}.jpg": encoded(Image.fromarray(noise(number, 16, 24))) for number in range(11)}
    return faces | {"real/grey.jpg": encoded(Image.fromarray(noise(11, 16, 16)).convert("L"))}


@pytest.fixture
def odd(noise, png):
    """What TensorFlow would see otherwise than a person, or not at all."""
    picture = Image.fromarray(noise(20, 16, 24))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "fake/cmyk.jpg": encoded(picture.convert("CMYK")),
        "fake/turned.jpg": encoded(picture, exif=turned),
        "fake/deep.png": encoded(Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)), "PNG"),
        "fake/clear.png": encoded(picture.convert("RGBA"), "PNG"),
        "fake/face.webp": encoded(picture, "WEBP"),
        "fake/plain.png": png(noise(21, 16, 16)),
        "fake/endless.jpg": encoded(picture)[:-2] + bytes(500),
        "fake/face.avif": encoded(picture, "AVIF"),
        "fake/turned.tif": encoded(picture, "TIFF", exif=turned),
    }


@pytest.fixture
def project(tmp_path, monkeypatch, write_params):
    """A function that makes a project of members {name: bytes}, of which each split takes every third."""
    monkeypatch.chdir(tmp_path)

    def project(members, *, indexed=None, seed=20, per_shard=3, **changes):
        write_params({"shards.images": per_shard, "split.seed": seed, **changes})
        Path("data/raw").mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile("data/raw/faces.zip", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        with Zip("data/raw/faces.zip") as archive:
            places = {info.filename: place for place, info in archive.members()}
        names = list(members)
        encodings = [image.inspect((indexed or members)[name]).encoding for name in names]
        index = {"member": names, "place": [places[name] for name in names], "encoding": encodings, "verdict": "ok"}
        Path("data/index").mkdir(exist_ok=True)
        pd.DataFrame(index).to_parquet("data/index/faces.parquet")
        table = pd.DataFrame(
            {
                "member": names,
                "label": [int(name.startswith("fake")) for name in names],
                "split": [("train", "valid", "test")[number % 3] for number in range(len(names))],
                "group": range(len(names)),
            }
        )
        manifest.write(table, "data/manifests/faces.csv")
        return table

    return project


def records(split):
    """The records of a split, in their order: (member, label, bytes)."""
    found = []
    for path in sorted((SHARDS / split / "faces").glob("*.tfrecord")):
        for raw in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            values = tf.train.Example.FromString(raw).features.feature
            found.append(
                (
                    values["member"].bytes_list.value[0].decode().removeprefix("faces/"),
                    values["label"].int64_list.value[0],
                    values["image"].bytes_list.value[0],
                )
            )
    return found


def test_each_split_gets_its_images_with_their_labels(project, plain, odd, capsys):
    table = project(plain | odd)
    pack()
    for split, images in table.groupby("split"):
        assert {(member, label) for member, label, _ in records(split)} == set(
            zip(images["member"], images["label"], strict=True)
        )
        assert len(list((SHARDS / split / "faces").glob("*.tfrecord"))) == 3
        summary = read_json(SHARDS / split / "faces/shards.json")
        assert summary["images"] == summary["real"] + summary["fake"] == len(images) == 7
        assert summary["fake"] == images["label"].sum()
    assert "faces, train: 7 images in 3 shards; valid: 7 images in 3 shards; test: 7 images in 3 shards" in (
        capsys.readouterr().out
    )


def test_the_bytes_of_an_ordinary_jpeg_stay_as_they_came(project, plain):
    project(plain)
    pack()
    for split in ("train", "valid", "test"):
        for member, _, data in records(split):
            assert data == plain[member]


def test_images_that_tensorflow_sees_otherwise_are_stored_as_their_pixels(project, odd):
    project(odd)
    pack()
    stored = {member: data for split in ("train", "valid", "test") for member, _, data in records(split)}
    assert stored.keys() == odd.keys()
    for member, data in stored.items():
        assert data.startswith(b"\x89PNG")
        np.testing.assert_array_equal(tf.io.decode_image(data, channels=3), image.decode(odd[member]))


def test_processed_alike_the_classes_are_no_longer_told_apart_by_how_their_files_were_made(project, png, capsys):
    """Real faces came as JPEG of quality 60, generated ones as PNG, of the same pictures."""
    pictures = [np.full((40, 40, 3), 40 + 2 * (number // 2), np.uint8) for number in range(60)]
    faces = {
        f"real/{n:02}.jpg" if n % 2 else f"fake/{n:02}.png": encoded(Image.fromarray(pixels), quality=60)
        if n % 2
        else png(pixels)
        for n, pixels in enumerate(pictures)
    }
    project(faces, **{"image.jpeg": 90, "image.size": 32, "image.crop": 32})
    pack()
    stored = {member: data for split in ("train", "valid", "test") for member, _, data in records(split)}
    assert stored.keys() == faces.keys()
    facts = {image.inspect(data) for data in stored.values()}
    assert {(f.format, f.width, f.height, f.encoding, f.jpeg_quality) for f in facts} == {
        ("JPEG", 32, 32, "original", 90)
    }
    assert len({f.quantisation for f in facts}) == 1
    found = read_json("data/processed/faces.json")
    assert found["without_face"] == 0
    assert found["shortcut_auc"] < 0.7
    assert f"0 left out without a face; shortcut AUC now: {found['shortcut_auc']:.2f}" in capsys.readouterr().out


def test_images_without_a_face_are_left_out_and_counted(project, portrait, plain, capsys):
    face = encoded(portrait.resize((128, 150)))
    faces = {f"{kind}/{number}.jpg": face for kind in ("fake", "real") for number in range(3)}
    project(plain | faces, **{"image.align": True})
    pack()
    stored = {member: data for split in ("train", "valid", "test") for member, _, data in records(split)}
    assert stored.keys() == faces.keys()
    assert len(set(stored.values())) == 1
    (facts,) = {image.inspect(data) for data in stored.values()}
    assert (facts.format, facts.width, facts.height) == ("PNG", 64, 64)
    assert shards.counts([shards.folder(split, "faces") for split in ("train", "valid", "test")])["images"] == 6
    assert read_json("data/processed/faces.json")["without_face"] == len(plain)
    assert "12 left out without a face" in capsys.readouterr().out


def test_the_order_is_shuffled_and_decided_by_the_seed(project, plain):
    orders = []
    for seed in (1, 1, 2):
        project(plain, seed=seed)
        pack()
        orders.append([member for member, _, _ in records("train")])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != sorted(orders[0])


def test_images_that_the_manifest_leaves_out_stay_out(project, plain):
    table = project(plain)
    manifest.write(table[table["member"] != "real/00.jpg"], "data/manifests/faces.csv")
    pack()
    assert "real/00.jpg" not in [member for split in ("train", "valid", "test") for member, _, _ in records(split)]


def test_quarantined_images_of_one_name_disturb_nobody(project, plain):
    project(plain)
    index = pd.read_parquet("data/index/faces.parquet")
    namesakes = index.iloc[[0, 0]].assign(member="real/twice.jpg", verdict="name used more than once")
    pd.concat([index, namesakes]).to_parquet("data/index/faces.parquet")
    pack()
    assert sum(len(records(split)) for split in ("train", "valid", "test")) == len(plain)


def test_a_manifest_of_another_archive_says_what_to_do(project, plain):
    table = project(plain)
    manifest.write(table.replace("real/07.jpg", "real/elsewhere.jpg"), "data/manifests/faces.csv")
    with pytest.raises(
        UserError, match=r"names 1 images that .* \(such as 'real/elsewhere.jpg'\).*`dvc repro -f split`"
    ):
        pack()
    assert not SHARDS.exists()


def written():
    return sorted(path.name for path in Path("data").iterdir())


def test_a_damaged_member_stops_it_and_leaves_nothing_half_done(project, plain):
    project(plain)
    data = plain["real/05.jpg"]
    archive = Path("data/raw/faces.zip")
    archive.write_bytes(archive.read_bytes().replace(data, data[:-9] + b"scribbled"))
    with pytest.raises(UserError, match=r"faces.zip: real/05.jpg is damaged in the archive, though it was found"):
        pack()
    assert sorted(path.name for path in SHARDS.rglob("*") if path.is_dir()) == [
        "faces",
        "faces",
        "test",
        "train",
        "valid",
    ]
    assert list((SHARDS / "test").iterdir()) == []  # where the damaged one belongs; the other splits are whole


def test_an_image_that_is_no_longer_one_stops_it_and_leaves_the_old_shards(project, odd):
    project(odd)
    pack()
    before = {path: path.read_bytes() for path in SHARDS.rglob("*.*")}
    project(odd | {"fake/cmyk.jpg": odd["fake/cmyk.jpg"][:200]}, indexed=odd)
    with pytest.raises(UserError, match=r"fake/cmyk.jpg is truncated.*run `dvc repro` again"):
        pack()
    assert {path: path.read_bytes() for path in SHARDS.rglob("*.*")} == before
    assert written() == ["index", "manifests", "processed", "raw", "shards"]


def test_a_missing_archive_says_what_to_do(project, plain):
    project(plain)
    Path("data/raw/faces.zip").unlink()
    with pytest.raises(UserError, match=r"faces.zip is missing; run the download stage first"):
        pack()


def test_a_missing_manifest_says_what_to_do(project, plain):
    project(plain)
    Path("data/manifests/faces.csv").unlink()
    with pytest.raises(UserError, match=r"faces.csv is missing; run the split stage first"):
        pack()
