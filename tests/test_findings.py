"""What findings say of figures that are known beforehand."""

from typing import Any

import pandas as pd
import pytest

from stages.reporting.findings import Finding, Findings

TUNED, FROZEN = "resnet50-finetune", "resnet50-baseline"


def found(title: str, *, lead: float = 0.1, low: float = 0.05, answered: float = 1.0, high: float = 0.04) -> Finding:
    """The finding with a title, of a fine-tuned detector whose lead and whose share of wrong answers are given."""
    pair = {"first": TUNED, "second": FROZEN, "lead": lead, "lead_low": low, "lead_high": 0.2, "real": low > 0}
    home = {"n": 200, "answered": answered, "answered_low": answered, "answered_high": answered}
    home |= {"wrong_when_answered": 0.02, "wrong_when_answered_low": 0.01, "wrong_when_answered_high": high}
    detector: dict[str, Any] = {
        "name": TUNED,
        "sets": pd.DataFrame([home]),
        "calibration": {"max_error": 0.05, "n": 180},
    }
    words = Findings({}, {}, pd.DataFrame(), pd.DataFrame([pair]), params=None)  # type: ignore[arg-type]
    of = {"Against the other detectors": words._lead, "If it may say that it does not know": words._answers}
    return of[title](detector)


@pytest.mark.parametrize(("answered", "high", "kind"), [(1, 0.04, "good"), (1, 0.06, "mind"), (0.7, 0.04, "mind")])
def test_answers_are_good_news_where_their_measured_error_keeps_the_aim(
    answered: float, high: float, kind: str
) -> None:
    finding = found("If it may say that it does not know", answered=answered, high=high)
    assert finding.kind == kind
    assert f"2 % (1–{100 * high:.0f} %) of these answers are wrong" in finding.text
    assert "at most 5 % of either class on the 180 validation images" in finding.text


@pytest.mark.parametrize(
    ("lead", "low", "kind", "said"),
    [
        (0.1, 0.05, "good", f"ahead of {FROZEN} by 0.1000 AUC. "),
        (0.1, -0.05, "mind", f"ahead of {FROZEN} by 0.1000 AUC, which may be chance. "),
        (-0.1, -0.2, "mind", f"behind {FROZEN} by 0.1000 AUC, which may be chance. "),
        (0.0, 0.0, "mind", f"level with {FROZEN}. "),
    ],
)
def test_a_lead_is_real_chance_or_none(lead: float, low: float, kind: str, said: str) -> None:
    finding = found("Against the other detectors", lead=lead, low=low)
    assert (finding.kind, finding.text.partition("Differences")[0]) == (kind, said)
