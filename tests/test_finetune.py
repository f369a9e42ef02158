"""From shards to scores through the stages' own commands: once with a real backbone, and in detail with a toy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from sklearn.metrics import roc_auc_score

from stages import baseline, finetune, score, weights
from stages.backend import keras
from stages.detectors import assembly, training
from stages.errors import UserError
from stages.faces import shards
from stages.files import sha256
from stages.params import load as load_params

SIDE, CROP = 40, 32
COUNTS = {"train": 12, "valid": 6, "test": 6}
KINDS, PHASES = ("features", "labels"), ("baseline", "finetune")
LEARNS = {"epochs": 6, "learning_rate": 0.05}  # the toy, that dark faces are real and light ones fake
MODEL = "resnet50"
HISTORY = Path(f"data/models/{MODEL}-finetune.csv")
SETTINGS = {
    "image.size": SIDE,
    "image.crop": CROP,
    "weights.source": "random",
    "features.from_block": "conv5",
    "features.magnify": 1,
    "features.batch_size": 8,
    "training.precision": "float32",
    "score.batch_size": 4,
    **{f"corruptions.{kind}": [] for kind in ("jpeg", "blur", "resize", "noise", "social")},
    f"detectors.{MODEL}.finetune.epochs": 1,
    f"detectors.{MODEL}.finetune.batch_size": 6,
    f"detectors.{MODEL}.finetune.learning_rate": 0.001,
}
RECORD = {
    "model",
    "phase",
    "weights",
    "device",
    "precision",
    "train_images",
    "valid_images",
    "image_size",
    "epochs",
    "best_epoch",
    "best_val_auc",
    "trainable_parameters",
    "train_seconds",
    "ended",
    "images_per_second",
    "model_sha256",
}


def faces(split, noise):
    """The images of a split, real ones dark and fake ones light, with their labels and names."""
    for number in range(COUNTS[split]):
        label = number % 2
        pixels = noise(1000 * list(COUNTS).index(split) + number, SIDE, SIDE) // 2 + np.uint8(80 * label)
        yield pixels, label, f"faces/{split}/{('real', 'fake')[label]}/{number:02}.png"


@pytest.fixture(scope="module")
def pack(write_shards, noise, png):
    """A function that writes data/shards of all splits: one set."""

    def pack():
        for split in COUNTS:
            records = [shards.Record(png(pixels), label, name) for pixels, label, name in faces(split, noise)]
            write_shards(split, "faces", records, 5)

    return pack


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory, write_params, command, pack):
    """A project in which the stages ran once, with the real backbone; tests only read it."""
    project = tmp_path_factory.mktemp("project")
    policy = keras.config.dtype_policy()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("DVC_ROOT", raising=False)
        write_params(SETTINGS | {"features.from_block": "conv4"})
        pack()
        command(weights.main, MODEL)
        command(baseline.main, MODEL)
        command(score.main, MODEL, "baseline")
        command(finetune.main, MODEL)
        command(score.main, MODEL, "finetune")
    keras.config.set_dtype_policy(policy)
    return project


@pytest.fixture
def project(ran, monkeypatch):
    """Inside the project in which the stages ran."""
    monkeypatch.chdir(ran)
    return ran


def test_the_stages_leave_their_files_and_nothing_else(project):
    written = [str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()]
    assert sorted(path for path in written if not path.startswith(".scratch/scores/")) == sorted(
        [
            "params.yaml",
            "data/training.json",
            *[f"data/shards/{split}/faces/shards.json" for split in COUNTS],
            *[str(path) for path in Path("data/shards").glob("*/faces/*.tfrecord")],
            f"data/weights/{MODEL}.json",
            f"data/weights/{MODEL}.weights.h5",
            *[f"data/features/{MODEL}/{split}.{kind}.npy" for split in ("train", "valid") for kind in KINDS],
            *[f"data/models/{MODEL}-{phase}.{kind}" for phase in PHASES for kind in ("keras", "json", "npz")],
            *[
                f"data/exported/{MODEL}-{phase}/{name}"
                for phase in PHASES
                for name in ("network.tflite", "detector.json")
            ],
            *[f"data/scores/{MODEL}-{phase}.parquet" for phase in PHASES],
            f"data/models/{MODEL}-finetune.csv",
        ]
    )


def test_the_history_has_its_epochs_and_columns(project):
    (row,) = training.read_history(HISTORY)
    assert list(row) == training.COLUMNS
    assert row["epoch"] == 1
    assert all(0 <= row[name] <= 1 for name in ("accuracy", "val_accuracy", "val_auc"))
    assert row["loss"] > 0
    assert row["learning_rate"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("phase", PHASES)
def test_the_record_says_what_the_detector_was_made_of(project, phase, noise):
    record = read_json(f"data/models/{MODEL}-{phase}.json")
    assert set(record) == RECORD
    assert (record["model"], record["phase"], record["precision"]) == (MODEL, phase, "float32")
    assert record["weights"] == read_json(f"data/weights/{MODEL}.json")
    assert record["weights"]["source"] == "random"
    assert "CPU" in record["device"] or "GPU" in record["device"]
    assert (record["train_images"], record["valid_images"], record["image_size"]) == (12, 6, SIDE)
    said, labels = logits(phase, noise), [label for _, label, _ in faces("valid", noise)]
    assert record["best_val_auc"] == pytest.approx(roc_auc_score(labels, said))
    assert record["model_sha256"] == sha256(f"data/models/{MODEL}-{phase}.keras")


def test_the_record_says_what_training_took(project):
    solved, trained = (read_json(f"data/models/{MODEL}-{phase}.json") for phase in PHASES)
    assert solved["epochs"] is solved["best_epoch"] is solved["images_per_second"] is None
    (row,) = training.read_history(HISTORY)
    assert (trained["epochs"], trained["best_epoch"]) == (1, 1)
    assert trained["train_seconds"] == pytest.approx(row["seconds"], abs=0.01)
    assert trained["images_per_second"] == pytest.approx(12 / row["seconds"], abs=0.01)


def test_the_baseline_solves_its_head_and_fine_tuning_trains_everything(project):
    head = 2 * 1024 + 2048 + 1  # average and spread of conv4, and conv5
    assert read_json(f"data/models/{MODEL}-baseline.json")["trainable_parameters"] == head
    backbone = assembly.backbone_module(MODEL).backbone()
    expected = head + sum(weight.shape.num_elements() for weight in backbone.trainable_weights)
    assert read_json(f"data/models/{MODEL}-finetune.json")["trainable_parameters"] == expected


@pytest.mark.parametrize("phase", PHASES)
def test_every_validation_and_test_face_is_scored_once(project, phase, noise):
    scores = pd.read_parquet(f"data/scores/{MODEL}-{phase}.parquet")
    assert list(scores) == ["set", "split", "condition", "member", "label", "logit", "score", "distance"]
    expected = {(split, name, label) for split in ("valid", "test") for _, label, name in faces(split, noise)}
    assert len(scores) == len(expected) == 12
    assert set(zip(scores["split"], scores["member"], scores["label"], strict=True)) == expected
    assert set(scores["condition"]) == {"clean"}
    assert scores["score"].between(0, 1).all()
    np.testing.assert_allclose(scores["score"], 1 / (1 + np.exp(-scores["logit"])), rtol=1e-5)


def test_the_baselines_scores_are_the_heads_of_the_features(project):
    scores = pd.read_parquet(f"data/scores/{MODEL}-baseline.parquet").query("split == 'valid'")
    detector = assembly.load(Path(f"data/models/{MODEL}-baseline.keras"))
    logits = detector.get_layer("head")(np.load(f"data/features/{MODEL}/valid.features.npy"))
    np.testing.assert_allclose(scores["logit"], np.ravel(logits), atol=1e-4)


def test_the_baseline_standardises_by_the_training_features(project):
    rows = np.load(f"data/features/{MODEL}/train.features.npy").astype(np.float64)
    standardise = assembly.load(Path(f"data/models/{MODEL}-baseline.keras")).get_layer("head").get_layer("standardise")
    np.testing.assert_allclose(np.ravel(standardise.input_mean), rows.mean(axis=0), rtol=1e-4, atol=1e-6)
    variance = rows.var(axis=0)
    np.testing.assert_allclose(
        np.ravel(standardise.input_variance), np.maximum(variance, 1e-3 * variance.mean()), rtol=1e-3
    )


def test_the_baselines_backbone_stays_as_the_weights_were(project):
    start = assembly.backbone_module(MODEL).backbone(f"data/weights/{MODEL}.weights.h5")
    frozen, tuned = (
        assembly.load(Path(f"data/models/{MODEL}-{phase}.keras")).get_layer(MODEL).get_layer for phase in PHASES
    )
    for layer in [layer for layer in start.layers if layer.weights]:
        for before, after, trained in zip(
            layer.get_weights(), frozen(layer.name).get_weights(), tuned(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(after, before)
            assert not np.array_equal(trained, before)


@pytest.mark.parametrize("phase", PHASES)
def test_distances_are_from_the_training_faces_in_the_saved_detectors_features(project, phase, noise):
    detector = assembly.load(Path(f"data/models/{MODEL}-{phase}.keras"))
    network = assembly.with_distance(detector, Path(f"data/models/{MODEL}-{phase}.npz"))
    train, valid = (
        np.array([pixels for pixels, _, _ in faces(split, noise)], np.float32) for split in ("train", "valid")
    )
    assert np.mean(np.square(network(train)[1])) == pytest.approx(11 / 12, rel=1e-3)  # 12 of them, and one mean
    scores = pd.read_parquet(f"data/scores/{MODEL}-{phase}.parquet").query("split == 'valid'")
    np.testing.assert_allclose(scores["distance"], np.ravel(network(valid)[1]), rtol=1e-3)


def test_scores_are_the_saved_detectors(project, noise):
    scores = pd.read_parquet(f"data/scores/{MODEL}-finetune.parquet").set_index("member")["score"]
    detector = keras.models.load_model(f"data/models/{MODEL}-finetune.keras")
    images = np.array([pixels for pixels, _, _ in faces("test", noise)], np.float32)
    names = [name for _, _, name in faces("test", noise)]
    np.testing.assert_allclose(np.ravel(detector(images)), scores[names], atol=1e-5)


@pytest.fixture(scope="module")
def baseline_of_toy(tmp_path_factory, write_params, command, pack, toy):
    """A project in which the stages up to the baseline ran with the toy; tests copy it."""
    project = tmp_path_factory.mktemp("toy")
    policy = keras.config.dtype_policy()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("DVC_ROOT", raising=False)
        for module in (weights, assembly):
            patch.setattr(module, "backbone_module", lambda model: toy)
        write_params(SETTINGS)
        pack()
        for stage in (weights, baseline):
            command(stage.main, MODEL)
    keras.config.set_dtype_policy(policy)
    return project


@pytest.fixture
def small(baseline_of_toy, tmp_path, monkeypatch, write_params, command, toy, float32):
    """A function that fine-tunes the toy after its baseline, with some keys of its fine-tuning changed."""
    shutil.copytree(baseline_of_toy, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(assembly, "backbone_module", lambda model: toy)

    def small(changes=None, **keys):
        write_params(
            SETTINGS | {f"detectors.{MODEL}.finetune.{key}": value for key, value in keys.items()} | (changes or {})
        )
        command(finetune.main, MODEL)

    return small


def saved(phase, layer):
    """The weights of one of the toy's layers, as saved."""
    detector = assembly.load(Path(f"data/models/{MODEL}-{phase}.keras"))
    return detector.get_layer("toy").get_layer(layer).get_weights()


