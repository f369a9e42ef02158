"""The leaderboard's picture."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from stages.reporting import drawing


@pytest.fixture
def table() -> pd.DataFrame:
    """Two detectors."""
    rows = [("resnet50-finetune", 0.9), ("resnet50-baseline", 0.7)]
    return pd.DataFrame(
        [
            {"detector": name, "n": 250}
            | {
                f"{figure}{end}": at + by
                for figure in ("roc_auc", "accuracy")
                for end, by in (("_low", -0.05), ("", 0), ("_high", 0.05))
            }
            for name, at in rows
        ]
    )


def test_the_same_table_gives_the_same_bytes_and_another_gives_others(tmp_path: Path, table: pd.DataFrame) -> None:
    drawing.leaderboard(table, 0.95, tmp_path / "first.png")
    drawing.leaderboard(table, 0.95, tmp_path / "second.png")
    drawing.leaderboard(table.assign(roc_auc=0.8), 0.95, tmp_path / "other.png")
    first, second, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("first", "second", "other"))
    assert first == second
    assert first != other


def test_it_shows_the_champion_in_one_colour_and_the_others_in_another(tmp_path: Path, table: pd.DataFrame) -> None:
    drawing.leaderboard(table, 0.95, tmp_path / "board.png")
    with Image.open(tmp_path / "board.png") as picture:
        width, height = picture.size
        colours = {colour for _, colour in picture.convert("RGB").getcolors(width * height) or []}
    assert {(0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)} <= colours
