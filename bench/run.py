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
from collections.abc import Iterator
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
    content = {}
    with redirect_stdout(sys.stderr):  # what the stages say is progress
        for results, skipped in take(arguments.measures, arguments.slow, arguments.weights):
            content = merged(out, results, skipped)
            write_json(out, content)  # after each measure, so that what follows may be interrupted
    print(table(content))


def take(names: list[str], slow: bool, weights: Path | None) -> Iterator[tuple[list[Result], dict[str, str]]]:
    """One by one, the results of the measures called ``names`` (of none: all, the slow ones if asked), or why not."""
    chosen = {name: suite.module(name) for name in names or suite.NAMES}
    for name in list(chosen):
        if not names and not slow and getattr(chosen[name], "SLOW", False):
            yield [], {name: "it takes minutes; ask for it by its name, or for all with --slow"}
            del chosen[name]
    needs_project = any(getattr(module, "PROJECT", True) for module in chosen.values())
    with project(weights) if needs_project else nullcontext():
        for name, module in chosen.items():
            print(f"{name}: {module.__doc__.splitlines()[0]}", file=sys.stderr)
            start = time.perf_counter()
            try:
                yield list(module.measure()), {}
            except SkipError as reason:
                yield [], {name: str(reason)}
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
