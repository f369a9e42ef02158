"""Command: fine-tune on a Ray cluster. ``python -m stages.train_on_ray M --workers N``.

Ray places the workers, one a machine as far as there are so many, and tells each ``TF_CONFIG``; each runs the stage
`finetune` (:mod:`stages.detectors.hosts`) in the project's folder, which lies under the same path on every machine. The
chief is on the machine where this is typed, and writes there. Ray Train's own TensorFlow trainer is not used: it forces
Keras 2.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from stages.cluster import PATIENCE, connect
from stages.errors import UserError, run
from stages.params import Model

LAST = 40  # lines of a worker that are shown if it fails; those of the chief are shown as they come


class Worker:
    """Ray's actor: one host of the training."""

    def address(self) -> str:
        """Host and port where it will listen."""
        import ray

        with socket.create_server(("", 0)) as free:
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def train(self, model: str, folder: str, addresses: list[str], number: int) -> Iterator[str | int]:
        """Run the stage; what it says line by line, and in the end its exit code."""
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
        command = [sys.executable, "-m", "stages.finetune", model]
        # As DVC does, so that the stage ends with this actor, even where all of Ray is killed (stages/lifetime.py).
        environment = os.environ | {"TF_CONFIG": json.dumps(task), "DVC_STAGE": f"finetune@{model}"}
        with subprocess.Popen(
            command, cwd=folder, env=environment, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout
            for line in process.stdout:  # noqa: UP028 - Ray wraps actors' generators, and files have no send
                yield line
        yield process.returncode


def main() -> None:
    """Fine-tune one backbone on the workers that Ray places."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=get_args(Model))
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="hosts that share each batch (default: 2)")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="cores of a worker (default: 1)")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs of a worker (default: 0)")
    parser.add_argument("--address", help="of a Ray cluster, such as 10.0.0.1:6379; without it, this machine is one")
    arguments = parser.parse_args()
    if min(arguments.workers, arguments.cpus, arguments.gpus + 1) < 1:
        parser.error("--workers and --cpus must be at least 1, --gpus at least 0")
    connect(arguments.address)
    import ray

    try:
        failed = train(arguments)
    except ray.exceptions.RayError as error:
        raise UserError(f"Ray gave up ({reason(error)}); look at the cluster, and start again") from None
    finally:
        ray.shutdown()
    if failed:
        raise UserError(f"{failed} of {arguments.workers} workers failed; mend what they say above, and start again")


def train(arguments: argparse.Namespace) -> int:
    """Place the workers and let them train; how many failed."""
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    room: dict[str, float] = {"CPU": arguments.cpus, "GPU": arguments.gpus}
    rooms = [dict(room) for _ in range(arguments.workers)]
    rooms[0][f"node:{ray.util.get_node_ip_address()}"] = 0.001  # the chief is here
    group = placement_group(rooms, strategy="SPREAD")
    try:
        ray.get(group.ready(), timeout=PATIENCE)
    except GetTimeoutError:
        raise UserError(
            f"the cluster has no room for {arguments.workers} workers of {arguments.cpus} cores and {arguments.gpus} "
            "GPUs; ask for fewer, or add machines"
        ) from None
    actor: Any = ray.remote(Worker)
    workers = [
        actor.options(
            num_cpus=arguments.cpus,
            num_gpus=arguments.gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
        ).remote()
        for number in range(arguments.workers)
    ]
    addresses = ray.get([worker.address.remote() for worker in workers])
    streams = [
        worker.train.options(num_returns="streaming").remote(arguments.model, str(Path.cwd()), addresses, number)
        for number, worker in enumerate(workers)
    ]
    failed, running = 0, {stream: (number, deque[str](maxlen=LAST)) for number, stream in enumerate(streams)}
    while running:
        stream = ray.wait(list(running))[0][0]
        number, lines = running[stream]
        try:
            said = ray.get(next(stream))
        except ray.exceptions.RayError as error:  # its actor was killed, say
            said = 1
            lines.append(f"{reason(error)}\n")
        if isinstance(said, int):  # the exit code comes last
            del running[stream]
            if said:
                failed += 1
                print(f"worker {number}, {addresses[number]}, failed:\n{''.join(lines)}", end="", flush=True)
        elif number == 0:
            print(said, end="", flush=True)
        else:
            lines.append(said)
    return failed


def reason(error: Exception) -> str:
    """What happened, in a line, without where in Ray."""
    return str(getattr(error, "cause", None) or error).partition("\n")[0]


if __name__ == "__main__":
    from stages import train_on_ray  # as Ray's processes know it, not as __main__

    run(train_on_ray.main)
