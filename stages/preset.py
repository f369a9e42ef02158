"""Command: apply a preset, a file of presets/ that holds only the keys that differ, to params.yaml.

``python -m stages.preset kaggle`` rewrites params.yaml and keeps its comments; ``--overrides`` prints the same as
arguments instead, for ``dvc exp run $(python -m stages.preset kaggle --overrides)``.
"""

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.errors import UserError, run
from stages.files import publish
from stages.params import check, read

PARAMS, PRESETS = Path("params.yaml"), Path("presets")


def main() -> None:
    """Apply a preset, or print it as overrides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a file of presets/, without .yaml")
    parser.add_argument("--overrides", action="store_true", help="print -S key=value … for dvc exp run; change nothing")
    arguments = parser.parse_args()

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000
    preset = read(preset_file(arguments.name), yaml)
    if arguments.overrides:
        print(" ".join(f"-S {key}={literal(value)}" for key, value in leaves(preset)))
        return
    params = read(PARAMS, yaml)
    for key, value in leaves(preset):
        put(params, key, value)
    text = io.StringIO()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(params, text)
    check(YAML(typ="safe", pure=True).load(text.getvalue()), f"params.yaml with preset {arguments.name}")
    with publish(PARAMS) as part:
        part.write_text(text.getvalue(), encoding="utf-8")
    print(f"params.yaml now has preset {arguments.name}; see what it changed with: dvc params diff")


def preset_file(name: str) -> Path:
    """The file of a preset. Raises :class:`UserError` where there is none."""
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.yaml")))
        raise UserError(f"there is no preset {name!r}; choose one of: {known}")
    return path


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of a nested mapping with its dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def put(params: Any, key: str, value: Any) -> None:
    """Set a dotted key that exists already. Raises :class:`UserError` where it does not."""
    *path, last = key.split(".")
    section = params
    for part in path:
        section = section.get(part) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        raise UserError(f"the preset sets {key}, which params.yaml does not have; mend the preset")
    section[last] = value


def literal(value: Any) -> str:
    """A value as Hydra's override grammar reads it, without blanks, so that it survives ``$(…)`` in a shell."""
    return (
        "null" if value is None else json.dumps(value, separators=(",", ":")) if isinstance(value, list) else str(value)
    )


if __name__ == "__main__":
    run(main)
