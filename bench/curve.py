"""The learning curve: the power law through errors at several numbers of training faces, and what it says of more.

error = a · n^b with error = 1 − AUC, fitted as a line in logarithms by least squares (Hestness et al. 2017,
arXiv:1712.00409). The interval is the line's, so it holds for other training faces, on the same test faces. What it
says beyond the last size is extrapolation, and is called so.
"""

import numpy as np
import pandas as pd
import statsmodels.api

FAR = 100_000  # the training faces of the full corpus
STEPS = 31  # places at which the fitted line is written down


def fitted(measured: pd.DataFrame) -> "statsmodels.regression.linear_model.RegressionResultsWrapper":
    """The line through the logarithms of errors and sizes."""
    sizes = statsmodels.api.add_constant(np.log(measured["images"]))
    return statsmodels.api.OLS(np.log(measured["error"]), sizes).fit()


def exponent(measured: pd.DataFrame) -> float:
    """The b of error = a · n^b."""
    return float(fitted(measured).params.iloc[1])


def power_law(measured: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """The fitted line and its interval from the smallest size to the largest ("fit"), and on to 100,000."""
    first, last = measured["images"].min(), measured["images"].max()
    at = np.unique(np.concatenate([np.geomspace(first, last, STEPS), np.geomspace(last, FAR, STEPS)]).round())
    line = fitted(measured).get_prediction(statsmodels.api.add_constant(np.log(at))).summary_frame(1 - confidence)
    error, low, high = (np.exp(line[column]) for column in ("mean", "mean_ci_lower", "mean_ci_upper"))
    table = pd.DataFrame({"images": at, "error": error, "low": low, "high": high})
    table["kind"] = np.where(at <= last, "fit", "extrapolation")
    return table
