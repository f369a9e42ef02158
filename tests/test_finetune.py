"""From shards to scores through the stages' own commands: once with a real backbone, and in detail with a toy."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stages import baseline, features, finetune, score, weights
from stages.backend import keras
from stages.detectors import assembly, discriminant, levels, prefix, training
from stages.errors import UserError
from stages.faces import shards
from stages.files import sha256

SIDE, CROP = 40, 32
COUNTS = {"train": 12, "valid": 6, "test": 6}
KINDS, PHASES = ("features", "labels"), ("baseline", "finetune")
MODEL = "resnet50"
SETTINGS = {
    "image.size": SIDE,
    "image.crop": CROP,
    "weights.source": "random",
    "features.from_block": "conv5",
    "features.magnify": 1,
    "features.views": 2,
    "features.batch_size": 8,
    "training.precision": "float32",
    "score.batch_size": 4,
    **{f"stress.{kind}": [] for kind in ("jpeg", "blur", "resize", "noise", "social")},
    f"detectors.{MODEL}.baseline.epochs": 3,
    f"detectors.{MODEL}.baseline.batch_size": 8,
    f"detectors.{MODEL}.finetune.epochs": 1,
    f"detectors.{MODEL}.finetune.batch_size": 6,
    f"detectors.{MODEL}.finetune.unfreeze_from": "conv5",
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
    "images_per_second",
    "waiting",
    "frozen_layers",
    "model_sha256",
}


def faces(split, noise):
    """The images of a split, real ones dark and fake ones light, with their labels and names."""
    for number in range(COUNTS[split]):
        label = number % 2
        pixels = noise(1000 * list(COUNTS).index(split) + number, SIDE, SIDE) // 2 + np.uint8(80 * label)
        yield pixels, label, f"{split}/{('real', 'fake')[label]}/{number:02}.png"


def write_shards(noise, png):
    """Write data/shards of all splits."""
    folder = Path("data/shards")
    folder.mkdir(parents=True)
    summaries = {}
    for split, count in COUNTS.items():
        records = [shards.Record(png(pixels), label, name) for pixels, label, name in faces(split, noise)]
        summaries[split] = shards.write(records, count, folder, split, 5)
    shards.write_summary(folder, summaries)
    Path("data/external").mkdir()
    shards.write_summary(Path("data/external"), {})


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_history(phase):
    with Path(f"plots/{MODEL}-{phase}/history.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def ran(tmp_path_factory, write_params, command, noise, png):
    """A project in which the stages ran once, with the real backbone; tests only read it."""
    project = tmp_path_factory.mktemp("project")
    policy = keras.config.dtype_policy()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("DVC_ROOT", raising=False)
        write_params(SETTINGS | {"features.from_block": "conv4"})
        write_shards(noise, png)
        command(weights.main, MODEL)
        command(features.main, MODEL)
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
            "data/external/shards.json",
            "data/shards/shards.json",
            *[f"data/shards/{path.name}" for path in Path("data/shards").glob("*.tfrecord")],
            f"data/weights/{MODEL}.json",
            f"data/weights/{MODEL}.weights.h5",
            f"data/features/{MODEL}/features.json",
            *[f"data/features/{MODEL}/{split}.{kind}.npy" for split in ("train", "valid") for kind in KINDS],
            *[f"data/models/{MODEL}-{phase}.{kind}" for phase in PHASES for kind in ("keras", "json")],
            *[f"data/scores/{MODEL}-{phase}.parquet" for phase in PHASES],
            *[f"plots/{MODEL}-{phase}/history.csv" for phase in PHASES],
        ]
    )


@pytest.mark.parametrize(("phase", "epochs"), [("baseline", [0, 1, 2, 3]), ("finetune", [0, 1])])
def test_the_history_has_its_epochs_and_columns(project, phase, epochs):
    rows = read_history(phase)
    assert list(rows[0]) == training.COLUMNS
    assert [int(row["epoch"]) for row in rows] == epochs
    for row in rows[-1:]:
        assert all(0 <= float(row[name]) <= 1 for name in ("accuracy", "auc", "val_accuracy", "val_auc"))
        assert float(row["loss"]) > 0
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0.0001 if phase == "baseline" else 0, abs=1e-9)


def test_fine_tuning_starts_at_the_baselines_figures(project):
    start = read_history("finetune")[0]
    assert start["loss"] == start["learning_rate"] == start["seconds"] == ""
    best = read_json(f"data/models/{MODEL}-baseline.json")["best_val_auc"]
    assert float(start["val_auc"]) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("phase", PHASES)
def test_the_record_says_what_the_detector_was_made_of(project, phase):
    record = read_json(f"data/models/{MODEL}-{phase}.json")
    rows = read_history(phase)
    assert set(record) == RECORD
    assert (record["model"], record["phase"], record["precision"]) == (MODEL, phase, "float32")
    assert record["weights"] == read_json(f"data/weights/{MODEL}.json")
    assert record["weights"]["source"] == "random"
    assert "CPU" in record["device"] or "GPU" in record["device"]
    assert (record["train_images"], record["valid_images"], record["image_size"]) == (12, 6, SIDE)
    assert record["epochs"] == int(rows[-1]["epoch"])
    best = max(rows, key=lambda row: float(row["val_auc"]))
    assert record["best_epoch"] == int(best["epoch"])
    assert record["best_val_auc"] == pytest.approx(float(best["val_auc"]))
    assert record["train_seconds"] == pytest.approx(sum(float(row["seconds"] or 0) for row in rows), abs=0.01)
    assert record["model_sha256"] == sha256(f"data/models/{MODEL}-{phase}.keras")


def test_only_what_was_unfrozen_counts_as_trainable(project):
    head = 2 * 1024 + 2048 + 1  # average and spread of conv4, and conv5
    assert read_json(f"data/models/{MODEL}-baseline.json")["trainable_parameters"] == head
    conv5 = [
        layer
        for layer in assembly.backbone_module(MODEL).backbone().layers
        if layer.name.startswith("conv5_") and layer.weights
    ]
    expected = head + sum(weight.shape.num_elements() for layer in conv5 for weight in layer.trainable_weights)
    assert read_json(f"data/models/{MODEL}-finetune.json")["trainable_parameters"] == expected


@pytest.mark.parametrize("phase", PHASES)
def test_every_validation_and_test_face_is_scored_once(project, phase, noise):
    scores = pd.read_parquet(f"data/scores/{MODEL}-{phase}.parquet")
    assert list(scores) == ["split", "condition", "member", "label", "logit", "score"]
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


def test_the_frozen_blocks_stay_as_the_weights_were(project):
    start = assembly.backbone_module(MODEL).backbone(f"data/weights/{MODEL}.weights.h5")
    for phase in PHASES:
        tuned = assembly.load(Path(f"data/models/{MODEL}-{phase}.keras")).get_layer(MODEL)
        for layer in start.layers:
            if layer.weights and (phase == "baseline" or not layer.name.startswith("conv5_")):
                for before, after in zip(layer.get_weights(), tuned.get_layer(layer.name).get_weights(), strict=True):
                    np.testing.assert_array_equal(before, after)


def test_scores_are_the_saved_detectors(project, noise):
    scores = pd.read_parquet(f"data/scores/{MODEL}-finetune.parquet").set_index("member")["score"]
    detector = keras.models.load_model(f"data/models/{MODEL}-finetune.keras")
    images = np.array([pixels for pixels, _, _ in faces("test", noise)], np.float32)
    names = [name for _, _, name in faces("test", noise)]
    np.testing.assert_allclose(np.ravel(detector(images)), scores[names], atol=1e-5)


@pytest.fixture(scope="module")
def baseline_of_toy(tmp_path_factory, write_params, command, noise, png, toy):
    """A project in which the stages up to the baseline ran with the toy; tests copy it."""
    project = tmp_path_factory.mktemp("toy")
    policy = keras.config.dtype_policy()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("DVC_ROOT", raising=False)
        for module in (weights, features, assembly):
            patch.setattr(module, "backbone_module", lambda model: toy)
        write_params(SETTINGS)
        write_shards(noise, png)
        for stage in (weights, features, baseline):
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


@pytest.fixture
def misled(small, command, write_params):
    """The same after a baseline that took each class for the other, so that fine-tuning can only be better."""
    for split in ("train", "valid"):
        path = Path(f"data/features/{MODEL}/{split}.labels.npy")
        np.save(path, 1 - np.load(path))
    write_params(SETTINGS | {f"detectors.{MODEL}.baseline.learning_rate": 0.3})
    command(baseline.main, MODEL)
    return small


def saved(phase, layer):
    """The weights of one of the toy's layers, as saved."""
    detector = assembly.load(Path(f"data/models/{MODEL}-{phase}.keras"))
    return detector.get_layer("toy").get_layer(layer).get_weights()


