"""Command `tracking` (``make track``): send to MLflow what it lacks."""

import argparse

from stages.errors import run
from stages.params import load
from stages.tracking import send


def main() -> None:
    """Send to MLflow what it lacks."""
    parser = argparse.ArgumentParser(prog="python -m stages.tracking", description=main.__doc__)
    parser.add_argument(
        "--promote", action="store_true", help="make the winner the registered champion, whatever the champion is"
    )
    send(load(), promote=parser.parse_args().promote)


if __name__ == "__main__":
    run(main)
