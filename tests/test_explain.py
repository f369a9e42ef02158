"""The stage `explain` with a detector whose evidence is known: red places speak for fake, blue ones for real."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages import explain
from stages.detectors import assembly, export
from stages.errors import UserError
from stages.faces import archive
from stages.files import write_json
from stages.photos import exported
from stages.scoring import calibration

MODEL, PHASE = "resnet50", "baseline"
NAME = f"{MODEL}-{PHASE}"
SIDE, PLACES = 32, 8  # the toy halves the side twice
COLOURED = 6  # places of each face: as many as the smallest deletion takes
NEAR = 0.002  # each BatchNorm takes 0.05 % away
TEST = 40
FALSE_ALARMS, MISSES = (0, 2), (1,)  # their numbers; even faces are real, odd ones fake
SETTINGS = {
    "image.size": SIDE,
    "image.crop": SIDE,
    "explain.images": 2,
    "explain.deletion_images": 12,
    "explain.seed": 3,
}
SHEET = Path(f"data/explanations/{NAME}/sheet.jpg")
SAID = Path(f"data/explanations/{NAME}/explanations.json")
DELETION = Path(f"data/explanations/{NAME}/deletion.csv")


def face(number):
    """A dark face with some places of pure red or blue, drawn by its number, and its label."""
    label = number % 2
    random = np.random.default_rng(number)
    pixels = random.integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
    coloured = np.zeros(PLACES**2, bool)
    coloured[random.permutation(PLACES**2)[:COLOURED]] = True
    coloured = coloured.reshape(PLACES, PLACES).repeat(SIDE // PLACES, axis=0).repeat(SIDE // PLACES, axis=1)
    red = bool(label) != (number in FALSE_ALARMS + MISSES)
    pixels[coloured] = (255, 0, 0) if red else (0, 0, 255)
    return pixels, label


def member(number):
    """The name of a face; the faces are of two sets."""
    return f"{'f' if number < TEST // 2 else 'g'}/{number:02}.png"


def detector(toy):
    """The toy with weights set by hand: an image's logit is its share of red minus its share of blue places, × 64."""
    backbone = toy.backbone()
    for name, channels in (("conv1_conv", (0, 2)), ("conv5_conv", (0, 1))):
        kernel, bias = (np.zeros_like(weight) for weight in backbone.get_layer(name).get_weights())
        for out, channel in enumerate(channels):
            kernel[1, 1, channel, out] = 1
        backbone.get_layer(name).set_weights([kernel, bias])
    top = assembly.head(np.zeros(8), np.ones(8))
    top.get_layer("logit").set_weights([np.array([64, -64, 0, 0, 0, 0, 0, 0], np.float32)[:, np.newaxis], np.zeros(1)])
    path = Path(f"data/models/{NAME}.keras")
    assembly.save(toy, backbone, top, path)
    np.savez(path.with_suffix(".npz"), kernel=np.eye(8)[:, :2], bias=[0, 0])
    return assembly.with_distance(assembly.with_evidence(assembly.load(path)), path.with_suffix(".npz"))


def pack(name, faces):
    """Write the archive of a set, of PNGs by their names, and its index."""
    Path("data/raw").mkdir(exist_ok=True)
    Path("data/index").mkdir(exist_ok=True)
    with zipfile.ZipFile(f"data/raw/{name}.zip", "w") as written:
        for member, content in faces.items():
            written.writestr(member, content)
    with archive.open_archive(f"data/raw/{name}.zip") as packed:
        places = [place for place, _ in packed.members()]
    index = {"member": list(faces), "place": places, "label": 0, "encoding": "original", "verdict": "ok"}
    pd.DataFrame(index).to_parquet(f"data/index/{name}.parquet")