def statistics(phase):
    """The moving statistics of the toy's second BatchNorm, as saved."""
    return saved(phase, "conv5_bn")[2:]


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
    return sorted(path.name for folder in ("data/models", "plots") for path in Path(folder).rglob("*finetune*"))


def test_an_interrupted_fine_tuning_publishes_nothing_and_goes_on(small, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            small(epochs=4)
    assert published() == []
    (scratch,) = Path(".scratch").iterdir()
    done = training.read_history(scratch / training.HISTORY)
    assert [row["epoch"] for row in done] == [0, 1, 2]

    small(epochs=4)
    assert "resumed: 2 of 4 epochs were done before" in capsys.readouterr().out
    rows = training.read_history(Path(f"plots/{MODEL}-finetune/history.csv"))
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[:3] == done
    assert list(Path(".scratch").iterdir()) == []
    assert published() == [f"{MODEL}-finetune", f"{MODEL}-finetune.json", f"{MODEL}-finetune.keras"]


def test_a_changed_rate_does_not_go_on_from_the_old_ones_epochs(small, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            small(epochs=2)
    small(epochs=2, learning_rate=0.002)
    assert "resumed" not in capsys.readouterr().out


@pytest.mark.parametrize("batch_norm", ["inference", "training"])
def test_batch_norm_is_treated_as_asked(misled, batch_norm, capsys):
    misled(batch_norm=batch_norm, unfreeze_from="all", epochs=3, learning_rate=0.1, warmup=0.0)
    assert read_json(f"data/models/{MODEL}-finetune.json")["best_epoch"] > 0
    before, after = statistics("baseline"), statistics("finetune")
    moved = [not np.allclose(one, other) for one, other in zip(before, after, strict=True)]
    assert moved == [batch_norm == "training"] * 2
    assert ("statistics re-estimated" in capsys.readouterr().out) == (batch_norm == "training")


@pytest.mark.parametrize("batch_norm", ["inference", "training"])
def test_fine_tuning_that_brings_nothing_leaves_the_baseline(small, capsys, batch_norm):
    small(batch_norm=batch_norm, unfreeze_from="all", epochs=1, learning_rate=1e-12, weight_decay=0.0)
    record = read_json(f"data/models/{MODEL}-finetune.json")
    assert record["best_epoch"] == 0
    assert record["model_sha256"] == sha256(f"data/models/{MODEL}-baseline.keras")
    assert sha256(f"data/models/{MODEL}-finetune.keras") == record["model_sha256"]
    assert "so resnet50-finetune is its copy" in capsys.readouterr().out


def test_fine_tuning_moves_the_backbone_and_not_the_baseline(misled, noise):
    before = sha256(f"data/models/{MODEL}-baseline.keras")
    misled(unfreeze_from="conv5", epochs=3, learning_rate=0.1, warmup=0.0)
    assert sha256(f"data/models/{MODEL}-baseline.keras") == before
    one, other = (assembly.load(Path(f"data/models/{MODEL}-{phase}.keras")).get_layer("toy") for phase in PHASES)
    for layer, moved in (("conv1_conv", False), ("conv5_conv", True)):
        kernels = [network.get_layer(layer).get_weights()[0] for network in (one, other)]
        assert np.array_equal(*kernels) != moved
    assert read_json(f"data/models/{MODEL}-finetune.json")["best_val_auc"] > 0.5


def test_the_head_is_the_discriminant_of_what_the_tuned_backbone_gives(misled, noise):
    misled(unfreeze_from="conv5", epochs=3, learning_rate=0.1, warmup=0.0)
    detector = assembly.load(Path(f"data/models/{MODEL}-finetune.keras"))
    images = np.array([pixels for pixels, _, _ in faces("train", noise)], np.float32)
    labels = np.tile([label for _, label, _ in faces("train", noise)], 2)
    pooled = keras.Model(detector.input, detector.get_layer("pool").output)
    seen = np.array(pooled(np.concatenate([images, images[:, :, ::-1]])))  # as it is, and mirrored
    head = detector.get_layer("head")
    weights = discriminant.discriminant(seen, labels, np.arange(24), 0.3, discriminant.standard_of(head))
    kernel, _ = head.get_layer("logit").get_weights()
    np.testing.assert_allclose(kernel[:, 0] / np.linalg.norm(kernel), weights / np.linalg.norm(weights), atol=1e-3)


def moved(small, **keys):
    """How far one epoch took the kernel of the toy's last convolution."""
    small(warmup=0.0, weight_decay=0.0, **{"epochs": 1, "learning_rate": 0.1} | keys)
    assert read_json(f"data/models/{MODEL}-finetune.json")["best_epoch"] == 1
    return saved("finetune", "conv5_conv")[0] - saved("baseline", "conv5_conv")[0]


def test_adamw_takes_first_steps_of_one_length_and_sgd_does_not(misled):
    for optimizer, alike in (("adamw", True), ("sgd", False)):
        steps = np.abs(moved(misled, optimizer=optimizer, batch_size=12))
        assert (np.median(steps[steps > 0]) == pytest.approx(0.1, rel=1e-2)) == alike


def test_a_moving_average_is_what_the_weights_become_after_an_epoch(misled):
    last, both, first = (moved(misled, ema=momentum) for momentum in (0.0, 0.5, 0.999999))  # an epoch has two steps
    assert np.abs(last - first).max() > 1e-3
    np.testing.assert_allclose(both, (first + last) / 2, atol=1e-5)


def test_losses_are_those_of_smoothed_labels(small, noise):
    small(epochs=1, learning_rate=1e-12, label_smoothing=0.2)
    signs = np.array([1 if label else -1 for _, label, _ in faces("valid", noise)]) * logits("baseline", noise)
    expected = np.mean(0.9 * np.log1p(np.exp(-signs)) + 0.1 * np.log1p(np.exp(signs)))
    assert history()[0]["val_loss"] == pytest.approx(expected, rel=1e-4)


def test_spoilt_crops_are_what_training_sees_and_validation_does_not(small):
    rows = []
    for share in (0.0, 1.0):
        small({"augment.blur": share}, epochs=1, learning_rate=1e-12)
        rows.append(history())
    (start, end), (spoilt_start, spoilt_end) = rows
    assert spoilt_start == start
    assert spoilt_end["loss"] != pytest.approx(end["loss"], rel=1e-3)
    assert spoilt_end["val_loss"] == pytest.approx(end["val_loss"], rel=1e-3)


def test_a_batch_larger_than_the_training_set_is_made_to_fit(small):
    small(batch_size=64)
    assert read_json(f"data/models/{MODEL}-finetune.json")["epochs"] == 1


def test_mixed_precision_trains_and_saves_float32(small):
    small({"training.precision": "mixed_bfloat16"})
    keras.config.set_dtype_policy("float32")
    assert read_json(f"data/models/{MODEL}-finetune.json")["precision"] == "mixed_bfloat16"
    saved = assembly.load(Path(f"data/models/{MODEL}-finetune.keras"))
    assert {layer.dtype_policy.name for layer in [*saved.layers, *saved.get_layer("toy").layers]} == {"float32"}


def test_a_loss_that_is_no_number_stops_it_and_publishes_nothing(small, monkeypatch):
    monkeypatch.setattr(training, "warmed_cosine", lambda *_: 1e38)
    with pytest.raises(UserError, match=r"lower the learning_rate in params\.yaml"):
        small(epochs=2, unfreeze_from="all")
    assert published() == []


def history():
    rows = training.read_history(Path(f"plots/{MODEL}-finetune/history.csv"))
    return [{name: row[name] or 0.0 for name in row if name not in ("seconds", "waiting")} for row in rows]


def cached(precision="float32", gigabytes=1):
    return {"training.cache_precision": precision, "training.cache_gigabytes": gigabytes}


@pytest.mark.parametrize(("batch_norm", "jpeg"), [("inference", 0.0), ("training", 0.5)])
def test_frozen_layers_that_run_once_change_no_result(misled, noise, batch_norm, jpeg, capsys):
    keys = {"batch_norm": batch_norm, "views": 2, "epochs": 5, "learning_rate": 0.005}
    found = []
    for gigabytes in (0, 1):
        misled(cached(gigabytes=gigabytes) | {"augment.jpeg": jpeg}, **keys)
        found.append((history(), logits("finetune", noise)))
        assert read_json(f"data/models/{MODEL}-finetune.json")["frozen_layers"] == ("float32" if gigabytes else None)
    said = capsys.readouterr().out
    assert "run in every epoch: 0.0 GB is more than training.cache_gigabytes = 0 allows" in said
    assert re.search(r"frozen layers: run once: 0.0 GB on disk, about 1\.\d times as fast by count of operations", said)
    (rows, one), (rows_cached, other) = found
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]  # something was learned
    # Before a BatchNorm that takes a batch's own mean, a bias has no gradient but rounding, and Adam follows it.
    near = {"inference": 1e-3, "training": 0.1}[batch_norm]
    for row, cached_row in zip(rows, rows_cached, strict=True):
        assert cached_row == pytest.approx(row, rel=near, abs=1e-4)
    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)


