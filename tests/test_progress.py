"""How far a loop is, where there is no terminal."""

from pathlib import Path

import pytest

from stages import progress
from stages.sources import sample


def draw(folder: Path) -> None:
    """Three faces of each class, into a zip."""
    sample.fetch(3, 16, 0, folder / "faces.zip")


def test_without_a_terminal_a_long_loop_says_how_far_it_is_in_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PAUSE", 1e-9)
    draw(tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" [")[0] for line in said] == [
        f"drawing faces: {round(100 * n / 6):3}% {n}/6" for n in range(1, 7)
    ]


def test_a_loop_that_is_soon_done_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_it_is_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    draw(tmp_path)
    assert "\rdrawing faces: 100%|" in capsys.readouterr().err
