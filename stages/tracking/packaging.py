"""A detector as an MLflow model: what ``mlflow.keras.load_model`` and ``mlflow models serve`` take."""

import base64
import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from stages.tracking.content import CALIBRATION, Detector

CODE = Path(__file__).parents[1]  # stages/, which travels with the model
REQUIRED = ("keras", "mlflow", "numpy", "pandas", "pillow", "scipy", "tensorflow")


def package(detector: Detector, logged: Any, folder: Path, jpeg: int | None) -> None:
    """Write the MLflow model of a detector into ``folder``: its files as they are, and our code.

    ``jpeg`` is the quality at which its images were saved, or None. ``mlflow.keras.log_model`` wants the model in
    memory: to load and save four takes a minute, to copy them no time. ``mlflow.keras.load_model`` gives the Keras
    model; ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` give what :mod:`stages.tracking.serving` makes of
    it, without this repository.
    """
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "image")]),
        outputs=Schema(
            [
                ColSpec("double", "probability", required=False),
                ColSpec("string", "verdict", required=False),
                ColSpec("boolean", "unlike", required=False),
                ColSpec("string", "error", required=False),
            ]
        ),
    )
    size = detector.record["image_size"]
    mlmodel = Model(logged.artifact_location, logged.source_run_id, model_id=logged.model_id)
    mlmodel.add_flavor(
        "keras",
        data=f"artifacts/{detector.name}",  # MLflow adds the .keras
        keras_version=version("keras"),
        keras_backend="tensorflow",
        save_exported_model=False,
    )
    pyfunc.save_model(
        str(folder),
        python_model=str(CODE / "tracking/serving.py"),
        code_paths=[str(CODE)],
        artifacts={
            "detector": str(detector.keras),
            "distance": str(detector.keras.with_suffix(".npz")),
            "calibration": str(detector.files[CALIBRATION]),
        },
        model_config={"image_size": size, "image_jpeg": jpeg},
        signature=signature,
        input_example=pd.DataFrame({"image": [_example(size)]}),
        mlflow_model=mlmodel,
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIRED],
        metadata={"input": "base64 of an image of one face", "output": "P(fake), calibrated"},
    )


def _example(size: int) -> str:
    """A grey JPEG of ``size`` × ``size`` px, in base64: no face may leave data/."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), "grey").save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()
