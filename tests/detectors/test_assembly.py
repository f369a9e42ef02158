"""A detector: its preprocessing, its head, what of it trains, and the file that others load."""

import json
import zipfile

import numpy as np
import pytest

from stages.backend import keras
from stages.detectors import assembly, densenet121, resnet50

PREPROCESSING = {
    resnet50: keras.applications.resnet50.preprocess_input,
    densenet121: keras.applications.densenet.preprocess_input,
}


def name_of(module):
    return module.__name__.rpartition(".")[2]


def faces(count=4, side=24, seed=0):
    """Random images, float32 in 0–255."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.float32)


def head(width=8, seed=1):
    """A head with random moments and weights."""
    random = np.random.default_rng(seed)
    top = assembly.head(random.normal(size=width), random.uniform(0.5, 2, width))
    top.get_layer("logit").set_weights([random.normal(size=(width, 1)), random.normal(size=1)])
    return top


def moving_statistics(backbone):
    return np.concatenate(
        [weights for layer in backbone.layers if layer.name.endswith("_bn") for weights in layer.get_weights()[2:]]
    )


def call(model, images, **options):
    return keras.ops.convert_to_numpy(model(images, **options))


@pytest.fixture
def detector(toy, float32):
    """The toy's backbone and head, and the detector of both."""
    keras.utils.set_random_seed(3)
    backbone, top = toy.backbone(), head()
    return assembly.detector(toy, backbone, top), backbone, top


