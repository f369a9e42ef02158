"""The training loop: Keras' ``fit``, the best epoch by exact validation figures, and survival of a kill.

All that a restart needs lies in one scratch folder: the journal (one row an epoch), the best weights, and a backup of
model and optimiser. The folder's name is a digest of parameters, inputs and code, so none of them ever meets an old
checkpoint.
"""

import csv
import math
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.backend import keras, tf
from stages.detectors import over_hosts
from stages.errors import UserError
from stages.files import digest, project_root, publish
from stages.progress import progress
from stages.scoring import figures, intervals

COLUMNS = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "val_auc", "learning_rate", "seconds"]
HISTORY = "history.csv"
CONFIDENCE, RESAMPLES = 0.95, 200  # of the interval that says whether two epochs can be told apart
Row = dict[str, float]


def warmed_cosine(peak: float, steps: int, warmup: float) -> "keras.optimizers.schedules.LearningRateSchedule":
    """A learning rate that rises linearly to ``peak`` over the fraction ``warmup`` of ``steps``, then falls.

    It falls as a cosine that would reach 0 one step after the last (Loshchilov & Hutter 2017, arXiv:1608.03983).
    """
    rise = round(warmup * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if rise else peak,
        decay_steps=max(steps - rise, 1),
        warmup_target=peak if rise else None,
        warmup_steps=rise,
    )


def made_of(**ingredients: Any) -> dict[str, str]:
    """Digests of all that training depends on, by their names.

    They are the ingredients (parameters, and the files that are read), all our code, and the versions of TensorFlow
    and Keras.
    """
    code = sorted(Path(__file__).parents[1].rglob("*.py"))
    libraries = [version(library) for library in ("tensorflow", "keras")]
    return {name: digest(one) for name, one in {"code": code, "libraries": libraries, **ingredients}.items()}


def scratch_folder(name: str, made_of: dict[str, str]) -> Path:
    """The folder for what ``name`` (such as "densenet121-finetune"), :func:`made_of` that, must remember.

    Work in it within :func:`stages.files.hold`.
    """
    return project_root() / ".scratch" / f"{name}-{digest(made_of)}"


class Together:
    """An optimiser of whole batches: gradients of all devices that share one are added up before all else."""

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        """Add up, then take the step."""
        grads, variables = zip(*grads_and_vars, strict=True)
        devices = tf.distribute.get_replica_context()
        added = devices.all_reduce(tf.distribute.ReduceOp.SUM, list(grads))
        return super().apply_gradients(zip(added, variables, strict=True))  # type: ignore[misc]


class AdamW(Together, keras.optimizers.AdamW):
    """AdamW that clips the gradients of a whole batch."""

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        """They are added up: Keras would do it here, when each device has clipped its own."""
        return list(grads_and_vars)

    def update_step(self, gradient: "tf.Tensor", variable: Any, learning_rate: "tf.Tensor") -> None:
        """Keras' step of a variable as one operation, not twenty: those of all variables take long to trace."""
        number, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[number].value.handle,
            v=self._velocities[number].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class LossScale(Together, keras.optimizers.LossScaleOptimizer):
    """float16's loss scale: all devices skip a step that overflowed on any, where each would look at its own alone."""


def completed_epochs(scratch: Path) -> int:
    """How many epochs an earlier, killed run left behind: those of its backup."""
    return max(map(_epoch, scratch.glob(over_hosts.BACKUP.format("*"))), default=0)


class Journal(keras.callbacks.Callback):
    """Validates after each epoch; keeps a row of each, and the weights of the best.

    An epoch takes the place of the best one if its AUC is higher and the paired interval of the lead leaves out 0. If
    the interval holds 0, the lower loss wins: validation images are few, and the loss looks at each of them.

    Rows and weights are published whole and tell all that is known, so a killed run goes on from them. The model is
    backed up after this callback; an epoch that was killed between the two is run again, its first try forgotten.
    """

    def __init__(self, scratch: Path, valid: Any, labels: NDArray[np.int8]) -> None:
        super().__init__()
        self.scratch, self.valid, self.labels = scratch, valid, labels
        self.rows: list[Row] = read_history(scratch / HISTORY) if (scratch / HISTORY).exists() else []

    def set_model(self, model: "keras.Model") -> None:
        """Whom to validate."""
        super().set_model(model)
        self.answers = over_hosts.answers(model)

    def best_weights(self) -> Path | None:
        """The file of the best epoch so far: its weights and validation logits; None before the first."""
        known = {row["epoch"] for row in self.rows}
        return max(
            (file for file in self.scratch.glob("best-*.npz") if _epoch(file) in known), key=_epoch, default=None
        )

    @property
    def best(self) -> Row | None:
        """The row of the best epoch so far; None before the first."""
        file = self.best_weights()
        return next(row for row in self.rows if row["epoch"] == _epoch(file)) if file else None

    def go_on_from(self, epoch: int) -> None:
        """Forget what came after an epoch that has its backup, and the weights that were the best before it."""
        self.rows = [row for row in self.rows if row["epoch"] <= epoch]
        for file in set(self.scratch.glob("best-*.npz")) - {self.best_weights()}:
            file.unlink()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Tidy up; start the clock."""
        self.go_on_from(epoch)
        self.started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Validate, write the epoch down."""
        seconds = time.monotonic() - self.started
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.add(epoch + 1, {**(logs or {}), "learning_rate": rate, "seconds": seconds})

    def add(self, epoch: int, measured: dict[str, float]) -> None:
        """Validate the model as it is, add its row, and keep its weights if it is the best."""
        logits = self.answers(self.valid)[:, 0].astype(np.float64)
        finite = np.isfinite(logits).all() and all(math.isfinite(value) for value in measured.values())
        if not finite:
            raise UserError(f"the loss is no longer a number in epoch {epoch}; lower the learning_rate in params.yaml")
        validated = {
            "val_loss": figures.loss(self.labels, logits),
            "val_accuracy": float(figures.correct(self.labels, logits, 0.0).mean()),
            "val_auc": figures.roc_auc(self.labels, logits),
        }
        known = {"epoch": float(epoch), **measured, **validated}
        row = {column: known[column] for column in COLUMNS}
        better = self.better(row, logits)
        self.rows.append(row)
        if better:
            with publish(self.scratch / f"best-{epoch}.npz") as part:
                np.savez(part, *self.model.get_weights(), logits=logits)
        write_history(self.scratch / HISTORY, self.rows)

    def better(self, row: Row, logits: NDArray[np.float64]) -> bool:
        """Whether a row with these validation logits replaces the best; the log says where the loss decides."""
        file, best = self.best_weights(), self.best
        if file is None or best is None:
            return True
        with np.load(file) as kept:
            low, high = intervals.of_auc_lead(
                self.labels, logits, kept["logits"], confidence=CONFIDENCE, resamples=RESAMPLES, seed=0
            )
        if low > 0 or high < 0:
            return low > 0
        lower = row["val_loss"] < best["val_loss"]
        chosen, other = (row, best) if lower else (best, row)
        if chosen["val_auc"] < other["val_auc"]:
            print(
                f"epoch {chosen['epoch']:.0f} is kept before {other['epoch']:.0f} by its loss "
                f"({chosen['val_loss']:.4f} and {other['val_loss']:.4f}): {len(self.labels)} validation images "
                f"cannot tell AUC {chosen['val_auc']:.4f} from {other['val_auc']:.4f}"
            )
        return lower

    def restore_best(self) -> None:
        """Give the model the weights of the best epoch."""
        file = self.best_weights()
        assert file is not None, "no epoch was run"
        with np.load(file) as arrays:
            self.model.set_weights([arrays[name] for name in arrays.files if name != "logits"])


