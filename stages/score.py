"""Stage `score`: the only forward passes after training. One row an image and condition.

Reads ``data/shards/`` and ``data/models/M-P.keras``; writes ``data/scores/M-P.parquet`` with ``split`` (valid, test),
``condition`` ("clean": the image as it is), ``member``, ``label`` (1 fake, 0 real), ``logit`` and ``score`` = P(fake).
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.backend import tf
from stages.detectors import assembly
from stages.detectors.device import prepare
from stages.errors import run
from stages.faces import shards
from stages.files import publish
from stages.params import load

SHARDS = Path("data/shards")


def main() -> None:
    """Score the validation and test faces with one detector."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    parser.add_argument("phase")
    arguments = parser.parse_args()
    detector = f"{arguments.model}-{arguments.phase}"
    params = load()
    prepare("float32", params.training.seed)
    network = tf.function(
        assembly.with_logits(assembly.load(Path(f"data/models/{detector}.keras"))), reduce_retracing=True
    )
    tables = []
    for split in ("valid", "test"):
        total = int(shards.summary(SHARDS, split)["images"])
        batches = shards.faces(SHARDS, split, size=params.image.size, batch_size=params.score.batch_size)
        with tqdm(total=total, desc=f"{detector} on {split}", unit="image", disable=None) as progress:
            for images, labels, members in batches:
                logits = network(images, training=False).numpy()[:, 0]
                tables.append(
                    pd.DataFrame(
                        {
                            "split": split,
                            "condition": "clean",
                            "member": [member.decode() for member in members.numpy()],
                            "label": labels.numpy().astype(np.int8),
                            "logit": logits,
                            "score": 1 / (1 + np.exp(-logits)),
                        }
                    )
                )
                progress.update(len(logits))
    scores = pd.concat(tables, ignore_index=True)
    with publish(f"data/scores/{detector}.parquet") as part:
        scores.to_parquet(part, index=False)
    print(f"{detector}: scored {len(scores)} images")


if __name__ == "__main__":
    run(main)
