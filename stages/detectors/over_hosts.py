"""Training over several hosts: what they agree on, what each gets of a batch, and the loop that ``fit`` is on one."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.backend import keras, tf
from stages.detectors import hosts
from stages.detectors.device import spread
from stages.errors import UserError
from stages.files import hold, publish

BACKUP = "epoch-{}.weights.h5"  # in the scratch folder: the model and its optimiser after so many epochs


def agreed(worker: hosts.Worker, made_of: dict[str, str], scratch: Path, done: int) -> Path:
    """The scratch folder of this host, when all hosts agreed on what they train and where they go on.

    The chief's is that of a host alone, ``done`` the epochs in it; the others begin with its backup, in folders of
    their own, as hosts may share a disk. Raises :class:`UserError` where they differ (:func:`hosts.meet`).
    """
    if not worker.several:
        return scratch
    made_of = {**made_of, "the number of GPUs": str(len(tf.config.list_physical_devices("GPU")))}
    begun = (scratch / BACKUP.format(done)).read_bytes() if worker.chief and done else b""
    epoch, backup = hosts.meet(worker, made_of, done, begun)
    if worker.chief:
        return scratch
    own = scratch.with_name(f"{scratch.name}-{worker.number}")
    with hold(own):
        shutil.rmtree(own, ignore_errors=True)
        if epoch:
            with publish(own / BACKUP.format(epoch)) as part:
                part.write_bytes(backup)
    return own


def shared(
    strategy: "tf.distribute.Strategy", crops: Callable[..., "tf.data.Dataset"], batch_size: int
) -> "tf.distribute.DistributedDataset":
    """Each host's share of batches of ``batch_size`` that all hosts make together.

    ``crops``: :func:`stages.faces.shards.augmented` without ``batch_size`` and ``share``. Raises :class:`UserError` if
    a batch cannot be shared equally.
    """
    devices = strategy.num_replicas_in_sync
    if batch_size % devices:
        raise UserError(
            f"the batch_size of {batch_size} in params.yaml cannot be shared by {devices} devices; make it a multiple"
        )
    return strategy.distribute_datasets_from_function(
        lambda host: crops(batch_size=batch_size // devices, share=(host.input_pipeline_id, host.num_input_pipelines))
    )


def several(model: "keras.Model") -> bool:
    """Whether a model is trained by several hosts together."""
    return isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)


def answers(model: "keras.Model") -> Callable[[Any], NDArray[np.float32]]:
    """A model as a function of batches of (images, labels); of this host alone, where several train."""
    strategy = tf.distribute.get_strategy() if several(model) else model.distribute_strategy  # not the one of all hosts
    judge = spread(model, strategy)
    return lambda batches: np.concatenate([judge(images).numpy() for images, _ in batches])


def fit(
    model: "keras.Model",
    train: Any,
    example: Any,
    *,
    initial_epoch: int,
    epochs: int,
    steps_per_epoch: int,
    callbacks: list[Any],
) -> None:
    """What Keras' ``fit`` does, with its step, over several hosts, where its own loop fails (keras-team/keras#20585).

    ``example``: a batch, to make the metrics of. Raises :class:`UserError` if a host goes away.
    """
    strategy, told = model.distribute_strategy, keras.callbacks.CallbackList(callbacks, model=model)
    with strategy.scope():
        model._symbolic_build(data_batch=example)
    step = tf.function(lambda batch: strategy.run(model.train_step, args=(batch,)))
    batches = iter(train)
    try:
        for epoch in range(initial_epoch, epochs):
            told.on_epoch_begin(epoch)
            model.reset_metrics()
            for _ in range(steps_per_epoch):
                step(next(batches))
            measured = {name: float(value) for name, value in model.get_metrics_result().items()}
            said = ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
            print(f"epoch {epoch + 1} of {epochs}: {said}", flush=True)
            told.on_epoch_end(epoch, measured)
    except (tf.errors.UnavailableError, tf.errors.InternalError, tf.errors.AbortedError) as error:
        if isinstance(error, tf.errors.InternalError) and not re.search("is aborted by|peer|remote", error.message):
            raise  # a kernel of this host failed
        reason = error.message.partition("\n")[0].rpartition("}} ")[2]  # before it, the name of an operation
        raise UserError(
            f"another host went away ({reason}); start all of them again: training goes on from its last whole epoch"
        ) from None
