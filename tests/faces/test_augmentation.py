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


def spoiling(**shares):
    return augmentation.spoiling(**(dict.fromkeys(("colour", "blur", "resize", "jpeg"), 0.0) | shares))


def results(image, count, **shares):
    spoil = spoiling(**shares)
    seeds = tf.data.Dataset.range(count).map(lambda number: tf.stack([tf.constant(7, tf.int64), 2 * number]))
    return [result.numpy() for result in seeds.map(lambda seed: tf.ensure_shape(spoil(image, seed), (SIDE, SIDE, 3)))]


def test_without_a_share_nothing_is_spoilt():
    assert spoiling() is None


@pytest.mark.parametrize("kind", ["colour", "blur", "resize", "jpeg"])
def test_the_share_is_kept(grey, kind):
    changed = sum(bool((result != grey).any()) for result in results(grey, 400, **{kind: 0.5}))
    assert 140 <= changed <= 240  # the weakest blurs change nothing


@pytest.mark.parametrize("kinds", [("blur", "jpeg"), ("colour", "resize")])
def test_kinds_happen_independently(grey, kinds):
    untouched = sum(bool((result == grey).all()) for result in results(grey, 400, **dict.fromkeys(kinds, 0.5)))
    assert 70 <= untouched <= 130  # about a quarter


def test_brightness_and_contrast_change_by_factors_from_four_to_six_fifths(grey):
    scene = grey // 2 + 40  # grey has no saturation, and nothing of this is clipped
    brightness, contrast = [], []
    for result in results(scene, 60, colour=1.0):
        slope, offset = np.polyfit(scene.ravel(), result.ravel(), 1)
        assert np.abs(result - (slope * scene + offset)).max() <= 1
        brightness.append(result.mean() / scene.mean())
        contrast.append(slope / brightness[-1])
    for factors in (brightness, contrast):
        assert 0.79 <= min(factors) < 0.85
        assert 1.15 < max(factors) <= 1.21


def test_saturation_changes_by_factors_from_four_to_six_fifths():
    factors = []
    for result in results(np.full((SIDE, SIDE, 3), (180, 120, 90), np.uint8), 60, colour=1.0):
        red, green, blue = result[0, 0].astype(float)
        assert (result == result[0, 0]).all()  # no contrast in one colour
        assert (red - green) / (red - blue) == pytest.approx(60 / 90, abs=0.03)  # the hue stays
        factors.append((1 - blue / red) / (1 - 90 / 180))
    assert 0.78 <= min(factors) < 0.85
    assert 1.15 < max(factors) <= 1.22


def test_faces_are_resized_down_to_a_quarter_as_pillow_does(grey):
    known = {}
    for side in range(4, SIDE + 1):
        small = Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC)
        known[side] = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(int)
    found = []
    for result in results(grey, 100, resize=1.0):
        errors = {side: np.abs(result - expected).max() for side, expected in known.items()}
        found.append(min(errors, key=errors.get))
        assert errors[found[-1]] <= 2  # rounding, there and back
    assert 8 <= min(found) <= 10
    assert max(found) == SIDE


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
    spoil = spoiling(colour=0.5, blur=0.5, resize=0.5, jpeg=1.0)
    one, again, other = (spoil(grey, tf.constant(seed, tf.int64)).numpy() for seed in ([1, 2], [1, 2], [1, 4]))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
