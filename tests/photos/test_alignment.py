"""The crop of FFHQ."""

import numpy as np
import pytest
from PIL import Image

from stages.photos import alignment, finder
from stages.photos.finder import Face


def face(eyes, mouth):
    return Face(1.0, np.array([0.0, 0.0, 1.0, 1.0]), np.array(eyes, float), np.array(mouth, float))


def test_the_crop_is_ffhqs_of_its_published_script():
    """`recreate_aligned_images` of FFHQ's script, on one face that lies straight and one that does not."""
    for left, right, mouth in (([98, 122], [160, 121], [129, 186]), ([210, 180], [300, 220], [230, 290])):
        left, right, mouth = (np.array(point, float) for point in (left, right, mouth))
        eye_avg, eye_to_eye = (left + right) * 0.5, right - left
        eye_to_mouth = mouth - eye_avg
        x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
        x /= np.hypot(*x)
        x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
        y = np.flipud(x) * [-1, 1]
        c = eye_avg + eye_to_mouth * 0.1
        published = np.stack([c - x - y, c - x + y, c + x + y, c + x - y])
        assert alignment.quad(face([left, right], mouth)) == pytest.approx(published)


def test_a_face_is_cut_out_where_it_is():
    ramp = np.add.outer(np.arange(400), np.arange(500)) / 4
    picture = Image.fromarray(np.repeat(ramp.astype(np.uint8)[..., np.newaxis], 3, axis=2))
    straight = face([[219, 150], [281, 150]], [250, 214])
    corners = alignment.quad(straight)
    crop = np.asarray(alignment.align(picture, straight, 64), float)
    low, high = corners.min(axis=0), corners.max(axis=0)
    assert crop[32, 32, 0] == pytest.approx((low + high).sum() / 2 / 4, abs=2)
    assert crop[0, 0, 0] == pytest.approx(low.sum() / 4, abs=2)
    assert crop[-1, -1, 0] == pytest.approx(high.sum() / 4, abs=2)


def test_beyond_the_edge_lies_the_mirror_image(noise):
    picture = Image.fromarray(noise(0, 100, 100)).resize((200, 200), Image.Resampling.BICUBIC)
    crop = np.asarray(alignment.align(picture, face([[10, 20], [60, 20]], [35, 70]), 64), float)
    assert (crop.std(axis=(0, 1)) > 10).all()
    assert crop[:, :8].std() > 10  # left of the picture
    assert crop[:8].std() > 10  # above it


def test_an_aligned_face_stays_where_it_was(portrait):
    [found] = finder.find(portrait)
    aligned = alignment.align(portrait, found, 256)
    [again] = finder.find(aligned)
    assert alignment.quad(again) == pytest.approx(np.array([[0, 0], [0, 256], [256, 256], [256, 0]]), abs=16)
