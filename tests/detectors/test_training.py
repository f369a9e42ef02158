"""The training loop on a model of five numbers: its journal, the best epoch, and kills."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages import files, progress
from stages.backend import keras, tf
from stages.detectors import training
from stages.errors import UserError
from stages.files import sha256

HERE = Path(__file__)
ROOT = HERE.parents[2]
ANY = [(tf.zeros((1, 4)), None)]  # a batch, for a model that does not look
MEASURED = {"loss": 0.5, "accuracy": 0.7, "learning_rate": 0.001, "seconds": 4.0}


def linear(weight=0.0, optimizer=None):
    """Four features to a logit, compiled; the first feature's weight can be set."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.set_weights([np.array([[weight], [0], [0], [0]], np.float32), np.zeros(1, np.float32)])
    model.compile(
        optimizer=optimizer or keras.optimizers.Adam(0.05),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")],
    )
    return model


def examples(seed, count=32):
    """Noisy labels by the sum of four features: learnt slowly, never perfectly."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 4)).astype(np.float32)
    labels = (features.sum(axis=1, keepdims=True) + random.normal(size=(count, 1)) > 0).astype(np.int64)
    return tf.data.Dataset.from_tensor_slices((features, labels)).batch(8)


def labels_of(data):
    """The labels of a data set, as the journal takes them."""
    return np.concatenate([labels for _, labels in data.as_numpy_iterator()])[:, 0].astype(np.int8)


def test_a_step_of_adamw_is_that_of_keras():
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=(3, 4)).astype(np.float32), random.normal(size=(5, 3, 4)).astype(np.float32)
    ended = []
    for kind in (keras.optimizers.AdamW, training.AdamW):
        rate = training.warmed_cosine(0.1, 5, 0.2)
        optimizer = kind(rate, weight_decay=0.1, global_clipnorm=1.0)
        variables = [keras.Variable(start), keras.Variable(start[0])]
        optimizer.build(variables)
        for gradient in gradients:
            optimizer.apply_gradients(zip([tf.constant(gradient), tf.constant(gradient[0])], variables, strict=True))
        ended.append([variable.numpy() for variable in variables])
    assert np.abs(ended[0][0] - start).min() > 1e-3
    for ours, theirs in zip(*ended, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def sign(factor=1, count=16):
    """Examples whose first feature, times ``factor``, has the sign of the label; the other features are 0."""
    features = np.zeros((count, 4), np.float32)
    features[:, 0] = np.linspace(-1, 1, count)
    labels = (factor * features[:, :1] > 0).astype(np.int64)
    return tf.data.Dataset.from_tensor_slices((features, labels)).batch(count)


def train(scratch, epochs=5, model=None):
    """Fit the linear model on the noisy examples; return it and the journal."""
    return fit(model or linear(), examples(0), examples(1), scratch, epochs, steps=4)


def fit(model, data, valid, scratch, epochs, steps=1):
    """Fit a model on data, over and over; return it and the journal."""
    rows, _ = training.fit(
        model,
        data and data.repeat(),
        valid,
        labels_of(valid),
        epochs=epochs,
        steps_per_epoch=steps,
        scratch=scratch,
        curves=scratch.with_suffix(".csv"),
    )
    return model, rows


def untimed(rows):
    """Rows without their times, which no two runs share."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def scratch(parameters, data=""):
    """The scratch folder of a toy with these parameters and data."""
    return training.scratch_folder("toy", training.made_of(parameters=parameters, data=data))


def interrupt(patch, owner, method, epoch):
    """Let ``owner.method`` be met by Ctrl-C in an epoch (counted from 0)."""
    original = getattr(owner, method)

    def interrupted(self, number, logs=None):
        if number == epoch:
            raise KeyboardInterrupt
        original(self, number, logs)

    patch.setattr(owner, method, interrupted)


def assert_same_weights(one, other):
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_journal_has_a_row_an_epoch_with_every_column(tmp_path):
    _, rows = train(tmp_path / "scratch", epochs=3)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert list(row) == training.COLUMNS
        assert row["learning_rate"] == pytest.approx(0.05)
        assert row["seconds"] >= 0
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert training.read_history(tmp_path / "scratch" / training.HISTORY) == rows


def test_the_model_ends_with_the_weights_of_its_best_epoch(tmp_path):
    # AUC is 1 where the first weight is positive, 0 where negative: epochs pull it down, up, down.
    batches = sign(-1).concatenate(sign()).concatenate(sign(-1))
    model = linear(-1.0, keras.optimizers.SGD(50.0))
    _, rows = fit(model, batches, sign(), tmp_path / "scratch", epochs=3)
    assert [row["val_auc"] for row in rows] == [0, 1, 0]
    assert model.get_weights()[0][0, 0] > 0
    assert model.evaluate(sign(), verbose=0)[0] == pytest.approx(rows[1]["val_loss"], rel=1e-5)


def test_the_start_is_no_epoch(tmp_path):
    model = linear(1.0, keras.optimizers.SGD(50.0))
    _, rows = fit(model, sign(-1), sign(), tmp_path / "scratch", epochs=2)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert model.get_weights()[0][0, 0] < 0  # the best of its own epochs, worse than the start


