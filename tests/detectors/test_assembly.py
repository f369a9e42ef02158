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


def head(width=8, dropout=0.0, seed=1):
    """A head with random moments and weights."""
    random = np.random.default_rng(seed)
    top = assembly.head(random.normal(size=width), random.uniform(0.5, 2, width), dropout)
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
    """A function that builds the toy's backbone and head into a detector, for a treatment of BatchNorm."""
    keras.utils.set_random_seed(3)
    backbone, top = toy.backbone(), head()

    def detector(batch_norm):
        return assembly.detector(toy, backbone, top, batch_norm), backbone, top

    return detector


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


def test_inference_mode_holds_while_training(detector):
    model, backbone, _ = detector("inference")
    before = moving_statistics(backbone)
    np.testing.assert_array_equal(call(model, faces(), training=True), call(model, faces(), training=False))
    np.testing.assert_array_equal(moving_statistics(backbone), before)


def test_inference_mode_holds_through_a_step_of_fit(detector):
    model, backbone, _ = detector("inference")
    before, kernel = moving_statistics(backbone), backbone.get_layer("conv1_conv").get_weights()[0]
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    model.fit(faces(), np.ones((4, 1)), verbose=0)
    np.testing.assert_array_equal(moving_statistics(backbone), before)
    assert not np.array_equal(backbone.get_layer("conv1_conv").get_weights()[0], kernel)  # the rest did train


def test_training_mode_uses_the_batch_and_moves_the_statistics(detector):
    model, backbone, _ = detector("training")
    before = moving_statistics(backbone)
    untrained = call(model, faces(), training=False)
    assert not np.allclose(call(model, faces(), training=True), untrained)
    assert (moving_statistics(backbone) != before).all()


def test_the_two_modes_agree_outside_training(detector):
    images = faces()
    one, other = (call(detector(mode)[0], images, training=False) for mode in ("inference", "training"))
    np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("batch_norm", ["inference", "training"])
def test_the_detector_is_the_head_on_pooled_features(detector, toy, batch_norm):
    model, backbone, top = detector(batch_norm)
    features = assembly.pooled_features(toy, backbone)(faces())
    assert features.shape == (4, 8)
    activations = call(backbone, faces() / 127.5 - 1, training=False)
    np.testing.assert_allclose(features, activations.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(call(model, faces()), top(features), rtol=1e-5)


def test_the_head_standardises_then_weighs():
    random = np.random.default_rng(0)
    features = random.normal(3, 2, (5, 3)).astype(np.float32)
    mean, variance = np.array([1.0, 2.0, 3.0]), np.array([4.0, 1.0, 0.25])
    top = assembly.head(mean, variance, 0.5)
    kernel, bias = random.normal(size=(3, 1)), random.normal(size=1)
    top.get_layer("logit").set_weights([kernel, bias])
    np.testing.assert_allclose(
        top(features, training=False), (features - mean) / np.sqrt(variance) @ kernel + bias, rtol=1e-4
    )


def test_a_constant_feature_is_not_blown_up():
    top = assembly.head(np.zeros(2), np.array([0.0, 2.0]), 0.0)
    top.get_layer("logit").set_weights([np.array([[1.0], [0.0]]), np.zeros(1)])
    np.testing.assert_allclose(call(top, np.array([[0.1, 0.0]], np.float32)), [[0.1 / np.sqrt(1e-3)]], rtol=1e-5)


def test_features_that_are_all_constant_give_numbers():
    top = assembly.head(np.ones(2), np.zeros(2), 0.0)
    assert np.isfinite(top(np.ones((1, 2), np.float32))).all()


def test_dropout_acts_in_training_alone():
    top, features = head(dropout=0.9), faces(1, 1).ravel()[:1] + np.arange(8.0)
    still = call(top, features[np.newaxis], training=False)
    np.testing.assert_array_equal(call(top, features[np.newaxis], training=False), still)
    assert any(not np.allclose(call(top, features[np.newaxis], training=True), still) for _ in range(5))


@pytest.mark.parametrize("module", PREPROCESSING, ids=name_of)
def test_unfreezing_names_the_block_where_training_starts(module, float32):
    backbone = module.backbone()
    everything, counts = len(backbone.trainable_weights), []
    for block in ("all", "conv1", "conv2", "conv3", "conv4", "conv5"):
        assembly.unfreeze(backbone, block)
        counts.append(len(backbone.trainable_weights))
        names = [layer.name for layer in backbone.layers if layer.weights and layer.trainable]
        assert block == "all" or names[0].startswith(f"{block}_")
    assert counts[0] == counts[1] == everything
    assert counts[1:] == sorted(set(counts), reverse=True)
    # Of conv5: a convolution has a kernel in DenseNet121, a bias too in ResNet50; a BatchNorm trains two weights.
    assert counts[-1] == {"resnet50": 10 * 2 + 10 * 2, "densenet121": 16 * (2 + 1 + 2 + 1) + 2}[name_of(module)]


def test_what_was_frozen_can_be_unfrozen(toy, float32):
    backbone = toy.backbone()
    everything = len(backbone.trainable_weights)
    assembly.unfreeze(backbone, "conv5")
    assert len(backbone.trainable_weights) == everything // 2
    assembly.unfreeze(backbone, "all")
    assert len(backbone.trainable_weights) == everything


def test_only_the_unfrozen_blocks_train(detector):
    model, backbone, _ = detector("inference")
    assembly.unfreeze(backbone, "conv5")
    before = {layer.name: layer.get_weights() for layer in backbone.layers}
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    model.fit(faces(), np.ones((4, 1)), verbose=0)
    np.testing.assert_array_equal(backbone.get_layer("conv1_conv").get_weights()[0], before["conv1_conv"][0])
    assert not np.array_equal(backbone.get_layer("conv5_conv").get_weights()[0], before["conv5_conv"][0])


@pytest.fixture
def saved(detector, toy, tmp_path):
    """A trained detector, its head, and the file that was saved of it, with BatchNorm statistics of its own."""
    model, backbone, top = detector("inference")
    random = np.random.default_rng(5)
    for layer in backbone.layers:
        if layer.name.endswith("_bn"):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    assembly.unfreeze(backbone, "conv5")
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
    assert "inference_mode" not in json.dumps(config)
    assert all(layer.trainable for layer in assembly.load(saved[2]).get_layer("toy").layers)


def test_a_detector_of_mixed_precision_is_saved_in_float32(toy, float32, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    backbone, top = toy.backbone(), head()
    model = assembly.detector(toy, backbone, top, "inference")
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
