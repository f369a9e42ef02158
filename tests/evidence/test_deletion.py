"""Deletion: of known maps, what is deleted, and figures by hand."""

import numpy as np
import pytest
from scipy import stats

from stages.evidence import deletion


@pytest.mark.parametrize(("places", "expected"), [(64, [6, 16, 32]), (49, [5, 12, 24]), (4, [1, 2]), (1, [1])])
def test_fractions_become_whole_places_one_at_least_and_none_twice(places: int, expected: list[int]) -> None:
    assert deletion.counts(places).tolist() == expected


def test_the_maps_order_deletes_what_supports_most() -> None:
    support = np.arange(64.0).reshape(8, 8)
    by_map = deletion.plan(support, np.random.default_rng(0))[0]
    for deleted, count in zip(by_map, (6, 16, 32), strict=True):
        assert sorted(support[deleted]) == list(range(64 - count, 64))


def test_random_orders_delete_as_much_each_its_own_and_the_next_more_of_the_same() -> None:
    deleted = deletion.plan(np.zeros((8, 8)), np.random.default_rng(0))
    assert deleted.shape == (1 + deletion.DRAWS, 3, 8, 8)
    assert (deleted.sum(axis=(2, 3)) == [6, 16, 32]).all()
    assert len({order.tobytes() for order in deleted}) == 1 + deletion.DRAWS
    assert (deleted[:, 0] <= deleted[:, 1]).all()
    assert (deleted[:, 1] <= deleted[:, 2]).all()


def test_deleted_places_lose_their_texture_and_keep_their_light_and_others_are_untouched() -> None:
    image = np.random.default_rng(0).integers(50, 200, (64, 64, 3)).astype(np.float32)
    deleted = np.zeros((2, 2, 2), bool)
    deleted[1, 0, 1] = True
    whole, holed = deletion.without(image, deleted)
    assert holed.dtype == np.float32
    np.testing.assert_array_equal(whole, image)
    changed = (holed != image).any(axis=2)
    assert changed[:32, 32:].mean() > 0.99
    changed[:32, 32:] = False
    assert not changed.any()
    assert holed[:32, 32:].std() < 0.1 * image.std()
    assert holed[:32, 32:].mean() == pytest.approx(image[:32, 32:].mean(), abs=3)


def test_places_that_do_not_divide_the_image_still_cover_it() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.float32)
    parts = deletion.without(image, np.eye(9, dtype=bool).reshape(9, 3, 3)) != image
    assert (parts.any(axis=3).sum(axis=0) <= 1).all()
    assert parts.any(axis=(0, 3)).mean() > 0.99


def test_curves_are_means_and_t_intervals_over_images() -> None:
    drops = np.zeros((3, 1 + deletion.DRAWS, 2))
    drops[:, 0] = [[1, 4], [2, 5], [6, 6]]
    drops[:, 1:] = np.arange(deletion.DRAWS)[:, np.newaxis]  # the mean of each image's draws is 2
    table = deletion.curves(drops, 4, 0.95)
    assert table["order"].tolist() == ["evidence", "evidence", "random", "random"]
    assert table["deleted"].tolist() == [0.25, 0.5, 0.25, 0.5]
    assert table["drop"].tolist() == [3, 5, 2, 2]
    assert set(table["n"]) == {3}
    expected = stats.ttest_1samp([1, 2, 6], 0).confidence_interval(0.95)
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([expected.low, expected.high])
    assert table.loc[2, ["low", "high"]].tolist() == [2, 2]


def test_the_map_is_better_where_it_costs_more_than_random_orders_on_average_and_a_tie_is_not() -> None:
    drops = np.ones((3, 1 + deletion.DRAWS, 2))
    drops[0, 0, 1] = 1.1
    drops[1, 0, 0] = 0.9
    assert deletion.better(drops).tolist() == [True, False, False]
