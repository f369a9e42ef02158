"""The stage `score`: which images under which conditions, and that no forward pass is made twice."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from stages import files, score
from stages.backend import keras, tf
from stages.detectors import assembly, device, export
from stages.faces import shards
from stages.files import sha256

ROOT = Path(__file__).parents[1]
SIDE, NAME = 40, "resnet50-baseline"
SPLITS = {"valid": 4, "test": 9}
EXPORT = (  # what the export takes beside what makes scores
    *("detectors/export.py", "faces/image.py", "photos/exported.py", "reporting/worth.py"),
    *("scoring/calibration.py", "scoring/platt.py", "scoring/thresholds.py"),
)
CORRUPTIONS = {"jpeg": [90, 40], "blur": [1.0], "resize": [], "noise": [20.0], "social": []}


@pytest.fixture
def project(tmp_path, monkeypatch, write_params, write_shards, toy, float32, noise, png):
    """A project with a toy detector that learned from dark reals and light fakes, and other people's fakes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)

    def records(split, name, count, labels):
        for n in range(count):
            label = labels[n % 2]
            yield shards.Record(png(noise(n, SIDE, SIDE) // 2 + np.uint8(60 * label)), label, f"{name}/{split}/{n}")

    for split, count in SPLITS.items():
        write_shards(split, "faces", list(records(split, "faces", count, (0, 1))))
    write_shards("test", "other", list(records("test", "other", 3, (1, 1))))
    for split in ("train", "valid"):
        Path("data/shards", split, "other").mkdir(parents=True)  # as preprocess leaves them
    write_params(settings())
    keras.utils.set_random_seed(1)
    top = assembly.head(np.zeros(8), np.ones(8))
    top.get_layer("logit").set_weights([np.random.default_rng(0).normal(size=(8, 1)), np.zeros(1)])
    assembly.save(toy, toy.backbone(), top, Path(f"data/models/{NAME}.keras"))
    np.savez(f"data/models/{NAME}.npz", kernel=np.eye(8)[:, :2], bias=[0, 1])
    files.write_json(f"data/models/{NAME}.json", {"weights": {"source": "random"}})


def settings(leave_out=(), **changes):
    corruptions = {**CORRUPTIONS, "images_per_class": 2, **changes}
    sample = {"faces_per_class": 8, "size": SIDE, "seed": 1}
    return {
        "sets": {
            "faces": {"source": "sample", "use": "train", "sample": sample},
            "other": {"source": "folder", "use": "test", "path": "other"},
            "empty": {"source": "folder", "use": "test", "path": "empty"},  # all its images are elsewhere, too
        },
        "split.leave_out": list(leave_out),
        "image.size": SIDE,
        "image.crop": 32,
        "score.batch_size": 4,
        **{f"corruptions.{key}": value for key, value in corruptions.items()},
    }


@pytest.fixture
def passes(monkeypatch):
    """The conditions that cost a forward pass, in order."""
    made, forward = [], score.forward

    def counted(network, way, *others):
        made.append((way.name, way.split, way.condition))
        return forward(network, way, *others)

    monkeypatch.setattr(score, "forward", counted)
    return made


@pytest.fixture
def scored(project, command):
    """A function that runs the stage and gives its table."""

    def scored():
        command(score.main, *NAME.split("-"))
        return pd.read_parquet(f"data/scores/{NAME}.parquet")

    return scored


def test_every_image_is_scored_clean_and_the_first_of_each_class_corrupted(scored):
    counts = scored().groupby(["set", "split", "condition"]).size().to_dict()
    assert counts == {
        ("faces", "valid", "clean"): 4,
        ("faces", "test", "clean"): 9,
        ("other", "unseen", "clean"): 3,
        ("faces", "test", "jpeg 90"): 4,
        ("faces", "test", "jpeg 40"): 4,
        ("faces", "test", "blur 1"): 4,
        ("faces", "test", "noise 20"): 4,
    }
    table = scored()
    corrupted = table[table["condition"] == "blur 1"]
    assert dict(zip(corrupted["member"], corrupted["label"], strict=True)) == {
        f"faces/test/{n}": n % 2 for n in range(4)
    }
    clean = table[(table["split"] == "test") & (table["condition"] == "clean")].set_index("member")["logit"]
    assert (np.abs(corrupted["logit"].to_numpy() - clean[corrupted["member"]].to_numpy()) > 1e-3).all()


def test_what_is_corrupted_is_what_the_corruptions_make(scored, noise):
    from stages.faces import corruptions

    row = scored().query("condition == 'jpeg 40' and member == 'faces/test/1'").iloc[0]
    face = tf.constant((noise(1, SIDE, SIDE) // 2 + np.uint8(60)).astype(np.float32))
    corrupted = corruptions.corrupt(face, "jpeg", 40, tf.constant([0, 0]))
    logit = assembly.with_logits(assembly.load(Path(f"data/models/{NAME}.keras")))(corrupted[None])
    assert row["logit"] == pytest.approx(float(logit[0, 0]), abs=1e-4)


def test_the_distance_is_that_of_the_pooled_features(scored, noise):
    row = scored().query("condition == 'clean' and member == 'faces/test/1'").iloc[0]
    detector = assembly.load(Path(f"data/models/{NAME}.keras"))
    face = tf.constant((noise(1, SIDE, SIDE) // 2 + np.uint8(60)).astype(np.float32))
    first, second, *_ = np.ravel(keras.Model(detector.input, detector.get_layer("pool").output)(face[None]))
    assert row["distance"] == pytest.approx(np.sqrt((first**2 + (second + 1) ** 2) / 2), rel=1e-4)


def test_an_empty_limit_corrupts_all(scored, write_params):
    write_params(settings(images_per_class=None))
    assert (scored()["condition"] == "blur 1").sum() == SPLITS["test"]


def test_what_is_left_out_is_unseen_and_costs_no_pass(scored, write_params, passes, write_shards, noise, png):
    scored()
    passes.clear()
    write_params(settings(leave_out=["faces/fake"]))
    table = scored()
    assert passes == []
    tested = table[(table["set"] == "faces") & (table["split"] != "valid")]
    assert set(zip(tested["label"], tested["split"], strict=True)) == {(0, "test"), (1, "unseen")}
    # A set that is left out altogether is not corrupted, for robustness is of what a detector learned.
    Path("data/training.json").unlink()
    write_shards("valid", "learned", [shards.Record(png(noise(0, SIDE, SIDE)), 0, "learned/0")])
    write_params(settings(leave_out=["faces"]))
    table = scored()
    table = table[table["set"] != "learned"]
    assert (set(table["split"]), set(table["condition"])) == ({"unseen"}, {"clean"})
    assert table["set"].value_counts().to_dict() == {"faces": 9, "other": 3}


def test_a_new_set_costs_its_own_pass_and_no_other(scored, write_shards, noise, png, passes):
    scored()
    passes.clear()
    write_shards("test", "empty", [shards.Record(png(noise(0, SIDE, SIDE)), 0, "empty/0")])
    assert (scored()["set"] == "empty").sum() == 1
    assert passes == [("empty", "test", "clean")]


def test_a_new_strength_costs_its_own_pass_and_no_other(scored, write_params, passes):
    before = scored()
    assert len(passes) == 7
    passes.clear()
    again = scored()
    assert passes == []
    pd.testing.assert_frame_equal(before, again)
    write_params(settings(jpeg=[90, 40, 10], blur=[]))
    table = scored()
    assert passes == [("faces", "test", "jpeg 10")]
    assert "blur 1" not in set(table["condition"])


def test_another_seed_changes_the_noise_and_another_model_everything(scored, write_params, passes, toy):
    first = scored()
    write_params(settings(seed=99))
    second = scored()
    changed = first["logit"] != second["logit"]
    assert set(first.loc[changed, "condition"]) == {"noise 20"}
    passes.clear()
    keras.utils.set_random_seed(2)
    top = assembly.head(np.zeros(8), np.ones(8))
    assembly.save(toy, toy.backbone(), top, Path(f"data/models/{NAME}.keras"))
    scored()
    assert len(passes) == 7


def test_other_code_or_another_tensorflow_or_keras_changes_everything(scored, passes, monkeypatch):
    stage = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]["score"]
    code = {ROOT / file for file in stage["deps"] if file.startswith("stages/")}
    assert set(score.CODE) == code - {ROOT / "stages" / file for file in EXPORT}
    for changed in (score.CODE[0], "tensorflow", "keras"):
        scored()
        passes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(files, "sha256", lambda path, changed=changed: "" if path == changed else sha256(path))
            patch.setattr(score, "version", lambda name, changed=changed: "" if name == changed else version(name))
            scored()
        assert len(passes) == 7


def test_the_detector_that_scores_is_exported_and_its_earlier_calibration_goes(scored, capsys):
    folder = Path(f"data/exported/{NAME}")
    files.write_json(folder / "calibration.json", {"of": "an earlier network"})
    scored()
    assert sorted(path.name for path in folder.iterdir()) == ["detector.json", "network.tflite"]
    assert files.read_json(folder / "detector.json")["sha256"] == sha256(f"data/models/{NAME}.keras")
    assert f"{NAME}: exported" in capsys.readouterr().out


def test_the_export_is_checked_against_true_float32(scored, monkeypatch):
    monkeypatch.setattr(export, "deviation", lambda *_: 1 / 0)
    tf.config.experimental.enable_tensor_float_32_execution(True)
    with pytest.raises(ZeroDivisionError):
        scored()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_a_run_that_is_stopped_goes_on_where_it_was(scored, passes, monkeypatch):
    forward = score.forward

    def stopped(network, way, *others):
        if way.condition == "jpeg 40":
            raise KeyboardInterrupt
        return forward(network, way, *others)

    with monkeypatch.context() as patch:
        patch.setattr(score, "forward", stopped)
        with pytest.raises(KeyboardInterrupt):
            scored()
    assert not Path(f"data/scores/{NAME}.parquet").exists()
    done = len(passes)
    scored()
    assert done == 4
    assert len(passes) == 7


def test_nobody_else_gets_at_the_kept_passes_meanwhile(scored, monkeypatch):
    forward = score.forward

    def another(*arguments):
        with pytest.raises(Timeout):
            FileLock(f".scratch/scores/{NAME}.lock").acquire(blocking=False)
        return forward(*arguments)

    monkeypatch.setattr(score, "forward", another)
    scored()


def test_bytes_and_floats_have_the_same_logits(project, noise):
    model = assembly.with_logits(assembly.load(Path(f"data/models/{NAME}.keras")))
    network = device.spread(model, tf.distribute.get_strategy())
    images = np.stack([noise(number, SIDE, SIDE) for number in range(3)])
    wanted = model(images.astype(np.float32), training=False)
    for batch in (images, images.astype(np.float32)):
        np.testing.assert_allclose(network(tf.constant(batch)), wanted, rtol=1e-5, atol=1e-5)


TWO_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from stages import score
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
score.device.distribution = lambda: two
sys.argv = ["score", *sys.argv[1:]]
score.main()
"""


def test_two_devices_give_the_rows_of_one(scored):
    assert {count % 2 for count in SPLITS.values()} == {0, 1}  # some batches cannot be shared equally
    one = scored()
    shutil.rmtree(".scratch")
    Path(f"data/scores/{NAME}.parquet").unlink()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", TWO_DEVICES, *NAME.split("-")], env=environment, check=True)
    two = pd.read_parquet(f"data/scores/{NAME}.parquet")
    pd.testing.assert_frame_equal(two, one, rtol=1e-5, atol=1e-5)