def test_epochs_that_cannot_be_told_apart_are_decided_by_their_loss(tmp_path, capsys):
    # Both epochs rank the few faces alike, or nearly; the second is far surer of one mistake.
    labels, unsure = np.array([0, 0, 0, 1, 1, 1], np.int8), np.array([-1, -1, 1, -0.9, 1.1, 1])
    journal = training.Journal(tmp_path, ANY, labels)
    for epoch, logits in ((1, unsure), (2, np.array([-1, -1, 30, 1, 31, 32.0]))):
        journal.set_model(Fixed(logits))
        journal.add(epoch, MEASURED)
    one, two = journal.rows
    assert two["val_auc"] > one["val_auc"]
    assert two["val_loss"] > one["val_loss"]
    assert journal.best["epoch"] == 1
    assert "epoch 1 is kept before 2 by its loss" in capsys.readouterr().out


def test_an_epoch_that_is_truly_better_is_kept_whatever_its_loss(tmp_path, capsys):
    labels = np.repeat([0, 1], 200).astype(np.int8)
    noise = np.random.default_rng(0).normal(size=400)
    journal = training.Journal(tmp_path, ANY, labels)
    for epoch, logits in ((1, noise + labels), (2, 50 * (noise + 2 * labels))):
        journal.set_model(Fixed(logits))
        journal.add(epoch, MEASURED)
    assert journal.rows[1]["val_loss"] > journal.rows[0]["val_loss"]
    assert journal.best["epoch"] == 2
    assert capsys.readouterr().out == ""


def test_the_validation_auc_is_exact_where_probabilities_saturate(tmp_path):
    labels, logits = np.array([0, 0, 1, 1], np.int8), np.array([40, 60, 50, 70.0])
    journal = training.Journal(tmp_path, ANY, labels)
    journal.set_model(Fixed(logits))
    journal.add(1, MEASURED)
    assert journal.rows[0]["val_auc"] == 0.75
    assert journal.rows[0]["val_accuracy"] == 0.5
    assert journal.rows[0]["val_loss"] == pytest.approx(25)


class Fixed:
    """A model that answers with the same logits, whatever it is asked."""

    distribute_strategy = tf.distribute.get_strategy()

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, images, training):
        """The logits, as a column."""
        return tf.constant(self.logits[:, np.newaxis])

    def get_weights(self):
        """Something that tells one from another."""
        return [self.logits]


def test_without_a_terminal_a_long_epoch_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 1e-9)
    train(tmp_path / "scratch", epochs=2)
    said = [line.split(" [")[0] for line in capsys.readouterr().err.splitlines()]
    assert [line for line in said if "2/4" in line] == [f"epoch {n}:  50% 2/4" for n in (1, 2)]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    whole, expected = train(tmp_path / "whole")
    scratch = tmp_path / "scratch"
    with monkeypatch.context() as patch:
        interrupt(patch, training.Journal, "on_epoch_begin", 2)
        with pytest.raises(KeyboardInterrupt):
            train(scratch)
    assert training.completed_epochs(scratch) == 2
    assert len(training.read_history(scratch.with_suffix(".csv"))) == 2  # so that curves can be drawn meanwhile
    before = training.read_history(scratch / training.HISTORY)

    capsys.readouterr()
    model, rows = train(scratch)
    assert "resumed: 2 of 5 epochs" in capsys.readouterr().out
    assert rows[: len(before)] == before
    assert untimed(rows) == untimed(expected)  # the optimiser's state came back too, or later epochs would differ
    assert_same_weights(model, whole)


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_killed_between_journal_and_backup_is_run_again(tmp_path, monkeypatch, epoch):
    whole, expected = train(tmp_path / "whole")
    scratch = tmp_path / "scratch"
    with monkeypatch.context() as patch:
        interrupt(patch, training.Backup, "on_epoch_end", epoch)
        with pytest.raises(KeyboardInterrupt):
            train(scratch)
    history = scratch / training.HISTORY
    first_try = training.read_history(history)
    assert first_try[-1]["epoch"] == epoch + 1
    first_try[-1] |= {"loss": 99.0, "val_auc": 1.0}  # as if it had been another, and better, than the second will be
    training.write_history(history, first_try)
    (scratch / f"best-{epoch + 1}.npz").write_bytes(b"weights of the first try")

    model, rows = train(scratch)
    assert untimed(rows) == untimed(expected)
    assert_same_weights(model, whole)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_kill_between_the_best_weights_and_the_journal_is_nothing_to_the_next_run(tmp_path, monkeypatch, epoch):
    whole, expected = train(tmp_path / "whole", epochs=3)

    def killed(path, rows):
        if rows[-1]["epoch"] == epoch:
            raise KeyboardInterrupt
        write(path, rows)

    write = training.write_history
    with monkeypatch.context() as patch:
        patch.setattr(training, "write_history", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "scratch", epochs=3)
    assert training.completed_epochs(tmp_path / "scratch") == epoch - 1
    model, rows = train(tmp_path / "scratch", epochs=3)
    assert untimed(rows) == untimed(expected)
    assert_same_weights(model, whole)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_kill_that_tears_the_backup_costs_no_more_than_its_epoch(tmp_path, monkeypatch, epoch):
    whole, expected = train(tmp_path / "whole", epochs=3)
    save, saved = keras.Model.save_weights, []

    def tear(model, filepath, overwrite=True):
        save(model, filepath, overwrite=overwrite)
        saved.append(filepath)
        if len(saved) > epoch:
            Path(filepath).write_bytes(Path(filepath).read_bytes()[:1000])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save_weights", tear)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "scratch", epochs=3)
    model, rows = train(tmp_path / "scratch", epochs=3)
    assert untimed(rows) == untimed(expected)
    assert_same_weights(model, whole)


