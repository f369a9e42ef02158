"""What training and judging would take on more machines than we have, simulated from measured and cited figures.

    python -m bench.simulate training
    python -m bench.simulate judging
    python -m bench.simulate inputs
    python -m bench.simulate measure     # anew, on this machine, what a core spends on a photo

Training is data-parallel: in each step every GPU computes on its own crops, the slowest one is waited for, and then the
gradients go round a ring. Hosts of eight GPUs read crops from one store. Judging has no steps: hosts of one GPU's worth
of cores take photos from one store as one process lists them. What is slowest decides, and the table names it.
docs/scale.md has the tables (``python -m bench.results write``).
"""

import argparse
import io
import time
from typing import NamedTuple

import numpy as np
from PIL import Image

SEED, STEPS = 20, 2000  # steps that are drawn; a run's are as long on average
HOST = 8  # GPUs of a host for training
GPUS = (1, 8, 64)


class Input(NamedTuple):
    """A figure that the simulation begins with."""

    value: float
    unit: str
    source: str


NVIDIA = (
    "[NVIDIA's DeepLearningExamples](https://github.com/NVIDIA/DeepLearningExamples/tree/master/TensorFlow/"
    "Classification/ConvNets/resnet50v1.5), ResNet50, A100, 224 px, mixed precision, batch of 256 a GPU"
)
INPUTS = {
    "train rate": Input(2375, "crops/s a GPU", NVIDIA),
    "straggling": Input(0.061, "of a step, σ", f"so that 8 GPUs reach the 7.32 of one that {NVIDIA} report"),
    "GPU batch": Input(256, "crops", "as in the cited runs"),
    "ResNet50": Input(23_540_225, "parameters", "Keras, trained ones"),
    "DenseNet121": Input(6_874_817, "parameters", "[the card](../pretrained/README.md)"),
    "face": Input(29e3, "bytes", "Kaggle's corpus, above"),
    "decode": Input(1500, "crops/s a core", "[speed](speed.md), 3,000 on two cores"),
    "cores": Input(16, "a GPU", "assumed"),
    "inside a host": Input(200e9, "bytes/s", "assumed: NVLink"),
    "between hosts": Input(12.5e9, "bytes/s a host", "assumed: 100 Gbit/s"),
    "latency": Input(20e-6, "s a hop", "assumed"),
    "store": Input(5e9, "bytes/s", "assumed, of all readers together"),
    "photo": Input(4.5e6, "bytes", "12 megapixels at JPEG quality 85, `measure`"),
    "decode and find": Input(0.182, "s of a core", "`measure`, AMD EPYC"),
    "judge": Input(0.038, "s of a core", "`measure`, DenseNet121 at 256 px on one thread"),
    "listing": Input(5000, "photos/s", "S3, below"),
}
RUNS = {"140,000 faces": 100_000 * 8, "ten million faces": 10_000_000 * 8}  # crops: training faces, eight passes
PHOTOS = 1_000_000_000


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("training", "judging", "inputs", "measure"))
    what = parser.parse_args().what
    print(measure() if what == "measure" else table(what))


def table(what: str) -> str:
    """A table of docs/scale.md as Markdown."""
    lines = {"training": training, "judging": judging, "inputs": inputs}[what]()
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def value(name: str) -> float:
    """An input."""
    return INPUTS[name].value


def all_reduce(size: float, gpus: int) -> float:
    """Seconds of a ring all-reduce of so many bytes: 2 (N - 1) / N of them pass the slowest link, in 2 (N - 1) hops.

    Patarasuk & Yuan 2009 (doi:10.1016/j.jpdc.2008.09.002). A host's GPUs share its way out only once in a ring.
    """
    if gpus == 1:
        return 0.0
    link = value("inside a host") if gpus <= HOST else value("between hosts")
    return 2 * (gpus - 1) * (size / gpus / link + value("latency"))


def step(parameters: float, gpus: int) -> dict[str, float]:
    """The seconds of a step by its parts: the slowest GPU's ``compute``, ``decode``, ``store`` and ``all-reduce``."""
    batch = value("GPU batch")
    slowest = np.random.default_rng(SEED).normal(1, value("straggling"), (STEPS, gpus)).max(axis=1).mean()
    return {
        "compute": batch / value("train rate") * (slowest if gpus > 1 else 1.0),
        "decode": batch / (value("decode") * value("cores")),
        "store": gpus * batch * value("face") / value("store"),
        "all-reduce": all_reduce(4 * parameters, gpus),
    }