def test_frozen_layers_kept_in_half_precision_differ_little(misled, noise):
    found = []
    for precision in ("float32", "float16"):
        misled(cached(precision), views=1, epochs=3)
        found.append(logits("finetune", noise))
        assert read_json(f"data/models/{MODEL}-finetune.json")["frozen_layers"] == precision
    np.testing.assert_allclose(*found, rtol=0.01, atol=0.01)


def kept():
    return {path.name: path.stat().st_mtime_ns for path in Path(".scratch").glob("*-outputs-*/*")}


def test_the_outputs_of_frozen_layers_serve_later_runs_and_are_removed_when_others_are_wanted(small):
    small(cached(), views=2, epochs=4)
    first = kept()
    assert sorted(first) == ["train-0.npy", "train-1.npy", "valid.npy"]
    small(cached(), views=2, epochs=4, learning_rate=0.002)
    assert kept() == first
    second = first
    for change in ({"training.seed": 0}, {"augment.blur": 0.5}):
        small(cached() | change, views=2, epochs=4)
        assert sorted(kept()) == sorted(first)
        assert not set(kept().values()) & set(second.values())
        second = kept()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"views": None, "epochs": 4}, "every epoch draws fresh crops"),
        ({"views": 1, "epochs": 4, "unfreeze_from": "all"}, "all layers train"),
        ({"views": 1, "epochs": 1}, "times as fast, which is not worth"),
    ],
)
def test_frozen_layers_run_in_every_epoch_where_keeping_their_outputs_does_not_pay(small, keys, reason, capsys):
    small(cached(), **keys)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("frozen layers: ")]
    assert line.startswith("frozen layers: run in every epoch: ")
    assert reason in line
    assert kept() == {}