def logits(phase, noise):
    """What a saved detector says of the validation faces."""
    network = assembly.with_logits(assembly.load(Path(f"data/models/{MODEL}-{phase}.keras")))
    return np.ravel(network(np.array([pixels for pixels, _, _ in faces("valid", noise)], np.float32)))


def interrupt(patch, epoch):
    """Let training be met by Ctrl-C as an epoch (counted from 0) begins."""
    begin = training.Journal.on_epoch_begin

    def interrupted(journal, number, logs=None):
        if number == epoch:
            raise KeyboardInterrupt
        begin(journal, number, logs)

    patch.setattr(training.Journal, "on_epoch_begin", interrupted)


def published():
    return sorted(path.name for path in Path("data/models").glob("*finetune*"))


def history():
    rows = training.read_history(HISTORY)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_fine_tuning_learns_and_saves_what_it_validated(small, noise):
    small(**LEARNS)
    rows, record = history(), read_json(f"data/models/{MODEL}-finetune.json")
    assert rows[-1]["loss"] < rows[0]["loss"]
    said = logits("finetune", noise)
    labels = np.array([label for _, label, _ in faces("valid", noise)])
    best = rows[record["best_epoch"] - 1]
    assert best["val_auc"] == record["best_val_auc"] == 1.0
    assert np.mean(np.logaddexp(0, said) - labels * said) == pytest.approx(best["val_loss"], rel=1e-3)


