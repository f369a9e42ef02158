"""Stage `external`: other people's faces, real or generated, packed like ours, to see what a detector is worth there.

Reads the parameter ``external`` (a name and a folder or zip for each set) and ``data/index.parquet``. Writes
``data/external/``: shards of the original bytes, named after their sets, and ``sources.json``, what is in each. A set
may hold one class only. Faces that the corpus has too, exactly or nearly, are left out and counted: they say nothing
about elsewhere. No set is ever trained on, and no threshold is chosen by one. With no set named, there are no shards.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.errors import UserError, run
from stages.faces import archive, duplicates, image, records, shards
from stages.faces.archive import Member
from stages.faces.zips import Zip
from stages.files import publish, reading, sha256, user_path, write_json
from stages.params import Params, load
from stages.sources import folder

INDEX, EXTERNAL = Path("data/index.parquet"), Path("data/external")


def main() -> None:
    """Pack all external sets."""
    params = load()
    with reading(INDEX):
        corpus = pd.read_parquet(INDEX, columns=["dhash", "verdict"])
    known = duplicates.hash_bytes(corpus.loc[corpus["verdict"] == "ok", "dhash"])
    summaries, sources = {}, {}
    with publish(EXTERNAL) as part:
        part.mkdir()
        for name, path in params.external.items():
            packed = part.with_name(f"{name}.zip")
            origin = folder.fetch(user_path(path), packed, key=f"external.{name}", both=False)
            with archive.open_archive(packed) as faces:
                images, left_out = choose(name, faces, known, params)
                found = images.sample(frac=1, random_state=params.split.seed)
                summaries[name] = shards.write(records.read(faces, found), len(found), part, name, params.shards.images)
            skipped = origin["skipped"]
            sources[name] = {
                "path": origin["path"],
                **summaries[name],
                **left_out,
                "skipped": skipped,
                "archive_sha256": sha256(packed),
            }
            packed.unlink()
            print(
                f"external/{name}: {summaries[name]['real']:,} real, {summaries[name]['fake']:,} fake; left out: "
                f"{left_out['quarantined']:,} quarantined, {left_out['in_corpus']:,} that the corpus has too"
                + "".join(f", {count:,} {what}" for what, count in skipped.items())
            )
        shards.write_summary(part, summaries)
        write_json(part / "sources.json", sources)
    if not sources:
        print("no external sets; name some in params.yaml to see what the detectors are worth elsewhere")


def choose(name: str, faces: Zip, known: duplicates.Hashes, params: Params) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The images of a set that count (member, place, label, encoding), and how many are quarantined or in the corpus.

    Raises :class:`UserError` if more than ``data.max_quarantined`` of them cannot be used, or if none is left.
    """
    members = archive.listing(faces, both=False).faces
    rows, problems = [], Counter[str]()
    for member in tqdm(members, desc=f"external/{name}", unit="image", disable=None):
        try:
            rows.append(look(faces, member))
        except (archive.MemberError, image.ImageError) as error:
            problems[str(error)] += 1
    limit = params.data.max_quarantined
    if not rows or problems.total() > limit * len(members):
        raise UserError(
            f"external.{name}: {problems.total():,} of {len(members):,} images cannot be used, most often as "
            f"{problems.most_common(1)[0][0]}, and data.max_quarantined = {limit:g} of all may be so; mend the set"
        )
    images = pd.DataFrame(rows)
    hashes = np.concatenate([known, duplicates.hash_bytes(images.pop("dhash"))])
    group = duplicates.alike(hashes, params.data.near_duplicate_bits).group
    new = ~np.isin(group[len(known) :], group[: len(known)])
    if not new.any():
        raise UserError(f"external.{name}: all {len(new):,} images are in the corpus too; name a set of other faces")
    return images[new], {"quarantined": problems.total(), "in_corpus": int((~new).sum())}


def look(faces: Zip, member: Member) -> dict[str, Any]:
    """What there is to know of one image. Raises the error that is its verdict where it cannot be used."""
    if member.problem:
        raise archive.MemberError(member.problem)
    data = archive.read(faces, member.name, member.place)
    encoding = image.inspect(data).encoding
    dhash = duplicates.dhash(image.decode(data))
    return {"member": member.name, "place": member.place, "label": member.label, "encoding": encoding, "dhash": dhash}


if __name__ == "__main__":
    run(main)
