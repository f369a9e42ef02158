"""Judge archives of two sizes with `judge_archive` and with `predict`: images a second, and the peak of memory.

    python -m bench.archive --images 2000 20000

Run it in a project that has run `make repro`, with what requirements-cluster.txt pins. The archives come from
``bench/make_archive.py``, in images of the detector's size, which both sides judge without looking for faces. Memory is
the proportional set size of all processes together, Ray's own too, sampled every 5 s. Prints a Markdown table; the
first target is 0.9 of predict's images a second or more, the second 1.15 times the memory or less.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench.scale import ROOT, Cost, run
from stages.predict import open_detectors

INTERVAL = 5.0  # s between two samples of memory: of a dozen processes, each takes a core for tens of milliseconds


def main() -> None:
    """Measure both sides at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs=2, default=[2_000, 20_000], metavar=("FEW", "MANY"))
    parser.add_argument("--shard", type=int, default=500, help="images in a shard")
    arguments = parser.parse_args()
    (few, many), project = arguments.images, Path.cwd()
    size = open_detectors(None)[0].size
    costs: dict[tuple[str, int], Cost] = {}
    with tempfile.TemporaryDirectory(prefix="archive-") as folder:
        for images in (few, many):
            faces = Path(folder, f"{images}.zip")
            make = [sys.executable, ROOT / "bench/make_archive.py", faces, f"--images={images}", f"--size={size}"]
            subprocess.run(make, check=True, stdout=sys.stderr)
            measure = partial(run, project=project, out=subprocess.DEVNULL, interval=INTERVAL)
            costs["predict", images] = measure("predict", "--format", "csv", faces)
            out = Path(folder, f"{images}.out")
            costs["judge_archive", images] = measure("judge_archive", faces, out, f"--shard={arguments.shard}")

    print(f"{size} px, {os.cpu_count()} cores\n")
    print("| | judge_archive | predict | ratio |")
    print("|---|---:|---:|---:|")
    for name, figure in {
        f"s, {few:,} images": lambda side: costs[side, few].seconds,
        f"s, {many:,} images": lambda side: costs[side, many].seconds,
        f"images/s of {many:,}": lambda side: many / costs[side, many].seconds,
        f"images/s from {few:,} to {many:,}": lambda side: (
            (many - few) / (costs[side, many].seconds - costs[side, few].seconds)
        ),
        f"MB, {few:,} images": lambda side: costs[side, few].megabytes,
        f"MB, {many:,} images": lambda side: costs[side, many].megabytes,
        "memory, many / few": lambda side: costs[side, many].megabytes / costs[side, few].megabytes,
    }.items():
        ours, theirs = figure("judge_archive"), figure("predict")
        print(f"| {name} | {ours:.4g} | {theirs:.4g} | {ours / theirs:.2f} |")


if __name__ == "__main__":
    main()
