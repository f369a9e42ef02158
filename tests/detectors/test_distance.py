"""The distance from the training faces, of features whose distribution is known."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from stages.backend import keras
from stages.detectors import assembly, distance
from stages.errors import UserError


@pytest.fixture
def distances(tmp_path):
    """A function that gives the distances of features from training features, as a loaded detector would."""

    def distances(train, others):
        distance.fit(train.astype(np.float32), tmp_path / "axes.npz")
        images = keras.Input((train.shape[1],))
        model = keras.Model(images, keras.layers.Activation("linear", name="pool")(images))
        answer, found = assembly.with_distance(model, tmp_path / "axes.npz")(others.astype(np.float32))
        np.testing.assert_array_equal(answer, others.astype(np.float32))
        return np.asarray(found)

    return distances


def drawn(seed, count, width=5):
    """Features of different scales that vary together."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(width, width)) * np.linspace(1, 4, width)
    return random.normal(size=(count, width)) @ mixing + 100


def test_it_is_mahalanobis_along_all_axes_of_few_features(distances):
    train, others = drawn(0, 200), drawn(1, 7)
    inverse = np.linalg.inv(np.cov(train.T))
    wanted = [[mahalanobis(row, train.mean(axis=0), inverse) / np.sqrt(5)] for row in others]
    found = distances(train, others)
    assert found.shape == (7, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_it_is_about_one_for_training_faces_and_more_for_others(distances):
    train = drawn(0, 300, width=200)
    assert np.sqrt(np.mean(distances(train, train) ** 2)) == pytest.approx(1, abs=0.01)
    assert (distances(train, drawn(0, 50, width=200)[:, ::-1]) > distances(train, train).mean()).all()


def test_some_faces_and_the_first_axes_are_enough(distances, tmp_path, monkeypatch):
    monkeypatch.setattr(distance, "FACES", 50)
    monkeypatch.setattr(distance, "AXES", 3)
    features = drawn(0, 100)
    few, all_ = (distances(train, features[:8]) for train in (features[::2], features))
    np.testing.assert_array_equal(few, all_)
    assert np.load(tmp_path / "axes.npz")["kernel"].shape == (5, 3)


@pytest.mark.parametrize("count", [2, 12])
def test_few_faces_and_features_that_are_constant_give_a_number(distances, count):
    train = drawn(0, count)
    train[:, 2] = 7
    assert np.isfinite(distances(train, drawn(1, 4))).all()


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"axes\.npz is missing; make it with `dvc repro`"):
        assembly.with_distance(keras.Sequential([keras.Input((2,))]), tmp_path / "axes.npz")
