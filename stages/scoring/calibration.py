"""A score into a probability and an answer that a person may rely on, fitted on the validation images.

Two things are wrong with a raw score. It is too sure or not sure enough, and it is shifted where training and scoring
differ (crops against whole faces, say): a temperature mends the first (Guo et al. 2017, arXiv:1706.04599), an offset
the second; both together are Platt's scaling. And a threshold answers even where the detector does not know: so there
are two of them, and "uncertain" between.

The probability holds where fakes are as frequent as among the validation images; elsewhere it must be taken with
:attr:`Calibration.fake_share`.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from stages.files import read_json, write_json
from stages.scoring import platt, thresholds

VERDICTS = ("real", "uncertain", "fake")
FALSE_MARKS = 0.05  # aim: share of faces like the training faces that are marked as unlike them


@dataclass(frozen=True, slots=True)
class Calibration:
    """How to read one detector's logits. Thresholds are raw scores, P(fake) as the model gives it."""

    temperature: float  # > 0; above 1: the raw score is too sure
    offset: float  # the logit at which real and fake are equally likely
    threshold: float  # two answers: fake from here on
    real_below: float  # three answers: real below; -inf where the validation fakes are too few to call anything real
    fake_from: float  # three answers: fake from here on; inf where the validation reals are too few
    max_error: float  # three answers: the share of either class of the validation images that they may get wrong
    fake_share: float  # of the validation images
    n: int  # validation images
    n_test: int = 0  # test images, which measure what three answers are worth; 0 where nobody measured it
    n_answered: int = 0  # those that are called real or fake
    wrong: float = math.nan  # the share of these that is mistaken, with its interval
    wrong_low: float = math.nan
    wrong_high: float = math.nan
    unlike_from: float = math.inf  # distance from which a face is unlike the training faces; inf where n is too small
    marked: float = math.nan  # the share of the test images that is marked so, falsely, with its interval
    marked_low: float = math.nan
    marked_high: float = math.nan
    model: str | None = None  # SHA-256 of the .keras file whose logits these are; None where nobody said it

    def scaled(self, logit: NDArray[np.floating]) -> NDArray[np.float64]:
        """Calibrated logits, of logits of any shape."""
        return (np.asarray(logit, np.float64) - self.offset) / self.temperature

    def probability(self, logit: NDArray[np.floating]) -> NDArray[np.float64]:
        """P(fake), calibrated, of logits of any shape."""
        probability: NDArray[np.float64] = expit(self.scaled(logit))
        return probability

    def verdict(self, logit: NDArray[np.float64]) -> NDArray[np.str_]:
        """``real``, ``uncertain`` or ``fake`` for each of the logits."""
        score = expit(np.asarray(logit, np.float64))
        answer: NDArray[np.str_] = np.array(VERDICTS)[
            (score >= self.real_below).astype(int) + (score >= self.fake_from)
        ]
        return answer

    def unlike(self, distance: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Whether faces at these distances (any shape) are unlike the training faces."""
        return np.asarray(np.asarray(distance, np.float64) >= self.unlike_from)


def fit(label: NDArray[np.int8], logit: NDArray[np.float64], threshold: float, max_error: float) -> Calibration:
    """Calibrate on validation images: ``label`` (n,), 1 fake, 0 real, both present; ``logit`` (n,).

    The thresholds of the three answers are class-conditional conformal ones (Vovk 2012, arXiv:1209.2673; Angelopoulos &
    Bates 2021, arXiv:2107.07511, section 4.2): of new faces like these, at most ``max_error`` of the fakes would be
    called real, and at most ``max_error`` of the reals fake, had these images chosen nothing. They chose the epoch of
    the training, too, so it is an aim, and the test images measure what came of it. Where the thresholds overlap, the
    detector is good enough to answer always, at ``threshold`` or as near to it as both allow.
    """
    temperature, offset = platt.scaling(label, logit)
    score = expit(logit)
    real_below = -thresholds.of_false_positive_rate(-score[label == 1], max_error)
    fake_from = thresholds.of_false_positive_rate(score[label == 0], max_error)
    if real_below > fake_from:
        real_below = fake_from = min(max(threshold, fake_from), real_below)
    return Calibration(
        temperature=temperature,
        offset=offset,
        threshold=threshold,
        real_below=real_below,
        fake_from=fake_from,
        max_error=max_error,
        fake_share=float(label.mean()),
        n=len(label),
    )


def write(path: Path | str, calibration: Calibration) -> None:
    """Publish a calibration as JSON; what is infinite or not known is null there."""
    content = asdict(calibration)
    unknown = [name for name, value in content.items() if isinstance(value, float) and not math.isfinite(value)]
    write_json(path, content | dict.fromkeys(unknown))


def read(path: Path | str) -> Calibration:
    """The calibration that :func:`write` published. Raises :class:`stages.errors.UserError` where there is none."""
    missing = {"real_below": -math.inf, "fake_from": math.inf, "unlike_from": math.inf, "model": None}
    kept = read_json(path).items()
    content: dict[str, Any] = {n: missing.get(n, math.nan) if value is None else value for n, value in kept}
    return Calibration(**content)
