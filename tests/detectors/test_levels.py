"""Levels: what earlier blocks know lies beside the last block's channels, whatever the size of the image."""

import numpy as np
import pytest

from stages.backend import keras, tf
from stages.detectors import assembly, densenet121, levels, resnet50

WIDTHS = {densenet121: (256, 512, 1024, 1024), resnet50: (256, 512, 1024, 2048)}  # of conv2 to conv5


def name_of(module):
    return module.__name__.rpartition(".")[2]


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def seen(module, from_block, spread=False, magnify=1):
    return levels.Levels(module, from_block, spread, magnify)


@pytest.fixture(scope="module", params=WIDTHS, ids=name_of)
def networks(request):
    """A backbone's module, the backbone, and the same weights with the maps of conv3 and later blocks."""
    module = request.param
    whole, more = module.backbone(), seen(module, "conv3").backbone()
    more.set_weights(whole.get_weights())
    return module, whole, more


def test_the_weights_are_those_of_the_backbone_in_its_order(networks):
    _, whole, more = networks
    assert [weight.path.split("/")[-2:] for weight in more.weights] == [
        weight.path.split("/")[-2:] for weight in whole.weights
    ]
    assert more.name == whole.name


@pytest.mark.parametrize("side", [64, 48, 75, 97, 110])
def test_every_size_has_the_grid_of_the_last_block(networks, side):
    module, whole, more = networks
    images = np.zeros((1, side, side, 3), np.float32)
    shape = more(images).shape
    assert shape[:3] == whole(images).shape[:3]
    assert shape[3] == sum(WIDTHS[module][1:])


def test_earlier_blocks_are_averaged_and_the_last_one_is_as_it_was(networks):
    module, whole, more = networks
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    maps = array(more(images))
    start = 0
    for block, width in zip(("conv3", "conv4", "conv5"), WIDTHS[module][1:], strict=True):
        output = array(keras.Model(whole.input, whole.get_layer(module.BLOCKS[block]).output)(images))
        side = output.shape[1] // 2
        expected = output.reshape(2, 2, side, 2, side, width).mean(axis=(2, 4))
        np.testing.assert_allclose(maps[..., start : start + width], expected, rtol=1e-3, atol=1e-4)
        start += width


def test_the_last_block_alone_is_the_backbone_as_it_is(networks):
    module, whole, _ = networks
    alone = seen(module, "conv5", spread=True).backbone()
    assert len(alone.layers) == len(whole.layers)
    assert alone.output.shape == whole.output.shape


def test_a_spread_is_the_deviation_within_the_square_of_its_average(networks):
    module, whole, _ = networks
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    more = seen(module, "conv4", spread=True).backbone()
    more.set_weights(whole.get_weights())
    maps, width = array(more(images)), WIDTHS[module][2]
    output = array(keras.Model(whole.input, whole.get_layer(module.BLOCKS["conv4"]).output)(images))
    squares = output.reshape(2, 2, 2, 2, 2, width)
    np.testing.assert_allclose(maps[..., :width], squares.mean(axis=(2, 4)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(maps[..., width : 2 * width], squares.std(axis=(2, 4)), rtol=1e-2, atol=2e-3)
    assert maps.shape[3] == 2 * width + WIDTHS[module][3]


def test_where_a_map_is_flat_its_spread_can_still_be_trained_through(toy):
    backbone = seen(toy, "conv4", spread=True).backbone()
    images = keras.ops.zeros((1, 24, 24, 3))
    with tf.GradientTape() as tape:
        total = keras.ops.sum(backbone(images))
    gradients = [array(gradient) for gradient in tape.gradient(total, [w.value for w in backbone.trainable_weights])]
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize(("spread", "magnify"), [(False, 1), (True, 1), (True, 2)])
def test_a_saved_detector_shows_its_evidence(toy, tmp_path, float32, spread, magnify):
    module = seen(toy, "conv4", spread, magnify)
    random = np.random.default_rng(1)
    width = 16 if spread else 12
    top = assembly.head(random.normal(size=width), random.uniform(0.5, 2, width))
    top.get_layer("logit").set_weights([random.normal(size=(width, 1)), random.normal(size=1)])
    backbone = module.backbone()
    assembly.save(module, backbone, top, tmp_path / "toy-finetune.keras")
    images = random.integers(0, 256, (3, 24, 24, 3)).astype(np.float32)
    logits, evidence = map(array, assembly.with_evidence(assembly.load(tmp_path / "toy-finetune.keras"))(images))
    np.testing.assert_allclose(logits, array(assembly.detector(module, backbone, top)(images)), rtol=1e-4)
    assert evidence.shape == (3, 6 * magnify, 6 * magnify)
    np.testing.assert_allclose(evidence.mean(axis=(1, 2)), logits[:, 0], rtol=1e-4, atol=1e-5)