class Backup(keras.callbacks.Callback):
    """Model and optimiser as they were after the latest epoch: one file, whole or not at all, the epoch in its name.

    Keras' ``BackupAndRestore`` writes weights and epoch into two files: a kill in between trains an epoch twice.
    """

    def __init__(self, scratch: Path) -> None:
        super().__init__()
        self.scratch = scratch

    def file(self, epoch: int) -> Path:
        """The backup of an epoch."""
        return self.scratch / over_hosts.BACKUP.format(epoch)

    def restore(self, model: "keras.Model") -> None:
        """Give a compiled model its backup, if there is one."""
        with model.distribute_strategy.scope():  # or Keras would trace the first step twice, to make its variables
            model.optimizer.build(model.trainable_variables)
        if done := completed_epochs(self.scratch):
            model.load_weights(self.file(done))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Publish the backup of this epoch, then remove the one before."""
        backup = self.file(epoch + 1)
        with publish(backup) as part:
            self.model.save_weights(part)
        for file in set(self.scratch.glob(over_hosts.BACKUP.format("*"))) - {backup}:
            file.unlink()


class Steps(keras.callbacks.Callback):
    """Says how far an epoch is, where Keras draws no bar."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Begin with no step done."""
        self.steps = progress(total=self.params["steps"], desc=f"epoch {epoch + 1}", unit="step")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Count a step."""
        self.steps.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Make room for what Keras says of the epoch."""
        self.steps.close()


def _epoch(file: Path) -> int:
    """The epoch in the name of a file such as ``best-3.npz``."""
    return int(file.name.split(".")[0].rpartition("-")[2])


def fit(
    model: "keras.Model",
    train: Any,
    valid: Any,
    labels: NDArray[np.int8],
    *,
    epochs: int,
    steps_per_epoch: int,
    scratch: Path,
    curves: Path,
    chief: bool = True,
) -> tuple[list[Row], Row] | None:
    """Train a compiled model, leave it with the weights of its best epoch; return all rows, and that of the best.

    ``train`` never ends; ``labels`` (n,) are those of ``valid``, in its order. A run that finds its own scratch folder
    goes on from there. The rows so far are in ``curves``, a CSV, after every epoch. Of several hosts, the ``chief``
    alone validates, remembers and returns something.
    """
    journal, backup = Journal(scratch, valid, labels), Backup(scratch)
    journal.set_model(model)
    done = completed_epochs(scratch)
    journal.go_on_from(done)
    if done:
        print(f"resumed: {done} of {epochs} epochs were done before")
    if done < epochs:
        backup.restore(model)
        drawing = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: write_history(curves, journal.rows))
        callbacks = [journal, backup, drawing] if chief else []
        length = {"initial_epoch": done, "epochs": epochs, "steps_per_epoch": steps_per_epoch}
        if over_hosts.several(model):
            over_hosts.fit(model, train, next(iter(valid)), **length, callbacks=callbacks)
        else:
            drawn = sys.stdout.isatty()
            model.fit(
                train,
                **length,
                shuffle=False,  # the crops are shuffled already
                callbacks=[keras.callbacks.TerminateOnNaN(), *([] if drawn else [Steps()]), *callbacks],
                verbose=1 if drawn else 2,
            )
    if not chief:
        return None
    journal.restore_best()
    write_history(curves, journal.rows)
    assert journal.best is not None
    return journal.rows, journal.best


def read_history(path: Path) -> list[Row]:
    """The rows of a history file."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{column: float(cell) for column, cell in row.items()} for row in csv.DictReader(file)]


def write_history(path: Path, rows: list[Row]) -> None:
    """Publish rows as CSV with the columns of ``COLUMNS``."""
    with publish(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)
