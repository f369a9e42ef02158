"""The stage `compare`, from the scores of two or four detectors to the leaderboard."""

import json
import re
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML
from statsmodels.stats.proportion import proportion_confint

from stages import compare, evaluate
from stages.errors import UserError

ROOT = Path(__file__).parents[1]
Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A project for resnet50 alone, and a way to give it a detector: its scores, then `evaluate`."""
    monkeypatch.chdir(tmp_path)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["models"] = ["resnet50"]
    params["evaluate"]["resamples"] = 200
    params["sets"]["other"] = {"source": "folder", "use": "test", "path": "other", "generator": "StyleGAN2"}
    yaml.dump(params, tmp_path / "params.yaml")

    def detector(
        name: str, *, valid: float, test: float, seed: int = 0, images: int = 80, other: float | None = None
    ) -> None:
        """``valid``, ``test``: how far apart the classes' scores lie in each split; ``other``: in the set of others."""
        random = np.random.default_rng(seed)
        parts = []
        distances = {"valid": valid, "test": test} | ({"unseen": other} if other is not None else {})
        for split, distance in distances.items():
            label = (np.arange(images) % 2).astype(np.int8)
            logit = (random.normal(size=images) + distance * (label - 0.5)).astype(np.float32)
            member = [f"{split}/{number:03}.jpg" for number in range(images)]
            part = {"set": "other" if split == "unseen" else "faces", "split": split, "condition": "clean"}
            part |= {"member": member, "label": label, "logit": logit}
            parts.append(pd.DataFrame(part).assign(score=1 / (1 + np.exp(-logit)), distance=1.0))
        scores, record = Path(f"data/scores/{name}.parquet"), Path(f"data/models/{name}.json")
        scores.parent.mkdir(parents=True, exist_ok=True)
        record.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(parts).to_parquet(scores)
        Path(f"data/models/{name}.keras").write_text(f"the model of {name}")
        record.write_text(json.dumps({"weights": {"source": "random"}, "device": "CPU", "model_sha256": "ab" * 32}))
        monkeypatch.setattr(sys, "argv", ["evaluate", *name.split("-")])
        evaluate.main()
        for table in ("deletion", *(["history"] if name.endswith("finetune") else [])):
            path = Path(compare.OVERLAID[table].format(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"of\n{table} of {name}\n")

    return detector


@pytest.fixture
def said_of(write: Write, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function of the strengths (valid, test) of a baseline and a fine-tuned detector: what `compare` prints."""

    def said_of(baseline: tuple[float, float], finetune: tuple[float, float]) -> str:
        write("resnet50-baseline", valid=baseline[0], test=baseline[1], seed=1)
        write("resnet50-finetune", valid=finetune[0], test=finetune[1], seed=2)
        compare.main()
        return capsys.readouterr().out

    return said_of


def leaderboard() -> dict[str, Any]:
    """What the stage wrote."""
    content: dict[str, Any] = json.loads(Path("data/leaderboard.json").read_text())
    return content


def assert_nothing_written() -> None:
    assert not Path("data/leaderboard.json").exists()
    assert not list(Path("plots").glob("leaderboard.*"))


def test_the_champion_is_chosen_on_the_validation_images_alone(write: Write) -> None:
    write("resnet50-baseline", valid=3, test=0.5)
    write("resnet50-finetune", valid=0.5, test=3)
    compare.main()
    assert (leaderboard()["champion"], leaderboard()["second"]) == ("resnet50-baseline", "resnet50-finetune")
    assert pd.read_csv("plots/leaderboard.csv")["detector"].tolist() == ["resnet50-baseline", "resnet50-finetune"]
    assert Path("data/champion.keras").read_text() == "the model of resnet50-baseline"


def test_its_figures_are_the_champions_with_counts(write: Write) -> None:
    write("resnet50-baseline", valid=1, test=1)
    write("resnet50-finetune", valid=3, test=3)
    compare.main()
    champion = json.loads(Path("data/figures/resnet50-finetune.json").read_text())
    board = leaderboard()
    for key in ("roc_auc", "roc_auc_low", "accuracy", "threshold", "loss", "eer", "valid_roc_auc", "n", "n_valid"):
        assert board[key] == champion[key]
    other = json.loads(Path("data/figures/resnet50-baseline.json").read_text())
    assert board["lead_over_second"] == pytest.approx(champion["roc_auc"] - other["roc_auc"])
    assert board["n"] == 80
    headline = json.loads(Path("metrics/champion.json").read_text())
    assert headline == json.loads(Path("metrics/resnet50-finetune.json").read_text())
    assert list(headline) == ["roc_auc", "roc_auc_low", "roc_auc_high", "average_precision", "accuracy", "n"]
    assert headline == {key: round(champion[key], 4) for key in headline}


def test_accuracies_have_wilson_intervals(write: Write) -> None:
    write("resnet50-baseline", valid=1, test=1)
    write("resnet50-finetune", valid=2, test=2)
    compare.main()
    for row in pd.read_csv("plots/leaderboard.csv").to_dict("records"):
        low, high = proportion_confint(round(row["accuracy"] * 80), 80, alpha=0.05, method="wilson")
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((low, high), abs=1e-4)


def test_of_equals_the_one_named_first_wins_and_its_lead_is_nothing(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("resnet50-finetune", valid=1, test=1)
    write("resnet50-baseline", valid=1, test=1)
    compare.main()
    board = leaderboard()
    assert board["champion"] == "resnet50-baseline"
    assert [board[f"lead_over_second{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
    assert board["mcnemar_p"] == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "resnet50-baseline and resnet50-finetune rank all test images alike: there is no lead." in said
    level = (
        r"Fine-tuned, resnet50 is level with [^:]* and level with its baseline on the 80 test images \([^:]*\)\. The"
    )
    assert re.search(level, said)


@pytest.mark.parametrize(
    ("baseline", "finetune", "verdict"),
    [
        ((1, 0.2), (4, 4), "resnet50-finetune is ahead of resnet50-baseline"),
        ((1, 4), (4, 0.2), "resnet50-finetune led resnet50-baseline on the validation images, but is behind it"),
        ((1, 1), (2, 1), "The difference between resnet50-finetune and resnet50-baseline may be chance"),
    ],
)
def test_it_says_whether_the_lead_is_real(
    said_of: Callable[..., str], baseline: tuple[float, float], finetune: tuple[float, float], verdict: str
) -> None:
    assert verdict in said_of(baseline, finetune)


@pytest.mark.parametrize(
    ("baseline", "finetune", "said"),
    [
        (
            (1, 0.2),
            (4, 4),
            r"Fine-tuned, resnet50 is ahead of .* validation .* and ahead of .* test .*: .* of \+[^c]*\.",
        ),
        ((4, 4), (1, 0.2), r"Fine-tuned, resnet50 is behind .* validation .* and behind .* test .*: .* of -[^c]*\."),
        ((1, 1), (4, 1.01), r"Fine-tuned, resnet50 is ahead of .* test images, which may be chance\."),
    ],
)
def test_it_says_whether_fine_tuning_beat_the_baseline(
    said_of: Callable[..., str], baseline: tuple[float, float], finetune: tuple[float, float], said: str
) -> None:
    (line,) = [line for line in said_of(baseline, finetune).splitlines() if line.startswith("Fine-tuned")]
    assert re.fullmatch(said, line)
    board = pd.read_csv("plots/leaderboard.csv").set_index("detector")
    assert f"AUC {board['roc_auc']['resnet50-finetune']:.4f} and {board['roc_auc']['resnet50-baseline']:.4f}" in line


def test_it_prints_the_leaderboard(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("resnet50-baseline", valid=1, test=1)
    write("resnet50-finetune", valid=3, test=3)
    capsys.readouterr()
    compare.main()
    said = capsys.readouterr().out
    auc = json.loads(Path("data/figures/resnet50-finetune.json").read_text())["roc_auc"]
    assert "Leaderboard on 80 test images, with 95 % intervals" in said
    assert said.startswith("Worth nothing for photographs: it was trained only on drawn faces.")
    assert f"{auc:.4f}" in said
    assert said.index("resnet50-finetune") < said.index("resnet50-baseline")
    for path in ("data/leaderboard.json", "plots/leaderboard.csv", "plots/leaderboard.png"):
        assert Path(path).stat().st_size > 0


def test_detectors_that_saw_different_images_are_refused(write: Write) -> None:
    write("resnet50-baseline", valid=1, test=1, images=80)
    write("resnet50-finetune", valid=2, test=2, images=60)
    with pytest.raises(UserError, match=r"were scored on different test images \(60 and 80\)"):
        compare.main()
    assert_nothing_written()


@pytest.mark.parametrize(
    "missing",
    [
        "data/figures/resnet50-finetune.json",
        "data/scores/resnet50-finetune.parquet",
        "data/explanations/resnet50-finetune/deletion.csv",
        "data/models/resnet50-finetune.csv",
        "plots/detectors/resnet50-finetune/sets.csv",
    ],
)
def test_a_detector_without_its_files_is_refused(write: Write, missing: str) -> None:
    write("resnet50-baseline", valid=1, test=1)
    write("resnet50-finetune", valid=2, test=2)
    Path(missing).unlink()
    with pytest.raises(UserError, match=f"{missing} is missing; make it with `dvc repro`"):
        compare.main()
    assert_nothing_written()


def test_detectors_of_models_that_params_no_longer_names_are_left_out(write: Write) -> None:
    for name in ("resnet50-baseline", "resnet50-finetune", "densenet121-finetune"):
        write(name, valid=5 if "densenet" in name else 1, test=1)
    compare.main()
    assert set(pd.read_csv("plots/leaderboard.csv")["model"]) == {"resnet50"}


def test_every_pair_is_compared_and_its_p_value_corrected_for_all(write: Write, tmp_path: Path) -> None:
    yaml = YAML()
    params = yaml.load(tmp_path / "params.yaml")
    params["models"] = ["resnet50", "densenet121"]
    yaml.dump(params, tmp_path / "params.yaml")
    strengths = {
        "densenet121-finetune": 4,
        "resnet50-finetune": 2.5,
        "densenet121-baseline": 1.0,
        "resnet50-baseline": 0.5,
    }
    for seed, (name, strength) in enumerate(strengths.items()):
        write(name, valid=strength, test=strength, seed=seed)
    compare.main()
    pairs = pd.read_csv("plots/differences.csv")
    order = list(strengths)
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == list(combinations(order, 2))
    auc = pd.read_csv("plots/leaderboard.csv").set_index("detector")["roc_auc"]
    for pair in pairs.itertuples():
        assert pair.lead == pytest.approx(auc[pair.first] - auc[pair.second], abs=1e-4)
        assert pair.lead_low <= pair.lead <= pair.lead_high
        assert pair.real == (pair.lead_low > 0 or pair.lead_high < 0)
    # Holm: the smallest p times 6, the next times 5 and so on, never below the one before.
    raw = np.sort(pairs["mcnemar_p"])
    holm = np.minimum(np.maximum.accumulate(raw * np.arange(6, 0, -1)), 1)
    assert np.sort(pairs["mcnemar_p_holm"]) == pytest.approx(holm, rel=1e-3)
    assert pairs["real"].iloc[0]


def test_all_detectors_are_shown_on_other_peoples_faces(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("resnet50-baseline", valid=1, test=1, other=0)
    write("resnet50-finetune", valid=3, test=3, other=1)
    capsys.readouterr()
    compare.main()
    table = pd.read_csv("plots/cross_generator.csv")
    assert list(zip(table["set"], table["detector"], strict=True)) == [
        ("test", "resnet50-finetune"),
        ("test", "resnet50-baseline"),
        ("faces", "resnet50-finetune"),
        ("faces", "resnet50-baseline"),
        ("other", "resnet50-finetune"),
        ("other", "resnet50-baseline"),
    ]
    own = pd.read_csv("plots/detectors/resnet50-finetune/sets.csv").set_index("set")
    assert list(table.columns[:4]) == ["set", "generator", "seen", "detector"]
    assert table["generator"].fillna("").tolist() == [*[""] * 4, "StyleGAN2", "StyleGAN2"]
    assert table["seen"].tolist() == [*[True] * 4, False, False]
    assert table["recall_fake"][4] == own.loc["other", "recall_fake"]
    said = capsys.readouterr().out
    assert "Set by set at the same thresholds, with 95 % intervals" in said
    assert "test (40/40)" in said
    assert "faces (40/40)" in said
    assert "other (40/40, unseen)" in said
    rows = [line.rstrip() for line in said.splitlines() if line.startswith(" " * 3 + "resnet50")]
    longer = len("densenet121") - len("resnet50")
    assert len(rows) == 6
    assert max(map(len, rows)) + longer <= 80
    assert "…" not in said


def test_of_a_single_set_nothing_more_is_said(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("resnet50-baseline", valid=1, test=1)
    write("resnet50-finetune", valid=3, test=3)
    compare.main()
    said = capsys.readouterr().out
    assert "Set by set" not in said
    assert "unseen" not in said
    assert set(pd.read_csv("plots/cross_generator.csv")["set"]) == {"test"}


@pytest.mark.parametrize(
    ("leads", "said"),
    [
        ([(0.1, 0.2), (0.1, 0.2)], "The intervals of all other pairs leave out 0."),
        ([(-0.1, 0.2), (0.1, 0.2)], "Of the other pairs, only these may differ by chance: b and c."),
    ],
)
def test_of_the_other_pairs_it_names_those_that_may_differ_by_chance(
    leads: list[tuple[float, float]], said: str
) -> None:
    rows = [("a", "b", 0.1, 0.2), ("b", "c", *leads[0]), ("c", "d", *leads[1])]
    pairs = pd.DataFrame(rows, columns=["first", "second", "lead_low", "lead_high"])
    assert compare.others(pairs.assign(real=(pairs["lead_low"] > 0) | (pairs["lead_high"] < 0))) == said


def test_a_table_of_all_detectors_has_the_cells_of_each(write: Write) -> None:
    for number, name in enumerate(("resnet50-baseline", "resnet50-finetune")):
        write(name, valid=1, test=1, seed=number)
    compare.main()
    for table, place in compare.OVERLAID.items():
        every = pd.read_csv(f"plots/overlaid/{table}.csv", dtype=str, keep_default_na=False)
        for name in ("resnet50-finetune",) if table == "history" else ("resnet50-baseline", "resnet50-finetune"):
            own = pd.read_csv(place.format(name), dtype=str, keep_default_na=False)
            rows = every.loc[every["detector"] == name, own.columns]
            assert rows.to_numpy().tolist() == own.to_numpy().tolist()
