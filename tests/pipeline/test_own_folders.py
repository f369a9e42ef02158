"""The real `dvc repro` on people's own folders: what changes in them is seen, and runs nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.clones import call, change, clone, ran


def test_changes_in_own_folders_are_seen(tmp_path: Path, png: Callable, noise: Callable) -> None:
    """Those of two sets, outside of the project; and nothing else is run for them."""

    def face(seed: int, name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(noise(seed, 32, 32)))
        return path

    def repro() -> list[str]:
        return ran(call(project, "dvc", "repro", "audit"))

    def changed(name: str) -> list[str]:
        return [f"{stage}@{name}" for stage in ("download", "index")]

    def images() -> tuple[int, int]:
        mine, other = (json.loads((project / f"data/raw/{name}.json").read_text()) for name in ("mine", "other"))
        return mine["images"], other["images"]

    project = clone(tmp_path / "project")
    for number, name in enumerate(("my faces/real/1", "my faces/real/2", "my faces/fake/1", "my faces/fake/2")):
        face(number, f"{name}.png")
    face(9, "other/fake/1.png")
    paths = {"mine": ("train", "my faces"), "other": ("test", "other")}
    sets = {name: {"source": "folder", "use": use, "path": str(tmp_path / path)} for name, (use, path) in paths.items()}
    change(project, "sets", sets)

    looks = ["look@mine", "look@other"]
    assert sorted(repro()) == sorted([*looks, *changed("mine"), *changed("other"), "audit"])
    assert images() == (4, 1)
    assert sorted(repro()) == looks

    added = face(10, "my faces/real/3.png")
    assert sorted(repro()) == sorted([*looks, *changed("mine"), "audit"])
    assert images() == (5, 1)
    added.unlink()  # so that the faces are what they were at first
    face(11, "other/fake/2.png")
    assert sorted(repro()) == sorted([*looks, *changed("other"), "audit"])  # mine is in the run cache
    assert images() == (4, 2)

    for name in ("my faces", "other"):
        (tmp_path / name).rename(tmp_path / f"away with {name}")
    assert sorted(repro()) == looks
    assert images() == (4, 2)
