"""Several hosts that train one network, as ``TF_CONFIG`` names them: they meet, and see that they would train the same.

All run the same stage. Each holds all shards, decodes its share of every batch, and ends every step with the same
weights; the first worker, the chief, validates, remembers and writes. TensorFlow would wait an hour for a host that
does not come, and trains on whatever each has. So hosts meet before it starts, and it is not imported here.
"""

import json
import os
import time
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, NamedTuple

from stages.errors import UserError

PATIENCE = 600.0  # s that hosts wait for each other before the first step; HOSTS_PATIENCE in the environment is another
KEY = b"real-or-generated"  # no secret: it tells our hosts from whatever else knocks; so nothing is unpickled here
LONGEST = 1000  # bytes that a host says of itself
SAME = "bring the same commit and the same data (`dvc pull`) to all hosts"


class Worker(NamedTuple):
    """Which host this is: its ``number``, 0 for the chief, among the ``addresses`` (host:port) of all."""

    number: int
    addresses: list[str]

    @property
    def chief(self) -> bool:
        """Whether it is the one that writes."""
        return self.number == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return len(self.addresses) > 1


def worker() -> Worker:
    """What ``TF_CONFIG`` says; without it, one host. Raises :class:`UserError` if it makes no sense."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return Worker(0, ["localhost:0"])
    try:
        config = json.loads(text)
        task: dict[str, Any] = config["task"]
        addresses: list[str] = config["cluster"].pop("worker")
        number = int(task["index"])
        if config["cluster"] or task["type"] != "worker" or not 0 <= number < len(addresses):
            raise ValueError
        for address in addresses:
            parts(address)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            'TF_CONFIG must be {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": N}}, with '
            f"the same list on every host, and N from 0 on; it is {text[:300]}"
        ) from None
    return Worker(number, addresses)


def meet(worker: Worker, digest: str, checkpoint: Path | None) -> tuple[str, bytes] | None:
    """Wait for all hosts; give the chief's checkpoint, its name and content, if it has one.

    ``digest``: of all that training depends on. Raises :class:`UserError` if that of a host is another, or if one does
    not come within ``PATIENCE``.
    """
    patience = float(os.environ.get("HOSTS_PATIENCE", PATIENCE))
    end = time.monotonic() + patience
    if worker.number:
        return _join(worker, digest, end, patience)
    begun = (checkpoint.name, checkpoint.read_bytes()) if checkpoint else None
    _gather(worker, digest, begun, end, patience)
    return begun


def _gather(worker: Worker, digest: str, begun: tuple[str, bytes] | None, end: float, patience: float) -> None:
    """The chief's part: hear all others, then tell each whether all are well."""
    port = parts(worker.addresses[0])[1]
    heard: dict[int, tuple[Connection, str]] = {}
    try:
        listener = Listener(("", port), backlog=len(worker.addresses), authkey=KEY)
    except OSError as error:
        raise UserError(f"port {port} of TF_CONFIG cannot be opened here: {error.strerror}; name another") from None
    with listener:
        listener._listener._socket.settimeout(1.0)  # type: ignore[attr-defined]  # or accept would wait for ever
        while missing := [one for n, one in enumerate(worker.addresses) if n and n not in heard]:
            if time.monotonic() > end:
                raise UserError(f"{' and '.join(missing)} did not come within {patience:.0f} s; start all hosts")
            with suppress(OSError, EOFError, ValueError, TypeError, AuthenticationError):  # nobody, or no host of ours
                connection = listener.accept()
                number, theirs = json.loads(connection.recv_bytes(LONGEST))
                heard[int(number)] = connection, str(theirs)
    others = [worker.addresses[number] for number, (_, theirs) in sorted(heard.items()) if theirs != digest]
    refused = f"{' and '.join(others)} would train with other code, data or parameters than the chief; {SAME}"
    for connection, _ in heard.values():
        with connection:
            for part in (
                refused.encode() if others else b"",
                *((begun[0].encode(), begun[1]) if begun else (b"", b"")),
            ):
                connection.send_bytes(part)
    if others:
        raise UserError(refused)


def _join(worker: Worker, digest: str, end: float, patience: float) -> tuple[str, bytes] | None:
    """The others' part: tell the chief, hear whether all are well."""
    while time.monotonic() < end:
        try:
            with Client(parts(worker.addresses[0]), authkey=KEY) as connection:
                connection.send_bytes(json.dumps((worker.number, digest)).encode())
                if connection.poll(max(0.0, end - time.monotonic())):
                    refused, name, content = (connection.recv_bytes() for _ in range(3))
                    break
        except (OSError, EOFError, AuthenticationError):
            time.sleep(0.5)
    else:
        raise UserError(
            f"the chief, {worker.addresses[0]}, does not answer within {patience:.0f} s; start all hosts, or mend "
            "TF_CONFIG"
        )
    if refused:
        raise UserError(refused.decode())
    return (Path(name.decode()).name, content) if name else None


def parts(address: str) -> tuple[str, int]:
    """Host and port of an address. Raises ValueError if it has none."""
    host, colon, port = address.rpartition(":")
    if not (host and colon):
        raise ValueError(address)
    return host, int(port)
