"""What the mean of two views would bring at scoring time: the face as it is, and mirrored. It doubles the work.

    python -m bench.views
    python -m bench.views resnet50-finetune

Run it where detectors are (``dvc repro finetune``). Each, or each that is named, scores the test faces both ways, and
the table has the AUC of the face as it is, of the mean of both logits, and the lead of the mean with its interval,
paired.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stages.backend import tf
from stages.detectors import assembly, extraction
from stages.detectors.device import prepare
from stages.errors import UserError, run
from stages.faces import shards
from stages.params import Evaluate, Params, load
from stages.scoring import figures, intervals

VIEWS = 2
COLUMNS = "| detector | AUC, as they are | AUC, mean of both views | lead of the mean | n |\n" + "|---|" + "---:|" * 4


def main() -> None:
    """Score, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="*", metavar="DETECTOR", help="as its file in data/models is named")
    named = parser.parse_args().detectors
    params = load()
    files = sorted(Path("data/models").glob("*.keras"))
    if missing := set(named) - {file.stem for file in files}:
        raise UserError(f"there is no data/models/{min(missing)}.keras; make it with `dvc repro finetune`")
    files = [file for file in files if not named or file.stem in named]
    if not files:
        raise UserError("there is no detector in data/models; make them with `dvc repro finetune`")
    prepare("float32", params.training.seed)
    labels = shards.labels(extraction.SHARDS, "test")
    lines = [COLUMNS, *(line(file.stem, labels, logits(file, params), params.evaluate) for file in files)]
    print("\n".join(lines))


def logits(file: Path, params: Params) -> NDArray[np.float64]:
    """What a detector says of each view of the test faces: (views, faces)."""
    network = tf.function(assembly.with_logits(assembly.load(file)), reduce_retracing=True)

    def batches() -> Iterator[np.ndarray]:
        for number in range(VIEWS):
            for faces, _ in extraction.view("test", number, params):
                yield np.ravel(network(faces))

    return np.concatenate(list(tqdm(batches(), desc=file.stem, unit="batch", disable=None))).reshape(VIEWS, -1)


def line(name: str, labels: NDArray[np.int8], views: NDArray[np.float64], settings: Evaluate) -> str:
    """A detector's line of the table."""
    one, mean = views[0], views.mean(axis=0)
    drawn: Any = {"confidence": settings.confidence, "resamples": settings.resamples, "seed": settings.seed}
    cells = []
    for score in (one, mean):
        low, high = intervals.of_auc(labels, score, **drawn)
        cells.append(f"{figures.roc_auc(labels, score):.3f} ({low:.3f}–{high:.3f})")
    low, high = intervals.of_auc_lead(labels, mean, one, **drawn)
    lead = figures.roc_auc(labels, mean) - figures.roc_auc(labels, one)
    return f"| {name} | {' | '.join(cells)} | {lead:+.3f} ({low:+.3f} to {high:+.3f}) | {len(labels)} |"


if __name__ == "__main__":
    run(main)
