"""The stage `export`: a detector that judges without TensorFlow, just as Keras does, or none at all."""

from pathlib import Path

import numpy as np
import pytest

from stages import export
from stages.backend import keras, tf
from stages.detectors import assembly
from stages.errors import UserError
from stages.files import read_json, sha256
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
    with pytest.raises(UserError, match=r"older version: it gives no distance; .* export@densenet121-baseline"):
        exported.network(path)


def test_it_is_checked_against_true_float32(bright, monkeypatch, command):
    monkeypatch.chdir(bright)
    monkeypatch.setattr(exported, "FOLDER", Path("data/exact"))
    monkeypatch.setattr(export, "deviation", lambda *_: 1 / 0)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    with pytest.raises(ZeroDivisionError):
        command(export.main, "densenet121", "baseline")
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_an_export_that_strays_is_refused_and_not_left_behind(bright, monkeypatch, command):
    monkeypatch.chdir(bright)
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    monkeypatch.setattr(exported, "FOLDER", Path("data/other"))
    with pytest.raises(RuntimeError, match="strays from Keras by"):
        command(export.main, "densenet121", "baseline")
    assert list(Path("data/other").iterdir()) == []


def test_an_export_that_answers_no_number_strays(bright, monkeypatch, command):
    monkeypatch.chdir(bright)
    monkeypatch.setattr(exported, "FOLDER", Path("data/other"))
    monkeypatch.setattr(exported, "network", lambda _: lambda _: (np.float32("nan"), np.zeros((8, 8), np.float32), 1.0))
    with pytest.raises(RuntimeError, match="strays from Keras by nan"):
        command(export.main, "densenet121", "baseline")


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
