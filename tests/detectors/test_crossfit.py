"""Heads that have not seen the face that they judge: what each is made of, and who is judged by which."""

import numpy as np
import pytest

from stages.backend import keras, tf
from stages.detectors import assembly, crossfit
from stages.detectors.discriminant import discriminant, standard_of
from stages.errors import UserError
from stages.scoring import platt

IMAGES, VIEWS, WIDTH = 40, 2, 90
FOLD = np.arange(IMAGES) % crossfit.FOLDS


@pytest.fixture
def train():
    """Features of two views of each face, little but noise, and labels."""
    random = np.random.default_rng(4)
    labels = np.array([0, 1] * (IMAGES // 2), np.int8)
    features = random.normal(size=(IMAGES, WIDTH)) + 0.3 * labels[:, np.newaxis]
    views = [features + 0.3 * random.normal(size=features.shape) for _ in range(VIEWS)]
    return np.concatenate(views).astype(np.float32), np.tile(labels, VIEWS)


@pytest.fixture
def head(train):
    """A head that was trained somehow."""
    top = assembly.head(train[0].mean(axis=0), train[0].var(axis=0), 0.2)
    top.get_layer("logit").set_weights([np.random.default_rng(5).normal(size=(WIDTH, 1)), np.array([0.7])])
    return top


@pytest.fixture
def fitted(head, train):
    """The heads of these features."""
    top = crossfit.heads(head)
    crossfit.fit(top, train, VIEWS, 0.3)
    return top


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def judged(top, batches):
    """The logits of what a learner takes of batches, and the labels, in one piece each."""
    learner = crossfit.learner(top)
    logits, labels = zip(*((array(learner(inputs)), array(labels)) for inputs, labels in batches), strict=True)
    return np.concatenate(logits)[:, 0], np.concatenate(labels)[:, 0]


def test_the_head_of_all_is_the_one_that_it_is_given(fitted, head, train):
    features, labels = train
    before = array(fitted(features))
    crossfit.give(fitted, head)
    np.testing.assert_allclose(array(fitted(features))[:, : crossfit.ALL], before[:, : crossfit.ALL], atol=1e-6)
    batches = tf.data.Dataset.from_tensor_slices((features, labels[:, np.newaxis])).batch(16)
    logits, seen = judged(fitted, crossfit.judged_by_all(batches))
    np.testing.assert_allclose(logits, array(head(features, training=False))[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen, labels)


def test_a_face_is_judged_by_a_head_of_the_other_folds_whatever_the_view(fitted, train):
    features, labels = train
    rows = np.tile(np.arange(IMAGES), VIEWS)
    batches = tf.data.Dataset.from_tensor_slices((features, labels[:, np.newaxis], rows))
    batches = batches.shuffle(99, seed=1, reshuffle_each_iteration=False).batch(16)
    shuffled = np.concatenate([array(number) for *_, number in batches])
    pixels = np.concatenate([array(batch) for batch, *_ in batches])
    logits, _ = judged(fitted, crossfit.judged(batches))
    standard = standard_of(fitted)
    for fold in range(crossfit.FOLDS):
        others = np.flatnonzero(rows % crossfit.FOLDS != fold)
        weights = discriminant(features, labels, others, 0.3, standard)
        own = shuffled % crossfit.FOLDS == fold
        assert np.corrcoef(standard(pixels[own]) @ weights, logits[own])[0, 1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("width", [WIDTH, 70, 60, 10])  # of 80 rows, 64 outside of a fold
def test_each_head_is_the_discriminant_of_the_rows_that_it_may_see(train, width):
    features, labels = train[0][:, :width], train[1]
    kernel, _ = crossfit.fitted((features, labels), VIEWS, 0.3, lambda rows: rows)
    fold = np.tile(FOLD, VIEWS)
    for number in range(crossfit.FOLDS + 1):
        weights = discriminant(features, labels, np.flatnonzero(fold != number), 0.3, lambda rows: rows)
        unit = kernel[:, number] / np.linalg.norm(kernel[:, number])
        np.testing.assert_allclose(unit, weights / np.linalg.norm(weights), atol=1e-5)


def test_labels_that_tell_nothing_are_known_by_heart_by_the_head_of_all_alone(head, train):
    features, _ = train
    labels = np.tile(np.random.default_rng(6).integers(2, size=IMAGES), VIEWS).astype(np.int8)
    top = crossfit.heads(head)
    crossfit.fit(top, (features, labels), VIEWS, 0.1)
    logits = array(top(features))
    own = logits[np.arange(len(labels)), np.tile(FOLD, VIEWS)]
    right = [np.mean((scores > np.median(scores)) == labels) for scores in (logits[:, crossfit.ALL], own)]
    assert right[0] > 0.9
    assert right[1] < 0.7


def test_the_folds_own_logits_are_calibrated(fitted, train):
    features, labels = train
    own = array(fitted(features))[np.arange(len(labels)), np.tile(FOLD, VIEWS)].astype(np.float64)
    assert platt.scaling(labels, own) == pytest.approx((1, 0), abs=1e-2)


def test_a_head_takes_the_weights_of_that_of_all(fitted, head, train):
    crossfit.take(fitted, head)
    logits = array(head(train[0], training=False))
    np.testing.assert_allclose(logits[:, 0], array(fitted(train[0]))[:, crossfit.ALL], rtol=1e-4, atol=1e-5)


def test_heads_do_not_learn_by_gradients(fitted):
    assert crossfit.learner(fitted).trainable_weights == []


def test_features_that_are_no_numbers_say_what_to_do(head, train):
    features, labels = train
    with pytest.raises(UserError, match=r"no longer numbers; lower the learning_rate in params\.yaml"):
        crossfit.fit(crossfit.heads(head), (features * np.nan, labels), VIEWS, 0.3)
