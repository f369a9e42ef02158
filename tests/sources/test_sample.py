"""The built-in sample: repeatable, not trivial, learnable; and the arithmetic of its camera and its generator."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import laplace, uniform_filter
from scipy.stats import kurtosis, skew
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.faces.layout import place_of
from stages.sources import sample

PER_CLASS = 150
SIZE = 64
LUMA = np.array([0.299, 0.587, 0.114])


def members_of(archive):
    with zipfile.ZipFile(archive) as members:
        return {name: members.read(name) for name in members.namelist()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The bytes of every face, the pixels (n, 64, 64, 3) as float64 in 0–255, and the labels (n,), 1 fake."""
    archive = tmp_path_factory.mktemp("sample") / "faces.zip"
    sample.fetch(PER_CLASS, SIZE, 20, archive)
    members = members_of(archive)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(jpeg)), float) for jpeg in members.values()])
    return list(members.values()), pixels, np.array([place_of(name).kind == "fake" for name in members], int)


def fetched(tmp_path, faces_per_class, seed):
    archive = tmp_path / f"{faces_per_class}-{seed}.zip"
    sample.fetch(faces_per_class, 32, seed, archive)
    return archive


def probe_auc(features, labels):
    """The cross-validated AUC of a linear classifier."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return roc_auc_score(labels, cross_val_predict(model, features, labels, cv=folds, method="decision_function"))


def colour_sharpness_and_size(jpeg, pixels):
    luma = pixels @ LUMA
    sharpness = np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()
    return [*pixels.mean((0, 1)), luma.std(), sharpness, laplace(luma).var(), len(jpeg)]


def saturation_shape_and_direction(jpeg, pixels):
    luma = pixels @ LUMA
    chroma = pixels[:, :, [0, 2]] - luma[:, :, None]
    saturation = (pixels.max(2) - pixels.min(2)) / np.maximum(pixels.max(2), 1)
    across, down = np.abs(np.diff(luma, axis=1)).mean(), np.abs(np.diff(luma, axis=0)).mean()
    shape = skew(luma, axis=None), kurtosis(luma, axis=None)
    return [saturation.mean(), *shape, across, down, chroma.std(), np.log(len(jpeg))]


def residual_correlations(pixels):
    """How green's fine detail repeats at six distances, how it is shared by the colours, and their shares of it."""
    fine = pixels - uniform_filter(pixels, (3, 3, 0))
    fine -= fine.mean((0, 1))
    power = (fine**2).mean((0, 1))
    green = fine[:, :, 1]
    shifts = [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 2)]
    repeats = [(green[y:, x:] * green[: SIZE - y, : SIZE - x]).mean() / power[1] for y, x in shifts]
    shared = [
        (fine[:, :, i] * fine[:, :, j]).mean() / np.sqrt(power[i] * power[j]) for i, j in ((0, 1), (1, 2), (0, 2))
    ]
    return [*repeats, *shared, power[0] / power[1], power[2] / power[1]]


def spectral_peak(signals, period):
    """The mean power of lines (n, length) at a period in px, relative to the frequencies three steps beside it."""
    length = signals.shape[-1]
    power = (np.abs(np.fft.rfft(signals - signals.mean(-1, keepdims=True))) ** 2).mean(0)
    peak = length // period
    beside = [k for k in (peak - 3, peak + 3) if k < len(power)]
    return power[peak] / power[beside].mean()


def test_same_numbers_give_the_same_bytes(tmp_path):
    first = fetched(tmp_path, 3, 20).read_bytes()
    assert fetched(tmp_path, 3, 20).read_bytes() == first


def test_another_seed_draws_every_face_anew(tmp_path):
    one, other = members_of(fetched(tmp_path, 3, 20)), members_of(fetched(tmp_path, 3, 21))
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


def test_a_face_is_the_same_however_many_are_drawn(tmp_path):
    few, many = members_of(fetched(tmp_path, 2, 20)), members_of(fetched(tmp_path, 4, 20))
    assert few.items() < many.items()
    assert sample.face(1, 3, 32, 20) == many["fake/00003.jpg"]


def test_archive_holds_as_many_stored_faces_of_each_class_and_says_so(tmp_path):
    archive = tmp_path / "faces.zip"
    origin = sample.fetch(3, 32, 7, archive)
    with zipfile.ZipFile(archive) as members:
        assert members.namelist() == [f"{kind}/0000{number}.jpg" for kind in ("real", "fake") for number in range(3)]
        assert {member.compress_type for member in members.infolist()} == {zipfile.ZIP_STORED}
    assert {key: origin[key] for key in ("images", "faces_per_class", "size", "seed")} == {
        "images": 6,
        "faces_per_class": 3,
        "size": 32,
        "seed": 7,
    }


@pytest.mark.parametrize("size", [32, 50, 64])
@pytest.mark.parametrize("label", [0, 1])
def test_a_face_has_the_size_asked_for(label, size):
    assert Image.open(io.BytesIO(sample.face(label, 0, size, 20))).size == (size, size)


def test_both_classes_are_coded_alike(corpus):
    jpegs, _, labels = corpus
    assert np.bincount(labels).tolist() == [PER_CLASS, PER_CLASS]
    codings = set()
    for jpeg in jpegs:
        image = Image.open(io.BytesIO(jpeg))
        tables = tuple(tuple(image.quantization[key]) for key in sorted(image.quantization))
        codings.add((image.format, image.mode, image.size, tables, tuple(image.info)))
    assert len(codings) == 1


