"""Where networks run, and in which precision."""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from stages.backend import keras, tf

Network = Callable[["tf.Tensor"], "tf.Tensor"]  # uint8 images (n, size, size, 3) to float32 answers (n, width)


class Device(NamedTuple):
    """What a run used, in words for the record: ``name`` (CPU or the GPU's), Keras' ``precision`` policy."""

    name: str
    precision: str


def prepare(precision: str, seed: int, deterministic: bool = False) -> Device:
    """Seed everything, choose the precision, say in one line what is used.

    ``precision`` "auto" is float32 on a CPU; on a GPU bfloat16 or float16 mixed precision, by its compute capability
    (tensor cores from 7.0, bfloat16 from 8.0). In plain float32 a GPU does not round products to TF32 (10 bits): scores
    and exports agree with Keras on a CPU then. XLA is left to Keras (``jit_compile="auto"``), which trains with it on
    one GPU, but not on several, not on a CPU and not if ``deterministic``.
    """
    keras.utils.set_random_seed(seed or 2**30)  # beside a 0, tf.data.Dataset.shuffle takes no tensor for a seed
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    name = f"CPU ({os.cpu_count()} cores)"
    chosen = "float32"
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get("compute_capability", (0, 0))
        name = f"GPU {details.get('device_name', gpus[0].name)}"
        chosen = "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else "float32"
    if precision != "auto":
        chosen = precision
    keras.config.set_dtype_policy(chosen)
    tf.config.experimental.enable_tensor_float_32_execution(chosen != "float32")
    print(f"device: {name}, {chosen}{' without TF32' if gpus and chosen == 'float32' else ''}")
    return Device(name, chosen)


def distribution(hosts: int = 1) -> "tf.distribute.Strategy":
    """How batches are spread: over all GPUs, each with its part of every batch, of this host or of several.

    Of several hosts (:mod:`stages.detectors.hosts`) it waits for the others, and has to come before all else.
    """
    if hosts > 1:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        print(f"{hosts} hosts share each batch, {strategy.num_replicas_in_sync} devices in all")
        return strategy
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) < 2:
        return tf.distribute.get_strategy()
    print(f"{len(gpus)} GPUs share each batch")
    return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])


def spread(model: "keras.Model", strategy: "tf.distribute.Strategy") -> Network:
    """A model as a function of a batch, which all devices share; the answers are in the order of the images."""
    devices = strategy.num_replicas_in_sync

    def judge(images: "tf.Tensor") -> "tf.Tensor":
        # Cast on the device: a byte a value has to get there, not four.
        return model(tf.cast(images, tf.float32), training=False)

    answers = tf.function(lambda shares: strategy.run(judge, (shares,)), reduce_retracing=True)

    def alone(images: "tf.Tensor") -> "tf.Tensor":
        any_number = tf.TensorSpec((None, *images.shape[1:]), images.dtype)  # or a last, smaller batch is traced anew
        return answers.get_concrete_function(any_number)(images)

    def together(images: "tf.Tensor") -> "tf.Tensor":
        # Black images fill up a batch that cannot be shared equally: no device is left with none.
        filled = np.pad(images, [(0, -len(images) % devices), (0, 0), (0, 0), (0, 0)])
        parts = np.split(filled, devices)
        with tf.device("CPU"):  # or all would go to the first GPU, and on to the others from there
            shares = strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(parts[context.replica_id_in_sync_group])
            )
        return tf.concat(strategy.experimental_local_results(answers(shares)), axis=0)[: len(images)]

    return alone if devices == 1 else together
