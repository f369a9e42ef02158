"""Stage `weights`: a backbone's starting weights, as a file that DVC can hash.

Reads nothing but parameters; writes ``data/weights/M.weights.h5`` and, beside it, a json of where they came from.
With ``download`` one of the two stages that touch the network.
"""

import argparse
import socket
import threading
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.backend import keras
from stages.detectors.assembly import backbone_module
from stages.errors import UserError, run
from stages.files import publish, sha256, user_path, write_json
from stages.params import Weights, load


class DownloadError(Exception):
    """Why the ImageNet weights did not come, in words that finish a sentence."""


def main() -> None:
    """Make the weights of one backbone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    model = parser.parse_args().model
    params = load().weights
    module = backbone_module(model)

    backbone, origin = choose(params, model, module)
    path = Path(f"data/weights/{model}.weights.h5")
    with publish(path) as part:
        backbone.save_weights(part)
    write_json(path.with_suffix("").with_suffix(".json"), {**origin, "asked": params.source, "sha256": sha256(path)})
    print(f"{model} starts from {origin['source']} weights")


def choose(params: Weights, model: str, module: ModuleType) -> "tuple[keras.Model, dict[str, Any]]":
    """The backbone with the weights that the parameters ask for, and where they came from.

    Only ``auto`` may put others in their place (random for ImageNet), and says so.
    """
    match params.source:
        case "imagenet":
            try:
                return imagenet(module, None), {"source": "imagenet"}
            except DownloadError as error:
                raise UserError(
                    f"weights.source is imagenet, but {error}; connect to the internet, or set weights.source to "
                    "random, or to folder with weights.folder naming a folder of .weights.h5 files"
                ) from None
        case "folder":
            file = weights_file(user_path(params.folder or ""), model)
            return from_file(module, file), {"source": "folder", "file": file.name}
        case "random":
            return random(module, params.seed), {"source": "random", "seed": params.seed}
        case _:
            try:
                return imagenet(module, params.timeout), {"source": "imagenet"}
            except DownloadError as error:
                print(
                    f"note: {model} starts from random weights instead of ImageNet's, for {error}. To undo this, mend "
                    f"the connection and type: dvc repro -f weights@{model} && dvc repro. To be stopped instead of "
                    "served, set weights.source to imagenet."
                )
                return random(module, params.seed), {"source": "random", "seed": params.seed, "reason": str(error)}


def random(module: ModuleType, seed: int) -> "keras.Model":
    """The backbone as Keras initialises it, from a seed."""
    keras.utils.set_random_seed(seed)
    return module.backbone()


def imagenet(module: ModuleType, timeout: int | None) -> "keras.Model":
    """The backbone with Keras' ImageNet weights, from its own cache or by its own download.

    ``timeout`` bounds the whole wait in seconds; None waits as long as bytes arrive. Raises :class:`DownloadError`.
    """
    socket.setdefaulttimeout(30)  # Keras' download has no time-out of its own
    outcome: list[Any] = []

    def fetch() -> None:
        try:
            outcome.append(module.backbone("imagenet"))
        except Exception as error:  # Keras wraps whatever its download meets in a bare Exception
            outcome.append(error)

    # A daemon thread, so that a download which is given up does not hold the process when it ends.
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise DownloadError(f"the weights did not come within {timeout} s")
    if isinstance(outcome[0], Exception):
        reason = " ".join(str(outcome[0]).split()).rstrip(".").rpartition(" -- ")[2]  # Keras puts the address before it
        raise DownloadError(f"the weights could not be downloaded ({reason})")
    return outcome[0]


def weights_file(folder: Path, model: str) -> Path:
    """The one file for ``model`` in ``folder``. Raises :class:`UserError`."""
    if not folder.is_dir():
        raise UserError(f"weights.folder = {folder} is not a folder; name one that holds {model}*.weights.h5")
    files = sorted(folder.glob(f"{model}*.weights.h5"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(f"weights.folder = {folder} must hold exactly one {model}*.weights.h5, but holds {found}")
    return files[0]


def from_file(module: ModuleType, file: Path) -> "keras.Model":
    """The backbone with the weights of a file. Raises :class:`UserError` where they do not fit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of every layer that does not fit; the error says it once
            return module.backbone(str(file))
    except (ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file} does not hold weights of this backbone without its classifier ({reason}); export them with "
            "include_top=False and save_weights()"
        ) from None


if __name__ == "__main__":
    run(main)
