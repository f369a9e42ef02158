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
def tally(fault: str, command: str) -> Iterator[Counter[str]]:
    """Yield a counter of what was ``tried``; at the end, with RELIABILITY set, it is written down as it then stands.

    An exception counts as one lost.
    """
    counts = Counter[str](tried=0, lost=0)
    try:
        yield counts
    except Exception:
        counts["lost"] += 1
        raise
    finally:
        if os.environ.get("RELIABILITY"):
            table = rows() if TABLE.exists() else {}
            table[fault] = {"fault": fault, "command": command} | {kind: str(counts[kind]) for kind in counts}
            with TABLE.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(table[name] for name in sorted(table))
