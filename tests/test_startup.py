"""How commands start: libraries that take seconds come when they are needed, and TensorFlow with its fast kernels."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NETWORKS = {"tensorflow", "keras"}  # 4 s
TRACKING = {"mlflow"}  # 2 s
STATISTICS = {"sklearn", "statsmodels"}  # 1 s
TABLES = {"pandas", "scipy", "matplotlib"}  # half a second
CLUSTER = {"ray", "fsspec"}  # 1 s, and only where requirements-cluster.txt is installed
ALL = NETWORKS | TRACKING | STATISTICS | TABLES | CLUSTER

LOADED_LATER = {
    "params": ALL,
    "look": ALL,
    "preset": ALL,
    "download": ALL,
    "tracking.__main__": ALL,
    "tracking.ui": ALL,
    "index": ALL - {"pandas"},
    "split": ALL - {"pandas"},
    "audit": ALL - {"pandas"},
    "report": ALL - {"pandas", "matplotlib"},
    "predict": ALL - {"scipy"},
    "demo": ALL - {"scipy"},
    "judge_archive": ALL - {"scipy", "fsspec"},
    "train_on_ray": ALL - {"scipy", "fsspec"},
    "evaluate": NETWORKS | TRACKING,
    "explain": NETWORKS | TRACKING,
    "compare": NETWORKS | TRACKING,
    # These write shards or run networks.
    **dict.fromkeys(("preprocess", "weights", "baseline", "finetune"), TRACKING),
    **dict.fromkeys(("score", "pretrained"), TRACKING),
}


def test_every_command_is_here() -> None:
    commands = {path.stem for path in (ROOT / "stages").glob("*.py") if "def main(" in path.read_text(encoding="utf-8")}
    assert set(LOADED_LATER) == commands | {"tracking.__main__", "tracking.ui"}


@pytest.mark.parametrize("command", LOADED_LATER)
def test_a_command_starts_without_what_it_may_not_need(command: str) -> None:
    code = f"import sys, stages.{command}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert f"stages.{command}" in loaded.split()
    assert not LOADED_LATER[command] & set(loaded.split())


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="TensorFlow's builds for x86 have oneDNN")
@pytest.mark.parametrize(("wish", "on"), [(None, True), ("0", False)])
def test_tensorflow_computes_with_onednn_unless_the_environment_says_otherwise(
    wish: str | None, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if wish:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", wish)
    code = "import stages.backend, tensorflow.python.util._pywrap_util_port as port; print(port.IsMklEnabled())"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said.strip() == str(on)
