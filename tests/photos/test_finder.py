"""Faces are found where they are, in photographs, and only there."""

import numpy as np
import pytest
from PIL import Image

from stages.photos import alignment, finder


def test_a_portrait_has_one_face_with_eyes_and_mouth_in_place(portrait):
    [face] = finder.find(portrait)
    left, top, right, bottom = face.box
    assert left < face.eyes[0, 0] < face.mouth[0] < face.eyes[1, 0] < right
    assert top < face.eyes[:, 1].min()
    assert face.eyes[:, 1].max() < face.mouth[1] < bottom
    assert finder.MIN_CONFIDENCE <= face.confidence <= 1


@pytest.mark.parametrize("scale", [0.12, 0.25, 1.0, 3.0])
def test_a_face_is_found_at_any_scale(portrait, scale):
    size = round(portrait.width * scale), round(portrait.height * scale)
    [reference], [face] = finder.find(portrait), finder.find(portrait.resize(size, Image.Resampling.LANCZOS))
    assert face.box / scale == pytest.approx(reference.box, abs=25)


def test_a_small_face_in_a_large_photo_is_found(portrait):
    photo = Image.new("RGB", (2400, 1800), (90, 120, 90))
    photo.paste(portrait.resize((280, 328)), (1900, 300))  # a face of 115 px
    [face] = finder.find(photo)
    assert 1900 < face.box[0] < face.box[2] < 2180


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_faces_of_a_turned_photo_are_cut_out_upright(portrait, quarters):
    photo = Image.new("RGB", (1100, 700), (90, 120, 90))
    photo.paste(portrait, (20, 80))
    photo.paste(portrait.resize((256, 300)), (700, 300))
    turned = Image.fromarray(np.rot90(np.asarray(photo), quarters))
    upright = [alignment.align(photo, face, 64) for face in finder.find(photo)]
    found = [alignment.align(turned, face, 64) for face in finder.find(turned)]
    assert len(found) == len(upright) == 2
    for crop in found:  # whose order is that of the turned photo
        assert min(np.abs(np.asarray(crop, float) - np.asarray(other, float)).mean() for other in upright) < 5


def test_a_photo_without_people_has_no_face():
    from sklearn.datasets import load_sample_images

    for pixels in load_sample_images().images:  # a temple, a flower
        assert finder.find(Image.fromarray(pixels)) == []


def test_neither_noise_nor_one_pixel_is_a_face(noise):
    assert finder.find(Image.fromarray(noise(0, 500, 700))) == []
    assert finder.find(Image.new("RGB", (1, 1))) == []
    assert finder.find(Image.fromarray(np.zeros((2, 3000, 3), np.uint8))) == []
