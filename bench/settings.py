"""Compare settings of TensorFlow for the forward pass: batch size, threads, oneDNN, XLA.

    python -m bench.settings                       # both backbones at 128 and 256 px, about 20 minutes on 2 cores
    python -m bench.settings resnet50 --sizes 128

Images a second of a compiled backbone with random weights, on a batch in memory. Each setting has a process of its own,
since TensorFlow reads most of them at its start; the processes take turns (``--rounds``), and a figure is the best of
all its passes, which is the one that other work on the machine disturbed least. Prints a Markdown table for each
backbone and size.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

BATCHES = (1, 8, 16, 32, 64)
IMAGES = 64  # in a pass
PASSES = 3
ROOT = Path(__file__).resolve().parents[1]
CORES = os.cpu_count() or 1

# What each column changes: the environment, and whether XLA compiles.
SETTINGS: dict[str, tuple[dict[str, str], bool]] = {
    "as is": ({}, False),
    "no oneDNN": ({"TF_ENABLE_ONEDNN_OPTS": "0"}, False),
    "XLA": ({}, True),
    "1 thread an op": ({"TF_NUM_INTRAOP_THREADS": "1"}, False),
    "1 op at a time": ({"TF_NUM_INTEROP_THREADS": "1"}, False),
    f"{2 * CORES} threads an op": ({"TF_NUM_INTRAOP_THREADS": str(2 * CORES)}, False),
}


def main() -> None:
    """Measure every setting in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["densenet121", "resnet50"], metavar="BACKBONE")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], metavar="PX")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    for model in arguments.models:
        for size in arguments.sizes:
            best = {name: dict.fromkeys(BATCHES, 0.0) for name in SETTINGS}
            for number in range(arguments.rounds):
                for name, (environment, xla) in SETTINGS.items():
                    print(f"{model}, {size} px, round {number + 1}: {name}", file=sys.stderr)
                    for batch, speed in run(model, size, environment, xla).items():
                        best[name][batch] = max(best[name][batch], speed)
            print(f"\n{model}, {size} px, images/s on {CORES} cores\n")
            print(f"| batch | {' | '.join(SETTINGS)} |")
            print(f"|---:|{'---:|' * len(SETTINGS)}")
            for batch in BATCHES:
                print(f"| {batch} | {' | '.join(f'{best[name][batch]:.1f}' for name in SETTINGS)} |", flush=True)


def run(model: str, size: int, environment: dict[str, str], xla: bool) -> dict[int, float]:
    """Images a second by batch size, of a fresh process."""
    command = [sys.executable, "-c", f"from bench.settings import child; child({model!r}, {size}, {xla})"]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True, stdout=subprocess.PIPE)
    return {int(batch): speed for batch, speed in json.loads(result.stdout).items()}


def child(model: str, size: int, xla: bool) -> None:
    """Measure one setting in this process, and print a JSON object."""
    from stages.backend import tf
    from stages.detectors.assembly import backbone_module, pooled_features

    module = backbone_module(model)
    network = tf.function(pooled_features(module, module.backbone()), jit_compile=xla)
    images = tf.random.uniform((IMAGES, size, size, 3), maxval=255)
    speeds = {}
    for batch in BATCHES:
        network(images[:batch], training=False)  # compiles
        times = []
        for _ in range(PASSES):
            start = perf_counter()
            for first in range(0, IMAGES, batch):
                network(images[first : first + batch], training=False).numpy()
            times.append(perf_counter() - start)
        speeds[batch] = IMAGES / min(times)
    print(json.dumps(speeds))


if __name__ == "__main__":
    main()
