"""Measure the pipeline against what people would do otherwise: a table, and bench/results.json.

    python -m bench.run                  # all that takes minutes, about ten in all
    python -m bench.run input scoring    # some of them
    python -m bench.run --slow           # with those that take longer

Every ratio is of one run, the median of several rounds in which the sides took turns on the same images. Measures that
were not asked for keep the figures that an earlier run on the same machine wrote down.
"""

import argparse
import sys
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from bench import suite
from bench.measure import Result, SkipError, merged, table
from bench.project import ROOT, project
from stages.files import write_json


def main() -> None:
    """Take the measures that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"of {', '.join(suite.NAMES)}")
    parser.add_argument("--slow", action="store_true", help="also those that take more than a few minutes")
    parser.add_argument("--weights", type=Path, help="a folder with ImageNet weights; without it they are random")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results.json", help="default: bench/results.json")
    arguments = parser.parse_args()
    if unknown := set(arguments.measures) - set(suite.NAMES):
        parser.error(f"no measure is called {', '.join(sorted(unknown))}; there are {', '.join(suite.NAMES)}")

    out = arguments.out.resolve()  # the project is elsewhere
    with redirect_stdout(sys.stderr):  # what the stages say is progress
        results, skipped = take(arguments.measures, arguments.slow, arguments.weights)
    content = merged(out, results, skipped)
    write_json(out, content)
    print(table(content))


def take(names: list[str], slow: bool, weights: Path | None) -> tuple[list[Result], dict[str, str]]:
    """The results of the measures called ``names`` (of none: all, the slow ones if asked), and why others lack."""
    chosen = {name: suite.module(name) for name in names or suite.NAMES}
    results, skipped = [], {}
    for name in list(chosen):
        if not names and not slow and getattr(chosen[name], "SLOW", False):
            skipped[name] = "it takes longer than all others; ask for it with --slow"
            del chosen[name]
    needs_project = any(getattr(module, "PROJECT", True) for module in chosen.values())
    with project(weights) if needs_project else nullcontext():
        for name, module in chosen.items():
            print(f"{name}: {module.__doc__.splitlines()[0]}", file=sys.stderr)
            start = time.perf_counter()
            try:
                results += module.measure()
            except SkipError as reason:
                skipped[name] = str(reason)
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return results, skipped


if __name__ == "__main__":
    main()
