"""Corruptions against Pillow and SciPy, which know how a picture is saved, resized and blurred."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from stages.backend import tf
from stages.faces import corruptions

STRENGTHS = {"jpeg": 50, "blur": 1.5, "resize": 0.5, "noise": 5, "social": 75}


def picture(side: int = 48) -> np.ndarray:
    """A picture with edges, gradients and grain: float32, whole numbers in 0–255."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    scene = np.stack([rows * 4, columns * 4, ((rows // 8 + columns // 8) % 2) * 160], axis=-1)
    return np.clip(scene + random.normal(0, 12, scene.shape), 0, 255).round().astype(np.float32)


def corrupt(image: np.ndarray, kind: str, strength: float, seed: int = 0) -> np.ndarray:
    return corruptions.corrupt(tf.constant(image), kind, strength, tf.constant([seed, 1])).numpy()


def saved(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(buffer).convert("RGB")


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_the_result_could_be_saved_as_a_file(kind: str) -> None:
    image = picture()
    changed = corrupt(image, kind, STRENGTHS[kind])
    assert (changed.shape, changed.dtype) == (image.shape, np.float32)
    assert (changed == changed.round()).all()
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert np.abs(changed - image).mean() > 1


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_is_what_pillow_saves(quality: int) -> None:
    expected = np.asarray(saved(Image.fromarray(picture().astype(np.uint8)), quality))
    assert np.abs(corrupt(picture(), "jpeg", quality) - expected).max() <= 1


@pytest.mark.parametrize("sigma", [0.5, 1, 3])
def test_blur_is_a_gaussian(sigma: float) -> None:
    expected = gaussian_filter(picture().astype(np.float64), (sigma, sigma, 0), mode="mirror", truncate=4)
    assert np.abs(corrupt(picture(), "blur", sigma) - expected).max() <= 0.6  # rounding


@pytest.mark.parametrize("factor", [0.75, 0.5, 0.25])
def test_resizing_is_bicubic_and_antialiased(factor: float) -> None:
    small = Image.fromarray(picture().astype(np.uint8)).resize((round(48 * factor),) * 2, Image.Resampling.BICUBIC)
    expected = np.asarray(small.resize((48, 48), Image.Resampling.BICUBIC))
    assert np.abs(corrupt(picture(), "resize", factor) - expected).max() <= 2


def test_noise_has_its_strength_and_follows_its_seed() -> None:
    grey = np.full((64, 64, 3), 128, np.float32)
    noise = corrupt(grey, "noise", 5) - grey
    assert noise.std() == pytest.approx(5, rel=0.03)
    assert noise.mean() == pytest.approx(0, abs=0.15)
    assert (corrupt(grey, "noise", 5) == corrupt(grey, "noise", 5)).all()
    assert (corrupt(grey, "noise", 5) != corrupt(grey, "noise", 5, seed=1)).any()


def test_the_social_chain_resizes_saves_and_comes_back() -> None:
    small = Image.fromarray(picture(64).astype(np.uint8)).resize((50, 50), Image.Resampling.BICUBIC)
    ours = corrupt(picture(64), "social", 75)
    away = {}
    for quality in (60, 70, 75, 80, 90):
        pillows = np.asarray(saved(small, quality).resize((64, 64), Image.Resampling.BICUBIC))
        away[quality] = np.abs(ours - pillows).mean()
    assert min(away, key=lambda quality: away[quality]) == 75
    assert away[75] < 2  # a pixel that rounds the other way before it is saved moves its block


def test_worse_strengths_change_more() -> None:
    for kind, ordered in {"jpeg": (95, 60, 20), "blur": (0.5, 1, 3), "resize": (0.75, 0.5, 0.25)}.items():
        changes = [np.abs(corrupt(picture(), kind, strength) - picture()).mean() for strength in ordered]
        assert changes == sorted(changes)


def test_an_unknown_kind_is_a_defect_of_ours() -> None:
    with pytest.raises(ValueError, match="no corruption is called 'rotate'; there are jpeg, blur"):
        corrupt(picture(), "rotate", 1)