@pytest.mark.parametrize(("seen", "kept"), [("conv1_relu", True), ("conv1_bn", False)])
def test_the_head_may_see_the_last_frozen_layer_but_none_below_if_it_is_to_run_once(toy, float32, seen, kept):
    module = SimpleNamespace(**vars(toy) | {"BLOCKS": {"conv4": seen, "conv5": "conv5_relu"}})
    backbone = levels.Levels(module, "conv4", spread=False, magnify=1).backbone()
    keys = {"images": COUNTS, "sides": {"train": CROP, "valid": SIDE}, "views": 1, "epochs": 4, "itemsize": 4}
    plan = prefix.plan(backbone, assembly.unfreeze(backbone, "conv5"), limit=1, room=10**9, **keys)
    assert plan.keep == kept
    assert (plan.reason == "the head sees frozen blocks too (features.from_block)") != kept


def test_outputs_that_do_not_fit_on_the_disk_are_not_kept(small, monkeypatch, capsys):
    monkeypatch.setattr(prefix.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    small(cached(), views=1, epochs=4)
    assert "does not fit into the 0.0 GB that are free" in capsys.readouterr().out
    assert kept() == {}


def test_outputs_too_large_for_half_precision_say_what_to_do(small, toy, monkeypatch):
    bright = SimpleNamespace(**vars(toy) | {"preprocess": keras.layers.Rescaling(1e6, dtype="float32")})
    monkeypatch.setattr(assembly, "backbone_module", lambda model: bright)
    with pytest.raises(UserError, match=r"float16 cannot hold; set training\.cache_precision to float32"):
        small(cached("float16"), views=1, epochs=4)
    assert published() == []


@pytest.mark.parametrize("full", [False, True], ids=["room", "full"])
def test_an_interrupted_fine_tuning_on_kept_outputs_goes_on_with_the_next_view(small, monkeypatch, capsys, full):
    """On a disk that is full by now, too: its own outputs lie where it needs room."""
    keys = {"views": 2, "epochs": 4}
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            small(cached(), **keys)
    first = kept()
    if full:
        monkeypatch.setattr(prefix.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    small(cached(), **keys)
    assert "resumed: 1 of 4 epochs were done before" in capsys.readouterr().out
    assert kept() == first
    assert [row["epoch"] for row in history()] == [0, 1, 2, 3, 4]


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
finetune.distribution = lambda: two
assembly.backbone_module = lambda model: toy_backbone()
sys.argv = ["finetune", "resnet50"]
finetune.main()
"""


@pytest.mark.parametrize("gigabytes", [0, 1])
def test_two_devices_train_what_one_does(misled, noise, gigabytes):
    keys = {"views": 1, "epochs": 3, "learning_rate": 0.05}
    misled(cached(gigabytes=gigabytes), **keys)
    rows, one = history(), logits("finetune", noise)
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", TWO_DEVICES], env=environment, check=True)
    for row, shared in zip(rows, history(), strict=True):
        assert shared == pytest.approx(row, rel=1e-3, abs=1e-3)
    np.testing.assert_allclose(logits("finetune", noise), one, rtol=1e-2, atol=1e-3)


def test_shards_that_are_missing_say_what_to_do(small):
    Path("data/shards/shards.json").unlink()
    with pytest.raises(UserError, match=r"shards.json is missing; make it with `dvc repro`"):
        small()
    assert published() == []