def test_from_the_probe_it_starts_where_the_probe_is_and_keeps_batch_norms_statistics(small, noise):
    small(start="probe", epochs=1, learning_rate=0.000001)
    for one, other in zip(saved("baseline", "conv5_bn"), saved("finetune", "conv5_bn"), strict=True):
        np.testing.assert_array_equal(one, other)
    train = tuple(np.load(f"data/features/{MODEL}/train.{kind}.npy") for kind in KINDS)
    probe = finetune.probe(train)
    valid = np.load(f"data/features/{MODEL}/valid.features.npy")
    np.testing.assert_allclose(logits("finetune", noise), np.ravel(probe(valid)), atol=1e-2)


def test_the_probe_is_as_sure_as_the_half_that_it_has_not_seen_allows():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(400, 100)).astype(np.float32), np.tile([0, 0, 1, 1], 100).astype(np.int8)
    said = np.ravel(finetune.probe((features, labels))(features))  # of noise, whatever half it was made of
    assert abs(said).max() < 1
    assert np.mean((said[::2] > np.median(said)) == labels[::2]) > 0.7  # which it does know


@pytest.mark.parametrize("start", ["fresh", "probe"])
def test_a_fine_tuned_detector_is_never_its_baseline(small, start):
    small(start=start, epochs=1, learning_rate=0.001)
    for layer in ("conv1_conv", "conv5_conv"):
        assert not np.array_equal(saved("finetune", layer)[-1], saved("baseline", layer)[-1])
    assert read_json(f"data/models/{MODEL}-finetune.json")["best_epoch"] == 1


