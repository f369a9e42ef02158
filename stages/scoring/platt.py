"""Platt's scaling: the two numbers that make probabilities of a score that only ranks."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

STEEPEST = (1e-3, 1e3)  # bounds of 1/temperature: a detector worse than chance must not be turned round silently


def scaling(label: NDArray[np.int8], logit: NDArray[np.float64]) -> tuple[float, float]:
    """The temperature and offset of the greatest likelihood: P(fake) = expit((logit - offset) / temperature).

    ``label`` (n,), 1 fake, 0 real, both present; ``logit`` (n,), finite. The smoothed targets of Platt (1999,
    "Probabilistic outputs for support vector machines"), as if each class had one image more on the wrong side, keep
    both finite where the classes are perfectly apart.
    """
    fakes, reals = int((label == 1).sum()), int((label == 0).sum())
    target = np.where(label == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))
    centre, spread = float(logit.mean()), float(logit.std()) or 1.0  # else steep and flat detectors converge unequally
    standard = (logit - centre) / spread

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scaled = weights[0] * standard + weights[1]
        error = expit(scaled) - target
        return (
            float(np.mean(np.logaddexp(0, scaled) - target * scaled)),
            np.array([np.mean(error * standard), np.mean(error)]),
        )

    bounds = [(STEEPEST[0] * spread, STEEPEST[1] * spread), (None, None)]
    slope, intercept = minimize(loss, np.array([1.0, 0.0]), jac=True, bounds=bounds, method="L-BFGS-B").x
    return float(spread / slope), float(centre - intercept * spread / slope)
