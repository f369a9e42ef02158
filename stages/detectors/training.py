"""The training loop of both phases: it keeps the best epoch, stops when nothing gets better, and survives a kill.

Everything that a restart needs lies in one scratch folder: the journal (one row an epoch), the best weights, and
a backup of model and optimiser. The folder's name is a digest of the parameters and the inputs, so a changed
parameter never meets an old checkpoint.
"""

import csv
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.backend import keras, tf
from stages.errors import UserError
from stages.files import digest, project_root, publish

COLUMNS = [
    "epoch",
    "loss",
    "accuracy",
    "auc",
    "val_loss",
    "val_accuracy",
    "val_auc",
    "learning_rate",
    "seconds",
    "waiting",
]
HISTORY = "history.csv"
Row = dict[str, float | None]


def compile_model(model: "keras.Model", optimizer: "keras.Optimizer", label_smoothing: float = 0.0) -> None:
    """Compile a model that gives logits: binary cross-entropy, accuracy at P = 0.5, area under the ROC curve.

    The loss takes labels of ``label_smoothing`` / 2 and 1 - ``label_smoothing`` / 2 for 0 and 1 (Szegedy et al. 2016).
    """
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing),
        metrics=[
            keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy"),
            keras.metrics.AUC(from_logits=True, num_thresholds=1000, name="auc"),
        ],
    )


def warmed_cosine(peak: float, steps: int, warmup: float) -> "keras.optimizers.schedules.LearningRateSchedule":
    """A learning rate that rises linearly to ``peak`` over the fraction ``warmup`` of ``steps``, then falls.

    It falls as a cosine that reaches 0 at the last step (Loshchilov & Hutter 2017, arXiv:1608.03983, no restarts).
    """
    rise = round(warmup * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if rise else peak,
        decay_steps=max(steps - rise, 1),
        warmup_target=peak if rise else None,
        warmup_steps=rise,
    )


def best_of(rows: list[Row]) -> Row:
    """The row of the highest validation AUC, the earliest of equals."""
    return max(rows, key=lambda row: row["val_auc"] or 0.0)


def scratch_folder(name: str, *ingredients: Any) -> Path:
    """The folder for what ``name`` (such as "densenet121-finetune") must remember, by a digest of its ingredients."""
    return project_root() / ".scratch" / f"{name}-{digest(*ingredients)}"


def completed_epochs(scratch: Path) -> int:
    """How many epochs an earlier, killed run left behind in its scratch folder."""
    history = scratch / HISTORY
    return int(read_history(history)[-1]["epoch"] or 0) if history.exists() else 0


class Journal(keras.callbacks.Callback):
    """One row an epoch, and the weights of the best one: highest validation AUC, the earliest of equals.

    Both are published whole and tell all that is known, so a run that is killed goes on from them. The model is backed
    up after this callback; an epoch that was killed between the two is run again, and its first try forgotten.
    """

    def __init__(self, scratch: Path, patience: int, waited: "tf.Variable | None" = None) -> None:
        super().__init__()
        self.scratch, self.patience, self.waited = scratch, patience, waited
        self.rows: list[Row] = read_history(scratch / HISTORY) if (scratch / HISTORY).exists() else []

    @property
    def best(self) -> Row:
        """The row of the best epoch so far."""
        return best_of(self.rows)

    @property
    def best_weights(self) -> Path:
        """The file of the best epoch's weights."""
        return self.scratch / f"best-{self.best['epoch']:.0f}.npz"

    def over(self, epochs: int) -> bool:
        """Whether all epochs are done, or the best one is too long ago."""
        last = (self.rows[-1]["epoch"] or 0) if self.rows else 0
        return last >= epochs or (last > 0 and last - (self.best["epoch"] or 0) >= self.patience)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Forget what came after the backup that this epoch starts from; start the clock."""
        self.rows = [row for row in self.rows if (row["epoch"] or 0) <= epoch]
        for file in self.scratch.glob("best-*.npz"):
            if not self.rows or file != self.best_weights:
                file.unlink()
        self.started = time.monotonic()
        if self.waited is not None:
            self.waited.assign(0.0)

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Stop the clock: validation follows."""
        self.seconds = time.monotonic() - self.started

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the epoch down, keep its weights if it is the best, stop if the best is too long ago."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        if not all(math.isfinite(value) for value in figures.values()):
            raise UserError(
                f"the loss is no longer a number in epoch {epoch + 1}; lower the learning_rate in params.yaml"
            )
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        waiting = None if self.waited is None else float(self.waited.numpy()) / self.seconds
        self.add({"epoch": epoch + 1, **figures, "learning_rate": rate, "seconds": self.seconds, "waiting": waiting})
        self.model.stop_training = self.over(epoch + 2)

    def add(self, row: Row) -> None:
        """Add a row, and keep the model's weights if it is the best."""
        self.rows.append({column: row.get(column) for column in COLUMNS})
        if self.best is self.rows[-1]:
            with publish(self.best_weights) as part:
                np.savez(part, *self.model.get_weights())
        write_history(self.scratch / HISTORY, self.rows)

    def restore_best(self) -> None:
        """Give the model the weights of the best epoch."""
        with np.load(self.best_weights) as arrays:
            self.model.set_weights([arrays[name] for name in arrays.files])