def test_an_interrupted_fine_tuning_publishes_its_curve_alone_and_ends_as_if_it_had_not_been(
    small, noise, monkeypatch, capsys
):
    small(**LEARNS)
    expected, whole = history(), logits("finetune", noise)
    for name in published():
        Path("data/models", name).unlink()
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            small(**LEARNS)
    assert published() == [f"{MODEL}-finetune.csv"]
    (scratch,) = Path(".scratch").iterdir()
    assert [row["epoch"] for row in training.read_history(scratch / training.HISTORY)] == [1, 2]

    capsys.readouterr()
    small(**LEARNS)
    assert "resumed: 2 of 6 epochs were done before" in capsys.readouterr().out
    assert [row["epoch"] for row in history()] == [1, 2, 3, 4, 5, 6]
    for row, same in zip(history(), expected, strict=True):
        assert row == pytest.approx(same, rel=1e-3, abs=1e-5)
    np.testing.assert_allclose(logits("finetune", noise), whole, rtol=1e-2, atol=1e-3)
    assert list(Path(".scratch").iterdir()) == []
    assert published() == [f"{MODEL}-finetune.{kind}" for kind in ("csv", "json", "keras", "npz")]


def test_a_kill_between_journal_and_backup_draws_the_same_crops_again(small, noise, monkeypatch):
    small(**LEARNS)
    expected, whole = history(), logits("finetune", noise)
    backup = training.Backup.on_epoch_end

    def killed(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt
        backup(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(training.Backup, "on_epoch_end", killed)
        with pytest.raises(KeyboardInterrupt):
            small(**LEARNS)
    small(**LEARNS)
    for row, same in zip(history(), expected, strict=True):
        assert row == pytest.approx(same, rel=1e-3, abs=1e-5)
    np.testing.assert_allclose(logits("finetune", noise), whole, rtol=1e-2, atol=1e-3)


def test_nobody_else_gets_at_the_scratch_folder_meanwhile(small, monkeypatch):
    tried, begin = [], training.Journal.on_epoch_begin

    def another(journal, epoch, logs=None):
        with pytest.raises(Timeout):
            FileLock(f"{journal.scratch}.lock").acquire(blocking=False)
        tried.append(epoch)
        begin(journal, epoch, logs)

    monkeypatch.setattr(training.Journal, "on_epoch_begin", another)
    small(epochs=1)
    assert tried == [0]


def test_a_changed_rate_does_not_go_on_from_the_old_ones_epochs(small, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            small(epochs=2)
    small(epochs=2, learning_rate=0.002)
    assert "resumed" not in capsys.readouterr().out


def test_a_probe_of_other_features_does_not_go_on_from_the_old_ones_epochs(small, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            small(start="probe", epochs=2)
    features = Path(f"data/features/{MODEL}/train.features.npy")
    np.save(features, np.load(features) + np.float32(0.5))
    small(start="probe", epochs=2)
    assert "resumed" not in capsys.readouterr().out


def test_the_moving_statistics_follow_the_training(small):
    small(**LEARNS)
    for before, after in zip(saved("baseline", "conv5_bn")[2:], saved("finetune", "conv5_bn")[2:], strict=True):
        assert not np.allclose(before, after)


def test_biases_and_batch_norm_do_not_decay():
    fit = load_params(Path(__file__).parents[1] / "params.yaml").detectors[MODEL].finetune
    layers = [keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3), keras.layers.BatchNormalization()]
    model = keras.Sequential(layers)
    adamw = finetune.optimizer(fit, steps=10)
    adamw.build(model.trainable_variables)
    decays = {variable.path.split("/")[-1]: adamw._use_weight_decay(variable) for variable in model.trainable_variables}
    assert decays == {"kernel": True, "bias": False, "gamma": False, "beta": False}


def test_it_learns_from_all_sets_that_the_split_lists(small, write_shards, noise, png):
    for split in ("train", "valid"):
        records = [shards.Record(png(noise(number, SIDE, SIDE)), number % 2, f"more/{number}") for number in range(4)]
        write_shards(split, "more", records)
    small(epochs=1)
    record = read_json(f"data/models/{MODEL}-finetune.json")
    assert (record["train_images"], record["valid_images"]) == (16, 10)


def test_augmented_crops_are_other_crops(small):
    small(epochs=1)
    clean = history()
    small({"augment.jpeg": 1.0}, epochs=1)
    assert history()[0]["loss"] != clean[0]["loss"]


TWO_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from stages import finetune
from stages.detectors import assembly
from tests.conftest import toy_backbone
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
finetune.distribution = lambda hosts: two
assembly.backbone_module = lambda model: toy_backbone()
sys.argv = ["finetune", "resnet50"]
finetune.main()
"""


def test_two_devices_train_what_one_does(small, noise):
    small(**LEARNS | {"learning_rate": 0.005})  # at a higher one, what rounding moves shows
    rows, one = history(), logits("finetune", noise)
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", TWO_DEVICES], env=environment, check=True)
    # Before a BatchNorm that takes a batch's own mean, a bias has no gradient but rounding, and Adam follows it.
    for row, shared in zip(rows, history(), strict=True):
        assert shared["loss"] == pytest.approx(row["loss"], rel=1e-2)
        assert shared["val_loss"] == pytest.approx(row["val_loss"], rel=0.1)
    np.testing.assert_allclose(logits("finetune", noise), one, rtol=0.1, atol=0.1)


def test_two_devices_share_even_a_batch_of_an_odd_number_of_faces(small, write_shards, noise, png):
    write_shards(
        "train", "more", [shards.Record(png(noise(number, SIDE, SIDE)), 0, str(number)) for number in range(3)]
    )
    small(epochs=1, batch_size=32)
    record = read_json(f"data/models/{MODEL}-finetune.json")
    assert record["images_per_second"] * record["train_seconds"] == pytest.approx(15, abs=0.5)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", TWO_DEVICES], env=environment, check=True)
    record = read_json(f"data/models/{MODEL}-finetune.json")
    assert record["images_per_second"] * record["train_seconds"] == pytest.approx(2 * 14, abs=0.5)


OVERFLOW = """
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from stages import finetune
from stages.backend import keras
from stages.params import load
keras.config.set_dtype_policy("mixed_float16")
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    logit = keras.layers.Dense(1, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), logit, keras.layers.Activation("linear", dtype="float32")])
    fit = load().detectors["resnet50"].finetune
    model.compile(finetune.optimizer(fit, 10), keras.losses.BinaryCrossentropy(from_logits=True))
for most in (60000, 2, 2):  # times the scale of the loss, the gradient of this weight overflows on the second device
    images, labels = np.array([[1], [2], [1], [most]], np.float32), np.array([[0], [1], [0], [1]], np.float32)
    model.fit(tf.data.Dataset.from_tensor_slices((images, labels)).batch(4), verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights()), model.get_weights()
assert model.get_weights()[0] != 0
"""


def test_a_step_that_overflows_on_one_device_is_skipped_by_all(small):
    small(epochs=1)  # writes params.yaml
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", OVERFLOW], env=environment, check=True)


def test_shards_that_are_missing_say_what_to_do(small):
    Path("data/shards/valid/faces/shards.json").unlink()
    with pytest.raises(UserError, match=r"data/shards/valid/faces/shards.json is missing; make it with `dvc repro`"):
        small()
    assert published() == []
