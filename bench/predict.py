"""Compare `predict` with Keras on one detector and one photo: the time to a first answer, and images a second.

    python bench/predict.py densenet121-finetune

Run it in a project that has run `make repro`. Both sides judge the same pixels, one image at a time, as photos come;
for Keras also in batches of 16, which suits it best. Every time is the best of ``--runs`` runs, and ratios are of one
run of this script, so that a slow or busy machine slows both sides.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from stages.photos import exported

KERAS = """
import sys
import numpy as np
from PIL import Image
from stages.detectors import assembly
model = assembly.load(sys.argv[1])
print(model(np.asarray(Image.open(sys.argv[2]), np.float32)[np.newaxis], training=False))
"""
BATCH = 16


def main() -> None:
    """Measure both sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detector")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    model = f"data/models/{arguments.detector}.keras"
    detector = exported.load(exported.FOLDER / arguments.detector)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, detector.size, detector.size, 3), dtype=np.uint8)

    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder, "photo.png")
        Image.fromarray(images[0]).save(photo)
        ours = best(lambda: python("-m", "stages.predict", "--detector", arguments.detector, photo), arguments.runs)
        theirs = best(lambda: python("-c", KERAS, model, photo), arguments.runs)
    print(f"{arguments.detector}, {detector.size} px, {os.cpu_count()} cores")
    print("| | predict | Keras | Keras / predict |")
    print("|---|---:|---:|---:|")
    print(f"| first answer, s | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} |")

    from stages.backend import tf
    from stages.detectors import assembly

    forward = tf.function(assembly.load(Path(model)))
    batch = tf.constant(images, tf.float32)
    ways = {
        "predict": lambda: [detector.judge(image) for image in images],
        "one": lambda: [forward(batch[i : i + 1], training=False) for i in range(BATCH)],
        "batch": lambda: forward(batch, training=False),
    }
    for way in ways.values():
        way()  # the first pass compiles
    seconds = {name: best(way, arguments.runs) for name, way in ways.items()}
    for name, label in (("one", "images/s, one by one"), ("batch", f"images/s, Keras in batches of {BATCH}")):
        ratio = seconds["predict"] / seconds[name]
        print(f"| {label} | {BATCH / seconds['predict']:.1f} | {BATCH / seconds[name]:.1f} | {ratio:.2f} |")


def best(run: Callable[[], object], runs: int) -> float:
    """The shortest of several runs, in seconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def python(*arguments: object) -> None:
    """Run Python afresh, quietly."""
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)


if __name__ == "__main__":
    main()
