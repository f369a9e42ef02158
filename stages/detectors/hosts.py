"""Several hosts that train one network, as ``TF_CONFIG`` names them: they meet, and see that they would train the same.

All run the same stage. Each holds all shards, decodes its share of every batch, and ends every step with the same
weights; the first worker, the chief, validates, remembers and writes. TensorFlow would wait an hour for a host that
does not come, and trains on whatever each has. So hosts meet before it starts, and it is not imported here.

A host says one line of JSON to the chief and gets one, and behind it the checkpoint. Whatever else connects, such as a
load balancer's probe, may say what it likes or nothing: it is dropped.
"""

import json
import os
import socket
import time
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

from stages.errors import UserError
from stages.files import digest

PATIENCE = 600.0  # s that hosts wait for each other before the first step; HOSTS_PATIENCE in the environment is another
MOMENT = 1.0  # s for what takes none on a sound network: to connect, and to say the line
LONGEST = 10_000  # bytes of a line
SAME = "bring the same commit, parameters, data (`dvc pull`), libraries and TF_CONFIG to all, and GPUs of one kind"
NOT_OURS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)  # of whatever is said to us


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
        if config["cluster"] or task["type"] != "worker" or not isinstance(addresses, list):
            raise ValueError
        if not 0 <= number < len(addresses) == len({parts(address) for address in addresses}):
            raise ValueError
    except NOT_OURS:
        raise UserError(
            'TF_CONFIG must be {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": N}}, with '
            f"the same list on every host, no address twice, and N from 0 on; it is {text[:300]}"
        ) from None
    return Worker(number, addresses)


def meet(worker: Worker, made_of: dict[str, str], epoch: int, backup: bytes) -> tuple[int, bytes]:
    """Wait for all hosts; give the chief's ``epoch``, 0 before the first is done, and the ``backup`` of it.

    ``made_of``: digests of what training depends on, by names that a person knows. Raises :class:`UserError` if those
    of a host differ, if two have one number, or if one does not come within ``PATIENCE``.
    """
    text = os.environ.get("HOSTS_PATIENCE", str(PATIENCE))
    try:
        patience = float(text)
        if not 0 < patience < 1e6:  # a socket takes no more
            raise ValueError
    except ValueError:
        raise UserError(f"HOSTS_PATIENCE must be a number of seconds, more than 0; it is {text}") from None
    made_of = {**made_of, "the addresses in TF_CONFIG": digest(worker.addresses)}
    if worker.number:
        return _join(worker, made_of, patience)
    _gather(worker, made_of, epoch, backup, patience)
    return epoch, backup


def _gather(worker: Worker, made_of: dict[str, str], epoch: int, backup: bytes, patience: float) -> None:
    """The chief's part: hear all others, then tell each whether all are well."""
    port, end = parts(worker.addresses[0])[1], time.monotonic() + patience
    others = dict(enumerate(worker.addresses[1:], 1))
    heard: dict[int, tuple[socket.socket, list[str]]] = {}  # who waits for the answer, and in what it differs

    def waits(number: int) -> bool:
        return number in heard and not _gone(heard[number][0])

    with ExitStack() as opened:
        try:
            listener = opened.enter_context(socket.create_server(("", port), backlog=len(others)))
        except OSError as error:
            raise UserError(f"port {port} of TF_CONFIG cannot be opened here: {error.strerror}; name another") from None
        listener.settimeout(MOMENT)
        while missing := [address for number, address in others.items() if not waits(number)]:
            if time.monotonic() > end:
                raise UserError(f"{' and '.join(missing)} did not come within {patience:g} s; start all hosts")
            with suppress(*NOT_OURS), ExitStack() as visit:
                connection = visit.enter_context(listener.accept()[0])
                connection.settimeout(MOMENT)
                with connection.makefile("rb") as file:
                    said = json.loads(file.readline(LONGEST))
                number, theirs = said["number"], said["made_of"]
                differs = [name for name in made_of if theirs.get(name) != made_of[name]]
                if number not in others or waits(number):
                    _tell(connection, f"the chief waits for no other host with the index {number} in TF_CONFIG; {SAME}")
                else:
                    heard[number] = opened.enter_context(connection), differs
                    visit.pop_all()
        refused = "; ".join(
            f"{others[number]} differs from the chief in {' and '.join(differs)}"
            for number, (_, differs) in sorted(heard.items())
            if differs
        )
        refused = refused and f"{refused}: {SAME}"
        for number, (connection, _) in heard.items():
            try:
                connection.settimeout(patience)
                _tell(connection, refused, *(() if refused else (epoch, backup)))
            except OSError:
                refused = refused or f"{others[number]} went away before the first step; start all hosts again"
    if refused:
        raise UserError(refused)


def _gone(connection: socket.socket) -> bool:
    """Whether a host that waits for the answer, and so says nothing, is there no longer."""
    connection.settimeout(0)
    try:
        return not connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _tell(connection: socket.socket, refused: str, epoch: int = 0, backup: bytes = b"") -> None:
    """The chief's answer to a host."""
    answer = {"refused": refused, "epoch": epoch, "bytes": len(backup)}
    connection.sendall(json.dumps(answer).encode() + b"\n")
    connection.sendall(backup)


def _join(worker: Worker, made_of: dict[str, str], patience: float) -> tuple[int, bytes]:
    """The others' part: tell the chief, hear whether all are well."""
    end = time.monotonic() + patience
    line = json.dumps({"number": worker.number, "made_of": made_of}).encode() + b"\n"
    while (left := end - time.monotonic()) > 0:
        with (
            suppress(*NOT_OURS),
            socket.create_connection(parts(worker.addresses[0]), MOMENT) as connection,
            connection.makefile("rb") as file,
        ):
            connection.settimeout(left)
            connection.sendall(line)
            answer = json.loads(file.readline(LONGEST))
            refused, epoch, size = str(answer["refused"]), int(answer["epoch"]), int(answer["bytes"])
            backup = file.read(size)
            if len(backup) == size:
                break
        time.sleep(MOMENT / 2)
    else:
        raise UserError(
            f"the chief, {worker.addresses[0]}, does not answer within {patience:g} s; start all hosts, or mend "
            "TF_CONFIG"
        )
    if refused:
        raise UserError(refused)
    return epoch, backup


def parts(address: str) -> tuple[str, int]:
    """Host and port of an address. Raises ValueError if it has none."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and 0 < int(port) < 2**16):
        raise ValueError(address)
    return host, int(port)
