"""Stage `download`: one archive of faces, whatever the source.

Reads the parameters ``data.source`` and the section of that source. Writes ``data/raw/faces.zip`` and
``data/raw/source.json``, which says where the archive came from, what is in it and its SHA-256.
"""

from pathlib import Path
from typing import Any

from stages.errors import run
from stages.files import project_root, publish, sha256, user_path, write_json
from stages.params import Data, load

ARCHIVE = Path("data/raw/faces.zip")
SOURCE = Path("data/raw/source.json")


def fetch(data: Data, archive: Path) -> dict[str, Any]:
    """Write the archive of the chosen source at ``archive``; return its provenance.

    A source is imported only when it is chosen: each needs other, slow libraries.
    """
    if data.source == "sample":
        from stages.sources import sample

        return sample.fetch(data.sample.faces_per_class, data.sample.size, data.sample.seed, archive)
    if data.source == "folder":
        from stages.sources import folder

        assert data.folder.path, "stages.params refuses an empty path"
        return folder.fetch(user_path(data.folder.path), archive)
    from stages.sources import kaggle

    # DVC deletes a stage's outputs before it runs the stage, so what took hours to come is kept outside of them.
    keep = project_root() / ".scratch" / "kaggle" / data.kaggle.dataset.replace("/", "--")
    return kaggle.fetch(data.kaggle.dataset, data.kaggle.sha256, archive, keep)


def main() -> None:
    """Fetch the archive, publish it and its provenance."""
    data = load().data
    with publish(ARCHIVE) as archive:
        provenance = fetch(data, archive)
        record = {"source": data.source, "bytes": archive.stat().st_size, **provenance}
        if "sha256" not in record:
            record["sha256"] = sha256(archive)
    write_json(SOURCE, record)
    size = f"{record['bytes'] / 1e6:,.1f} MB"
    print(f"{ARCHIVE}: {record['images']:,} images from {data.source}, {size}, sha256 {record['sha256'][:12]}…")
    if skipped := ", ".join(f"{count:,} {what}" for what, count in record.get("skipped", {}).items()):
        print(f"skipped: {skipped}")
    if licence := record.get("licence"):
        print(f"licence: {licence}")


if __name__ == "__main__":
    run(main)
