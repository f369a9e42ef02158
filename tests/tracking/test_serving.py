"""`mlflow models serve` answers images over HTTP with calibrated probabilities, without this repository."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.scoring import calibration
from tests.tracking.conftest import ROOT, SIZE, WINNER, command, served

Ask = Callable[[Any], tuple[int, Any]]


@pytest.fixture(scope="module")
def address(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("MLFLOW_", "DVC_", "PYTHONPATH"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    folder = tmp_path_factory.mktemp("served")
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    shutil.copytree(written, folder / "project")
    assert command(folder / "project", **environment).returncode == 0
    with served(folder, environment) as address:
        yield address


@pytest.fixture
def ask(address: str) -> Ask:
    """Ask the server over HTTP: anything that JSON can say in, status and answer out."""

    def ask(content: Any) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"{address}/invocations", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    return ask


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def rows(*images: bytes) -> dict[str, Any]:
    return {"dataframe_records": [{"image": base64.b64encode(data).decode()} for data in images]}


def expected(written: Path, pixels: np.ndarray) -> tuple[float, str]:
    """What the saved detector and its calibration say of faces of the right size (n, SIZE, SIZE, 3)."""
    import keras

    score = keras.saving.load_model(written / f"data/models/{WINNER}.keras").predict(pixels, verbose=0)[:, 0]
    logit = np.log(score) - np.log1p(-score)
    known = calibration.read(written / f"data/exported/{WINNER}/calibration.json")
    return known.probability(logit), known.verdict(logit)


@pytest.mark.slow
def test_a_jpeg_over_http_is_answered_with_the_calibrated_probability(written: Path, ask: Ask) -> None:
    files = [jpeg(np.full((SIZE, SIZE, 3), shade, np.uint8)) for shade in (0, 90, 255)]
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in files]).astype("float32")
    status, answer = ask(rows(*files))
    assert status == 200
    probability, verdict = expected(written, decoded)
    assert len(set(probability)) == 3
    assert [row["probability"] for row in answer["predictions"]] == pytest.approx(list(probability), abs=1e-6)
    assert [row["verdict"] for row in answer["predictions"]] == list(verdict)
    assert [row["unlike"] for row in answer["predictions"]] == [False] * 3
    assert [row["error"] for row in answer["predictions"]] == [None] * 3


def test_a_face_that_is_unlike_the_training_faces_is_marked(ask: Ask) -> None:
    colours = [np.full((SIZE, SIZE, 3), colour, np.uint8) for colour in ((250, 50, 0), (150, 150, 0))]
    _, answer = ask(rows(*map(jpeg, colours)))
    assert [row["unlike"] for row in answer["predictions"]] == [True, False]


def test_a_bad_image_is_a_row_that_says_why_and_spoils_no_other(ask: Ask) -> None:
    good = jpeg(np.full((SIZE, SIZE, 3), 128, np.uint8))
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    content = rows(b"a letter", good, good[: len(good) // 2], bomb.getvalue(), b"")
    content["dataframe_records"] += [
        {"image": text} for text in ("no base64!", "data:image/png;base64,%", "AAAAdata:image/png;base64,AAAA", None, 5)
    ]
    status, answer = ask(content)
    assert status == 200
    errors = [row["error"] for row in answer["predictions"]]
    large = "larger than 65,000,000 pixels"
    assert errors == ["not an image", None, "truncated", large, "empty", *["not base64"] * 5]
    for row, error in zip(answer["predictions"], errors, strict=True):
        assert (
            (row["probability"] is None) == (row["verdict"] is None) == (row["unlike"] is None) == (error is not None)
        )


@pytest.mark.parametrize(
    "encode",
    [base64.encodebytes, lambda data: b"data:image/jpeg;base64," + base64.b64encode(data)],
    ids=["line breaks", "data URL"],
)
def test_base64_may_come_as_mail_and_as_web_pages_write_it(encode: Callable[[bytes], bytes], ask: Ask) -> None:
    face = jpeg(np.full((SIZE, SIZE, 3), 128, np.uint8))
    _, answer = ask({"dataframe_records": [{"image": encode(face).decode()}, *rows(face)["dataframe_records"]]})
    assert answer["predictions"][0] == answer["predictions"][1]
    assert answer["predictions"][0]["error"] is None


def test_more_than_an_image_may_have_is_refused_before_it_is_decoded(ask: Ask) -> None:
    status, answer = ask({"dataframe_records": [{"image": "A" * 95_000_000}]})
    assert (status, answer["predictions"][0]["error"]) == (200, "larger than 64 MB")


def test_an_image_of_another_size_is_cut_and_resized_as_the_pipeline_does(ask: Ask) -> None:
    """Grey in its central square: what the margins hold changes nothing, and EXIF, palette and grey files will do."""
    wide = np.zeros((SIZE * 2, SIZE * 4, 3), np.uint8)
    wide[:, SIZE : SIZE * 3] = 128
    buffer = io.BytesIO()
    Image.fromarray(wide).convert("L").save(buffer, "PNG")
    square = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (128, 128, 128)).save(square, "PNG")
    _, answer = ask(rows(buffer.getvalue(), square.getvalue()))
    first, second = answer["predictions"]
    assert first["error"] is None
    assert first["probability"] == pytest.approx(second["probability"], abs=1e-6)


@pytest.mark.parametrize("content", [{"dataframe_records": [{"picture": "AAAA"}]}, {"inputs": 3}, {}, "AAAA"])
def test_a_request_without_an_image_is_refused(content: Any, ask: Ask) -> None:
    status, answer = ask(content)
    assert status == 400
    assert "Traceback" not in json.dumps(answer)


def test_the_command_in_the_docs_asks_it(address: str, tmp_path: Path) -> None:
    shown = re.search(r"^\$ (cat .*?-d @-)$", (ROOT / "docs/predict.md").read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    (tmp_path / "face.jpg").write_bytes(jpeg(np.full((600, 400, 3), 200, np.uint8)))
    script = shown[1].replace("http://127.0.0.1:5001", address)
    assert address in script
    answer = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    (row,) = json.loads(answer.stdout)["predictions"]
    assert row["verdict"] in calibration.VERDICTS
    assert row["error"] is None
