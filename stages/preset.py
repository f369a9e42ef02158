"""Command: apply presets, files of presets/ that hold only the keys that differ, to params.yaml.

``python -m stages.preset kaggle`` rewrites params.yaml and keeps its comments; of several, ``kaggle many``, the later
one goes before the earlier. ``--overrides`` prints the same as arguments instead, for ``dvc exp run $(python -m
stages.preset kaggle --overrides)``.
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
    """Apply presets, or print them as overrides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a file of presets/, without .yaml")
    parser.add_argument("--overrides", action="store_true", help="print -S key=value … for dvc exp run; change nothing")
    arguments = parser.parse_args()

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1000
    preset = {key: value for name in arguments.names for key, value in leaves(read(preset_file(name), yaml))}
    names, verb = " and ".join(arguments.names), "adds" if len(arguments.names) == 1 else "add"
    params = read(PARAMS, yaml)
    require_sets(preset, params)
    added = [key for key, value in preset.items() if put(params, key, value)]
    if arguments.overrides:
        if added:
            raise UserError(
                f"{names} {verb} {added[0]} and more that -S cannot add; leave --overrides out, and commit params.yaml"
            )
        print(" ".join(f"-S {key}={literal(value)}" for key, value in preset.items()))
        return
    text = io.StringIO()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(params, text)
    check(YAML(typ="safe", pure=True).load(text.getvalue()), f"params.yaml with preset {names}")
    with publish(PARAMS) as part:
        part.write_text(text.getvalue(), encoding="utf-8")
    print(f"params.yaml now has preset {names}; see what it changed with: dvc params diff")


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


def require_sets(preset: dict[str, Any], params: Any) -> None:
    """Raise :class:`UserError` where a preset changes a set that params.yaml lacks, and does not bring it along."""
    named = dict.fromkeys(key.split(".")[1] for key in preset if key.startswith("sets."))
    for name in named:
        whole = {f"sets.{name}.source", f"sets.{name}.use"} <= set(preset)
        if name not in params["sets"] and not whole:
            raise UserError(
                f"the preset changes the set {name}, which params.yaml does not have; give this name to the set that "
                "is meant, and run again"
            )


def put(params: Any, key: str, value: Any) -> bool:
    """Set a dotted key; return whether it is new. Raises :class:`UserError` for a new one that is not of a set."""
    *path, last = key.split(".")
    section = params
    for part in path:
        if path[0] == "sets" and section.get(part) is None:  # such as classes, which a set need not have
            section[part] = {}
        section = section.get(part)
        if not isinstance(section, dict):
            break
    if not isinstance(section, dict) or (last not in section and path[0] != "sets"):
        raise UserError(f"the preset sets {key}, which params.yaml does not have; mend the preset")
    new = last not in section
    section[last] = value
    return new


def literal(value: Any) -> str:
    """A value as Hydra's override grammar reads it, without blanks, so that it survives ``$(…)`` in a shell."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return json.dumps(value, separators=(",", ":"))
    return str(value)


if __name__ == "__main__":
    run(main)
