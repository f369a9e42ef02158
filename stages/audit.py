"""Stage `audit`: what the sets hold, which images are alike, and whether the classes can be told apart without a face.

Reads ``data/index/NAME.parquet`` of every set. Writes

- ``data/groups/NAME.parquet``: for each image that can be used, in the order of its index, the ``group`` of images of
  its set that are equal or nearly so; ``data/across.parquet``: each ``group`` that is alike with one ``above``, of a
  set further up. Neither depends on sets further down;
- ``metrics/data.json``: the figures of all sets that train, together; ``plots/data/sets.csv``: of each set alone;
- ``plots/data/``: ``counts.csv``, ``properties.csv`` and ``file_size.csv``, of all sets that train.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages import params
from stages.errors import run
from stages.faces import audit, duplicates
from stages.files import publish, reading, write_json

INDEXES, GROUPS, ACROSS = Path("data/index"), Path("data/groups"), Path("data/across.parquet")
OTHER = b"other_files"  # in the metadata of an index


def main() -> None:
    """Audit all sets."""
    settings = params.load()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what is freed
    pa.set_cpu_count(1)  # and so does the system's, in every thread
    images = pd.concat([sound(name) for name in settings.sets], ignore_index=True)
    likeness = duplicates.alike(
        duplicates.hash_bytes(chain.from_iterable(column(name, "dhash") for name in settings.sets)),
        settings.data.near_duplicate_bits,
    )
    digests = duplicates.hash_bytes(chain.from_iterable(column(name, "sha256") for name in settings.sets))
    files = np.unique(digests, axis=0, return_inverse=True)[1].ravel()
    del digests
    number = pd.Categorical(images["set"], list(settings.sets)).codes.astype(np.int64)
    group, across = duplicates.apart(likeness.code, likeness.links, number)
    with publish(GROUPS) as folder:
        folder.mkdir()
        for place, name in enumerate(settings.sets):
            pd.DataFrame({"group": group[number == place]}).to_parquet(folder / f"{name}.parquet", index=False)
    with publish(ACROSS) as part:
        pd.DataFrame(across, columns=["group", "above"]).to_parquet(part, index=False)

    def figures(names: list[str]) -> dict[str, float | None]:
        chosen = images["set"].isin(names).to_numpy()
        alike = duplicates.among(likeness.code, likeness.links, chosen)
        bad, other = (sum(counts) for counts in zip(*map(unusable, names), strict=True))
        rows = images[chosen].assign(group=alike.group)
        return audit.figures(rows, alike, files[chosen], quarantined=bad, other=other)

    alone = {name: figures([name]) for name in settings.sets}
    training = settings.training_sets
    together = alone[training[0]] if len(training) == 1 else figures(training)
    learned = images[images["set"].isin(training)]
    write_json("metrics/data.json", together)
    for name, plot in (("counts", audit.counts), ("properties", audit.properties), ("file_size", audit.file_sizes)):
        with publish(f"plots/data/{name}.csv") as part:
            plot(learned).to_csv(part, index=False)
    with publish("plots/data/sets.csv") as part:
        rows = [
            {"set": name, "generator": settings.sets[name].generator, "use": settings.sets[name].use, **of}
            for name, of in alone.items()
        ]
        pd.DataFrame(rows).to_csv(part, index=False, float_format="%.4g")
    limit = settings.data.max_shortcut_auc
    for name in training:
        summarise(name, alone[name], limit)
    if len(training) > 1:
        summarise("all sets that train", together, limit)


def sound(name: str) -> pd.DataFrame:
    """The rows of an index whose images can be used, with the columns of the audit and the ``set``."""
    path = INDEXES / f"{name}.parquet"
    with reading(path), pq.ParquetFile(path) as file:  # without names and digests, which take most of the room
        table = file.read([name for name in audit.COLUMNS if name not in ("sha256", "group")])
    table = table.filter(pc.equal(table["verdict"], "ok"))
    images: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return images.assign(set=pd.Categorical([name] * len(images)))


def column(name: str, wanted: str) -> Iterator[str]:
    """The values of a column of an index, of the images that can be used."""
    with pq.ParquetFile(INDEXES / f"{name}.parquet") as file:
        for batch in file.iter_batches(columns=[wanted, "verdict"]):
            yield from batch.filter(pc.equal(batch["verdict"], "ok"))[wanted].to_pylist()


def unusable(name: str) -> tuple[int, int]:
    """How many images of a set are quarantined, and how many other members its archive has."""
    with pq.ParquetFile(INDEXES / f"{name}.parquet") as file:
        verdicts = file.read(["verdict"])["verdict"]
        return pc.sum(pc.not_equal(verdicts, "ok")).as_py() or 0, int(file.schema_arrow.metadata[OTHER])


def summarise(name: str, figures: dict[str, float | None], max_shortcut_auc: float) -> None:
    """Duplicates, and a warning if the classes can be told apart without a face."""
    auc = figures["shortcut_auc"]
    print(
        f"{name}: pairs of duplicates: {figures['exact_duplicates']:,} exact, {figures['near_duplicates']:,} near; "
        f"across splits: {figures['exact_duplicates_across_splits']:,} exact, "
        f"{figures['near_duplicates_across_splits']:,} near"
    )
    print(f"shortcut AUC: {'unknown, too few images of a class' if auc is None else f'{auc:.2f}'}")
    if auc is not None and auc > max_shortcut_auc:
        print(
            f"WARNING: file size, format and average colour alone tell real from fake with AUC {auc:.2f} (more than "
            f"data.max_shortcut_auc = {max_shortcut_auc:g}). A detector trained on these images may learn how the "
            "files were made, and nothing about faces."
        )


if __name__ == "__main__":
    run(main)
