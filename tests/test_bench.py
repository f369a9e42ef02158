"""The benchmark's own code: known answers for its arithmetic and its table; every measure can be found and named.

What the measures say is not tested here: `make bench` measures, and bench/results.json keeps what it said.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench import measure, simulate, suite
from bench.project import run_here, write_params
from stages.params import load

ROOT = Path(__file__).parents[1]
FAST = measure.Result("input.fast", "ours / theirs", [3.0, 5.0, 4.5], 4, details={"seconds": 1})
SLOW = measure.Result("noop", "nothing to do", [5.0, 4.5], 4, better="lower", unit="s")


def test_a_result_is_the_median_and_meets_its_target_from_the_right_side() -> None:
    assert (FAST.ratio, FAST.met) == (4.5, True)
    assert (SLOW.ratio, SLOW.met) == (4.75, False)
    assert FAST.content() == {
        "what": "ours / theirs",
        "ratio": 4.5,
        "unit": "x",
        "target": 4,
        "better": "higher",
        "met": True,
        "n": 3,
        "spread": [3.0, 5.0],
        "seconds": 1,
    }


def test_sides_take_turns_and_are_compared_round_by_round() -> None:
    calls = []
    numbers = iter([2.0, 10.0, 4.0, 12.0])
    sides = {name: lambda name=name: calls.append(name) or next(numbers) for name in ("a", "b")}
    measured = measure.take_turns(sides, 2)
    assert calls == ["a", "b", "a", "b"]
    assert measure.over(measured["b"], measured["a"]) == [5.0, 3.0]
    assert measure.medians(measured) == {"a": 3.0, "b": 11.0}


def test_results_are_kept_by_machine_and_shown_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(measure.merged(path, [FAST], {"noop": "no git", "memory": "no /proc"})))
    content = measure.merged(path, [SLOW], {})
    assert measure.table(content).splitlines() == [
        "| measure | what | ratio | target | met | n | spread |",
        "|---|---|---:|---:|---|---:|---|",
        "| input.fast | ours / theirs | 4.50× | ≥ 4× | yes | 3 | 3.00–5.00 |",
        "| noop | nothing to do | 4.75 s | ≤ 4 s | NO | 2 | 4.50–5.00 |",
        "",
        "memory was skipped: no /proc",
    ]
    other = measure.Result("input.other", "another side", [1.0], 1)
    assert list(measure.merged(path, [other], {})["measures"]) == ["input.other"], "a measure is renewed as a whole"
    monkeypatch.setattr(measure, "machine", lambda: {"cpu": "another"})
    assert list(measure.merged(path, [SLOW], {})["measures"]) == ["noop"]


@pytest.mark.parametrize("name", suite.NAMES)
def test_a_measure_can_be_taken_and_described(name: str) -> None:
    module = suite.module(name)
    assert callable(module.measure)
    assert module.__doc__


def test_the_page_shows_the_results_that_are_kept() -> None:
    content = json.loads((ROOT / "bench/results.json").read_text())
    assert measure.table(content) in (ROOT / "docs/speed.md").read_text()
    assert {name.partition(".")[0] for name in content["measures"]} | set(content["skipped"]) == set(suite.NAMES)


def test_parameters_are_changed_where_the_project_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_params({"image.size": 48})
    write_params({"image.crop": 32})
    assert (load().image.size, load().image.crop) == (48, 32)
    before = sys.argv
    run_here("params")
    assert sys.argv is before


def test_a_measure_that_does_not_exist_is_refused_with_those_that_do() -> None:
    command = [sys.executable, "-m", "bench.run", "speed"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert f"no measure is called speed; there are {', '.join(suite.NAMES)}" in " ".join(result.stderr.split())


def test_the_page_shows_what_is_simulated() -> None:
    assert simulate.table(simulate.inputs()) in (ROOT / "docs/scale.md").read_text()


def test_the_simulated_training_scales_as_its_inputs_say() -> None:
    given = simulate.inputs()
    alone, many = (simulate.training(given, "resnet50", gpus, 10**7) for gpus in (1, 64))
    assert alone.sent == 0
    assert alone.hours == pytest.approx(8e7 / given["resnet50_training"] / 3600, rel=0.01), "no all-reduce on one GPU"
    assert 64 * many.hours > 1.2 * alone.hours
    ideal = given | dict.fromkeys(("network", "nvlink", "store"), math.inf)
    ideal |= dict.fromkeys(("network_hop", "nvlink_hop", "spread"), 0)
    alone, many = (simulate.training(ideal, "resnet50", gpus, 10**7) for gpus in (1, 64))
    assert 64 * many.hours == pytest.approx(alone.hours)
    unshared = simulate.training(given | {"resnet50_norms": 0}, "resnet50", 8, 10**7)
    assert 8e7 / (unshared.hours * 3600) == pytest.approx(17400, rel=0.02), "the spread is fitted to this"
    starved = simulate.training(given | {"store": 1e8}, "resnet50", 64, 10**7)
    assert (starved.bottleneck, starved.hours) == (
        "reading",
        pytest.approx(8e7 * given["face_bytes"] / 1e8 / 3600, rel=0.03),
    )


def test_the_simulated_archive_takes_as_long_as_its_bottleneck() -> None:
    given = simulate.inputs()
    once = simulate.judging(given, 64, on_gpu=True)
    twice = simulate.judging(given | {"photo_bytes": 2 * given["photo_bytes"]}, 64, on_gpu=True)
    assert once.bottleneck == twice.bottleneck == "the store"
    assert twice.hours == pytest.approx(2 * once.hours)
    steady = given | {"failures": 0, "faceless": 0}
    cores = simulate.judging(steady, 1, on_gpu=True)
    hours = 1e9 * given["find_face"] / given["gpu_cores"] / 3600
    assert (cores.bottleneck, cores.hours) == ("the cores", pytest.approx(hours))
    assert simulate.judging(steady | {"failures": 1}, 1, on_gpu=True).hours == pytest.approx(1.5 * hours)
