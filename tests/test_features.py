"""Stage `features`: rows in their order, each view what it says it is."""

import json
from pathlib import Path

import numpy as np
import pytest

from stages import features
from stages.backend import keras
from stages.detectors import assembly
from stages.errors import UserError
from stages.faces import shards
from stages.files import write_json

SIDE, CROP, COUNTS = 40, 32, {"train": 10, "valid": 6}
FOLDER = Path("data/features/densenet121")
WEIGHTS = {"source": "random", "seed": 7}
NEVER = 1e-9  # a share of blurred faces that none of a few is among


@pytest.fixture
def pixels(noise):
    """The images of each split: uint8, n × 40 × 40 × 3."""
    return {
        split: np.array([noise(100 * number + image, SIDE, SIDE) for image in range(count)])
        for number, (split, count) in enumerate(COUNTS.items())
    }


@pytest.fixture
def project(tmp_path, monkeypatch, write_params, command, toy, pixels, png, float32):
    """A function that makes features of the toy in a project with shards and weights; returns them by file name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "backbone_module", lambda model: toy)
    folder = Path("data/shards")
    folder.mkdir(parents=True)
    summaries = {
        split: shards.write(
            [shards.Record(png(image), number % 2, f"{split}/{number}") for number, image in enumerate(images)],
            len(images),
            folder,
            split,
            4,
        )
        for split, images in pixels.items()
    }
    shards.write_summary(folder, summaries)
    Path("data/weights").mkdir()
    monkeypatch.setattr(toy, "trained", toy.backbone(), raising=False)
    toy.trained.save_weights("data/weights/densenet121.weights.h5")
    write_json("data/weights/densenet121.json", WEIGHTS)

    def project(views=2, seed=20, batch_size=4, from_block="conv5", spread=False, magnify=1, blur=0.0):
        write_params(
            {
                "features.from_block": from_block,
                "features.spread": spread,
                "features.magnify": magnify,
                "augment.blur": blur,
                "image.size": SIDE,
                "image.crop": CROP,
                "features.views": views,
                "features.batch_size": batch_size,
                "training.seed": seed,
            }
        )
        command(features.main, "densenet121")
        return {path.stem: np.load(path) for path in FOLDER.glob("*.npy")}

    return project


def pooled(toy, images):
    """The toy's features of images, without the stage."""
    return np.asarray(assembly.pooled_features(toy, toy.trained)(images.astype(np.float32)))


def test_rows_are_the_images_then_their_mirror_images(project, toy, pixels):
    made = project(views=2)
    train, mirrored = pixels["train"], pixels["train"][:, :, ::-1]
    assert made["train.features"].dtype == np.float32
    np.testing.assert_allclose(made["train.features"][:10], pooled(toy, train), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made["train.features"][10:], pooled(toy, mirrored), rtol=1e-4, atol=1e-5)
    assert not np.allclose(made["train.features"][:10], made["train.features"][10:], rtol=1e-3)
    np.testing.assert_array_equal(made["train.labels"], [0, 1] * 10)
    assert made["train.labels"].dtype == np.int8


def test_validation_has_one_view_whatever_training_has(project, toy, pixels):
    made = project(views=3, blur=1.0)
    assert made["train.features"].shape == (30, 8)
    np.testing.assert_allclose(made["valid.features"], pooled(toy, pixels["valid"]), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made["valid.labels"], [0, 1] * 3)


def test_every_other_view_is_mirrored(project, toy, pixels):
    views = project(views=4, blur=NEVER)["train.features"].reshape(4, 10, 8)
    whole, mirrored = pooled(toy, pixels["train"]), pooled(toy, pixels["train"][:, :, ::-1])
    assert not np.allclose(whole, mirrored, rtol=1e-3)
    for number, expected in enumerate([whole, mirrored, whole, mirrored]):
        np.testing.assert_allclose(views[number], expected, rtol=1e-4, atol=1e-5)


def test_the_seed_decides_how_views_are_spoilt_and_batches_do_not(project):
    rows = [
        project(views=3, seed=seed, batch_size=size, blur=1.0)["train.features"][20:]
        for seed, size in ((1, 4), (1, 3), (2, 4))
    ]
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-4, atol=1e-5)
    assert not np.allclose(rows[0], rows[2], rtol=1e-3)


def test_views_from_the_third_on_are_spoilt_each_in_its_way(project):
    plain, spoilt = (project(views=6, blur=blur) for blur in (NEVER, 1.0))
    same = np.isclose(plain["train.features"], spoilt["train.features"], rtol=1e-3, atol=1e-4).all(axis=1)
    assert same[:20].all()
    assert same[20:].sum() <= 8  # the weakest blurs change nothing
    third, fifth = spoilt["train.features"][20:30], spoilt["train.features"][40:50]
    assert not np.allclose(third, fifth, rtol=1e-3)
    np.testing.assert_allclose(plain["valid.features"], spoilt["valid.features"], rtol=1e-4, atol=1e-5)


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


def test_it_is_written_down_what_the_features_were_made_of(project, capsys):
    project(views=2)
    content = json.loads((FOLDER / "features.json").read_text(encoding="utf-8"))
    assert content == {
        "weights": WEIGHTS,
        "views": {"train": 2, "valid": 1},
        "seen": {"from_block": "conv5", "spread": False, "magnify": 1},
        **{split: shards.summary(Path("data/shards"), split) for split in COUNTS},
    }
    assert sorted(path.name for path in FOLDER.iterdir()) == [
        "features.json",
        *[f"{split}.{kind}.npy" for split in COUNTS for kind in ("features", "labels")],
    ]
    assert "densenet121, train: 20 rows of 8 features, 2 of each image" in capsys.readouterr().out


def test_shards_that_are_missing_leave_nothing(project):
    Path("data/shards/shards.json").unlink()
    with pytest.raises(UserError, match=r"shards.json is missing; make it with `dvc repro`"):
        project()
    assert list(Path("data/features").iterdir()) == []
