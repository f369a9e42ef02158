"""What scaling on paper says where the answer is known."""

import pytest

from bench import simulate


@pytest.fixture
def assume(monkeypatch):
    """A function that gives inputs other values."""

    def assume(**values):
        for name, value in values.items():
            name = name.replace("_", " ")
            monkeypatch.setitem(simulate.INPUTS, name, simulate.INPUTS[name]._replace(value=value))

    return assume


def test_a_ring_sends_nearly_twice_the_bytes_past_the_slowest_link(assume):
    assume(latency=0.0, inside_a_host=1e9, between_hosts=1e8)
    assert simulate.all_reduce(1e9, 1) == 0
    assert simulate.all_reduce(1e9, 8) == pytest.approx(2 * 7 / 8)
    assert simulate.all_reduce(1e9, 64) == pytest.approx(2 * 63 / 64 * 10)


def test_without_stragglers_and_with_wide_links_training_is_linear(assume):
    assume(straggling=0.0, latency=0.0, inside_a_host=1e18, between_hosts=1e18, store=1e18)
    cells = [line.split(" | ") for line in simulate.table("training").splitlines()[2:]]
    assert {line[4] for line in cells} == {"100 %"}
    assert {line[-1] for line in cells} == {"compute |"}


def test_eight_gpus_are_as_much_faster_as_those_that_were_measured():
    parts = simulate.step(simulate.value("ResNet50"), 8)
    alone = simulate.step(simulate.value("ResNet50"), 1)["compute"]
    assert 8 * alone / (parts["compute"] + parts["all-reduce"]) == pytest.approx(7.32, abs=0.05)


def test_photos_twice_as_large_take_twice_as_long_where_the_store_is_the_limit(assume):
    def hours():
        *_, line = simulate.table("judging").splitlines()
        return float(line.split(" | ")[3].replace(",", "")), line.split(" | ")[-1]

    (before, limit), photo = hours(), simulate.value("photo")
    assert limit == "store |"
    assume(photo=2 * photo)
    assert hours()[0] == pytest.approx(2 * before, rel=0.01)
