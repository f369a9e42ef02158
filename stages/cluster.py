"""A Ray cluster, for the commands that run on one, and how long they wait for what is elsewhere."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

from stages.errors import UserError
from stages.quiet import without_harmless_lines

OBJECT_STORE = 200 * 2**20  # bytes that Ray holds at once on a machine of its own: it hands out names, not pictures
PATIENCE = 60.0  # s that a store or a cluster has for its first answer; their libraries would try for ten minutes


def connect(address: str | None) -> None:
    """Start Ray on this machine, or join a cluster. Raises :class:`UserError` where there is none."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of what it has to say on standard error
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("Ray is not installed; run `python -m pip install -r requirements-cluster.txt`") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        with without_harmless_lines():
            ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
        return
    try:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        if port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
        with within(PATIENCE, address), without_harmless_lines():
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`") from None


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """End the program with a sentence where something does not answer in time, even one that is deaf to signals."""
    stderr = os.dup(2)  # which may be held back meanwhile

    def end() -> None:
        os.write(
            stderr, f"error: {what} does not answer within {seconds:.0f} s; see that it does and run again\n".encode()
        )
        os._exit(1)

    timer = Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        os.close(stderr)
