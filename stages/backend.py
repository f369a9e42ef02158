"""TensorFlow and Keras, without the lines that TensorFlow prints at every start.

Import them from here: ``from stages.backend import keras, tf``. TensorFlow's remarks (level INFO) are turned off, and
of its warnings at the start only those known to be harmless are dropped; whatever else it writes (a GPU library that
does not load, say) is passed on.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

HARMLESS = re.compile(
    r"absl::InitializeLog|oneDNN custom operations|cudart_stub|cpu_feature_guard|^To enable the following instr|^$"
    r"|failed call to cuInit.*\(303\)"  # no GPU driver on this machine; `device: …` says what is used instead
)


@contextmanager
def _without_harmless_lines() -> Iterator[None]:
    """Hold back what is written to file descriptor 2 (C++ code writes there), then pass on what is not harmless."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not HARMLESS.search(line):
                    print(line, file=sys.stderr)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # take GPU memory as needed, not all of it at once

with _without_harmless_lines():
    import keras
    import tensorflow as tf

    tf.constant(0)  # the second half of the lines comes when the devices are opened

__all__ = ["keras", "tf"]
