"""Command `ui` (``make ui``): serve the runs in MLflow, and say at last where they are seen."""

import argparse
import os
import socket
import subprocess
import sys
import time

from stages.errors import UserError, run
from stages.params import load
from stages.tracking import address, quieten_mlflow, reason, without_secrets


def main() -> None:
    """Serve the runs in MLflow; where MLFLOW_TRACKING_URI is a server, say where it shows them."""
    parser = argparse.ArgumentParser(prog="python -m stages.tracking.ui", description=main.__doc__)
    parser.add_argument("--port", type=int, default=5000)
    port = parser.parse_args().port
    uri = address()
    view = experiment_page(uri, load().tracking.experiment)
    if uri.startswith("http"):
        print(f"open {without_secrets(uri).rstrip('/')}/{view}")
        return
    try:
        with socket.create_server(("127.0.0.1", port)) as free:
            port = free.getsockname()[1]  # of 0, any free one
    except (OSError, OverflowError):
        raise UserError(f"cannot listen on port {port}; free it or choose another: make ui PORT=5001") from None
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "ui", "--port", str(port)),
            "--workers=1",
            "--uvicorn-opts=--log-level=critical",
        ],
        # The address not in the command, which others can read; and no processes for jobs and warnings of libraries,
        # which are not for us.
        env={
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PYTHONWARNINGS": "ignore",
        },
    )
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    else:
        raise UserError("MLflow did not start; what it printed says why")
    print(f"open http://127.0.0.1:{port}/{view} (Ctrl-C stops the server)", flush=True)
    try:
        sys.exit(server.wait())
    except KeyboardInterrupt:
        server.wait()  # the terminal has told it too


def experiment_page(uri: str, name: str) -> str:
    """The page of an experiment's runs, below the server's address; the list of experiments where it is not there yet.

    Raises :class:`UserError` where the server is away.
    """
    quieten_mlflow()
    from mlflow import MlflowClient

    try:
        experiment = MlflowClient(uri).get_experiment_by_name(name)
    except Exception as error:
        raise UserError(f"MLflow at {without_secrets(uri)} does not answer ({reason(error)})") from None
    return f"#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning" if experiment else ""


if __name__ == "__main__":
    run(main)
