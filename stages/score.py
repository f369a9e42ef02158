"""Stage `score`: the only forward passes after training. One row an image and condition.

Reads ``data/shards/``, ``data/external/`` and ``data/models/M-P.keras``; writes ``data/scores/M-P.parquet`` with
``split`` (valid, test, or external/NAME), ``condition`` ("clean": the image as it is; else a kind of corruption and its
strength, such as "jpeg 50"), ``member``, ``label`` (1 fake, 0 real), ``logit`` and ``score`` = P(fake).

The first ``stress.images_per_class`` test faces of each class are spoilt in all ways of ``stress``; the shards are
shuffled, so the first ones are any ones. Spoilt copies are made on the way to the network, and kept nowhere.

A table of each pass is kept in a git-ignored scratch folder until a later run of the stage no longer wants it: a run
that is killed resumes there, and a new external set or a new strength costs its own passes and no others. A detector
that is a copy of another (a fine-tuning that found nothing better) takes over its tables.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.backend import tf
from stages.detectors import assembly
from stages.detectors.device import prepare
from stages.errors import run
from stages.faces import corruptions, shards
from stages.files import digest, project_root, publish, read_json, sha256
from stages.params import Params, detector_argument, load

SHARDS, EXTERNAL = Path("data/shards"), Path("data/external")
CODE = [Path(str(module.__file__)) for module in (assembly, corruptions, shards)] + [Path(__file__)]

Network = Callable[..., "tf.Tensor"]


@dataclass(frozen=True, slots=True)
class Pass:
    """One way through the network: the images of a split in ``folder``, under one condition."""

    folder: Path
    images: str  # the split's name in that folder
    split: str  # its name in the table
    kind: str = "clean"
    strength: float = 0.0

    @property
    def condition(self) -> str:
        """Its name in the table."""
        return self.kind if self.kind == "clean" else f"{self.kind} {self.strength:g}"


def main() -> None:
    """Score all faces with one detector."""
    name = detector_argument(main.__doc__)
    params = load()
    model = Path(f"data/models/{name}.keras")
    prepare("float32", params.training.seed)
    network = tf.function(assembly.with_logits(assembly.load(model)), reduce_retracing=True)

    scratch = project_root() / ".scratch" / "scores" / name
    common = [sha256(model), *map(sha256, CODE), params.image.size, version("tensorflow")]
    wanted, tables = set(), []
    for way in passes(params):
        spoiling = [] if way.kind == "clean" else [params.stress.seed, params.stress.images_per_class]
        key = digest(*common, shards.summary(way.folder, way.images), way.split, way.condition, *spoiling)
        kept = scratch / f"{key}.parquet"
        if not kept.exists():
            twin = next(scratch.parent.glob(f"*/{key}.parquet"), None)
            with publish(kept) as part:
                if twin:
                    print(f"{name} on {way.split}, {way.condition}: as {twin.parent.name}, whose copy it is")
                    shutil.copyfile(twin, part)
                else:
                    table = forward(network, way, params, f"{name} on {way.split}, {way.condition}")
                    table.to_parquet(part, index=False)
        wanted.add(kept)
        tables.append(pd.read_parquet(kept))
    for stale in set(scratch.glob("*.parquet")) - wanted:
        stale.unlink()

    scores = pd.concat(tables, ignore_index=True)
    with publish(f"data/scores/{name}.parquet") as part:
        scores.to_parquet(part, index=False)
    conditions = scores.loc[scores["split"] == "test", "condition"].nunique()
    print(f"{name}: {len(scores):,} scores; test faces under {conditions} conditions")


def passes(params: Params) -> Iterator[Pass]:
    """Every pass that the parameters and the external sets ask for."""
    yield Pass(SHARDS, "valid", "valid")
    yield Pass(SHARDS, "test", "test")
    for name in read_json(EXTERNAL / "shards.json"):
        yield Pass(EXTERNAL, name, f"external/{name}")
    for kind, strengths in params.stress.conditions().items():
        for strength in strengths:
            yield Pass(SHARDS, "test", "test", kind, strength)


def forward(network: Network, way: Pass, params: Params, description: str) -> pd.DataFrame:
    """The rows of one pass."""
    batch_size = params.score.batch_size
    batches = shards.faces(way.folder, way.images, size=params.image.size, batch_size=batch_size)
    total = int(shards.summary(way.folder, way.images)["images"])
    if way.kind != "clean":
        counts = [int(shards.summary(way.folder, way.images)[label]) for label in ("real", "fake")]
        limit = params.stress.images_per_class or max(counts)
        batches = spoilt(batches, way, limit, params.stress.seed, batch_size)
        total = sum(min(count, limit) for count in counts)
    rows = []
    with tqdm(total=total, desc=description, unit="image", disable=None) as progress:
        for images, labels, members in batches:
            logits = network(images, training=False).numpy()[:, 0]
            rows.append(
                pd.DataFrame(
                    {
                        "split": way.split,
                        "condition": way.condition,
                        "member": [member.decode() for member in members.numpy()],
                        "label": labels.numpy().astype(np.int8),
                        "logit": logits,
                        "score": 1 / (1 + np.exp(-logits)),
                    }
                )
            )
            progress.update(len(logits))
    return pd.concat(rows, ignore_index=True)


def spoilt(batches: "tf.data.Dataset", way: Pass, limit: int, seed: int, batch_size: int) -> "tf.data.Dataset":
    """The first ``limit`` images of each class, corrupted; the noise of an image depends on its name and ``seed``."""

    def choose(seen: "tf.Tensor", *face: "tf.Tensor") -> "tuple[tf.Tensor, tuple[Any, ...]]":
        label = face[1]
        return seen + tf.one_hot(label, 2, dtype=tf.int64), (seen[label] < limit, *face)

    def corrupt(_: "tf.Tensor", image: "tf.Tensor", label: "tf.Tensor", member: "tf.Tensor") -> "tuple[tf.Tensor, ...]":
        seeds = tf.stack([tf.constant(seed, tf.int64), tf.strings.to_hash_bucket_fast(member, 2**31)])
        return corruptions.corrupt(image, way.kind, way.strength, seeds), label, member

    return (
        batches.unbatch()
        .scan(tf.zeros(2, tf.int64), lambda seen, face: choose(seen, *face))
        .filter(lambda wanted, *_: wanted)
        .map(corrupt, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


if __name__ == "__main__":
    run(main)
