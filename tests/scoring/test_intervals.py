"""Intervals against published values, and against what theory says of them."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from stages.scoring import figures, intervals

SETTINGS = {"confidence": 0.95, "resamples": 500, "seed": 7}


def two_classes(each: int, distance: float, seed: int) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Normal scores, ``each`` of both classes, whose means lie ``distance`` standard deviations apart."""
    label = np.repeat([0, 1], each).astype(np.int8)
    return label, np.random.default_rng(seed).normal(size=2 * each) + distance * label


# Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3.
@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_is_the_published_one(hits: int, n: int, low: float, high: float) -> None:
    assert intervals.of_share(hits, n, 0.95) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_keeps_its_width_when_all_are_right() -> None:
    low, high = intervals.of_share(20, 20, 0.95)
    assert (low, high) == pytest.approx((1 - 0.1611, 1), abs=5e-5)


def test_auc_interval_has_the_width_that_hanley_and_mcneil_give() -> None:
    each = 1500
    label, score = two_classes(each, 1.0, seed=1)
    auc = figures.roc_auc(label, score)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (each - 1) * (q1 + q2 - 2 * auc**2)) / each**2
    low, high = intervals.of_auc(label, score, **SETTINGS)
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.15)
    assert (low + high) / 2 == pytest.approx(auc, abs=0.003)


def test_auc_interval_holds_the_true_area_about_as_often_as_it_says() -> None:
    true = norm.cdf(1 / 2**0.5)
    data_sets = 200  # of which 95 % should be hits, give or take 1.5 %
    hits = 0
    for seed in range(data_sets):
        low, high = intervals.of_auc(*two_classes(40, 1.0, seed), **SETTINGS | {"resamples": 200})
        hits += low < true < high
    assert 0.90 <= hits / data_sets <= 0.99


def test_auc_interval_counts_ties_as_one_half() -> None:
    label, score = two_classes(1500, 1.0, seed=1)
    coarse = np.round(score)
    low, high = intervals.of_auc(label, coarse, **SETTINGS)
    assert (low + high) / 2 == pytest.approx(figures.roc_auc(label, coarse), abs=0.003)


def test_auc_interval_is_repeatable_and_follows_its_seed_and_confidence() -> None:
    label, score = two_classes(40, 1.0, seed=2)
    first = intervals.of_auc(label, score, **SETTINGS)
    assert intervals.of_auc(label, score, **SETTINGS) == first
    assert intervals.of_auc(label, score, **SETTINGS | {"seed": 8}) != first
    low, high = intervals.of_auc(label, score, **SETTINGS | {"confidence": 0.8})
    assert first[0] < low < high < first[1]


def test_auc_interval_of_classes_apart_is_one() -> None:
    label = np.array([0, 0, 0, 1, 1], np.int8)
    assert intervals.of_auc(label, np.array([0.1, 0.2, 0.3, 0.8, 0.9]), **SETTINGS) == (1, 1)


def test_average_precision_interval_lies_around_the_figure_ties_or_not() -> None:
    label, score = two_classes(1500, 1.0, seed=1)
    for values in (score, np.round(score)):
        low, high = intervals.of_average_precision(label, values, **SETTINGS)
        assert (low + high) / 2 == pytest.approx(figures.average_precision(label, values), abs=0.004)
        assert 0.02 < high - low < 0.05


def test_average_precision_of_ranks_is_scikit_learns() -> None:
    label, score = two_classes(30, 1.0, seed=4)
    for values in (score, np.round(score), np.zeros(60)):
        ranks = np.unique(values, return_inverse=True)[1]
        ours = intervals._average_precision(ranks[label == 1], ranks[label == 0])
        assert ours == pytest.approx(figures.average_precision(label, values))


@pytest.mark.parametrize("interval", [intervals.of_auc, intervals.of_average_precision])
def test_an_interval_without_both_classes_is_not_a_number(interval: Callable[..., tuple[float, float]]) -> None:
    for label in ([], [0, 0], [1, 1]):
        assert np.isnan(interval(np.array(label, np.int8), np.zeros(len(label)), **SETTINGS)).all()


def test_a_share_of_nothing_has_no_interval() -> None:
    assert np.isnan(intervals.of_share(0, 0, 0.95)).all()


def test_lead_of_a_detector_over_itself_is_nothing() -> None:
    label, score = two_classes(40, 1.0, seed=2)
    assert intervals.of_auc_lead(label, score, score, **SETTINGS) == (0, 0)


def test_lead_turns_around_with_the_detectors() -> None:
    label, score = two_classes(40, 1.0, seed=2)
    other = score + np.random.default_rng(3).normal(size=len(score))
    low, high = intervals.of_auc_lead(label, score, other, **SETTINGS)
    assert intervals.of_auc_lead(label, other, score, **SETTINGS) == pytest.approx((-high, -low))


def test_lead_is_paired_so_that_what_both_share_cancels() -> None:
    label, score = two_classes(150, 1.0, seed=2)
    other = score + np.random.default_rng(3).normal(size=len(score)) / 10
    low, high = intervals.of_auc_lead(label, score, other, **SETTINGS)
    alone_low, alone_high = intervals.of_auc(label, score, **SETTINGS)
    assert high - low < (alone_high - alone_low) / 3


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"),
    [(10, 2, 2 * (1 + 12 + 66) / 2**12), (0, 6, 2 / 2**6), (5, 5, 1.0), (0, 0, 1.0)],
)
def test_mcnemar_is_the_binomial_test_of_the_images_that_one_gets_right(
    only_first: int, only_second: int, expected: float
) -> None:
    both_right, both_wrong = 30, 4
    first = np.repeat([True, False, True, False], [only_first, only_second, both_right, both_wrong])
    second = np.repeat([False, True, True, False], [only_first, only_second, both_right, both_wrong])
    assert intervals.same_accuracy_p(first, second) == pytest.approx(expected)
