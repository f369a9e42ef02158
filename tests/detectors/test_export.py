"""The export of a detector: it judges without TensorFlow, just as Keras does, or is none at all."""

from pathlib import Path

import numpy as np
import pytest

from stages.backend import keras
from stages.detectors import assembly, export
from stages.errors import UserError
from stages.files import read_json, sha256
from stages.params import load
from stages.photos import exported


def test_the_folder_holds_all_that_a_judgement_takes(bright):
    folder = bright / "data/exported/densenet121-baseline"
    assert sorted(path.name for path in folder.iterdir()) == ["calibration.json", "detector.json", "network.tflite"]
    facts = read_json(folder / "detector.json")
    assert 0 <= facts["deviation"] < 1e-4
    assert facts["checked"] == 16
    assert (facts["size"], facts["jpeg"], facts["align"]) == (64, None, False)
    assert (facts["source"], facts["weights"]) == ("folder", "imagenet")
    assert facts["sha256"] == sha256(bright / "data/models/densenet121-baseline.keras")


def test_logit_and_evidence_are_those_of_the_detector(bright):
    detector = exported.load(bright / "data/exported/densenet121-baseline")
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    logit, evidence, _ = detector.judge(image)
    assert logit == pytest.approx(0, abs=1e-5)
    assert evidence == pytest.approx(np.repeat([[-6.0] * 4 + [6.0] * 4], 8, axis=0), abs=1e-4)
    assert detector.judge(np.full((64, 64, 3), 255, np.uint8))[0] == pytest.approx(6, abs=1e-5)


def test_the_distance_is_that_of_the_detector(bright):
    detector = exported.load(bright / "data/exported/densenet121-baseline")
    image = np.zeros((64, 64, 3), np.uint8)
    assert detector.judge(image)[2] == pytest.approx(0, abs=1e-5)
    image[:, 32:, 1] = 200
    assert detector.judge(image)[2] == pytest.approx(2, abs=1e-4)


def test_a_network_of_an_older_version_is_refused_in_a_sentence(bright, tmp_path):
    detector = assembly.with_evidence(assembly.load(bright / "data/models/densenet121-baseline.keras"))
    path = tmp_path / "densenet121-baseline/network.tflite"
    path.parent.mkdir()
    path.write_bytes(export.converted(detector, 64))
    with pytest.raises(UserError, match=r"older version: it gives no distance; .* evaluate@densenet121-baseline"):
        exported.network(path)


@pytest.fixture
def exporting(bright, monkeypatch):
    """A function that exports a detector elsewhere."""
    monkeypatch.chdir(bright)
    monkeypatch.setattr(exported, "FOLDER", Path("data/other"))
    path = Path("data/models/densenet121-baseline.keras")
    detector = assembly.with_distance(assembly.with_evidence(assembly.load(path)), path.with_suffix(".npz"))
    return lambda: export.export(detector, path, load().image)


def test_an_export_that_strays_is_refused_and_not_left_behind(exporting, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="strays from Keras by"):
        exporting()
    assert list(Path("data/other").iterdir()) == []


def test_an_export_that_answers_no_number_strays(exporting, monkeypatch):
    monkeypatch.setattr(exported, "network", lambda _: lambda _: (np.float32("nan"), np.zeros((8, 8), np.float32), 1.0))
    with pytest.raises(RuntimeError, match="strays from Keras by nan"):
        exporting()


def test_half_precision_halves_the_bytes_and_hardly_the_answers(tmp_path):
    images = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(64, 9)(keras.layers.Conv2D(64, 9)(images))
    logit = keras.layers.GlobalAveragePooling2D()(maps)
    model = keras.Model(images, [logit, maps[..., 0], logit[:, 1:2]])
    full, half = (export.converted(model, 32, half=half) for half in (False, True))
    assert len(half) < 0.55 * len(full)
    image, answers = np.random.default_rng(0).uniform(0, 255, (32, 32, 3)).astype(np.float32), []
    for content in (full, half):
        (tmp_path / "network.tflite").write_bytes(content)
        answers.append(exported.network(tmp_path / "network.tflite")(image)[1])
    assert 0 < np.abs(answers[1] - answers[0]).max() < 0.01 * np.abs(answers[0]).max()
