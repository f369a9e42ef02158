"""The measures of ``python -m bench.run``: one file each, found by its name.

A file has ``measure()``, which yields a :class:`bench.measure.Result` for every figure, or raises
:class:`bench.measure.SkipError`. It runs in the folder of a temporary project (``bench/project.py``): ``params.yaml``,
``data/shards`` and ``data/weights`` are there. ``SLOW = True`` keeps it for ``--slow``, ``PROJECT = False`` says that
it needs no project. The first line of its docstring is its description.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def module(name: str) -> ModuleType:
    """The module of a measure."""
    return import_module(f"bench.suite.{name}")