def training() -> list[tuple[str, ...]]:
    """What eight passes take, and what limits them. Input overlaps with computing, the all-reduce does not."""
    figures = ("GPUs", "hours", "efficiency", "steps a pass", "read, MB/s", "all-reduce, MB a step")
    lines = [("faces", "backbone", *figures, "limit"), ("---", "---", *["---:"] * len(figures), "---")]
    for faces, crops in RUNS.items():
        for backbone in ("ResNet50", "DenseNet121"):
            alone = None
            for gpus in GPUS:
                parts = step(value(backbone), gpus)
                exchange = parts["all-reduce"]
                limit = max(("compute", "decode", "store"), key=parts.__getitem__)
                seconds = (parts[limit] + exchange) * crops / (value("GPU batch") * gpus)
                alone = alone or seconds
                bytes_sent = 2 * (gpus - 1) / gpus * 4 * value(backbone)
                cells = (
                    f"{seconds / 3600:.2g}",
                    f"{100 * alone / seconds / gpus:.0f} %",
                    f"{crops / 8 / value('GPU batch') / gpus:,.0f}",
                    f"{crops / seconds * value('face') / 1e6:,.0f}",
                    f"{bytes_sent / 1e6:.0f}",
                    "all-reduce" if exchange > parts[limit] else limit,
                )
                lines.append((faces, backbone, str(gpus), *cells))
    return lines


def judging() -> list[tuple[str, ...]]:
    """Hours and what limits a billion photos on hosts of 16 cores each, the network on a core or on a GPU beside it."""
    lines = [("network on", "hosts", "photos/s", "hours", "GB/s", "limit"), ("---", *["---:"] * 4, "---")]
    for place in ("cores", "GPU"):
        spent = value("decode and find") + (value("judge") if place == "cores" else 0.0)
        for hosts in GPUS:
            rates = {
                "cores": hosts * value("cores") / spent,
                "store": value("store") / value("photo"),
                "listing": value("listing"),
            }
            limit = min(rates, key=rates.__getitem__)
            rate = rates[limit]
            read = f"{rate * value('photo') / 1e9:.2f}"
            lines.append((place, str(hosts), f"{rate:,.0f}", f"{PHOTOS / rate / 3600:,.0f}", read, limit))
    return lines


def inputs() -> list[tuple[str, ...]]:
    """What the simulation begins with."""
    rows = [(name, f"{one.value:,.10g}", one.unit, one.source) for name, one in INPUTS.items()]
    return [("figure", "value", "unit", "source"), ("---", "---:", "---", "---"), *rows]


def measure() -> str:
    """The seconds that one core spends on a photo of 12 megapixels with a face, and on an aligned face."""
    from matplotlib import cbook

    from stages.photos.answers import answers
    from stages.photos.inputs import Photo
    from stages.predict import open_detectors

    detectors = open_detectors(["pretrained"], threads=1)
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        face = Image.open(file).convert("RGB")
    scene = Image.effect_noise((4000, 3000), 20).convert("RGB")
    scene.paste(face.resize((1200, 1406)), (1400, 900))
    buffer = io.BytesIO()
    scene.save(buffer, "JPEG", quality=85)
    aligned = Photo("face", np.asarray(face.resize((detectors[0].size,) * 2)))
    spent: dict[str, list[float]] = {"whole": [], "find": []}
    for _ in range(5):
        start = time.process_time()
        list(answers(Photo("photo", np.asarray(Image.open(io.BytesIO(buffer.getvalue())))), detectors, "find"))
        spent["find"].append(time.process_time() - start)
        start = time.process_time()
        list(answers(aligned, detectors, "whole"))
        spent["whole"].append(time.process_time() - start)
    judge, both = (float(np.median(spent[kind])) for kind in ("whole", "find"))
    return f"photo: {buffer.tell() / 1e6:.1f} MB; decode and find: {both - judge:.3f} s; judge: {judge:.3f} s"


if __name__ == "__main__":
    main()
