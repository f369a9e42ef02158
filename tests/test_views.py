"""The mean of views at scoring: known answers of its table, from detectors that see mirrored faces otherwise."""

from pathlib import Path

import numpy as np
import pytest

from bench import views
from stages.backend import keras
from stages.errors import UserError
from stages.faces import shards
from stages.params import load

SIDE = 32


def test_without_detectors_it_says_how_to_make_them(tmp_path, monkeypatch, write_params, command):
    monkeypatch.chdir(tmp_path)
    write_params()
    with pytest.raises(UserError, match=r"no detector in data/models; make them with `dvc repro finetune`"):
        command(views.main)
    with pytest.raises(UserError, match=r"no data/models/resnet50\.keras; make it with `dvc repro finetune`"):
        command(views.main, "resnet50")


@pytest.fixture
def left_half(float32):
    """A detector whose logit is the mean of the left half of a face, in sixteenths of a grey level around 128."""
    face = keras.Input((None, None, 3))
    left = keras.layers.Cropping2D(((0, 0), (0, SIDE // 2)))(face)
    logit = keras.layers.Rescaling(1 / 16, -8, name="logit")(
        keras.ops.mean(keras.layers.GlobalAveragePooling2D()(left), axis=1, keepdims=True)
    )
    return keras.Model(face, logit)


def test_the_mean_of_both_views_is_compared_with_the_face_as_it_is(
    tmp_path, monkeypatch, write_params, command, png, left_half, capsys
):
    """Of four faces the left halves say 0.5, both halves together 1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    write_params({"image.size": SIDE, "image.crop": SIDE, "features.batch_size": 3})
    Path("data/models").mkdir(parents=True)
    for name in ("another", "left-half"):
        Path(f"data/models/{name}.keras").touch()
    monkeypatch.setattr(views.assembly, "load", lambda file: left_half)
    monkeypatch.setattr(views.assembly, "with_logits", lambda network: network)
    records = []
    for number, (label, left, right) in enumerate([(0, 100, 100), (0, 140, 90), (1, 120, 200), (1, 130, 160)]):
        pixels = np.full((SIDE, SIDE, 3), left, np.uint8)
        pixels[:, SIDE // 2 :] = right
        records.append(shards.Record(png(pixels), label, f"{number}.png"))
    folder = Path("data/shards")
    folder.mkdir()
    shards.write_summary(folder, {"test": shards.write(records, 4, folder, "test", 4)})

    found = views.logits(Path("data/models/left-half.keras"), load())
    np.testing.assert_allclose(found, (np.array([[100, 140, 120, 130], [100, 90, 200, 160]]) - 128) / 16, atol=1e-4)

    command(views.main, "left-half")
    _, _, row = capsys.readouterr().out.strip().splitlines()[-3:]
    assert row.startswith("| left-half | 0.500 (0.000–1.000) | 1.000 (1.000–1.000) | +0.500 (")
    assert row.endswith(") | 4 |")
