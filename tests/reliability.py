"""How often each fault was tried and how often something was lost, kept in docs/reliability.csv where one asks for it.

RELIABILITY=1 make faults        # rewrites the rows of the faults that it tries
"""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.clones import ROOT

TABLE = ROOT / "docs/reliability.csv"
COLUMNS = ("fault", "tried", "lost", "command")


def rows() -> dict[str, dict[str, str]]:
    """The rows of the table, by fault."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {row["fault"]: row for row in csv.DictReader(file)}


@contextmanager
def tally(fault: str, tests: str) -> Iterator[Counter[str]]:
    """Yield a counter of what was ``tried``; at the end, with RELIABILITY set, it is written down as it then stands.

    ``tests``: the file that tries. An exception counts as one lost, and fails the test.
    """
    counts = Counter[str](tried=0)
    try:
        yield counts
    except Exception:
        write(fault, tests, counts["tried"], 1)
        raise
    write(fault, tests, counts["tried"], 0)


def write(fault: str, tests: str, tried: int, lost: int) -> None:
    """Write a row down, with the command as it was typed, if RELIABILITY asks for it."""
    if not os.environ.get("RELIABILITY"):
        return
    typed = [f"{name}={os.environ[name]}" for name in ("KILLS", "MUTATIONS") if name in os.environ]
    row = {"fault": fault, "tried": str(tried), "lost": str(lost), "command": " ".join([*typed, "pytest", tests])}
    table = (rows() if TABLE.exists() else {}) | {fault: row}
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table[name] for name in sorted(table))
