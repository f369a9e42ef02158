"""Stage `baseline`: a row of features a face, in their order. Its detector is tested in test_finetune.py."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from stages import baseline
from stages.backend import keras
from stages.detectors import assembly, rows
from stages.errors import UserError
from stages.faces import shards
from stages.files import write_json

SIDE, CROP, COUNTS = 40, 32, {"train": 10, "valid": 6}
FOLDER = Path("data/features/densenet121")
WEIGHTS = {"source": "random", "seed": 7}


@pytest.fixture
def pixels(noise):
    """The images of each split: uint8, n × 40 × 40 × 3."""
    return {
        split: np.array([noise(100 * number + image, SIDE, SIDE) for image in range(count)])
        for number, (split, count) in enumerate(COUNTS.items())
    }


@pytest.fixture
def project(tmp_path, monkeypatch, write_params, write_shards, command, toy, pixels, png, float32):
    """A function that makes features of the toy in a project with shards and weights; returns them by file name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assembly, "backbone_module", lambda model: toy)
    for split, images in pixels.items():  # of two sets, one after the other
        records = [shards.Record(png(image), n % 2, f"{split}/{n}") for n, image in enumerate(images)]
        write_shards(split, "one", records[:4])
        write_shards(split, "other", records[4:])
    Path("data/weights").mkdir()
    monkeypatch.setattr(toy, "trained", toy.backbone(), raising=False)
    toy.trained.save_weights("data/weights/densenet121.weights.h5")
    write_json("data/weights/densenet121.json", WEIGHTS)

    def project(batch_size=4, from_block="conv5", spread=False, magnify=1):
        write_params(
            {
                "features.from_block": from_block,
                "features.spread": spread,
                "features.magnify": magnify,
                "image.size": SIDE,
                "image.crop": CROP,
                "features.batch_size": batch_size,
            }
        )
        command(baseline.main, "densenet121")
        return {path.stem: np.load(path) for path in FOLDER.glob("*.npy")}

    return project


def pooled(toy, images):
    """The toy's features of images, without the stage."""
    return np.asarray(assembly.pooled_features(toy, toy.trained)(images.astype(np.float32)))


@pytest.mark.parametrize("batch_size", [3, 4])
def test_rows_are_the_images_in_their_order(project, toy, pixels, batch_size):
    made = project(batch_size=batch_size)
    for split, count in COUNTS.items():
        features, labels = made[f"{split}.features"], made[f"{split}.labels"]
        assert (features.dtype, labels.dtype) == (np.float32, np.int8)
        np.testing.assert_allclose(features, pooled(toy, pixels[split]), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(labels, [0, 1] * (count // 2))


def test_earlier_blocks_stand_beside_the_last_one(project):
    last, more = (project(from_block=block)["valid.features"] for block in ("conv5", "conv4"))
    assert more.shape == (6, 4 + 8)
    np.testing.assert_allclose(more[:, 4:], last, rtol=1e-4, atol=1e-5)


def test_spreads_stand_behind_the_averages_that_they_belong_to(project):
    averages, both = (project(from_block="conv4", spread=spread)["valid.features"] for spread in (False, True))
    assert both.shape == (6, 4 + 4 + 8)
    np.testing.assert_allclose(both[:, [*range(4), *range(8, 16)]], averages, rtol=1e-4, atol=1e-5)
    assert (both[:, 4:8] > 0).all()


def test_a_magnified_face_is_another_picture_for_the_backbone(project, toy, pixels):
    made = project(magnify=2)["valid.features"]
    larger = np.asarray(keras.layers.UpSampling2D(2, interpolation="bilinear")(pixels["valid"].astype(np.float32)))
    np.testing.assert_allclose(made, pooled(toy, larger), rtol=1e-3, atol=1e-4)
    assert not np.allclose(made, pooled(toy, pixels["valid"]), rtol=1e-2)


def test_features_and_detector_are_all_that_it_leaves(project, capsys):
    project()
    assert sorted(path.name for path in FOLDER.iterdir()) == [
        f"{split}.{kind}.npy" for split in COUNTS for kind in ("features", "labels")
    ]
    assert sorted(path.name for path in Path("data/models").iterdir()) == [
        f"densenet121-baseline.{kind}" for kind in ("json", "keras", "npz")
    ]
    printed = capsys.readouterr().out
    assert "features of one, train: 4 rows of 8\nfeatures of other, train: 6 rows of 8" in printed
    assert "densenet121-baseline: validation AUC" in printed


def test_a_disk_without_room_for_all_rows_is_told_before_the_first(tmp_path, monkeypatch):
    def full(descriptor, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        rows.create(tmp_path, "train", 10, 8)


def test_shards_that_are_missing_leave_nothing(project):
    Path("data/shards/train/other/shards.json").unlink()
    with pytest.raises(UserError, match=r"data/shards/train/other/shards.json is missing; make it with `dvc repro`"):
        project()
    assert list(Path("data/features").iterdir()) == []
