"""The sheet, looked at by its pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.evidence import sheet

GREY = np.full((64, 64, 3), 128, np.float32)


def drawn(path: Path, *groups: sheet.Group) -> np.ndarray:
    sheet.draw(list(groups), "a detector", "a note", path)
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture.convert("RGB")).astype(int)


def tile(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """The middle of the tile at a place, each row a group with faces, each face two tiles."""
    top = sheet.HEAD + row * (sheet.TITLE + sheet.TILE + sheet.CAPTION) + sheet.TITLE
    left = (
        sheet.MARGIN + column // 2 * (2 * sheet.TILE + sheet.SEAM + sheet.GAP) + column % 2 * (sheet.TILE + sheet.SEAM)
    )
    y, x = (round((start + sheet.TILE / 2) * sheet.DPI) for start in (top, left))
    colour: np.ndarray = picture[y - 10 : y + 10, x - 10 : x + 10].mean(axis=(0, 1))
    return colour


def face(evidence: float, caption: str = "") -> sheet.Face:
    return sheet.Face(GREY, np.full((3, 3), evidence), caption)


def test_fake_is_vermilion_real_is_blue_none_is_the_face_itself(tmp_path: Path) -> None:
    group = sheet.Group("a kind", [face(2.0), face(-2.0), face(0.0)])
    picture = drawn(tmp_path / "sheet.jpg", group, sheet.Group("none", []), group)
    for row in (0, 1):
        for plain in (0, 2, 4, 5):
            assert tile(picture, row, plain) == pytest.approx([128, 128, 128], abs=6)
        red, green, blue = tile(picture, row, 1)
        assert red > green > blue
        red, green, blue = tile(picture, row, 3)
        assert blue > green > red


def test_one_scale_for_all_faces(tmp_path: Path) -> None:
    picture = drawn(tmp_path / "sheet.jpg", sheet.Group("a", [face(0.5)]), sheet.Group("b", [face(2.0)]))
    weak, strong = (np.abs(tile(picture, row, 1) - 128).sum() for row in (0, 1))
    assert 10 < weak < strong / 2


@pytest.mark.parametrize("evidence", [0.0, 1e-9])
def test_a_detector_without_any_evidence_is_drawn(tmp_path: Path, evidence: float) -> None:
    drawn(tmp_path / "sheet.jpg", sheet.Group("a kind", [face(evidence, "cost: $5 or $6_x\nnothing")]))


def test_the_same_faces_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.jpg", "two.jpg"):
        drawn(tmp_path / name, sheet.Group("a kind", [face(1.0, "a caption")]))
    assert (tmp_path / "one.jpg").read_bytes() == (tmp_path / "two.jpg").read_bytes()