def test_a_finished_run_is_not_trained_again(tmp_path):
    trained, rows = train(tmp_path / "scratch", epochs=2)
    again = linear(7.0)
    assert fit(again, None, examples(1), tmp_path / "scratch", epochs=2)[1] == rows
    assert_same_weights(again, trained)


def test_only_the_best_epochs_weights_are_kept(tmp_path):
    _, rows = train(tmp_path / "scratch", epochs=4)
    best = min(rows, key=lambda row: row["val_loss"])["epoch"]  # 32 examples cannot tell these epochs apart by AUC
    assert f"best-{best:.0f}.npz" in {path.name for path in (tmp_path / "scratch").glob("*.npz")}
    assert len(list((tmp_path / "scratch").glob("*.npz"))) <= 2  # that of the last epoch's start, and of its end


def test_a_killed_process_is_resumed(tmp_path):
    scratch = tmp_path / "scratch"
    child = subprocess.run([sys.executable, HERE, scratch], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert child.returncode == -signal.SIGKILL
    left = training.read_history(scratch / training.HISTORY)
    assert [row["epoch"] for row in left] == [1, 2]

    model, rows = train(scratch, epochs=4)
    whole, expected = train(tmp_path / "whole", epochs=4)
    assert rows[:2] == left
    figures, expected_figures = (np.array([list(row.values()) for row in untimed(run)]) for run in (rows, expected))
    np.testing.assert_allclose(figures, expected_figures, rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], whole.get_weights()[0], rtol=1e-5)


def test_changed_code_starts_afresh(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    before = scratch({})
    monkeypatch.setattr(files, "sha256", lambda file: "another" if file.name == "finetune.py" else sha256(file))
    assert scratch({}) != before


def test_a_changed_parameter_starts_afresh(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    old = scratch({"learning_rate": 0.05}, "inputs")
    train(old, epochs=3)
    for changed in (
        scratch({"learning_rate": 0.06}, "inputs"),
        scratch({"learning_rate": 0.05}, "other inputs"),
        scratch({"learning_rate": 0.05, "dropout": 0.0}, "inputs"),
    ):
        assert changed != old
        assert training.completed_epochs(changed) == 0
    assert training.completed_epochs(scratch({"learning_rate": 0.05}, "inputs")) == 3


def test_scratch_lies_in_the_project_and_has_the_order_of_keys_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folder = scratch({"a": 1, "b": 2})
    assert folder == scratch({"b": 2, "a": 1})
    assert folder.parent == tmp_path / ".scratch"
    assert folder.name.startswith("toy-")


def test_a_loss_that_is_no_number_names_the_learning_rate(tmp_path):
    model = linear(3e38)  # as after a step far too long: the next one meets infinity
    with pytest.raises(UserError, match=r"no longer a number in epoch 1; lower the learning_rate"):
        train(tmp_path / "scratch", model=model)
    assert training.completed_epochs(tmp_path / "scratch") == 0


def test_a_warmed_cosine_rises_to_its_peak_and_falls_to_zero():
    rate = training.warmed_cosine(0.4, steps=100, warmup=0.1)
    np.testing.assert_allclose([rate(step) for step in (0, 5, 10, 55, 100)], [0, 0.2, 0.4, 0.2, 0], atol=1e-7)


def test_a_cosine_without_warm_up_starts_at_its_peak():
    rate = training.warmed_cosine(0.4, steps=100, warmup=0.0)
    np.testing.assert_allclose([rate(step) for step in (0, 50, 100)], [0.4, 0.2, 0], atol=1e-7)


def test_a_history_is_read_as_it_was_written(tmp_path):
    row = {column: number / 8 for number, column in enumerate(training.COLUMNS)} | {"epoch": 1.0}
    training.write_history(tmp_path / "history.csv", [row])
    assert training.read_history(tmp_path / "history.csv") == [row]
    assert (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines() == [
        "epoch,loss,accuracy,val_loss,val_accuracy,val_auc,learning_rate,seconds",
        "1,0.125,0.25,0.375,0.5,0.625,0.75,0.875",
    ]


if __name__ == "__main__":  # the process of test_a_killed_process_is_resumed: it dies as its third epoch begins

    def die(journal, epoch, logs=None):
        """Meet SIGKILL in the third epoch."""
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        begin(journal, epoch, logs)

    begin, training.Journal.on_epoch_begin = training.Journal.on_epoch_begin, die
    train(Path(sys.argv[1]), epochs=4)