@pytest.fixture(scope="module")
def made(tmp_path_factory, write_params, png, toy):
    """A project with the detector, its test images, their scores and a calibration; tests copy it."""
    project = tmp_path_factory.mktemp("explain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        write_params(SETTINGS)
        network = detector(toy)
        faces = [face(number) for number in range(TEST)]
        files = {member(number): png(pixels) for number, (pixels, _) in enumerate(faces)}
        for name in ("f", "g"):
            pack(name, {path[2:]: content for path, content in files.items() if path.startswith(name)})
        logit = np.ravel(network(np.stack([pixels for pixels, _ in faces]).astype(np.float32))[0])
        scores = {"set": "f", "split": "test", "condition": "clean", "member": list(files)}
        scores |= {"label": np.array([label for _, label in faces], np.int8), "logit": logit, "distance": 1.0}
        Path("data/scores").mkdir()
        pd.DataFrame(scores | {"score": 1 / (1 + np.exp(-logit))}).to_parquet(f"data/scores/{NAME}.parquet")
        folder = Path(f"data/exported/{NAME}")
        reading = calibration.fit(np.array([0, 1], np.int8), np.array([-2.0, 2.0]), 0.5, 0.05)
        calibration.write(folder / "calibration.json", reading)
        (folder / "network.tflite").write_bytes(export.converted(network, SIDE))
        facts = {"detector": NAME, "size": SIDE, "source": "folder", "weights": "imagenet", "sha256": "ab" * 32}
        write_json(folder / "detector.json", facts)
    return project


@pytest.fixture
def run(made, tmp_path, monkeypatch, write_params, command):
    """A function that runs the stage in a copy of the project, with some keys changed."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def run(**changes):
        write_params(SETTINGS | {f"explain.{key}": value for key, value in changes.items()})
        command(explain.main, MODEL, PHASE)
        return json.loads(SAID.read_text(encoding="utf-8"))

    return run


def misled(distort):
    """``exported.network``, its maps distorted."""

    def network(path, threads, honest=exported.network):
        judge = honest(path, threads)

        def judged(image):
            logit, evidence, distance = judge(image)
            return logit, distort(evidence), distance

        return judged

    return network


def test_the_sheet_shows_drawn_right_answers_and_every_mistake(run):
    said = run()
    kinds = {kind["name"]: kind for kind in said["kinds"]}
    assert {name: kind["of"] for name, kind in kinds.items()} == {
        "right_real": 18,
        "right_fake": 19,
        "false_alarms": 2,
        "misses": 1,
    }
    shown = {name: [face["member"] for face in kind["faces"]] for name, kind in kinds.items()}
    assert sorted(shown["false_alarms"]) == ["f/00.png", "f/02.png"]
    assert shown["misses"] == ["f/01.png"]
    assert len(shown["right_real"]) == len(shown["right_fake"]) == 2
    (miss,) = kinds["misses"]["faces"]
    reading = calibration.read(f"data/exported/{NAME}/calibration.json")
    assert miss["label"] == 1
    assert miss["logit"] == pytest.approx(-COLOURED, rel=NEAR)
    assert miss["probability"] == pytest.approx(float(reading.probability(miss["logit"])))
    assert (said["n"], said["threshold"]) == (TEST, 0.5)
    with Image.open(SHEET) as sheet:
        assert sheet.format == "JPEG"


def test_deletion_by_a_true_map_costs_the_whole_answer_and_at_random_its_share(run, capsys):
    check = run()["deletion"]
    assert (check["n"], check["called_real"], check["called_fake"]) == (12, 6, 6)
    assert (check["better"], check["share"]) == (12, 1)
    assert 0.7 < check["low"] < check["high"] <= 1  # Wilson's interval of 12 in 12 is 0.757 to 1
    table = pd.read_csv(DELETION)
    assert list(table) == ["order", "deleted", "drop", "low", "high", "n"]
    by_map, at_random = (table[table["order"] == order] for order in ("evidence", "random"))
    assert by_map["deleted"].tolist() == at_random["deleted"].tolist() == [6 / 64, 0.25, 0.5]
    np.testing.assert_allclose(by_map["drop"], COLOURED, rtol=NEAR)  # it is 0 once all coloured places are gone
    np.testing.assert_allclose(at_random["drop"], COLOURED * at_random["deleted"], atol=0.6)
    assert (at_random["low"] < at_random["drop"]).all()
    assert set(table["n"]) == {12}
    assert "in 12 of 12 test images (100 %, 95 % interval 76 % to 100 %): the map shows what" in capsys.readouterr().out


@pytest.mark.parametrize("distort", [lambda maps: -maps, lambda maps: 0 * maps], ids=["negated", "empty"])
def test_a_map_that_points_elsewhere_is_said_to_be_no_better_than_chance(run, monkeypatch, capsys, distort):
    monkeypatch.setattr(exported, "network", misled(distort))
    assert run()["deletion"]["low"] < 0.5
    assert "the map is no better than chance here" in capsys.readouterr().out


def test_evidence_counts_from_the_threshold(run, monkeypatch):
    maps = {}
    monkeypatch.setattr(
        explain.sheet, "draw", lambda groups, *_: maps.update({g.title: g.faces for g in groups}) or 1 / 0
    )
    reading = json.loads(Path(f"data/exported/{NAME}/calibration.json").read_text())
    Path(f"data/exported/{NAME}/calibration.json").write_text(json.dumps(reading | {"threshold": 0.9}))
    with pytest.raises(ZeroDivisionError):
        run()
    (miss,) = maps["Misses: fake, called real (all 1)"]
    assert miss.evidence.shape == (PLACES, PLACES)
    assert miss.evidence.mean() == pytest.approx(-COLOURED - np.log(0.9 / 0.1), rel=NEAR)
    np.testing.assert_array_equal(miss.image, face(1)[0])
    assert miss.caption.startswith("fake, P(fake) 0.")
    assert miss.caption.endswith("\n01.png")


def test_the_same_parameters_give_the_same_bytes_and_another_seed_other_faces(run):
    one = run()
    first = [path.read_bytes() for path in (SHEET, SAID, DELETION)]
    run()
    assert [path.read_bytes() for path in (SHEET, SAID, DELETION)] == first
    assert run(seed=4)["kinds"][0]["faces"] != one["kinds"][0]["faces"]


def test_a_scored_image_that_the_index_lacks_is_one_sentence_and_publishes_nothing(run):
    scores = pd.read_parquet(f"data/scores/{NAME}.parquet")
    scores.assign(member=scores["member"].replace("f/01.png", "f/99.png")).to_parquet(f"data/scores/{NAME}.parquet")
    sentence = r"data/index does not know f/99\.png as sound, though it was scored; score anew with `dvc repro`"
    with pytest.raises(UserError, match=sentence):
        run()
    assert not SHEET.exists()
    assert not DELETION.exists()


def test_a_detector_that_was_not_evaluated_is_one_sentence(run):
    Path(f"data/exported/{NAME}/calibration.json").unlink()
    with pytest.raises(
        UserError, match=rf"calibration.json is missing; make it again with `dvc repro evaluate@{NAME}`"
    ):
        run()
