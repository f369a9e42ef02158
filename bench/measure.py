"""What a measure gives: a ratio with a target, from sides that took turns; and how it is shown and kept."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil

from stages.files import read_json


class SkipError(Exception):
    """Why a measure cannot be taken here, in words for the table."""


@dataclass(frozen=True, slots=True)
class Result:
    """One measured figure: ``values`` of the repetitions (ratios, or seconds), and the target of their median.

    ``what`` says in a few words what is compared with what; ``details`` are further figures for results.json.
    """

    name: str
    what: str
    values: Sequence[float]
    target: float
    better: Literal["higher", "lower"] = "higher"
    unit: Literal["x", "s"] = "x"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median of the repetitions."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        """Whether the median is on the right side of the target."""
        return self.ratio >= self.target if self.better == "higher" else self.ratio <= self.target

    def content(self) -> dict[str, Any]:
        """What results.json says of it."""
        return {
            "what": self.what,
            "ratio": round(self.ratio, 3),
            "unit": self.unit,
            "target": self.target,
            "better": self.better,
            "met": self.met,
            "n": len(self.values),
            "spread": [round(min(self.values), 3), round(max(self.values), 3)],
            **self.details,
        }


def seconds(job: Callable[[], object]) -> float:
    """The wall time of a job."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def take_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure all sides ``rounds`` times, A B C A B C …, so that a machine that is busy for a while slows them all."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            measured[name].append(side())
        now = ", ".join(f"{name} {values[-1]:.4g}" for name, values in measured.items())
        print(f"  round {number + 1} of {rounds}: {now}", file=sys.stderr)
    return measured


def over(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round, how many times theirs is ours."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def medians(measured: dict[str, list[float]]) -> dict[str, float]:
    """The median of each side, to four digits."""
    return {name: float(f"{statistics.median(values):.4g}") for name, values in measured.items()}


def table(content: dict[str, Any]) -> str:
    """The content of results.json as a Markdown table; measures that were skipped have their reason below it."""
    lines = [
        "| measure | what | ratio | target | met | n | spread |",
        "|---|---|---:|---:|---|---:|---|",
    ]
    for name, r in content["measures"].items():
        unit = "×" if r["unit"] == "x" else " s"
        sign = "≥" if r["better"] == "higher" else "≤"
        low, high = r["spread"]
        lines.append(
            f"| {name} | {r['what']} | {r['ratio']:.2f}{unit} | {sign} {r['target']:g}{unit} "
            f"| {'yes' if r['met'] else 'NO'} | {r['n']} | {low:.2f}–{high:.2f} |"
        )
    return "\n".join([*lines, *(f"\n{name} was skipped: {reason}" for name, reason in content["skipped"].items())])


def merged(path: Path, results: Sequence[Result], skipped: dict[str, str]) -> dict[str, Any]:
    """The content of results.json with these results: those of other measures on the same machine stay."""
    here = machine()
    earlier = read_json(path) if path.exists() else {}
    if earlier.get("machine") != here:
        earlier = {}
    new = {result.name: result.content() for result in results}
    renewed = {name.partition(".")[0] for name in new}
    kept = {
        name: figure for name, figure in earlier.get("measures", {}).items() if name.partition(".")[0] not in renewed
    }
    measures = dict(sorted({**kept, **new}.items(), key=lambda item: item[0].partition(".")[0]))
    reasons = {**earlier.get("skipped", {}), **skipped}
    present = {name.partition(".")[0] for name in measures}
    return {
        "machine": here,
        "measures": measures,
        "skipped": {name: reason for name, reason in sorted(reasons.items()) if name not in present},
    }


def machine() -> dict[str, Any]:
    """What was measured on: processor, cores, memory, versions."""
    info = Path("/proc/cpuinfo")  # platform.processor() names the architecture only, where it is
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
    }