class Backup(keras.callbacks.Callback):
    """Model and optimiser as they were after the latest epoch: one file, whole or not at all, the epoch in its name.

    Keras' ``BackupAndRestore`` writes in place and in two files: a kill in between leaves what no later run can load.
    """

    def __init__(self, scratch: Path) -> None:
        super().__init__()
        self.scratch = scratch

    def files(self) -> list[Path]:
        """The backups; more than one only where a kill came before the older one was removed."""
        return sorted(self.scratch.glob("epoch-*.weights.h5"))

    def restore(self, model: "keras.Model") -> int:
        """Give a compiled model its backup, if there is one; return the number of epochs that it has behind it."""
        if not self.files():
            return 0
        model.optimizer.build(model.trainable_variables)
        model.load_weights(self.files()[-1])
        return int(self.files()[-1].name.split(".")[0].removeprefix("epoch-"))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Publish the backup of this epoch, then remove the one before."""
        with publish(self.scratch / f"epoch-{epoch + 1:05d}.weights.h5") as part:
            self.model.save_weights(part)
        for file in self.files()[:-1]:
            file.unlink()


def fit(
    model: "keras.Model",
    train: Any,
    valid: Any,
    *,
    epochs: int,
    patience: int,
    scratch: Path,
    steps_per_epoch: int | None = None,
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
) -> list[Row]:
    """Train a compiled model, leave it with the weights of its best epoch, return the journal.

    The untouched model counts as epoch 0, so that training never ends below where it began.
    ``callbacks`` are called before the journal's, so what they do before a validation counts as training.
    A run that finds its own scratch folder goes on from there. On one device the journal tells the share of the time in
    which training waited for a dataset's next batch.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    waited = None
    if isinstance(train, tf.data.Dataset) and not tf.distribute.has_strategy():
        waited = tf.Variable(0.0, dtype=tf.float64)
        train = timed(train, waited)
    journal, backup = Journal(scratch, patience, waited), Backup(scratch)
    if not journal.rows:
        journal.set_model(model)
        journal.add({"epoch": 0} | {f"val_{name}": float(v) for name, v in evaluate(model, valid).items()})
    if done := completed_epochs(scratch):
        print(f"resumed: {done} of {epochs} epochs were done before")
    if not journal.over(epochs):
        model.fit(
            train,
            validation_data=valid,
            initial_epoch=backup.restore(model),
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            shuffle=False,  # both kinds of training data shuffle themselves
            callbacks=[keras.callbacks.TerminateOnNaN(), *callbacks, journal, backup],
            verbose=1 if sys.stdout.isatty() else 2,
        )
    journal.set_model(model)
    journal.restore_best()
    return journal.rows


def timed(batches: "tf.data.Dataset", waited: "tf.Variable") -> "tf.data.Dataset":
    """The same batches; the seconds that each lets its reader wait are added to ``waited``."""
    clock = tf.data.Dataset.counter().map(lambda _: tf.timestamp())

    def note(start: "tf.Tensor", batch: Any, end: "tf.Tensor") -> Any:
        waited.assign_add(end - start)
        return batch

    return tf.data.Dataset.zip((clock, batches, clock)).map(note)  # a zip reads its parts one after the other


def evaluate(model: "keras.Model", data: Any) -> dict[str, float]:
    """The compiled model's loss and metrics over ``data``."""
    return dict(model.evaluate(data, return_dict=True, verbose=0))


def forget(scratch: Path) -> None:
    """Remove the scratch folder of a run whose results are published."""
    shutil.rmtree(scratch)


def read_history(path: Path) -> list[Row]:
    """The rows of a history file; an empty cell is None."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(cell) if cell else None for key, cell in row.items()} for row in csv.DictReader(file)]


def write_history(path: Path, rows: list[Row]) -> None:
    """Publish rows as CSV with the columns of ``COLUMNS``; what a row lacks stays empty."""
    with publish(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"] or 0)} for row in rows)


def batch_norm_layers(backbone: "keras.Model") -> "list[keras.layers.BatchNormalization]":
    """The backbone's BatchNorm layers that train."""
    layers = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [layer for layer in layers if layer.trainable]


def estimate_batch_norm(
    model: "keras.Model", layers: "list[keras.layers.BatchNormalization]", batches: "tf.data.Dataset"
) -> None:
    """Set the moving statistics of a model's BatchNorm layers to their plain average over ``batches``.

    The weights have moved since most of the moving average was taken (Wu & Johnson 2021, arXiv:2105.07576, "precise
    BatchNorm"). The model runs in training mode, without learning.
    """
    for number, (images, _) in enumerate(batches):
        for layer in layers:
            layer.momentum = number / (number + 1)
        model(images, training=True)
