"""Perceptual hashes, the pairs among them, and their groups."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import UserError
from stages.faces import duplicates


def flipped(row, bits, random):
    """A hash at exactly ``bits`` bits from ``row`` (uint8, 32)."""
    mask = np.zeros(256, np.uint8)
    mask[random.choice(256, bits, replace=False)] = 1
    return row ^ np.packbits(mask)


def hashes_of(seed, count, planted=()):
    """``count`` random hashes, then for each (of, bits) in ``planted`` a copy of row ``of`` at ``bits`` bits."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (count, 32), dtype=np.uint8)
    return np.vstack([rows, *[flipped(rows[of], bits, random) for of, bits in planted]])


def brute_force(hashes, bits):
    """All pairs within ``bits`` bits, by comparing every bit of every pair."""
    planes = np.unpackbits(hashes, axis=1).astype(int)
    distance = np.abs(planes[:, None] - planes[None]).sum(axis=2)
    return np.argwhere(np.triu(distance <= bits, 1))


def test_the_hash_of_light_that_grows_or_fades_from_left_to_right():
    ramp = np.repeat(np.linspace(0, 255, 68).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    assert duplicates.dhash(ramp) == "f" * 64
    assert duplicates.dhash(np.ascontiguousarray(ramp[:, ::-1])) == "0" * 64


def test_the_hash_hardly_sees_brightness_and_size():
    colours = np.random.default_rng(0).integers(0, 200, (17, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    one, other = (
        np.frombuffer(bytes.fromhex(duplicates.dhash(rgb)), np.uint8)
        for rgb in (colours, colours.repeat(2, 0).repeat(2, 1) + 20)
    )
    assert np.bitwise_count(one ^ other).sum() <= 8


def test_pairs_at_the_distance_are_near_and_one_bit_further_are_not():
    hashes = hashes_of(0, 100, planted=[(3, 31), (7, 32), (9, 0)])
    assert duplicates.near_pairs(hashes, 31).tolist() == [[3, 100], [9, 102]]


def test_no_bits_means_equal_only():
    hashes = hashes_of(0, 50, planted=[(1, 0), (2, 1)])
    assert duplicates.near_pairs(hashes, 0).tolist() == [[1, 50]]


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    planted=st.lists(st.tuples(st.integers(0, 59), st.integers(28, 34)), max_size=40),
    bits=st.integers(0, 120),
)
def test_near_pairs_are_those_of_brute_force_whatever_the_blocks(seed, planted, bits):
    hashes = hashes_of(seed, 60, planted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", 16)
        np.testing.assert_array_equal(duplicates.near_pairs(hashes, bits), brute_force(hashes, bits))


@pytest.mark.parametrize("count", [0, 1])
def test_there_are_no_pairs_among_less_than_two(count):
    assert duplicates.near_pairs(hashes_of(0, count), 31).shape == (0, 2)


def test_too_many_pairs_are_refused_with_the_key_to_lower(monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 2)
    with pytest.raises(UserError, match=r"more than 2 pairs .* data\.near_duplicate_bits is too large; lower it"):
        duplicates.near_pairs(hashes_of(0, 10, planted=[(0, 1), (1, 1), (2, 1)]), 31)


def test_groups_join_through_others_and_are_numbered_by_their_first_image():
    random = np.random.default_rng(0)
    far, first = random.integers(0, 256, (2, 32), dtype=np.uint8)
    second = first ^ np.packbits(np.arange(256) < 20).astype(np.uint8)
    third = second ^ np.packbits(np.arange(256) >= 236).astype(np.uint8)  # 20 bits from second, 40 from first
    likeness = duplicates.alike(np.array([third, far, first, second, far]), 31)
    assert likeness.group.tolist() == [0, 1, 0, 0, 1]
    assert len(likeness.links) == 2
    assert likeness.code[1] == likeness.code[4]


def test_equal_images_cost_no_pairs(monkeypatch):
    monkeypatch.setattr(duplicates, "MAX_PAIRS", 0)
    likeness = duplicates.alike(np.repeat(hashes_of(0, 1), 1000, axis=0), 31)
    assert likeness.group.tolist() == [0] * 1000
    assert duplicates.count_pairs(likeness.code, likeness.links, np.zeros(1000, np.int64)) == 499_500


def test_pairs_are_counted_inside_parts():
    code = np.array([0, 0, 1, 2, 2])  # 0 is near 1; images 0 and 1 are equal, and 3 and 4
    links = np.array([[0, 1]])
    assert duplicates.count_pairs(code, links, np.zeros(5, np.int64)) == 2 + 2
    assert duplicates.count_pairs(code, links, np.array([0, 1, 1, 0, 1])) == 1  # images 1 and 2
    assert duplicates.count_pairs(code, links, np.arange(5)) == 0


def test_no_images_make_no_pairs():
    nothing = np.empty(0, np.int64)
    assert duplicates.count_pairs(nothing, np.empty((0, 2), np.int64), nothing) == 0


def test_what_joins_two_images_from_outside_joins_no_group_within():
    code, links = np.array([0, 1, 2]), np.array([[0, 1], [1, 2]])  # the first is near the second, and that the third
    part = np.array([0, 1, 0])
    group, pairs = duplicates.apart(code, links, part)
    assert group.tolist() == [0, 2, 1]
    assert pairs.tolist() == [[2, 0], [2, 1]]
    alone = duplicates.among(code, links, part == 0)
    assert (alone.code.tolist(), alone.links.tolist(), alone.group.tolist()) == ([0, 2], [], [0, 1])
    assert duplicates.among(code, links, part >= 0).group.tolist() == [0, 0, 0]
