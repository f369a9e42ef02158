"""The study: its experiments differ in parameters that exist, and its table says what they left behind."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from dvc.utils.hydra import apply_overrides

from bench import study
from stages import params
from stages.errors import UserError

ROOT = Path(__file__).parents[1]


def settings(command):
    return [command[place + 1] for place, word in enumerate(command) if word == "-S"]


@pytest.mark.parametrize("name", study.VARIANTS)
def test_a_variant_is_one_experiment_with_possible_parameters(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = study.command(name, ["data.source=folder", "data.folder.path=faces"])
    assert command[1:6] == ["exp", "run", "--temp", "-n", f"study-{name}"]
    variant = study.VARIANTS[name]
    assert command[-1] == f"evaluate@{variant.detector}"
    shutil.copy("params.yaml", tmp_path)
    apply_overrides(str(tmp_path / "params.yaml"), settings(command))
    loaded = params.load(tmp_path / "params.yaml")
    found = getattr(loaded.detectors[variant.model], variant.phase).model_dump()
    assert found | variant.changes == found
    assert loaded.image.size == (128 if name == "tune-resized" else 256)
    assert not any(loaded.stress.conditions().values())


def test_spoilt_faces_are_scored_on_request_and_what_is_added_comes_last(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = settings(study.command("tune", ["training.seed=3"], spoilt=True))
    assert not [setting for setting in found if setting.endswith("=[]")]
    assert found[-1] == "training.seed=3"


def test_the_names_of_variants_are_names_of_experiments():
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in study.VARIANTS)


def test_the_table_is_of_what_the_experiments_left_behind(left_behind):
    figures = {
        "roc_auc": 0.9,
        "roc_auc_low": 0.85,
        "roc_auc_high": 0.94,
        "average_precision": 0.91,
        "accuracy": 0.8,
        "accuracy_low": 0.75,
        "accuracy_high": 0.84,
        "n": 360,
    }
    made = {"epochs": 4, "best_epoch": 3, "train_seconds": 61.4}
    left_behind("clean-densenet121-baseline", figures, made, "epoch,val_auc\n0,0.94\n1,0.91\n2,0.95\n3,0.93\n")
    left_behind("tune", figures | {"roc_auc": 0.876}, made, "epoch,val_auc\n0,0.94\n1,0.91\n")
    assert study.experiments() == {"study-clean-densenet121-baseline", "study-tune"}
    lines = list(study.table(["clean-densenet121-baseline", "tune"]))
    head, *rows = [line.split(" | ") for line in "\n".join(lines).splitlines() if "---" not in line]
    assert {len(row) for row in rows} == {len(head)}
    assert lines[1].startswith("| clean-densenet121-baseline | 4 (3) | 0.940 → 0.950 | 0.900 (0.850–0.940) | 0.910 |")
    assert lines[1].endswith(" | 0.800 (0.750–0.840) | 360 | 61 |")
    assert lines[2].startswith("| tune | 4 (3) | 0.940 → 0.910 | 0.876 (0.850–0.940) |")


def test_an_unknown_variant_is_refused_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(study.sys, "argv", ["study", "nothing"])
    monkeypatch.setattr(study.subprocess, "run", lambda *_: pytest.fail("ran"))
    with pytest.raises(SystemExit):
        study.main()
    assert "there is no variant 'nothing'" in capsys.readouterr().err


def test_a_variant_that_fails_ends_the_study_in_one_sentence(monkeypatch):
    monkeypatch.setattr(study.sys, "argv", ["study", "tune", "tune-seed"])
    monkeypatch.setattr(study, "experiments", lambda: {"study-tune"})
    ran = []
    failed = SimpleNamespace(returncode=1)
    monkeypatch.setattr(study.subprocess, "run", lambda command, check: ran.append(command) or failed)
    with pytest.raises(UserError, match="the variant tune-seed failed, and left nothing behind"):
        study.main()
    assert len(ran) == 1
