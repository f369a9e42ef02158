"""What training and judging would take on 1, 8 and 64 GPUs: a simulation, from figures measured here and cited.

    python -m bench.simulate                   # the table in docs/scale.md
    python -m bench.simulate --photo FILE      # measure what a photo costs one core before it is judged

The figures and their sources are in bench/simulate.csv. A step of training is the work of the slowest GPU (or reading,
or decoding, where these are slower), then the all-reduces of the gradients and of BatchNorm's statistics; nothing
overlaps. Judging is as fast as the slowest of cores, GPUs, store and listing: its shards are too many to wait for one.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
from PIL import Image

from stages.photos import finder

Inputs = Mapping[str, float]

GPUS = (1, 8, 64)
MANY_FACES = 10_000_000
STEPS = 2000  # that are drawn; a training's are as long on average
SEED = 20


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job takes: ``read`` in bytes/s of all GPUs, ``sent`` by each GPU in bytes a step, for the gradients."""

    hours: float
    read: float
    sent: float
    bottleneck: str


def main() -> None:
    """Print the table, or measure a photo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", type=Path, metavar="FILE")
    photo = parser.parse_args().photo
    print(measured(photo) if photo else table(inputs()))


def inputs() -> dict[str, float]:
    """The figures of bench/simulate.csv by name."""
    return pd.read_csv(Path(__file__).with_suffix(".csv"), index_col="name")["value"].astype(float).to_dict()


def all_reduce(given: Inputs, gpus: int, size: float) -> float:
    """Seconds that a sum of ``size`` bytes over all GPUs takes: a ring in each node, and one over the nodes."""
    local = min(gpus, int(given["node_gpus"]))
    seconds = 0.0
    for link, members in (("nvlink", local), ("network", gpus // local)):
        seconds += 2 * (members - 1) / members * size / given[link] + 2 * math.log2(members) * given[f"{link}_hop"]
    return seconds


def training(given: Inputs, model: str, gpus: int, faces: int, batch: int = 0) -> Cost:
    """Fine-tune a backbone in all layers, ``batch`` crops a step shared by all GPUs; 0: those of the cited speeds."""
    batch = batch or int(given["gpu_batch"]) * gpus
    share = batch / gpus
    local = min(gpus, given["node_gpus"])
    alone = {
        "the GPUs": share / given[f"{model}_training"],
        "small batches": given["least_step"],
        "reading": share * given["face_bytes"] / min(given["network"] / local, given["store"] / gpus),
        "decoding": share / (given["gpu_cores"] * given["decode"]),
    }
    slow = 1 + given["spread"] * np.random.default_rng(SEED).standard_normal((STEPS, gpus)).max(axis=1)
    feeding = max(alone["reading"], alone["decoding"])
    work = np.maximum(max(alone["the GPUs"], alone["small batches"]) * slow, feeding).mean()
    gradients = given[f"{model}_parameters"] * given["gradient_bytes"]
    parts = {
        max(alone, key=alone.__getitem__): max(alone.values()),
        "stragglers": work - max(alone.values()),
        "gradients": all_reduce(given, gpus, gradients),
        "BatchNorm": 2 * given[f"{model}_norms"] * all_reduce(given, gpus, 0),  # once forward, once back
    }
    step = sum(parts.values())
    return Cost(
        hours=faces * given["corpus_epochs"] / batch * step / 3600,
        read=batch * given["face_bytes"] / step,
        sent=2 * (gpus - 1) / gpus * gradients,
        bottleneck=max(parts, key=parts.__getitem__),
    )


def judging(given: Inputs, gpus: int, *, on_gpu: bool) -> Cost:
    """Judge the archive; ``on_gpu`` says whether the network runs there, or on the cores as ``judge_archive`` does."""
    photos, with_face = given["photos"], 1 - given["faceless"]
    face = given["find_face"] + (0 if on_gpu else given["judge"])
    photo = with_face * face + given["faceless"] * given["find_none"]
    bandwidth = min(given["store"], math.ceil(gpus / given["node_gpus"]) * given["network"])
    again = given["failures"] / 2  # of the work: a shard fails half-way, on average
    seconds_of = {
        "the cores": photos * photo * (1 + again) / (gpus * given["gpu_cores"]),
        "the GPUs": on_gpu * photos * with_face / (gpus * given["judging"]),
        "the store": photos * given["photo_bytes"] / bandwidth,
        "listing": photos / given["listing"],
    }
    bottleneck = max(seconds_of, key=seconds_of.__getitem__)
    seconds = seconds_of[bottleneck]
    return Cost(seconds / 3600, photos * given["photo_bytes"] / seconds, 0.0, bottleneck)


def table(given: Inputs) -> str:
    """All jobs on all numbers of GPUs, as Markdown."""
    lines = ["| job | GPUs | hours | GPU hours | efficiency | read, GB/s | all-reduce, MB a step | bottleneck |"]
    lines.append("|---|" + "---:|" * 6 + "---|")
    jobs: dict[str, Callable[[int], Cost]] = {}
    for name in ("ResNet50", "DenseNet121"):
        fit = partial(training, given, name.lower())
        jobs[f"corpus, {name}"] = partial(fit, faces=int(given["corpus_faces"]), batch=int(given["corpus_batch"]))
        jobs[f"ten million faces, {name}"] = partial(fit, faces=MANY_FACES)
    for name, on_gpu in (("cores alone", False), ("detector on GPUs", True)):
        jobs[f"a billion photos, {name}"] = partial(judging, given, on_gpu=on_gpu)
    for job, cost_on in jobs.items():
        alone = cost_on(1)
        for gpus in GPUS:
            cost = cost_on(gpus)
            hours = [f"{h:,.0f}" if h >= 10 else f"{h:.2g}" for h in (cost.hours, gpus * cost.hours)]
            efficiency = alone.hours / (gpus * cost.hours)
            figures = (*hours, f"{efficiency:.2f}", f"{cost.read / 1e9:.2g}", f"{cost.sent / 1e6:.0f}")
            lines.append(f"| {job} | {gpus} | {' | '.join(figures)} | {cost.bottleneck} |")
    return "\n".join(lines)


def measured(path: Path) -> str:
    """What decoding a photo and finding its faces takes on one core: the best of three times."""
    times = []
    for _ in range(3):
        start = process_time()
        picture = Image.open(path).convert("RGB")
        decoded = process_time()
        faces = finder.find(picture)
        times.append((decoded - start, process_time() - decoded))
    decoding, finding = (min(column) for column in zip(*times, strict=True))
    return f"{picture.size}, {len(faces)} faces: decoding {decoding:.3f} s, finding {finding:.3f} s"


if __name__ == "__main__":
    main()
