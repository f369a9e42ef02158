"""Where a verdict comes from, laid over the face: blue for what speaks for real, orange for what speaks for fake.

Pillow draws it: Matplotlib, which draws the sheets of evidence, takes longer to start than a photo to be answered.
"""

import numpy as np
from PIL import Image

from stages.photos.answers import Judgement

REAL, FAKE = np.array([0, 115, 178]), np.array([214, 94, 0])  # Okabe and Ito's, as in the sheets of evidence
STRONGEST = 0.75  # opacity where the evidence is strongest
FULL = 4.0  # calibrated logits from which evidence is drawn at full strength: P = 0.98 if all of a face were so


def overlay(judgement: Judgement) -> Image.Image:
    """The face in grey under its evidence: RGB, as large as the crop.

    The scale is the same for every face, so that a face without much evidence looks it; only a face with more than
    ``FULL`` anywhere is scaled to its strongest point.
    """
    strength = judgement.heat / max(FULL, float(np.abs(judgement.heat).max()))
    opacity = STRONGEST * np.abs(strength)[..., np.newaxis]
    grey = np.asarray(judgement.crop.convert("L"), np.float64)[..., np.newaxis]
    colour = np.where(strength[..., np.newaxis] > 0, FAKE, REAL)
    return Image.fromarray(np.rint(grey * (1 - opacity) + colour * opacity).astype(np.uint8))
