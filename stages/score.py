"""Stage `score`: export a detector, and judge every face with it: one row an image and condition.

Reads ``data/shards/``, ``data/models/M-P.keras``, its ``.npz`` and its record; writes ``data/exported/M-P/``, which
judges a face without TensorFlow (:mod:`stages.detectors.export`), and ``data/scores/M-P.parquet`` with ``set``,
``split`` (valid; test; or unseen: test images of a set, or of a class of it, that the detector did not learn from),
``condition`` ("clean": the image as it is; else a kind of corruption and its strength, such as "jpeg 50"), ``member``,
``label`` (1 fake, 0 real), ``logit``, ``score`` = P(fake), and ``distance`` from the training faces.

The first ``corruptions.images_per_class`` test faces of each class of the sets to learn from are corrupted in all ways
of ``corruptions``; the shards are shuffled, so the first ones are any ones. The copies are made on the way to the
network, and kept nowhere.

A table of each pass is kept in a git-ignored scratch folder until a later run of the stage no longer wants it: a run
that is killed resumes there, and a new set to test on or a new strength costs its own passes and no others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from stages.backend import keras, tf
from stages.detectors import assembly, device
from stages.detectors.export import export
from stages.errors import run
from stages.faces import corruptions, layout, shards
from stages.files import digest, hold, project_root, publish, reading
from stages.params import Params, detector_argument, load
from stages.progress import progress

CODE = [Path(str(module.__file__)) for module in (assembly, corruptions, device, layout, shards)] + [Path(__file__)]


@dataclass(frozen=True, slots=True)
class Pass:
    """One way through the network: the images of a set in one split, under one condition."""

    name: str  # of the set
    split: str
    kind: str = "clean"
    strength: float = 0.0

    @property
    def folder(self) -> Path:
        """Where its images are."""
        return shards.folder(self.split, self.name)

    @property
    def condition(self) -> str:
        """Its name in the table."""
        return self.kind if self.kind == "clean" else f"{self.kind} {self.strength:g}"


def main() -> None:
    """Export one detector, and score all faces with it."""
    name = detector_argument(main.__doc__)
    params = load()
    model, axes = (Path(f"data/models/{name}.{kind}") for kind in ("keras", "npz"))
    device.prepare("float32", params.training.seed)
    strategy = device.distribution()
    with strategy.scope():
        detector = assembly.with_distance(assembly.with_evidence(assembly.load(model)), axes)
        logits, _, distances = detector.outputs
        answers = keras.Model(detector.input, keras.ops.concatenate([logits, distances], axis=1))
    network = device.spread(answers, strategy)
    export(detector, model, params.image)

    scratch = project_root() / ".scratch" / "scores" / name
    common = digest(model, axes, CODE, params.image.size, [version(library) for library in ("tensorflow", "keras")])
    wanted, tables = set(), []
    with hold(scratch):
        for way in passes(params):
            settings = [] if way.kind == "clean" else [params.corruptions.seed, params.corruptions.images_per_class]
            key = digest(common, shards.summary(way.folder), way.split, way.condition, *settings)
            kept = scratch / f"{key}.parquet"
            if not kept.exists():
                with publish(kept) as part:
                    table = forward(network, way, params, f"{name} on {way.name}, {way.split}, {way.condition}")
                    table.to_parquet(part, index=False)
            wanted.add(kept)
            with reading(kept):
                tables.append(pd.read_parquet(kept))
        for stale in set(scratch.glob("*.parquet")) - wanted:
            stale.unlink()

    scores = pd.concat(tables, ignore_index=True)
    for one in params.sets:
        labels = [layout.LABELS[kind] for kind in params.unseen(one)]
        scores.loc[(scores["set"] == one) & scores["label"].isin(labels), "split"] = "unseen"
    with publish(f"data/scores/{name}.parquet") as part:
        scores.to_parquet(part, index=False)
    conditions = scores.loc[scores["split"] == "test", "condition"].nunique()
    print(f"{name}: {len(scores):,} scores; test faces under {conditions} conditions")


def passes(params: Params) -> Iterator[Pass]:
    """Every pass that the parameters and the sets ask for."""
    for folder in shards.training("valid"):
        yield Pass(folder.name, "valid")
    tests = [name for name in params.sets if shards.holds(shards.folder("test", name))]
    for name in tests:
        yield Pass(name, "test")
    for kind, strengths in params.corruptions.conditions().items():
        for strength in strengths:
            for name in tests:
                if params.unseen(name) != {"real", "fake"}:
                    yield Pass(name, "test", kind, strength)


def forward(network: device.Network, way: Pass, params: Params, description: str) -> pd.DataFrame:
    """The rows of one pass."""
    clean = way.kind == "clean"
    batches = shards.faces(
        [way.folder],
        size=params.image.size,
        batch_size=params.score.batch_size,
        per_class=None if clean else params.corruptions.images_per_class,
    )
    if not clean:
        batches = corrupted(batches, way, params.corruptions.seed)
    rows = []
    for images, labels, members in progress(batches, desc=description, unit="batch"):
        logits, distances = network(images).numpy().T
        rows.append(
            pd.DataFrame(
                {
                    "set": way.name,
                    "split": way.split,
                    "condition": way.condition,
                    "member": [member.decode() for member in members.numpy()],
                    "label": labels.numpy().astype(np.int8),
                    "logit": logits,
                    "score": 1 / (1 + np.exp(-logits)),
                    "distance": distances,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def corrupted(batches: "tf.data.Dataset", way: Pass, seed: int) -> "tf.data.Dataset":
    """The same images, corrupted; the noise of an image depends on its name and ``seed``."""

    def corrupt(pair: "tuple[tf.Tensor, tf.Tensor]") -> "tf.Tensor":
        image, member = pair
        seeds = tf.stack([tf.constant(seed, tf.int64), tf.strings.to_hash_bucket_fast(member, 2**31)])
        return tf.cast(corruptions.corrupt(tf.cast(image, tf.float32), way.kind, way.strength, seeds), tf.uint8)

    def corrupt_all(
        images: "tf.Tensor", labels: "tf.Tensor", members: "tf.Tensor"
    ) -> "tuple[tf.Tensor, tf.Tensor, tf.Tensor]":
        return tf.map_fn(corrupt, (images, members), fn_output_signature=tf.uint8), labels, members

    return batches.map(corrupt_all, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


if __name__ == "__main__":
    run(main)
