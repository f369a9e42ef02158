"""Command `tracking` (``make track``): send to MLflow what it lacks."""

from stages.errors import run
from stages.params import load
from stages.tracking import send


def main() -> None:
    """Send to MLflow what it lacks."""
    send(load())


if __name__ == "__main__":
    run(main)
