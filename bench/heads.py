"""The errors of heads that were trained on fewer faces, for the learning curve of ``python -m bench.curve``."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from bench import study
from stages import baseline, features
from stages.detectors import extraction, rows
from stages.detectors.device import prepare
from stages.errors import UserError
from stages.files import read_json
from stages.params import Model, Params

DRAWS = 5


def errors(params: Params) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Each baseline with the size and the error of each draw."""
    for model in params.models:
        if not (folder := Path(f"data/features/{model}")).exists():
            raise UserError(f"there is no {folder}; make it with `dvc repro baseline`")
        made = read_json(folder / "features.json")
        if made["seen"] != params.features.seen or made["views"]["train"] != params.features.views:
            raise UserError(f"{folder} was made with other `features` than params.yaml has; run `dvc repro baseline`")
    prepare("float32", params.training.seed)
    for model in params.models:
        yield f"{model}-baseline", list(measure(model, params))


def measure(model: Model, params: Params) -> Iterator[tuple[int, float]]:
    """The size and the error, 1 - AUC on the test faces, of each draw."""
    folder = Path(f"data/features/{model}")
    train, labels = rows.read(folder, "train")
    faces = labels.reshape(params.features.views, -1)[0]  # the views of all faces follow one another
    with tempfile.TemporaryDirectory() as temporary:
        network, width = features.frozen(model, params)
        extraction.extract(network, width, Path(temporary), "test", 1, params)
        test, answers = (np.array(part) for part in rows.read(Path(temporary), "test"))
        draws = list(drawn(faces, params.training.seed))
        for number, chosen in enumerate(tqdm(draws, desc=model, unit="head", disable=None)):
            picked = np.concatenate([chosen + view * len(faces) for view in range(params.features.views)])
            with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
                head, _ = baseline.fit_head(
                    (train[picked], labels[picked]),
                    rows.read(folder, "valid"),
                    params.detectors[model].baseline,
                    params.training.seed,
                    Path(temporary) / str(number),
                )
            yield len(chosen), 1 - float(roc_auc_score(answers, head.predict(test, verbose=0)[:, 0]))


def drawn(labels: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """The rows of each draw: half real, half fake; where all are wanted there is one draw."""
    generator = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    most = 2 * min(map(len, classes))
    sizes = sorted({min(size, most) for size in study.SIZES})
    for size in sizes:
        for _ in range(DRAWS if size < most else 1):
            yield np.concatenate([generator.choice(rows, size // 2, replace=False) for rows in classes])
