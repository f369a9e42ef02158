"""What MLflow serves: base64 of an image in; calibrated P(fake), a verdict and a mark, or what is wrong with it out.

MLflow copies this file into each model that it is given, with ``stages/`` beside it, and runs it where the model is
loaded. The base64 may have line breaks, and begin as a data URL does (``data:image/jpeg;base64,``). The bytes are
untrusted, and read with the limits of :mod:`stages.faces.image`.
"""

import base64
import binascii
import re
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from PIL import Image

from stages.faces import archive, image, processing
from stages.scoring import calibration

ANSWER = ("probability", "verdict", "unlike", "error")
BATCH = 32  # faces in one forward pass
DATA_URL = re.compile(r"\A\s*data:image/[^,]{,100};base64,")
MAX_TEXT = archive.MAX_FACE_BYTES * 7 // 5  # characters of base64: a third more than bytes, and line breaks


class Server(mlflow.pyfunc.PythonModel):
    """One detector with its calibration."""

    def load_context(self, context: Any) -> None:
        """Load the detector; only here is TensorFlow needed."""
        from stages.backend import tf
        from stages.detectors import assembly

        detector = assembly.with_logits(assembly.load(Path(context.artifacts["detector"])))
        network = assembly.with_distance(detector, Path(context.artifacts["distance"]))
        self.network = tf.function(network, reduce_retracing=True)
        self.calibration = calibration.read(context.artifacts["calibration"])
        self.size, self.jpeg = context.model_config["image_size"], context.model_config["image_jpeg"]

    def predict(self, context: Any, model_input: pd.DataFrame) -> list[dict[str, Any]]:
        """A row for each row: ``probability``, ``verdict``, ``unlike``, or ``error``; what does not apply is None."""
        texts = list(model_input["image"])
        return [row for first in range(0, len(texts), BATCH) for row in self._answers(texts[first : first + BATCH])]

    def _answers(self, texts: list[Any]) -> list[dict[str, Any]]:
        faces, errors = {}, {}
        for number, text in enumerate(texts):
            try:
                faces[number] = self._face(text)
            except (image.ImageError, MemoryError) as error:
                errors[number] = dict.fromkeys(ANSWER) | {"error": str(error) or "memory ran out"}
        if not faces:
            return [errors[number] for number in range(len(texts))]
        reading, outputs = self.calibration, self.network(np.stack(list(faces.values())), training=False)
        logits, distances = (output.numpy()[:, 0] for output in outputs)
        columns = (reading.probability(logits), reading.verdict(logits), reading.unlike(distances))
        answers = zip(faces, *(column.tolist() for column in columns), strict=True)
        rows = {number: dict(zip(ANSWER, (*answer, None), strict=True)) for number, *answer in answers}
        return [(rows | errors)[number] for number in range(len(texts))]

    def _face(self, text: Any) -> np.ndarray:
        """The pixels that the stage ``score`` would see: float32, size × size × 3. Raises ``ImageError``."""
        from stages.backend import tf
        from stages.faces import shards

        if not isinstance(text, str):
            raise image.ImageError("not base64")
        if len(text) > MAX_TEXT:
            raise image.ImageError(f"larger than {archive.MAX_FACE_BYTES // 2**20} MB")
        try:
            data = base64.b64decode("".join(DATA_URL.sub("", text, count=1).split()), validate=True)
        except (binascii.Error, ValueError):
            raise image.ImageError("not base64") from None
        pixels = image.decode(data)
        if self.jpeg:
            face = processing.whole(Image.fromarray(pixels), self.size, self.jpeg)
            pixels = np.asarray(processing.seen(face, self.jpeg))
        fitted: np.ndarray = shards.fit(tf.constant(pixels), self.size).numpy()
        return fitted.astype(np.float32)


mlflow.models.set_model(Server())
