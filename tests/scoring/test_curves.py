"""The tables behind the plots: their ends, sums and shapes."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.metrics import auc, roc_auc_score

from stages.scoring import curves

LABEL = np.array([0, 0, 1, 1], np.int8)
SCORE = np.array([0.1, 0.4, 0.35, 0.8])


def many(n: int) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Labels and scores of n images whose classes overlap."""
    random = np.random.default_rng(0)
    label = random.integers(0, 2, n).astype(np.int8)
    return label, 1 / (1 + np.exp(-random.normal(size=n) - 2 * (label - 0.5)))


def test_roc_goes_from_corner_to_corner_through_the_known_points() -> None:
    table = curves.roc(LABEL, SCORE)
    points = list(zip(table["false_positive_rate"], table["true_positive_rate"], strict=True))
    assert points == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert np.isnan(table["threshold"][0])
    assert table["threshold"].tolist()[1:] == [0.8, 0.4, 0.35, 0.1]


def test_precision_recall_goes_from_recall_zero_to_one() -> None:
    table = curves.precision_recall(LABEL, SCORE)
    points = list(zip(table["recall"], table["precision"].round(4), strict=True))
    assert points == [(0, 1), (0.5, 1), (0.5, 0.5), (1, 0.6667), (1, 0.5)]
    assert np.isnan(table["threshold"][0])
    assert table["threshold"].tolist()[1:] == [0.8, 0.4, 0.35, 0.1]


def test_roc_of_many_images_is_thinned_without_another_area() -> None:
    label, score = many(20_000)
    table = curves.roc(label, score)
    assert len(table) <= 200
    area = auc(table["false_positive_rate"], table["true_positive_rate"])
    assert area == pytest.approx(roc_auc_score(label, score), abs=0.001)


def test_thinning_keeps_the_ends_and_drops_what_lies_on_the_line() -> None:
    x = np.array([0.0, 0.1, 0.2, 0.3, 0.3, 1.0])
    y = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    assert curves.thin(x, y).tolist() == [0, 3, 4, 5]


def test_thinning_never_keeps_more_than_asked_and_keeps_the_largest_turns() -> None:
    x = np.linspace(0, 1, 1001)
    y = np.where(x < 0.5, 0, 1) + 0.001 * np.sin(60 * x)
    kept = curves.thin(x, y, most=10)
    assert len(kept) == 10
    assert {0, 499, 500, 1000} <= set(kept.tolist())


def test_histogram_counts_every_image_of_both_classes_once() -> None:
    label, score = many(1000)
    table = curves.histogram(label, score)
    sums = table.groupby("actual")[["count", "share"]].sum()
    assert sums["count"].to_dict() == {"real": (label == 0).sum(), "fake": (label == 1).sum()}
    assert sums["share"].to_dict() == pytest.approx({"real": 1, "fake": 1})


def test_histogram_holds_the_extreme_scores_in_its_first_and_last_bin() -> None:
    table = curves.histogram(np.array([0, 1], np.int8), np.array([0.0, 1.0]), bins=4)
    real, fake = (table[table["actual"] == name] for name in ("real", "fake"))
    assert real["count"].tolist() == [1, 0, 0, 0]
    assert fake["count"].tolist() == [0, 0, 0, 1]
    assert fake["low"].tolist() == [0, 0.25, 0.5, 0.75]
    assert fake["high"].tolist() == [0.25, 0.5, 0.75, 1]


def test_confusion_has_a_row_a_cell_with_shares_of_the_true_class() -> None:
    label = np.array([0, 0, 0, 0, 1, 1], np.int8)
    table = curves.confusion(label, np.array([0.1, 0.2, 0.3, 0.9, 0.5, 0.4]), 0.5)
    expected = pd.DataFrame(
        [("real", "real", 3, 0.75), ("real", "fake", 1, 0.25), ("fake", "real", 1, 0.5), ("fake", "fake", 1, 0.5)],
        columns=["actual", "predicted", "count", "share"],
    )
    pd.testing.assert_frame_equal(table, expected)


def test_confusion_keeps_the_empty_column_when_nothing_is_called_fake() -> None:
    table = curves.confusion(LABEL, SCORE, 0.99)
    assert table["count"].tolist() == [2, 0, 2, 0]


def test_report_has_a_row_a_class_and_threshold() -> None:
    table = curves.report(LABEL, SCORE, {"validation": 0.38, "0.5": 0.5})
    assert table[["class", "threshold_name", "threshold"]].to_numpy().tolist() == [
        ["real", "validation", 0.38],
        ["fake", "validation", 0.38],
        ["real", "0.5", 0.5],
        ["fake", "0.5", 0.5],
    ]
    assert table["recall"].tolist() == [0.5, 0.5, 1, 0.5]
    assert table["n"].tolist() == [2, 2, 2, 2]
