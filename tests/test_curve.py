"""The learning curve: known answers of its power law."""

import numpy as np
import pandas as pd
import pytest

from bench import curve


@pytest.fixture
def exact():
    """Errors that follow 2 / sqrt(n), twice a size."""
    sizes = np.array([100, 100, 200, 200, 800, 800])
    return pd.DataFrame({"images": sizes, "error": 2 / np.sqrt(sizes)})


def test_a_power_law_is_found_again_and_goes_on(exact):
    line = curve.power_law(exact, 0.95)
    assert curve.exponent(exact) == pytest.approx(-0.5)
    np.testing.assert_allclose(line["error"], 2 / np.sqrt(line["images"]))
    assert line["images"].iloc[-1] == curve.FAR
    assert line["error"].iloc[-1] == pytest.approx(0.00632456, rel=1e-5)


def test_what_lies_beyond_the_last_size_is_called_extrapolation(exact):
    line = curve.power_law(exact, 0.95)
    assert set(line.loc[line["images"] <= 800, "kind"]) == {"fit"}
    assert set(line.loc[line["images"] > 800, "kind"]) == {"extrapolation"}


def test_the_interval_is_the_lines_and_widens_where_nothing_was_measured():
    logs = np.array([-1.0, -1.2, -1.9, -1.7, -2.5, -2.6])
    sizes = np.array([100, 100, 200, 200, 400, 400])
    line = curve.power_law(pd.DataFrame({"images": sizes, "error": np.exp(logs)}), 0.95)
    x = np.log(sizes)
    slope, intercept = np.polyfit(x, logs, 1)
    spread = np.sqrt(((logs - slope * x - intercept) ** 2).sum() / 4)
    at = line[line["images"] == 400].iloc[0]
    error = spread * np.sqrt(1 / 6 + (np.log(400) - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    assert at["high"] == pytest.approx(np.exp(slope * np.log(400) + intercept + 2.7764451 * error))
    widths = np.log(line["high"] / line["low"]).to_numpy()
    assert widths[-1] > 3 * widths[line["images"] == 400][0]
