"""A head that is solved: scikit-learn's discriminant, and as sure of itself as other rows allow."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from stages.detectors import discriminant
from stages.scoring import platt


def rows(count=60, width=100, seed=0, shift=0.5):
    """Correlated features, more than there are rows, and labels; fakes differ in a tenth of the features."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(width, width))
    labels = np.array([0, 1, 1] * (count // 3), np.int8)
    features = random.normal(size=(count, width)) @ mixing
    features[labels == 1, : width // 10] += shift * width**0.5
    return features.astype(np.float32), labels


def theirs(features, labels, shrinkage):
    """Scikit-learn's discriminant, whose identity is weighed by the average variance within classes."""
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(features.astype(np.float64), labels)


@pytest.mark.parametrize("width", [100, 20])  # more than there are rows, and fewer
@pytest.mark.parametrize("shrinkage", [0.1, 0.5, 0.9])
def test_the_direction_is_scikit_learns_whatever_the_pieces(monkeypatch, shrinkage, width):
    features, labels = rows(width=width)
    within = np.mean([np.var(features[labels == label], axis=0).mean() for label in (0, 1, 1)])
    features /= np.sqrt(within)  # the average variance is 1, as that of standardised features nearly is
    monkeypatch.setattr(discriminant, "CHUNK", 7)
    found = discriminant.discriminant(features, labels, features.mean(axis=0), np.ones(width), shrinkage)
    expected = theirs(features, labels, shrinkage).coef_[0]
    assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("count", [6, 2])
def test_features_that_never_vary_say_nothing(count):
    features, labels = np.full((count, 4), 3.0, np.float32), np.array([0, 1] * (count // 2), np.int8)
    found = discriminant.discriminant(features, labels, *discriminant.moments(features))
    np.testing.assert_array_equal(found, np.zeros(4))


def test_the_head_is_calibrated_on_validation_rows_and_ranks_as_the_discriminant():
    train, valid = rows(), rows(seed=2)
    head = discriminant.head(train, valid)
    logits = np.ravel(head(valid[0], training=False)).astype(np.float64)
    assert platt.scaling(valid[1], logits) == pytest.approx((1, 0), abs=1e-2)
    standardised = [(part - train[0].mean(axis=0)) / train[0].std(axis=0) for part in (train[0], valid[0])]
    scores = theirs(standardised[0], train[1], 0.3).decision_function(standardised[1])
    assert np.corrcoef(scores, logits)[0, 1] > 0.99


def test_a_feature_that_hardly_varies_is_not_blown_up():
    mean, variance = discriminant.moments(np.array([[1.0, 0.0], [1.0, 2.0]], np.float32))
    np.testing.assert_allclose(mean, [1, 1])
    np.testing.assert_allclose(variance, [0.5e-3, 1])


def test_moments_are_those_of_all_rows_whatever_the_pieces(monkeypatch):
    features, _ = rows()
    monkeypatch.setattr(discriminant, "CHUNK", 7)
    mean, variance = discriminant.moments(features)
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, features.var(axis=0), rtol=1e-4)
