"""What the figures of a detector say, in sentences: each carries its counts and its interval, good or bad."""

import math
from typing import Any, NamedTuple

import pandas as pd

from stages.params import Params
from stages.reporting import worth

WEAK = 0.8  # an AUC or a share of fakes found below this is called weak; half of it, or chance, bad


class Finding(NamedTuple):
    """A sentence, and how bad the news is: ``good``, ``mind`` or ``bad``."""

    kind: str
    title: str
    text: str


def number(value: float, digits: int = 4) -> str:
    """A figure; a dash where it is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float, digits: int = 1) -> str:
    """A share as a percentage; a dash where it is not known."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def interval(row: Any, figure: str, digits: int = 3) -> str:
    """``0.9129 (0.873–0.946)``, of the columns FIGURE, FIGURE_low and FIGURE_high; a dash where it is not known."""
    if math.isnan(row[figure]):
        return "–"
    return f"{row[figure]:.4f} ({row[f'{figure}_low']:.{digits}f}–{row[f'{figure}_high']:.{digits}f})"


def shares(row: Any, figure: str) -> str:
    """``91 % (87–95 %)``."""
    if math.isnan(row[figure]):
        return "–"
    return f"{100 * row[figure]:.0f} % ({100 * row[f'{figure}_low']:.0f}–{100 * row[f'{figure}_high']:.0f} %)"


def licence(source: dict[str, Any]) -> str:
    """What is known of the licence of a set, from what the stage `download` wrote down."""
    if source["source"] == "sample":
        return "drawn by this project, MIT"
    return str(source.get("licence", "not known to this pipeline; ask whoever made the images"))


class Lead(NamedTuple):
    """How far a detector is ahead in AUC on the test images, with the paired interval; ``real``: it leaves out 0."""

    auc: float
    low: float
    high: float
    real: bool


def lead_over(name: str, other: str, pairs: pd.DataFrame) -> Lead:
    """The lead of one detector over another, below 0 where it is behind; ``pairs`` has each pair once."""
    (pair,) = pairs[pairs["first"].isin([name, other]) & pairs["second"].isin([name, other])].to_dict("records")
    auc, low, high = (pair[column] for column in ("lead", "lead_low", "lead_high"))
    return Lead(auc, low, high, pair["real"]) if pair["first"] == name else Lead(-auc, -high, -low, pair["real"])