@pytest.mark.parametrize("module", PREPROCESSING, ids=name_of)
def test_preprocessing_is_that_of_the_imagenet_weights(module, float32):
    images = faces()
    inputs = keras.Input((None, None, 3))
    ours = call(keras.Model(inputs, module.preprocess(inputs)), images)
    np.testing.assert_allclose(ours, PREPROCESSING[module](images.copy()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", PREPROCESSING, ids=name_of)
def test_preprocessing_keeps_float32_in_mixed_precision(module, float32):
    keras.config.set_dtype_policy("mixed_bfloat16")
    inputs = keras.Input((None, None, 3))
    assert module.preprocess(inputs).dtype == "float32"


@pytest.mark.parametrize("module", PREPROCESSING, ids=name_of)
def test_a_module_is_found_by_its_name(module):
    assert assembly.backbone_module(name_of(module)) is module


def test_training_uses_the_batch_and_moves_the_statistics(detector):
    model, backbone, _ = detector
    before = moving_statistics(backbone)
    untrained = call(model, faces(), training=False)
    assert not np.allclose(call(model, faces(), training=True), untrained)
    assert (moving_statistics(backbone) != before).all()


def test_batch_norm_keeps_up_and_is_shared_by_devices_that_share_a_batch(detector):
    _, backbone, _ = detector
    top = assembly.trainable_head(8)
    for devices in (1, 2):
        assembly.set_batch_norm([*backbone.layers, *top.layers], trains=True, devices=devices)
        norms = [layer for layer in (*backbone.layers, *top.layers) if hasattr(layer, "moving_mean")]
        assert len(norms) == 3
        assert {(norm.momentum, norm.synchronized) for norm in norms} == {(assembly.MOMENTUM, devices == 2)}


def test_batch_norm_that_does_not_train_stays_through_a_step_of_fit(detector):
    model, backbone, _ = detector
    assembly.set_batch_norm(backbone.layers, trains=False, devices=1)
    norms = [layer for layer in backbone.layers if hasattr(layer, "moving_mean")]
    before, kernel = [norm.get_weights() for norm in norms], backbone.get_layer("conv1_conv").get_weights()[0]
    np.testing.assert_array_equal(call(model, faces(), training=True), call(model, faces(), training=False))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    model.fit(faces(), np.ones((4, 1)), verbose=0)
    for norm, weights in zip(norms, before, strict=True):
        for one, other in zip(norm.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(backbone.get_layer("conv1_conv").get_weights()[0], kernel)  # the rest did train


def test_the_detector_is_the_head_on_pooled_features(detector, toy):
    model, backbone, top = detector
    features = assembly.pooled_features(toy, backbone)(faces())
    assert features.shape == (4, 8)
    activations = call(backbone, faces() / 127.5 - 1, training=False)
    np.testing.assert_allclose(features, activations.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(call(model, faces()), top(features), rtol=1e-5)


def test_bytes_are_the_same_faces_as_floats(detector):
    np.testing.assert_array_equal(call(detector[0], faces().astype(np.uint8)), call(detector[0], faces()))


def test_a_trainable_head_settles_to_one_that_does_the_same():
    random, top = np.random.default_rng(0), assembly.trainable_head(8)
    top.compile(keras.optimizers.SGD(0.1), "mse")
    top.fit(random.normal(3, 2, (64, 8)), random.normal(size=(64, 1)), verbose=0)
    features = random.normal(3, 2, (5, 8)).astype(np.float32)
    settled = assembly.settled(top)
    assert isinstance(settled.get_layer("standardise"), keras.layers.Normalization)
    np.testing.assert_allclose(call(settled, features), call(top, features, training=False), rtol=1e-4, atol=1e-6)
    assert np.ptp(call(settled, features)) > 1e-3


def test_the_head_standardises_then_weighs():
    random = np.random.default_rng(0)
    features = random.normal(3, 2, (5, 3)).astype(np.float32)
    mean, variance = np.array([1.0, 2.0, 3.0]), np.array([4.0, 1.0, 0.25])
    top = assembly.head(mean, variance)
    kernel, bias = random.normal(size=(3, 1)), random.normal(size=1)
    top.get_layer("logit").set_weights([kernel, bias])
    np.testing.assert_allclose(
        top(features, training=False), (features - mean) / np.sqrt(variance) @ kernel + bias, rtol=1e-4
    )


@pytest.fixture
def saved(detector, toy, tmp_path):
    """A trained detector, its head, and the file that was saved of it, with BatchNorm statistics of its own."""
    model, backbone, top = detector
    random = np.random.default_rng(5)
    for layer in backbone.layers:
        if layer.name.endswith("_bn"):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    backbone.get_layer("conv1_conv").trainable = False
    path = tmp_path / "models" / "toy-finetune.keras"
    assembly.save(toy, backbone, top, path)
    return model, top, path


@pytest.mark.parametrize("side", [24, 41])
def test_a_saved_detector_gives_the_trained_ones_probabilities(saved, side):
    model, _, path = saved
    loaded = keras.models.load_model(path)
    images = faces(side=side)
    probabilities = call(loaded, images)
    assert probabilities.shape == (4, 1)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-call(model, images))), rtol=1e-4)
    assert np.ptp(probabilities) > 1e-4  # not one number for all


def test_a_saved_detector_needs_none_of_our_code_and_keeps_nothing_frozen(saved):
    with zipfile.ZipFile(saved[2]) as file:
        config = json.loads(file.read("config.json"))
    assert "stages" not in json.dumps(config)
    assert all(layer.trainable for layer in assembly.load(saved[2]).get_layer("toy").layers)


def test_a_detector_of_mixed_precision_is_saved_in_float32(toy, float32, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    backbone, top = toy.backbone(), head()
    model = assembly.detector(toy, backbone, top)
    assert model.output.dtype == "float32"
    assert backbone.get_layer("conv1_conv").compute_dtype == "bfloat16"
    assembly.save(toy, backbone, top, tmp_path / "toy-finetune.keras")
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    keras.config.set_dtype_policy("float32")
    loaded = assembly.load(tmp_path / "toy-finetune.keras")
    layers = loaded.layers + loaded.get_layer("toy").layers + loaded.get_layer("head").layers
    assert {layer.dtype_policy.name for layer in layers} == {"float32"}
    np.testing.assert_allclose(call(loaded, faces()), 1 / (1 + np.exp(-call(model, faces()))), atol=0.02)


def test_a_saving_that_fails_leaves_the_policy_and_no_file(toy, float32, tmp_path, monkeypatch):
    keras.config.set_dtype_policy("mixed_bfloat16")
    backbone = toy.backbone()
    monkeypatch.setattr(keras.Model, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        assembly.save(toy, backbone, head(), tmp_path / "toy-finetune.keras")
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert list(tmp_path.iterdir()) == []


def test_logits_are_those_before_the_sigmoid(saved):
    model, _, path = saved
    np.testing.assert_allclose(
        call(assembly.with_logits(assembly.load(path)), faces()), call(model, faces()), rtol=1e-4, atol=1e-5
    )


def test_logits_do_not_saturate(saved, toy, tmp_path):
    _, top, _ = saved
    kernel, bias = top.get_layer("logit").get_weights()
    top.get_layer("logit").set_weights([kernel, bias + 200])
    assembly.save(toy, toy.backbone(), top, tmp_path / "toy-finetune.keras")
    loaded = assembly.load(tmp_path / "toy-finetune.keras")
    assert (call(loaded, faces()) == 1).all()
    assert len(np.unique(call(assembly.with_logits(loaded), faces()))) == 4


def test_evidence_adds_up_to_the_logits_and_lies_where_the_cause_is(saved):
    model, _, path = saved
    images = np.concatenate([faces(2), faces(1)])
    images[2, :8, :8] = 255  # the first image again, with one corner painted over
    logits, evidence = (
        keras.ops.convert_to_numpy(output) for output in assembly.with_evidence(assembly.load(path))(images)
    )
    assert evidence.shape == (3, 6, 6)  # the toy halves the side twice
    np.testing.assert_allclose(evidence.mean(axis=(1, 2)), logits[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, call(model, images), rtol=1e-4, atol=1e-5)
    changed = np.abs(evidence[2] - evidence[0]) > 1e-4
    assert changed[:2, :2].any()
    assert not changed[4:, 4:].any()
