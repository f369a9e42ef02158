"""Stage `download`: one archive of the faces of a set, whatever its source.

Reads the parameters ``sets.NAME``. Writes ``data/raw/NAME.zip`` and ``data/raw/NAME.json``, which says where the
archive came from, what is in it, where its classes lie and its SHA-256.
"""

from pathlib import Path
from typing import Any

from stages.errors import run
from stages.files import project_root, publish, sha256, user_path, write_json
from stages.params import Params, load, set_argument

RAW = Path("data/raw")


def fetch(name: str, params: Params, archive: Path) -> dict[str, Any]:
    """Write the archive of a set at ``archive``; return its provenance.

    A source is imported only when it is chosen: each needs other, slow libraries.
    """
    chosen = params.sets[name]
    if chosen.source == "sample":
        from stages.sources import sample

        assert chosen.sample, "stages.params refuses an empty section"
        return sample.fetch(chosen.sample.faces_per_class, chosen.sample.size, chosen.sample.seed, archive)
    both = params.needs_both(name)
    if chosen.source == "folder":
        from stages.sources import folder

        assert chosen.path, "stages.params refuses an empty path"
        return folder.fetch(user_path(chosen.path), archive, key=f"sets.{name}.path", both=both, classes=chosen.classes)
    from stages.sources import kaggle

    # DVC deletes a stage's outputs before it runs the stage, so what took hours to come is kept outside of them.
    assert chosen.dataset, "stages.params refuses an empty name"
    keep = project_root() / ".scratch" / "kaggle" / chosen.dataset.replace("/", "--")
    return kaggle.fetch(chosen.dataset, chosen.sha256, archive, keep, both=both, classes=chosen.classes)


def main() -> None:
    """Fetch the archive of a set, publish it and its provenance."""
    name = set_argument(main.__doc__)
    params = load()
    chosen, path = params.sets[name], RAW / f"{name}.zip"
    with publish(path) as archive:
        provenance = fetch(name, params, archive)
        record = {"source": chosen.source, "bytes": archive.stat().st_size, **provenance}
        if "sha256" not in record:
            record["sha256"] = sha256(archive)
    if chosen.classes:
        record["classes"] = chosen.classes.model_dump()
    record |= {key: value for key in ("generator", "licence") if (value := getattr(chosen, key))}
    write_json(RAW / f"{name}.json", record)
    size = f"{record['bytes'] / 1e6:,.1f} MB"
    print(f"{path}: {record['images']:,} images from {chosen.source}, {size}, sha256 {record['sha256'][:12]}…")
    if skipped := ", ".join(f"{count:,} {what}" for what, count in record.get("skipped", {}).items()):
        print(f"skipped: {skipped}")
    if licence := record.get("licence"):
        print(f"licence: {licence}")


if __name__ == "__main__":
    run(main)
