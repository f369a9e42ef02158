"""One processing for all faces: one compressor and one crop, in shards, for photos and on the server alike."""

import base64
import io
import json
import shutil
import zipfile
from dataclasses import replace
from threading import Event

import numpy as np
import pandas as pd
import pytest
from PIL import Image, JpegImagePlugin

from stages import predict
from stages.errors import UserError
from stages.faces import archive, image, processing, records, shards
from stages.faces.zips import Zip
from stages.photos import alignment, exported, finder
from stages.photos.answers import answers, one_size
from stages.photos.inputs import Photo

JPEG = {"size": 64, "jpeg": 50, "align": False}
ALIGNED = {"size": 64, "jpeg": None, "align": True}
K1 = [16, 11, 10, 16, 24, 40, 51, 61]  # the first row of table K.1 of ITU-T T.81, which is that of quality 50


def encoded(picture, kind="JPEG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


def pixels_of(data):
    return np.asarray(opened(data).convert("RGB"), int)


@pytest.fixture
def picture(noise):
    """Colours that change slowly, on 64 × 64 px."""
    return Image.fromarray(noise(3, 8, 8)).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture
def packed(tmp_path):
    """A function that packs members {name: bytes}; it returns the open archive and its images as the index has them."""
    opened = []

    def packed(members):
        with zipfile.ZipFile(tmp_path / "faces.zip", "w") as file:
            for name, data in members.items():
                file.writestr(name, data)
        faces = Zip(tmp_path / "faces.zip")
        opened.append(faces)
        places = {info.filename: place for place, info in faces.members()}
        labels = [int(name.startswith("fake")) for name in members]
        return faces, pd.DataFrame({"member": [*members], "place": places.values(), "label": labels, "encoding": "png"})

    yield packed
    for faces in opened:
        faces.close()


def test_every_face_is_stored_by_one_compressor_at_one_size(picture):
    turned = Image.Exif()
    turned[0x0112] = 6
    for data in (
        encoded(picture, "PNG"),
        encoded(picture.convert("L"), "PNG"),
        encoded(picture, quality=98, subsampling="4:4:4", exif=turned, comment="by hand"),
        encoded(picture, quality=50, progressive=True, optimize=True),
        encoded(picture.resize((500, 300)), "WEBP"),
        encoded(picture.convert("CMYK").resize((30, 50))),
    ):
        stored = opened(processing.stored(data, **JPEG))
        assert (stored.format, stored.mode, stored.size) == ("JPEG", "RGB", (64, 64))
        assert list(stored.quantization[0])[:8] == K1
        assert sorted(stored.quantization) == [0, 1]
        assert JpegImagePlugin.get_sampling(stored) == 2  # 4:2:0
        assert set(stored.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert not stored.info.get("progressive")


def test_the_same_pixels_give_the_same_bytes_whatever_they_came_in(picture):
    came = [encoded(picture, kind) for kind in ("PNG", "BMP", "TIFF")] + [encoded(picture, "WEBP", lossless=True)]
    assert len({processing.stored(data, **JPEG) for data in came}) == 1
    assert processing.stored(came[0], **JPEG) == encoded(picture, quality=50, subsampling="4:2:0")  # not resampled


def test_a_face_that_is_so_already_is_saved_again_and_hardly_changes(picture):
    once = processing.stored(encoded(picture, "PNG"), **JPEG)
    twice = processing.stored(once, **JPEG)
    assert opened(twice).quantization == opened(once).quantization
    lost = np.abs(pixels_of(once) - np.asarray(picture, int)).mean()
    assert 0 < np.abs(pixels_of(twice) - pixels_of(once)).mean() < lost / 2


def test_the_central_square_is_what_is_resized(noise):
    square = Image.fromarray(noise(4, 200, 200))
    wide = Image.new("RGB", (400, 200), "red")
    wide.paste(square, (100, 0))
    resized = square.resize((64, 64), Image.Resampling.LANCZOS)
    assert processing.stored(encoded(wide, "PNG"), **JPEG) == encoded(resized, quality=50, subsampling="4:2:0")


def test_a_face_is_cut_out_as_in_photos_and_of_several_the_largest(portrait):
    two = Image.new("RGB", (1100, 700), (90, 120, 90))
    two.paste(portrait.resize((256, 300)), (20, 300))
    two.paste(portrait, (500, 50))
    small, large = sorted(finder.find(two), key=alignment.side)
    assert alignment.side(large) > 1.5 * alignment.side(small)
    wanted = alignment.align(two, large, 64)
    stored = processing.stored(encoded(two, "PNG"), **ALIGNED)
    assert stored.startswith(image.PNG)
    np.testing.assert_array_equal(pixels_of(stored), np.asarray(wanted))
    both = processing.stored(encoded(two, "PNG"), **ALIGNED | {"jpeg": 50})
    assert both == encoded(wanted, quality=50, subsampling="4:2:0")


def test_without_a_face_there_is_nothing_to_store(noise, png):
    assert processing.stored(png(noise(0, 80, 80)), **ALIGNED) is None


def test_images_keep_their_order_whichever_is_ready_first(packed, monkeypatch):
    """The first is not ready before the third is; and no more are read than a look-ahead."""
    monkeypatch.setattr(records, "THREADS", 2)
    monkeypatch.setattr(records, "AHEAD", 4)
    third, read = Event(), []

    def stored(data, **_):
        if data == b"2":
            third.set()
        assert data != b"0" or third.wait(60)
        return b"stored " + data

    def noted(*arguments):
        read.append(arguments)
        return reading(*arguments)

    reading = archive.read
    monkeypatch.setattr(archive, "read", noted)
    monkeypatch.setattr(processing, "stored", stored)
    names = [f"{('real', 'fake')[number % 2]}/{number}.png" for number in range(10)]
    found = records.read("set", *packed({name: f"{number}".encode() for number, name in enumerate(names)}), **JPEG)
    first = next(found)
    assert len(read) <= 5
    assert [first, *found] == [(f"stored {n}".encode(), n % 2, f"set/{name}") for n, name in enumerate(names)]


def test_an_image_that_is_no_longer_one_stops_it_in_a_sentence(packed, picture):
    members = {"real/a.png": encoded(picture, "PNG"), "real/b.jpg": encoded(picture)[:300]}
    with pytest.raises(UserError, match=r"faces.zip: real/b.jpg is truncated, though .*run `dvc repro` again"):
        list(records.read("", *packed(members), **JPEG))


def test_a_class_without_any_face_is_refused(packed, portrait, noise, png):
    face, none = encoded(portrait), png(noise(0, 80, 80))
    some = packed({"real/a.jpg": face, "real/b.png": none, "fake/c.jpg": face})
    assert [member for _, _, member in records.read("set", *some, **ALIGNED)] == ["set/real/a.jpg", "set/fake/c.jpg"]
    with pytest.raises(UserError, match=r"no face is found in any of 2 fake images, which image.align leaves out"):
        list(records.read("", *packed({"real/a.jpg": face, "fake/b.png": none, "fake/c.png": none}), **ALIGNED))


def test_faces_are_found_by_several_threads_as_by_one(packed, portrait, monkeypatch):
    monkeypatch.setattr(records, "THREADS", 4)
    sides = range(150, 400, 25)
    members = {f"real/{side}.png": encoded(portrait.resize((side, side)), "PNG") for side in sides}
    alone = [processing.stored(data, **ALIGNED) for data in members.values()]
    assert [stored for stored, _, _ in records.read("", *packed(members), **ALIGNED)] == alone


@pytest.fixture
def detector(bright, tmp_path):
    """The champion of the project, as if it had been trained on faces saved at quality 20."""
    folder = tmp_path / "densenet121-baseline"
    shutil.copytree(bright / "data/exported/densenet121-baseline", folder)
    facts = folder / exported.FACTS
    text = facts.read_text()
    assert '"jpeg": null' in text
    assert '"align": false' in text
    facts.write_text(text.replace('"jpeg": null', '"jpeg": 20'))
    return exported.load(folder)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (150, 111)])
