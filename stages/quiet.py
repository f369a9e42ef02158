"""Libraries of C++ write to the terminal past Python: their lines that are known to be harmless are dropped here."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

HARMLESS = re.compile(
    r"absl::InitializeLog|oneDNN custom operations|cudart_stub|cpu_feature_guard|^To enable the following instr|^$"
    r"|Ignored (output_format|drop_control_dependency)"  # of every conversion to LiteRT
    r"|Created TensorFlow Lite XNNPACK delegate"  # of every start of LiteRT
    r"|Set ray log level from environment"  # which stages/judge_archive.py did
    r"|failed call to cuInit.*\(303\)"  # no GPU driver on this machine; `device: …` says what is used instead
)


@contextmanager
def without_harmless_lines() -> Iterator[None]:
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
