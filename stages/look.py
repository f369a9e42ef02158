"""Stage `look`: whether a person's own folders changed since the last run, by what a look at their files tells.

DVC sees only what lies in the project. So ``data/own/sets/NAME.json``, of a set, and ``data/own/weights.json`` say what
the folder or zip is like that params.yaml names: how many files count, and a digest of their names, sizes and times of
change. No file is read. The stage runs at each ``dvc repro`` where something is named (``stages/look.yaml`` sees to
that), and the stages that read the files depend on what it writes. Where a folder is missing, as on a colleague's
machine, what is known of it stays.
"""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from stages.errors import run
from stages.files import digest, user_path, write_json
from stages.params import Classes, load
from stages.sources import folder

OWN = Path("data/own")


def main() -> None:
    """Look at the faces of one set, or at the weights."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("set", nargs="?", help="of params.yaml; none: the weights")
    name = parser.parse_args().set
    params = load()
    if name:
        chosen = params.of(name)
        look(OWN / "sets" / f"{name}.json", chosen.path, partial(faces, classes=chosen.classes))
    else:
        look(OWN / "weights.json", params.weights.folder if params.weights.source == "folder" else None, weights)


def look(record: Path, named: str | None, files: Callable[[Path], Iterable[str]]) -> None:
    """Write at ``record`` what the files are like below the path that params.yaml names; nothing, if it names none."""
    path = user_path(named or "")
    found = sorted((file, (path / file).stat()) for file in files(path)) if named and path.exists() else []
    if found:
        fingerprint = digest([(file, stat.st_size, stat.st_mtime_ns) for file, stat in found])
        write_json(record, {"files": len(found), "fingerprint": fingerprint})
        print(f"{record}: {len(found):,} files in {path}")
    elif named and record.exists():
        print(f"{path} is not there, or has no such files, so what is known of it stays")
    else:
        write_json(record, {})


def faces(path: Path, classes: Classes | None) -> Iterable[str]:
    """The images in a folder, by their paths below it, or a zip itself."""
    return [""] if path.is_file() else folder.images(path, classes)[0]


def weights(path: Path) -> Iterable[str]:
    """The files of weights in a folder."""
    return [file.name for file in path.glob("*.weights.h5")]


if __name__ == "__main__":
    run(main)
