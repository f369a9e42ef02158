"""Which images are chosen: of known answers."""

import numpy as np
import pytest

from stages.evidence import choice

LABEL = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1], np.int8)
LOGIT = np.array([-3.0, -1.0, 2.0, 1.0, -2.0, -0.5, -4.0, 1.5, 3.0])


def kinds(label: np.ndarray = LABEL, logit: np.ndarray = LOGIT, most: int = 2, seed: int = 0) -> dict[str, choice.Kind]:
    found = choice.kinds(label, logit, logit >= 0, most, np.random.default_rng(seed))
    return {kind.name: kind for kind in found}


def test_the_most_confident_mistakes_come_first() -> None:
    found = kinds()
    assert found["false_alarms"].shown.tolist() == [2, 3]
    assert found["misses"].shown.tolist() == [6, 4]
    assert (found["misses"].of, found["false_alarms"].of) == (3, 2)


def test_right_answers_are_drawn_by_the_seed() -> None:
    label, logit = np.repeat(np.array([0, 1], np.int8), 50), np.repeat([-1.0, 1.0], 50)
    one, again, other = (kinds(label, logit, 4, seed) for seed in (0, 0, 1))
    for name, there in (("right_real", range(50)), ("right_fake", range(50, 100))):
        assert set(one[name].shown) <= set(there)
        assert len(set(one[name].shown)) == 4
        assert one[name].shown.tolist() == again[name].shown.tolist() != other[name].shown.tolist()


def test_titles_say_how_many_and_how_chosen() -> None:
    assert [kind.title for kind in kinds().values()] == [
        "Real, called real (all 2)",
        "Fake, called fake (all 2)",
        "False alarms: real, called fake (all 2)",
        "Misses: fake, called real (2 of 3, the most confident)",
    ]
    assert kinds(most=1)["right_real"].title == "Real, called real (1 of 2, drawn at random)"


def test_a_kind_that_does_not_occur_says_so() -> None:
    misses = kinds(logit=np.where(LABEL == 1, 1.0, LOGIT))["misses"]
    assert misses.title == "Misses: fake, called real (none among 5 fake faces)"
    assert (misses.of, len(misses.shown)) == (0, 0)


@pytest.mark.parametrize(("number", "expected"), [(4, (2, 2)), (8, (4, 3))])
def test_half_of_the_probes_are_called_fake_or_as_many_as_there_are(number: int, expected: tuple[int, int]) -> None:
    called_fake = np.array([True] * 3 + [False] * 6)
    probes = choice.probes(called_fake, number, np.random.default_rng(0))
    assert len(set(probes)) == len(probes)
    assert ((~called_fake[probes]).sum(), called_fake[probes].sum()) == expected