def test_shards_photos_and_the_server_show_a_network_the_same_face(
    detector, packed, noise, png, tmp_path, height, width
):
    from stages.tracking.serving import Server

    pixels = noise(5, height, width)
    faces, images = packed({"real/a.png": png(pixels)})
    [record] = records.read("faces", faces, images, size=64, jpeg=20, align=False)
    shards.write([shards.Record(*record)], 1, tmp_path, 1)
    [(batch, _, _)] = shards.faces([tmp_path], size=64, batch_size=1)
    [answer] = answers(Photo("a.png", pixels), [detector], "whole")
    np.testing.assert_array_equal(np.asarray(answer.judgement.crop), batch[0])
    logit, *_ = detector.judge(batch[0].numpy())
    assert answer.judgement.probability == detector.calibration.probability(np.array(logit))

    server = Server()
    server.size, server.jpeg = 64, 20
    np.testing.assert_array_equal(server._face(base64.b64encode(png(pixels)).decode()), batch[0])


def test_predict_gives_a_face_the_logit_that_it_has_in_the_shards(
    detector, tmp_path, noise, monkeypatch, command, capsys
):
    monkeypatch.setattr(exported, "FOLDER", tmp_path)
    data = encoded(Image.fromarray(noise(7, 90, 120)), quality=95)
    (tmp_path / "a.jpg").write_bytes(data)
    asked = (str(tmp_path / "a.jpg"), "--detector", detector.name, "--faces", "whole", "--format", "json")
    command(predict.main, *asked)
    [row] = json.loads(capsys.readouterr().out)
    logit, *_ = detector.judge(image.decode(processing.stored(data, size=64, jpeg=20, align=False)))
    assert row["probability"] == round(float(detector.calibration.probability(np.array(logit))), 6)
    untouched, *_ = detector.judge(image.decode(processing.stored(data, size=64, jpeg=95, align=False)))
    assert abs(logit - untouched) > 1e-3  # the quality shows


def test_a_detector_of_aligned_faces_looks_for_them_in_every_picture(detector, noise):
    photo = Photo("a.png", noise(6, 64, 64))
    assert [answer.verdict for answer in answers(photo, [detector], "auto")] != ["no face"]
    assert [answer.verdict for answer in answers(photo, [replace(detector, align=True)], "auto")] == ["no face"]


@pytest.mark.parametrize(
    ("change", "said"), [({"jpeg": None}, "64 px"), ({"align": True}, "64 px, JPEG 20, aligned")], ids=["jpeg", "align"]
)
def test_detectors_of_other_processings_do_not_answer_together(detector, change, said):
    assert one_size([detector, detector]) == 64
    with pytest.raises(UserError, match=rf"different images \({detector.name} 64 px, JPEG 20; other {said}\)"):
        one_size([detector, replace(detector, name="other", **change)])


def test_a_picture_of_the_size_is_untouched(noise):
    picture = Image.fromarray(noise(0, 64, 64))
    assert processing.whole(picture, 64, None) is processing.whole(picture, 64, 90) is picture


@pytest.mark.parametrize(("height", "width"), [(100, 151), (200, 90), (40, 40)])
def test_another_is_resized_as_in_training(noise, png, height, width):
    pixels = noise(1, height, width)
    trained = shards.decode(png(pixels), 64).numpy()
    here = np.asarray(processing.whole(Image.fromarray(pixels), 64, None), float)
    assert np.abs(here - trained).max() <= 1
