"""How sure a figure is, and whether a lead is more than chance."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from stages.scoring import figures

Interval = tuple[float, float]


def of_share(hits: int, n: int, confidence: float) -> Interval:
    """Wilson's interval for a share such as an accuracy (doi:10.1080/01621459.1927.10502953).

    It stays within [0, 1] and keeps its width at 0 of n and n of n, where the textbook interval shrinks to nothing.
    Of no images at all, both ends are NaN.
    """
    if n == 0:
        return math.nan, math.nan
    low, high = proportion_confint(hits, n, alpha=1 - confidence, method="wilson")
    return float(low), float(high)


def of_auc(
    label: NDArray[np.int8], score: NDArray[np.float64], *, confidence: float, resamples: int, seed: int
) -> Interval:
    """The percentile bootstrap interval for the area under the ROC curve; NaN where a class is missing.

    Images are drawn anew within each class, so that both keep their size. Where the classes are perfectly apart every
    resample has area 1 and so has the whole interval: then the interval of the accuracy says more.
    """
    return _bootstrap(label, [score], _auc, confidence, resamples, seed)


def of_average_precision(
    label: NDArray[np.int8], score: NDArray[np.float64], *, confidence: float, resamples: int, seed: int
) -> Interval:
    """The percentile bootstrap interval for the average precision, drawn as :func:`of_auc` draws."""
    return _bootstrap(label, [score], _average_precision, confidence, resamples, seed)


def of_auc_lead(
    label: NDArray[np.int8],
    score: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """The interval for the area of ``score`` minus that of ``other``, two detectors on the same images.

    Paired: each resample draws images, and both detectors are judged on them, so that hard and easy images cancel.
    """
    return _bootstrap(label, [score, other], _auc, confidence, resamples, seed)


def same_accuracy_p(correct: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """McNemar's exact test of two detectors on the same images (doi:10.1007/BF02295996).

    The p-value of the hypothesis that both are right equally often: it counts the images that only one gets right.
    """
    table = [
        [int((correct & other).sum()), int((correct & ~other).sum())],
        [int((~correct & other).sum()), int((~correct & ~other).sum())],
    ]
    return float(mcnemar(table, exact=True).pvalue)


def _bootstrap(
    label: NDArray[np.int8],
    scores: list[NDArray[np.float64]],
    figure: Callable[[NDArray[np.int64], NDArray[np.int64]], float],
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """Percentile interval of a figure of the first score, minus the second's if there is one.

    The scores are ranked once; a resample then only counts, which makes 2,000 resamples of 20,000 images take a second
    and no more memory than one batch of image numbers.
    """
    if not figures.has_both(label):
        return math.nan, math.nan
    ranks = [np.unique(score, return_inverse=True)[1] for score in scores]

    def statistic(fake: NDArray[np.int64], real: NDArray[np.int64]) -> float:
        values = [figure(rank[fake], rank[real]) for rank in ranks]
        return values[0] - sum(values[1:])

    result = bootstrap(
        (np.flatnonzero(label == 1), np.flatnonzero(label == 0)),
        statistic,
        n_resamples=resamples,
        batch=100,
        vectorized=False,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _auc(fake: NDArray[np.int64], real: NDArray[np.int64]) -> float:
    """The area under the ROC curve from the ranks of fakes and reals, ties counting one half (Mann and Whitney)."""
    reals_at = np.bincount(real, minlength=int(fake.max()) + 1)
    reals_below = np.cumsum(reals_at) - reals_at / 2
    return float(reals_below[fake].mean() / len(real))


def _average_precision(fake: NDArray[np.int64], real: NDArray[np.int64]) -> float:
    """The average precision from the ranks of fakes and reals: the precision at each rank, weighted by its fakes."""
    levels = max(int(fake.max()), int(real.max())) + 1
    fakes, reals = (np.bincount(ranks, minlength=levels)[::-1] for ranks in (fake, real))
    found = fakes > 0
    called = np.cumsum(fakes + reals)
    return float((fakes[found] * np.cumsum(fakes)[found] / called[found]).sum() / len(fake))
