"""Which device and precision: on this machine, and on GPUs that are only claimed."""

import random
from types import SimpleNamespace

import numpy as np
import pytest

from stages.backend import keras, tf
from stages.detectors import device


@pytest.fixture
def machine(monkeypatch, float32):
    """A function that gives the machine a GPU of some compute capability, or none."""
    calls = []
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: calls.append("determinism"))

    def machine(capability=None):
        gpus = [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")] if capability else []
        details = {"device_name": "Some GPU", "compute_capability": capability}
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
        return calls

    return machine


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        (None, "float32"),
        ((6, 1), "float32"),
        ((7, 0), "mixed_float16"),
        ((7, 5), "mixed_float16"),
        ((8, 0), "mixed_bfloat16"),
        ((9, 0), "mixed_bfloat16"),
    ],
)
def test_the_precision_follows_the_compute_capability(machine, capability, precision, capsys):
    machine(capability)
    used = device.prepare("auto", 1)
    assert used.precision == precision == keras.config.dtype_policy().name
    assert used.name.startswith("GPU Some GPU" if capability else "CPU (")
    exact = " without TF32" if capability and precision == "float32" else ""
    assert capsys.readouterr().out == f"device: {used.name}, {precision}{exact}\n"
    assert tf.config.experimental.tensor_float_32_execution_enabled() == (precision != "float32")


def test_a_gpu_that_does_not_say_what_it_is_trains_in_float32(machine, monkeypatch):
    machine((9, 0))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {})
    assert device.prepare("auto", 1) == device.Device("GPU /physical_device:GPU:0", "float32")


@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("capability", [None, (9, 0)])
def test_a_precision_that_is_asked_for_is_used(machine, precision, capability):
    machine(capability)
    assert device.prepare(precision, 1).precision == precision == keras.config.dtype_policy().name


def test_everything_is_seeded(machine):
    machine()

    def draw(seed):
        device.prepare("float32", seed)
        return random.random(), np.random.random(), float(tf.random.uniform(())), float(keras.random.uniform(()))

    first = draw(1)
    assert draw(1) == first
    assert all(one != other for one, other in zip(draw(2), first, strict=True))


def test_determinism_is_had_when_asked_for(machine):
    calls = machine((9, 0))
    device.prepare("auto", 1)
    assert calls == []
    device.prepare("auto", 1, deterministic=True)
    assert calls == ["determinism"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_batches_are_spread_over_all_gpus_where_there_are_several(monkeypatch, capsys, count):
    gpus = [SimpleNamespace(name=f"/device:GPU:{number}") for number in range(count)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus if kind == "GPU" else [])
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda devices: devices)
    found, said = device.distribution(), capsys.readouterr().out
    if count == 2:
        assert found == ["/device:GPU:0", "/device:GPU:1"]
        assert said == "2 GPUs share each batch\n"
    else:
        assert (found, said) == (tf.distribute.get_strategy(), "")
