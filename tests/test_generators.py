"""The table over generators: known answers from revisions of a project, as experiments are."""

from pathlib import Path

import pandas as pd
import pytest
from dvc.repo import Repo

from bench import generators
from stages import params
from stages.errors import UserError
from tests.clones import git

ROOT = Path(__file__).parents[1]
SETS = {"faces": "StyleGAN", "more": "StyleGAN", "sfhq": "FLUX", "swaps": None, "never": "GAN"}
FIGURES = ("roc_auc", "recall_fake", "false_positive_rate", "tpr_at_fpr_5pct", "fpr_at_fpr_5pct")


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A function that leaves a revision behind: what its one detector finds of each set, and which sets it lacked."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    Path("docs").mkdir()
    Path("plots").mkdir()
    with Repo.init():
        pass

    def experiment(name, found, lacks=()):
        whole = {f"{f}{end}": 0.99 for f in FIGURES for end in ("", "_low", "_high")}
        rows = [{"set": "test", "generator": None, "seen": True, **whole}]
        for one, share in found.items():
            ends = {f"{f}{end}": share + by for f in FIGURES for end, by in (("", 0), ("_low", -0.05), ("_high", 0.04))}
            rows.append({"set": one, "generator": SETS[one], "seen": one not in lacks, **ends})
        table = pd.DataFrame(rows).assign(detector="densenet121-baseline", n_real=1200, n_fake=80)
        table.to_csv(generators.CROSS, index=False)
        git("add", ".")
        git("commit", "-qm", name)
        git("tag", name)

    for name, found, lacks in (
        ("all", (0.9, 0.85, 0.8, 0.7, 0.5), ["never"]),
        ("no-flux", (0.91, 0.86, 0.3, 0.71, 0.51), ["never", "sfhq"]),
        ("stylegan", (0.92, 0.87, 0.2, 0.1, 0.52), ["never", "sfhq", "swaps", "more"]),
    ):
        experiment(name, dict(zip(SETS, found, strict=True)), lacks)
    return experiment


def test_a_set_has_a_row_where_all_is_known_and_one_where_its_generator_is_not(experiment, command, capsys):
    command(generators.main, "all", "no-flux", "stylegan")
    kept = generators.read()
    rows = [tuple(row) for row in kept[["set", "learned_from", "experiment", "tpr_at_fpr_5pct"]].to_numpy()]
    assert rows == [
        ("faces", "every generator", "all", 0.9),
        ("faces", "StyleGAN", "stylegan", 0.92),
        ("more", "every generator", "all", 0.85),
        ("more", "StyleGAN", "stylegan", 0.87),
        ("sfhq", "every generator", "all", 0.8),
        ("sfhq", "every other generator", "no-flux", 0.3),
        ("sfhq", "StyleGAN", "stylegan", 0.2),
        ("swaps", "every generator", "all", 0.7),
        ("swaps", "StyleGAN", "stylegan", 0.1),
        ("never", "every other generator", "all", 0.5),
        ("never", "StyleGAN", "stylegan", 0.52),
    ]
    line = "| sfhq: FLUX | every other generator | 30 % (25–34) | 30 % (25–34) | 0.300 (0.250–0.340) | 1,200 / 80 |"
    assert line in capsys.readouterr().out
    assert generators.table("densenet121-baseline", kept, short=True).splitlines()[2:] == [
        "| faces: StyleGAN | 90 % (85–94) | – | 92 % (87–96) |",
        "| more: StyleGAN | 85 % (80–89) | – | 87 % (82–91) |",
        "| sfhq: FLUX | 80 % (75–84) | 30 % (25–34) | 20 % (15–24) |",
        "| swaps: swaps | 70 % (65–74) | – | 10 % (5–14) |",
        "| never: GAN | – | 50 % (45–54) | 52 % (47–56) |",
    ]
    assert Path("docs/generators.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_experiment_or_has_one_set_is_refused(experiment, command):
    with pytest.raises(UserError, match=r"there is no experiment 'nothing' with plots/cross_generator\.csv"):
        command(generators.main, "all", "nothing")
    experiment("alone", {})
    with pytest.raises(UserError, match="the experiment 'alone' has one set only"):
        command(generators.main, "alone")
    assert not generators.KEPT.exists()


def test_a_detector_without_a_row_is_refused(experiment, command):
    command(generators.main, "all")
    with pytest.raises(UserError, match=r"docs/generators\.csv has no row of resnet50-finetune"):
        generators.table("resnet50-finetune", generators.read())


def test_the_parameters_of_the_docs_table_are_sound():
    settings = params.load(ROOT / "docs/generators.yaml")
    assert settings.training_sets == ["faces", "tpdne2019", "tpdne2025", "sfhq"]
