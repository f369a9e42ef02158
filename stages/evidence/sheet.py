"""Faces with their evidence laid over them: one picture that shows what a detector's answers rest on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stages.files import in_memory

# From Okabe and Ito's blue (real) over transparent (neither) to vermilion (fake); the colour-blind can tell them apart.
REAL, FAKE = (0.0, 0.45, 0.70), (0.84, 0.37, 0.0)
OPACITY = 0.7  # of the strongest evidence: the face must still be seen below it
COLOURS = LinearSegmentedColormap.from_list(
    "evidence", [(0, (*REAL, OPACITY)), (0.5, (*REAL, 0)), (0.5, (*FAKE, 0)), (1, (*FAKE, OPACITY))]
)
STRONG = 98  # percentile of all maps' strengths that gets the full colour, or one place would leave all others pale

LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)

# Inches.
TILE, SEAM, GAP, MARGIN = 1.25, 0.03, 0.2, 0.3
HEAD, TITLE, CAPTION, FOOT = 0.5, 0.28, 0.42, 1.15
NARROWEST = 9.0  # the notes need it
DPI = 130


@dataclass(frozen=True, slots=True)
class Face:
    """A face to show."""

    image: NDArray[np.float32]  # (size, size, 3), RGB in 0–255
    evidence: NDArray[np.float32]  # (h, w), logits
    caption: str


@dataclass(frozen=True, slots=True)
class Group:
    """Faces under one title; where there are none, the title says so."""

    title: str
    faces: list[Face]


def draw(groups: list[Group], title: str, notes: str, path: Path) -> None:
    """Draw a row a group, each face beside its evidence laid over a grey copy, as a JPEG at ``path``.

    There is one face at least. All maps share one scale of colours, which the legend states; ``notes`` stand beside it.
    The same faces give the same bytes.
    """
    maps = np.concatenate([face.evidence.ravel() for group in groups for face in group.faces])
    strongest = float(np.percentile(np.abs(maps), STRONG)) or 1.0
    scale = Normalize(-strongest, strongest)
    tall = [TITLE + (TILE + CAPTION if group.faces else 0) for group in groups]
    pairs = max(len(group.faces) for group in groups)
    pair = 2 * TILE + SEAM + GAP
    width = max(2 * MARGIN + pairs * pair - GAP, NARROWEST)
    # A Figure of its own, not one of pyplot's, is drawn by Agg and needs no screen.
    figure = Figure(figsize=(width, HEAD + sum(tall) + FOOT), dpi=DPI)
    top = figure.get_figheight() - HEAD
    _text(figure, MARGIN, top + 0.15, title, fontsize=14, va="bottom")
    for group, height in zip(groups, tall, strict=True):
        _text(figure, MARGIN, top - TITLE + 0.08, group.title, fontsize=10, fontweight="bold", va="bottom")
        for column, face in enumerate(group.faces):
            left, bottom = MARGIN + column * pair, top - TITLE - TILE
            colour = face.image.astype(np.uint8)
            _axes(figure, left, bottom, TILE, TILE).imshow(colour)
            beside = _axes(figure, left + TILE + SEAM, bottom, TILE, TILE)
            beside.imshow(colour @ LUMINANCE, "gray", vmin=0, vmax=255)  # or skin would pass for evidence
            extent = (0, len(face.image), len(face.image), 0)
            beside.imshow(face.evidence, COLOURS, scale, extent=extent, interpolation="nearest")
            _text(figure, left, bottom - 0.05, face.caption, fontsize=8, va="top")
        top -= height
    bar = _axes(figure, MARGIN, FOOT - 0.65, 2 * TILE, 0.14)
    figure.colorbar(ScalarMappable(scale, COLOURS), bar, orientation="horizontal", extend="both", format="%+g")
    bar.set_title("real  ←  evidence (logits)  →  fake", fontsize=9)
    bar.tick_params(labelsize=8)
    _text(figure, MARGIN + pair, FOOT - 0.3, notes, fontsize=8.5, va="top", linespacing=1.4)
    with in_memory(path) as picture:
        figure.savefig(picture, format="jpeg", pil_kwargs={"quality": 90})


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """A panel without ticks at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up), xticks=[], yticks=[])


def _text(figure: Figure, left: float, bottom: float, text: str, **style: Any) -> None:
    """A text at a place in inches. Names of files go into it, so a dollar sign is one, not the start of a formula."""
    across, up = figure.get_size_inches()
    figure.text(left / across, bottom / up, text, parse_math=False, **style)