def fine_tuning(model: str, board: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Whether fine-tuning put a backbone ahead of its own baseline, on validation and test images.

    ``board`` and ``pairs`` are the tables that ``stages.compare`` makes: a row a detector, and a row a pair.
    """
    of = {row["phase"]: row for row in board[board["model"] == model].to_dict("records")}
    tuned, frozen = of["finetune"], of["baseline"]
    lead = lead_over(tuned["detector"], frozen["detector"], pairs)
    places = [
        f"{'ahead of' if gain > 0 else 'behind' if gain < 0 else 'level with'} its baseline on the {count:,} {images} "
        f"images (AUC {tuned[figure]:.4f} and {frozen[figure]:.4f})"
        for images, figure, count in (
            ("validation", "valid_roc_auc", tuned["n_valid"]),
            ("test", "roc_auc", tuned["n"]),
        )
        for gain in [tuned[figure] - frozen[figure]]
    ]
    said = f"Fine-tuned, {model} is {places[0]} and {places[1]}"
    if lead.low == lead.high == 0:  # they rank all test images alike, so nothing is left to chance
        return f"{said}."
    chance = "" if lead.real else ", which may be chance"
    return f"{said}: a difference of {lead.auc:+.4f} ({lead.low:+.4f} to {lead.high:+.4f}) on the test images{chance}."


class Findings:
    """Sentences about any detector of one run, from what the run's files hold (``board``: the leaderboard's table)."""

    def __init__(
        self,
        data: dict[str, Any],
        sources: dict[str, dict[str, Any]],
        board: pd.DataFrame,
        pairs: pd.DataFrame,
        params: Params,
    ) -> None:
        self.data, self.sources, self.board, self.pairs, self.params = data, sources, board, pairs, params

    @property
    def source(self) -> str:
        """Where the images that it was trained on came from, in one word."""
        return worth.source(self.sources[name]["source"] for name in self.params.learned_sets)

    @property
    def licence(self) -> str:
        """What is known of the licences of the images that it was trained on, set by set."""
        known = {name: licence(self.sources[name]) for name in self.params.learned_sets}
        if len(known) == 1:
            return known.popitem()[1]
        return "; ".join(f"{name}: {said}" for name, said in known.items())

    def of(self, detector: dict[str, Any]) -> list[Finding]:
        """All findings about a detector (its files, as ``stages.report`` reads them), the most asked first.

        What must be known before any figure comes first. A detector that is worthless has no good news.
        """
        found = [
            self._at_home(detector),
            self._lead(detector),
            self._fine_tuning(detector),
            self._false_alarms(detector),
            self._answers(detector),
            self._probability(detector),
            *self._corrupted(detector),
            *self._elsewhere(detector),
            self._leaks(),
            self._shortcut(),
            self._explained(detector),
        ]
        caution = self.caution(detector)
        if caution is None:
            return found
        if caution.worthless:
            found = [finding._replace(kind="mind") if finding.kind == "good" else finding for finding in found]
        return [Finding("bad", "First of all", caution.sentence), *found]

    def caution(self, detector: dict[str, Any]) -> worth.Caution | None:
        """What to know of a detector before its figures."""
        return worth.caution(self.source, detector["record"]["weights"]["source"])

    def _at_home(self, detector: dict[str, Any]) -> Finding:
        metrics = detector["metrics"]
        kind = "good" if metrics["roc_auc_low"] > WEAK else "bad" if metrics["roc_auc_low"] <= 0.5 else "mind"
        return Finding(
            kind,
            "On faces like those it learned from",
            f"accuracy {interval(metrics, 'accuracy')} and AUC {interval(metrics, 'roc_auc')}, on {metrics['n']:,} "
            "test images that neither trained it nor chose anything.",
        )

    def _lead(self, detector: dict[str, Any]) -> Finding:
        name = detector["name"]
        pairs = self.pairs[(self.pairs["first"] == name) | (self.pairs["second"] == name)]
        parts = []
        for first, second in zip(pairs["first"], pairs["second"], strict=True):
            other = second if first == name else first
            lead = lead_over(name, other, pairs)
            where = "ahead of" if lead.auc > 0 else "behind"
            sure = "" if lead.real else ", which may be chance"
            parts.append(f"{where} {other} by {abs(lead.auc):.4f} AUC{sure}" if lead.auc else f"level with {other}")
        sure_of_all = bool(pairs["real"].all())
        return Finding(
            "good" if sure_of_all else "mind",
            "Against the other detectors",
            f"{'; '.join(parts)}. Differences are of the AUC, paired on the same images.",
        )

    def _fine_tuning(self, detector: dict[str, Any]) -> Finding:
        model, phase = detector["name"].rsplit("-", 1)
        other = f"{model}-{'baseline' if phase == 'finetune' else 'finetune'}"
        lead = lead_over(detector["name"], other, self.pairs)
        of = self.board.set_index("detector")["valid_roc_auc"]
        lost = (lead.real and lead.auc < 0) or of[detector["name"]] < of[other]
        return Finding("mind" if lost else "good", "Against its other half", fine_tuning(model, self.board, self.pairs))

    def _false_alarms(self, detector: dict[str, Any]) -> Finding:
        strict = detector["operating_points"].set_index("point").loc["FPR 1 %"]
        note = (
            ""
            if strict["supported"]
            else f" The {strict['n_valid_real']} real validation images are too few to aim at 1 %."
        )
        kept = strict["supported"] and strict["false_positive_rate_low"] <= 0.01
        return Finding(
            "good" if kept and strict["true_positive_rate_low"] > 0.5 else "mind",
            "If false alarms must be rare",
            f"at the threshold chosen for 1 % of false alarms it finds {shares(strict, 'true_positive_rate')} of the "
            f"fakes and calls {shares(strict, 'false_positive_rate')} of the real test faces fake.{note}",
        )

    def _answers(self, detector: dict[str, Any]) -> Finding:
        home, calibration = detector["sets"].iloc[0], detector["calibration"]
        kept = home["wrong_when_answered_high"] <= calibration["max_error"]
        return Finding(
            "good" if kept and home["answered"] > WEAK else "mind",
            "If it may say that it does not know",
            f"it answers for {shares(home, 'answered')} of the {home['n']:,} test faces, and "
            f"{shares(home, 'wrong_when_answered')} of these answers are wrong. The bounds were chosen for at most "
            f"{percent(calibration['max_error'], 0)} of either class on the {calibration['n']:,} validation images, "
            "which chose the epoch, too: that is an aim, and what the test faces say is the measurement.",
        )

    def _probability(self, detector: dict[str, Any]) -> Finding:
        metrics, before = detector["metrics"], detector["sets"]["ece_raw"].iloc[0]
        return Finding(
            "good" if metrics["ece"] < 0.05 else "mind",
            "Its probability",
            f"is {100 * metrics['ece']:.1f} points off on average once calibrated (raw: {100 * before:.1f}), and holds "
            f"where {percent(detector['calibration']['fake_share'], 0)} of the faces are fake, as in the validation "
            "images.",
        )

    def _corrupted(self, detector: dict[str, Any]) -> list[Finding]:
        table = detector["robustness"]
        if table.empty:
            return [Finding("mind", "On corrupted copies", "was not tested: params.yaml lists no corruptions.")]
        worst = table.loc[table["roc_auc"].idxmin()]
        clean = table[(table["corruption"] == worst["corruption"]) & (table["level"] == "clean")].iloc[0]
        return [
            Finding(
                "good" if worst["roc_auc_low"] > WEAK else "bad" if worst["roc_auc_low"] <= 0.6 else "mind",
                "On corrupted copies",
                f"the worst of the {len(table) - table['corruption'].nunique()} conditions is {worst['corruption']} "
                f"{worst['level']}: AUC {interval(worst, 'roc_auc')}, against {clean['roc_auc']:.4f} of the same "
                f"{worst['n']} images as they are; fakes found go from {percent(clean['recall_fake'], 0)} to "
                f"{percent(worst['recall_fake'], 0)} at the same threshold.",
            )
        ]

    def _elsewhere(self, detector: dict[str, Any]) -> list[Finding]:
        rows = detector["sets"].iloc[1:]
        found = []
        if rows["seen"].all():
            found = [
                Finding(
                    "bad",
                    "On faces of other generators",
                    "was not tested. Published detectors with 99 % accuracy on one generator found 1 to 6 % of the "
                    "fakes of others; add other people's faces to sets in params.yaml before you rely on it.",
                )
            ]
        for row in rows.to_dict("records"):
            parts = []
            if row["n_fake"]:
                parts.append(f"finds {shares(row, 'recall_fake')} of {row['n_fake']:,} fakes")
            if row["n_real"]:
                parts.append(f"calls {shares(row, 'false_positive_rate')} of {row['n_real']:,} real faces fake")
            weak = row["n_fake"] and row["recall_fake_low"] <= WEAK
            bad = row["n_fake"] and row["recall_fake_low"] <= WEAK / 2
            alarm = row["n_real"] and row["false_positive_rate_high"] > 1 - WEAK
            auc = "" if math.isnan(row["roc_auc"]) else f" (AUC {interval(row, 'roc_auc')})"
            kind = "bad" if bad else "mind" if weak or alarm else "good"
            learned = "" if row["seen"] else ", which it did not learn from"
            found.append(
                Finding(kind, f"On {row['set']}{learned}", f"it {' and '.join(parts)}, at the same threshold{auc}.")
            )
        return found

    def _leaks(self) -> Finding:
        exact, near = (self.data[f"{kind}_duplicates_across_splits"] for kind in ("exact", "near"))
        handled = {
            "group": "kept in one split",
            "drop": "reduced to one image of each group of a set",
            "keep": "left where they fell",
        }[self.params.split.near_duplicates]
        return Finding(
            "mind" if self.params.split.near_duplicates == "keep" else "good",
            "Duplicates in the data",
            f"{self.data['exact_duplicates']:,} exact and {self.data['near_duplicates']:,} near pairs, of which the "
            f"archive's own splits would separate {exact:,} and {near:,}; they were {handled}.",
        )

    def _shortcut(self) -> Finding:
        auc, limit = self.data["shortcut_auc"], self.params.data.max_shortcut_auc
        if auc is None:
            said = "could not be looked for: there are too few images of a class."
            return Finding("mind", "Shortcuts in the data", said)
        told = f"file size, format and average colour alone tell the classes apart with AUC {auc:.2f}"
        if auc > limit:
            return Finding(
                "bad", "Shortcuts in the data", f"{told}, above {limit:g}: it may know how files were made, not faces."
            )
        return Finding("good", "Shortcuts in the data", f"{told} (0.5 is chance; above {limit:g} would be a warning).")

    def _explained(self, detector: dict[str, Any]) -> Finding:
        check = detector["explanations"]["deletion"]
        kind = "good" if check["low"] > 0.5 else "mind"
        return Finding(kind, "Its class activation maps", f"{check['sentence']}.")
