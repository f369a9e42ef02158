"""The threshold against all others, tried one by one."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from stages.scoring.thresholds import best_balanced, of_equal_error, of_false_positive_rate


def threshold_for(real: list[float], fake: list[float]) -> float:
    """The best threshold for the scores of both classes."""
    label = np.array([0] * len(real) + [1] * len(fake), np.int8)
    return best_balanced(label, np.array(real + fake))


def test_it_lies_midway_between_classes_that_are_apart() -> None:
    assert threshold_for([0.1, 0.2], [0.6, 0.9]) == pytest.approx(0.4)


def test_of_equally_good_ones_the_widest_gap_wins_then_the_lowest() -> None:
    # Between 0.1 and 0.2, or between 0.3 and 0.7: one mistake either way.
    assert threshold_for([0.1, 0.3], [0.2, 0.7]) == pytest.approx(0.5)
    assert threshold_for([0.0, 0.5], [0.25, 0.75]) == pytest.approx(0.125)


def test_a_rare_class_is_not_given_up() -> None:
    # Plain accuracy would be best, 9 of 10, with everything called real.
    assert threshold_for([0.1] * 7 + [0.5, 0.6], [0.4]) == pytest.approx(0.25)


def test_scores_that_are_all_the_same_cannot_be_cut() -> None:
    assert threshold_for([0.3, 0.3], [0.3]) == 0.5


def test_scores_the_wrong_way_round_still_get_the_least_bad_threshold() -> None:
    threshold = threshold_for([0.8, 0.9], [0.1, 0.2])
    assert 0.1 < threshold < 0.9


@pytest.mark.parametrize("seed", range(20))
def test_no_other_threshold_between_the_scores_is_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    label = np.append(random.integers(0, 2, 28), [0, 1]).astype(np.int8)
    score = np.round(random.random(30), 1)  # with ties

    def balanced_accuracy(threshold: float) -> float:
        return float(balanced_accuracy_score(label, score >= threshold))

    levels: NDArray[np.float64] = np.unique(score)
    best = max(balanced_accuracy(cut) for cut in (levels[1:] + levels[:-1]) / 2)
    assert balanced_accuracy(best_balanced(label, score)) == pytest.approx(best)


@pytest.mark.parametrize(
    ("real", "fake", "threshold"),
    [
        ([0.1, 0.2, 0.3, 0.6], [0.4, 0.7, 0.8, 0.9], 0.6),  # one of four of each is mistaken
        ([0.1, 0.2], [0.8, 0.9], 0.8),
        ([0.3, 0.3], [0.3, 0.3], 0.3),
    ],
)
def test_the_threshold_of_equal_error(real: list[float], fake: list[float], threshold: float) -> None:
    label = np.array([0] * len(real) + [1] * len(fake), np.int8)
    assert of_equal_error(label, np.array(real + fake)) == threshold


def test_a_false_positive_rate_by_hand() -> None:
    real = np.arange(1, 100) / 100  # 99 of them make 100 gaps
    assert of_false_positive_rate(real, 0.01) == np.nextafter(0.99, 1)
    assert of_false_positive_rate(real, 0.05) == np.nextafter(0.95, 1)
    assert (real >= of_false_positive_rate(real, 0.05)).sum() == 4


def test_a_false_positive_rate_that_so_few_cannot_promise_is_infinitely_strict() -> None:
    assert of_false_positive_rate(np.arange(98) / 100, 0.01) == math.inf
    assert of_false_positive_rate(np.arange(99) / 100, 0.01) < math.inf
    assert of_false_positive_rate(np.array([]), 0.5) == math.inf


def test_a_false_positive_rate_is_kept_for_new_reals() -> None:
    random = np.random.default_rng(0)
    rates = []
    for _ in range(2000):
        threshold = of_false_positive_rate(random.random(50), 0.1)
        rates.append(1 - min(threshold, 1))  # of uniform scores, the share above a threshold
    assert 0.08 < np.mean(rates) <= 0.101
