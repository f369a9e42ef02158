"""Run the data stages on two sets of two sizes, and say what each took: seconds, and the peak memory of its processes.

    python bench/scale.py --images 14000 140000

The archives come from ``bench/make_archive.py``, in the layout of the 140k corpus; the second set has five images where
the first has seven, so 100,000 beside 140,000. Memory is the proportional set size
(pages that processes share count once) of a stage and its workers, sampled every 50 ms. Prints a Markdown table.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
SETS = {"faces": 1.0, "others": 5 / 7}  # of the images that were asked for
STAGES = (
    *(f"{stage} {name}" for stage in ("download", "index") for name in SETS),
    *("audit", "split"),
    *(f"preprocess {name}" for name in SETS),
)
INTERVAL = 0.05  # s between two samples of memory


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage took: ``seconds`` of wall time, ``megabytes`` at the peak of all its processes together."""

    seconds: float
    megabytes: float


def main() -> None:
    """Measure every stage at every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs=2, default=[14_000, 140_000], metavar=("FEW", "MANY"))
    parser.add_argument("--size", type=int, default=64, help="px, the side of an image")
    args = parser.parse_args()
    few, many = (measure(images, args.size) for images in args.images)

    factor = args.images[1] / args.images[0]
    sizes = [f"{unit}, {images:,}" for unit in ("s", "MB") for images in args.images]
    print(f"| stage | {' | '.join(sizes[:2])} | time / {factor:g} | {' | '.join(sizes[2:])} | memory |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for stage in STAGES:
        a, b = few[stage], many[stage]
        print(
            f"| {stage} | {a.seconds:.1f} | {b.seconds:.1f} | × {b.seconds / a.seconds / factor:.2f} "
            f"| {a.megabytes:.0f} | {b.megabytes:.0f} | × {b.megabytes / a.megabytes:.2f} |"
        )


def measure(images: int, size: int) -> dict[str, Cost]:
    """The cost of every stage on sets of so many images, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        project = Path(folder)
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        params["sets"] = {}
        for seed, (name, share) in enumerate(SETS.items()):
            archive = project / f"{name}.zip"
            options = [f"--images={round(images * share)}", f"--size={size}", f"--seed={seed}"]
            make = [sys.executable, ROOT / "bench/make_archive.py", archive, *options]
            subprocess.run(make, check=True, stdout=sys.stderr)
            params["sets"][name] = {"source": "folder", "use": "train", "path": str(archive)}
        params["weights"]["source"] = "random"  # auto is for the sample only; no stage here reads weights
        params["split"] |= {"method": "official", "near_duplicates": "drop"}
        yaml.dump(params, project / "params.yaml")
        return {stage: run(*stage.split(), project=project) for stage in STAGES}


def run(
    stage: str, *arguments: object, project: Path, out: IO[str] | int = sys.stderr, interval: float = INTERVAL
) -> Cost:
    """Run one stage or command in the project. Raises CalledProcessError if it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    peak, start = 0, time.perf_counter()
    command = [sys.executable, "-m", f"stages.{stage}", *map(str, arguments)]
    with subprocess.Popen(command, cwd=project, env=environment, stdout=out) as process:
        family = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, memory(family))
            time.sleep(interval)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(time.perf_counter() - start, peak / 1e6)


def memory(family: psutil.Process) -> int:
    """The bytes that a process and its children hold now; 0 for those that have just ended."""
    total = 0
    for process in [family, *family.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:  # it ended between the listing and the question
            continue
    return total


if __name__ == "__main__":
    main()
