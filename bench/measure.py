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

from stages.files import write_json


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


def table(results: Sequence[Result], skipped: dict[str, str]) -> str:
    """The results as a Markdown table; measures that were skipped have their reason below it."""
    lines = [
        "| measure | what | ratio | target | met | n | spread |",
        "|---|---|---:|---:|---|---:|---|",
    ]
    for r in results:
        unit = "×" if r.unit == "x" else " s"
        sign = "≥" if r.better == "higher" else "≤"
        low, high = min(r.values), max(r.values)
        lines.append(
            f"| {r.name} | {r.what} | {r.ratio:.2f}{unit} | {sign} {r.target:g}{unit} | {'yes' if r.met else 'NO'} "
            f"| {len(r.values)} | {low:.2f}–{high:.2f} |"
        )
    return "\n".join([*lines, *(f"\n{name} was skipped: {reason}" for name, reason in skipped.items())])


def save(path: Path, results: Sequence[Result], skipped: dict[str, str]) -> None:
    """Publish results.json: the machine, and each measure by its name."""
    measures = {result.name: result.content() for result in results}
    write_json(path, {"machine": machine(), "measures": measures, "skipped": skipped})


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
