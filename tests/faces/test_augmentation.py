"""Augmentation: shares and strengths as promised, decided by a seed, against Pillow, SciPy and plain arithmetic."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from stages.backend import tf
from stages.faces import augmentation

SIDE = 32


@pytest.fixture
def grey():
    """A picture without colour, so that only JPEG's handling of brightness matters: edges and grain, uint8."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    scene = ((rows // 8 + columns // 8) % 2) * 120 + 60 + random.normal(0, 12, (SIDE, SIDE))
    return np.repeat(scene.round().astype(np.uint8)[..., None], 3, axis=2)


def augmenter(**shares):
    return augmentation.augmenter(**(dict.fromkeys(("blur", "jpeg"), 0.0) | shares))


def results(image, count, **shares):
    augment = augmenter(**shares)
    seeds = tf.data.Dataset.range(count).map(lambda number: tf.stack([tf.constant(7, tf.int64), 2 * number]))
    return [result.numpy() for result in seeds.map(lambda seed: tf.ensure_shape(augment(image, seed), (SIDE, SIDE, 3)))]


def test_without_a_share_nothing_is_corrupted():
    assert augmenter() is None


@pytest.mark.parametrize("kind", ["blur", "jpeg"])
def test_the_share_is_kept(grey, kind):
    changed = sum(bool((result != grey).any()) for result in results(grey, 400, **{kind: 0.5}))
    assert 140 <= changed <= 240  # the weakest blurs change nothing


def test_kinds_happen_independently(grey):
    untouched = sum(bool((result == grey).all()) for result in results(grey, 400, blur=0.5, jpeg=0.5))
    assert 70 <= untouched <= 130  # about a quarter


def test_a_blur_is_a_gaussian_up_to_three_pixels(grey):
    image = grey.astype(float)
    known = {
        sigma: gaussian_filter(image[..., 0], sigma, mode="mirror", truncate=12 / sigma)
        for sigma in np.arange(10, 301) / 100
    }
    found = []
    for result in results(grey, 60, blur=1.0):
        errors = {sigma: np.abs(result[..., 0] - expected).mean() for sigma, expected in known.items()}
        best = min(errors, key=errors.get)
        assert errors[best] < 1
        found.append(best)
    assert min(found) < 0.4
    assert max(found) > 2.6


def test_jpeg_is_what_pillow_saves_in_qualities_from_30_to_100(grey):
    known = {}
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, "JPEG", quality=quality)
        known[quality] = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
    found = []
    for result in results(grey, 300, jpeg=1.0):
        errors = {quality: np.abs(result - expected).max() for quality, expected in known.items()}
        best = min(errors.values())
        assert best <= 1
        found.append([quality for quality, error in errors.items() if error == best])
    assert all(max(qualities) >= 30 for qualities in found)
    assert min(min(qualities) for qualities in found) < 35
    assert max(max(qualities) for qualities in found) == 100


def test_the_seed_decides(grey):
    augment = augmenter(blur=0.5, jpeg=1.0)
    one, again, other = (augment(grey, tf.constant(seed, tf.int64)).numpy() for seed in ([1, 2], [1, 2], [1, 4]))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