@pytest.mark.parametrize("statistics", [colour_sharpness_and_size, saturation_shape_and_direction])
def test_seven_pixel_statistics_hardly_tell_the_classes_apart(corpus, statistics):
    jpegs, pixels, labels = corpus
    features = [statistics(jpeg, image) for jpeg, image in zip(jpegs, pixels, strict=True)]
    assert probe_auc(features, labels) < 0.65


def test_file_size_alone_hardly_tells_the_classes_apart(corpus):
    jpegs, _, labels = corpus
    assert 0.4 < roc_auc_score(labels, [len(jpeg) for jpeg in jpegs]) < 0.6


def test_how_fine_detail_repeats_tells_the_classes_apart(corpus):
    _, pixels, labels = corpus
    assert probe_auc([residual_correlations(image) for image in pixels], labels) > 0.85


@pytest.mark.parametrize(("mix", "period"), [(LUMA, 4), (np.array([0.5, -1, 0.5]), 2)])
@pytest.mark.parametrize("axis", [1, 2])
def test_fakes_alone_have_a_lattice(corpus, mix, period, axis):
    _, pixels, labels = corpus
    lines = (pixels @ mix).mean(axis)
    assert spectral_peak(lines[labels == 1], period) > 2 * spectral_peak(lines[labels == 0], period)


def test_mosaic_takes_one_colour_at_each_site():
    light = np.zeros((4, 4, 3), np.float32) + np.array([1, 2, 3], np.float32)
    assert sample.mosaic(light).tolist() == [[1, 2, 1, 2], [2, 3, 2, 3]] * 2


def test_demosaic_gives_back_even_colour():
    colour = np.array([0.2, 0.5, 0.9], np.float32)
    picture = np.broadcast_to(colour, (6, 8, 3))
    np.testing.assert_allclose(sample.demosaic(sample.mosaic(picture)), picture, rtol=1e-6)


@pytest.mark.parametrize(
    ("site", "channel", "kernel"),
    [
        ((2, 2), 0, [[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]]),
        ((2, 3), 1, [[0, 0.25, 0], [0.25, 1, 0.25], [0, 0.25, 0]]),
        ((3, 2), 1, [[0, 0.25, 0], [0.25, 1, 0.25], [0, 0.25, 0]]),
        ((3, 3), 2, [[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]]),
    ],
)
def test_demosaic_spreads_a_lit_site_over_its_own_colour(site, channel, kernel):
    raw = np.zeros((6, 6), np.float32)
    raw[site] = 1
    expected = np.zeros((6, 6, 3))
    expected[site[0] - 1 : site[0] + 2, site[1] - 1 : site[1] + 2, channel] = kernel
    np.testing.assert_allclose(sample.demosaic(raw), expected, atol=1e-6)


def test_camera_keeps_an_even_scene_but_for_noise_that_neighbours_share():
    picture = sample.camera(np.full((64, 64, 3), 0.5, np.float32), np.random.default_rng(0))
    assert picture.dtype == np.float32
    assert 0 <= picture.min() < 0.5 < picture.max() <= 1
    np.testing.assert_allclose(picture.mean((0, 1)), 0.5, atol=0.01)
    red = picture[:, :, 0] - picture[:, :, 0].mean()
    assert np.corrcoef(red[:, 1:].ravel(), red[:, :-1].ravel())[0, 1] > 0.4


def test_generator_lays_the_lattice_of_its_coarsest_scale_on_an_even_scene():
    picture = sample.generator(np.full((128, 128, 3), 0.5, np.float32), np.random.default_rng(0))
    assert picture.dtype == np.float32
    np.testing.assert_allclose(picture.mean((0, 1)), 0.5, atol=0.01)
    assert spectral_peak((picture @ LUMA.astype(np.float32)).mean(0)[None], 8) > 50


def test_even_upsampling_interpolates():
    image = np.array([[[0.0], [4.0]], [[8.0], [12.0]]], np.float32)
    assert sample.upsample(image, (0.0,))[:, :, 0].tolist() == [
        [0, 2, 4, 4],
        [4, 6, 8, 8],
        [8, 10, 12, 12],
        [8, 10, 12, 12],
    ]


def test_uneven_upsampling_lays_a_checkerboard_of_known_height():
    picture = sample.upsample(np.full((2, 2, 2), 100, np.float32), (0.1, -0.5))
    np.testing.assert_allclose(picture[:2, :2, 0], [[121, 99], [99, 81]], rtol=1e-5)
    np.testing.assert_allclose(picture[:2, :2, 1], [[25, 75], [75, 225]], rtol=1e-5)
    np.testing.assert_allclose(picture.mean((0, 1)), 100, rtol=1e-5)


def test_upsampling_keeps_the_mean_where_the_borders_match():
    image = np.random.default_rng(0).uniform(0, 1, (8, 8, 1)).astype(np.float32)
    image[-1], image[:, -1] = image[0], image[:, 0]
    image[-1, -1] = image[0, 0]
    assert sample.upsample(image, (0.0,)).mean() == pytest.approx(image.mean(), rel=1e-5)


def test_halve_takes_the_mean_of_four():
    image = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    assert sample.halve(image)[:, :, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
