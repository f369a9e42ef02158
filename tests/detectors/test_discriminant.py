"""Where a head starts: at scikit-learn's discriminant, read in pieces, and as sure of itself as validation allows."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from stages.detectors import assembly
from stages.detectors.discriminant import discriminant, start
from stages.scoring import platt


def rows(count=60, width=100, seed=0, shift=0.5):
    """Correlated features, more than there are rows, and labels; fakes differ in a tenth of the features."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(width, width))
    labels = np.array([0, 1, 1] * (count // 3), np.int8)
    features = random.normal(size=(count, width)) @ mixing
    features[labels == 1, : width // 10] += shift * width**0.5
    return features.astype(np.float32), labels


def same(features):
    return features


def of(features, labels, shrinkage):
    """The discriminant of all rows."""
    return discriminant(features, labels, np.arange(len(labels)), shrinkage, same)


@pytest.mark.parametrize("width", [100, 20])  # more than there are rows, and fewer
@pytest.mark.parametrize("shrinkage", [0.1, 0.5, 1.0])
def test_the_weights_are_scikit_learns(shrinkage, width):
    features, labels = rows(width=width)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(features.astype(np.float64), labels)
    np.testing.assert_allclose(of(features, labels, shrinkage), theirs.coef_[0], rtol=1e-3)


@pytest.mark.parametrize("width", [100, 20])
def test_of_some_rows_it_is_that_of_these_alone(width):
    features, labels = rows(width=width)
    some = np.flatnonzero(np.arange(60) % 7 < 5)
    found = discriminant(features, labels, some, 0.3, same)
    np.testing.assert_allclose(found, of(features[some], labels[some], 0.3))
    assert not np.allclose(found, of(features, labels, 0.3), rtol=0.01)


def test_pieces_of_any_size_give_the_same(monkeypatch):
    features, labels = rows(width=20)
    whole = of(features, labels, 0.3)
    monkeypatch.setattr("stages.detectors.discriminant.CHUNK", 7)
    np.testing.assert_allclose(of(features, labels, 0.3), whole, rtol=1e-3)


@pytest.mark.parametrize("count", [6, 2])
def test_features_that_never_vary_say_nothing(count):
    features, labels = np.full((count, 4), 3.0, np.float32), np.array([0, 1] * (count // 2), np.int8)
    np.testing.assert_array_equal(of(features, labels, 0.3), np.zeros(4))


def test_the_head_ranks_as_the_discriminant_of_standardised_features_and_is_calibrated_on_validation():
    train, valid = rows(), rows(seed=2)
    head = assembly.head(train[0].mean(axis=0), train[0].var(axis=0), dropout=0.5)
    start(head, train, valid, 0.3)
    logits = np.ravel(head(valid[0], training=False)).astype(np.float64)
    assert platt.scaling(valid[1], logits) == pytest.approx((1, 0), abs=1e-2)
    standardised = [(part - train[0].mean(axis=0)) / train[0].std(axis=0) for part in (train[0], valid[0])]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(standardised[0], train[1])
    assert np.corrcoef(theirs.decision_function(standardised[1]), logits)[0, 1] == pytest.approx(1, abs=1e-4)
