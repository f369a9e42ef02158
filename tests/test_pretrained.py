"""The command `pretrained`: a detector of half the bytes that answers as the whole one does, or none at all."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from stages import params
from stages import pretrained as stage
from stages.errors import UserError
from stages.files import read_json
from stages.photos import exported

ROOT = Path(__file__).parents[1]
NAME = "densenet121-baseline"


@pytest.fixture
def lay(reported, tmp_path, monkeypatch, command):
    """A function that runs the command in a copy of the project; what earlier runs laid there is one old file."""
    shutil.copytree(reported, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    Path("pretrained").mkdir()
    Path("pretrained/old").touch()

    def lay(*options):
        command(stage.main, NAME, "--command", "dvc repro", *options)

    return lay


def test_the_folder_holds_all_that_others_need(pretrained):
    assert sorted(path.name for path in pretrained.iterdir()) == [
        *("LICENSE", "README.md", "calibration.json", "detector.json", "network.tflite")
    ]
    facts = read_json(pretrained / "detector.json")
    commit = ["git", "-C", str(pretrained), "rev-parse", "--short", "HEAD"]
    assert facts["commit"] == subprocess.run(commit, check=True, capture_output=True, text=True).stdout.strip()
    assert facts["command"] == "dvc exp run -S split.seed=1"
    assert (facts["detector"], facts["model"], facts["precision"]) == ("pretrained", NAME, "float16")
    assert facts["trained_on"] == [{"name": "greys", "real": 8, "fake": 8, "sha256": "ab" * 32}]
    assert "/home/me" not in json.dumps(facts)
    halved = facts["half_precision"]
    assert (halved["n"], halved["verdicts_changed"], halved["roc_auc_half"], halved["roc_auc_full"]) == (16, 0, 1, 1)
    assert 0 < halved["largest_difference"] < 0.01  # 0 would be full precision

    licence, card = ((pretrained / name).read_text() for name in ("LICENSE", "README.md"))
    assert "- greys: Greys, CC BY 4.0\n" in licence
    assert card.startswith("---\nlicense: other\nlicense_link: LICENSE\nlibrary_name: keras\n---\n")
    assert "Tells light from dark.\n\n## The copy in this folder\n" in card
    assert "changes 0 verdicts on 16 test faces, and makes the AUC 1.0000, from 1.0000" in card
    assert "- Trained on greys (8 real, 8 fake).\n" in card
    assert f"- Made by `{facts['command']}` at commit {facts['commit']}.\n" in card


def test_it_answers_as_the_whole_detector(pretrained):
    detector = exported.load(pretrained)
    assert detector.name == "pretrained"
    assert detector.judge(np.full((64, 64, 3), 255, np.uint8))[0] == pytest.approx(6, abs=0.01)
    assert detector.calibration == exported.load(pretrained.parent / "data/exported" / NAME).calibration


def test_licences_may_be_named(lay):
    lay("--licence", "light greys: CC0", "--licence", "dark greys: CC BY 4.0")
    assert read_json("pretrained/detector.json")["licences"] == [
        "greys: Greys, CC BY 4.0",
        "light greys: CC0",
        "dark greys: CC BY 4.0",
    ]
    assert "- light greys: CC0\n- dark greys: CC BY 4.0\n" in Path("pretrained/LICENSE").read_text()
    assert not Path("pretrained/old").exists()


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        (f"data/exported/{NAME}/detector.json", {"source": "sample"}, "for others to use: Worth nothing"),
        (f"data/exported/{NAME}/detector.json", {"weights": "random"}, "for others to use: Do not rely on it yet"),
        (f"data/exported/{NAME}/detector.json", {"sha256": "0" * 64}, f"{NAME} was not made of .*; make it again with"),
        ("data/raw/greys.json", {"licence": None}, "the licence of greys is not known; give it"),
        (f"data/report/{NAME}.md", None, f"{NAME}.md is missing; make it with `dvc repro`"),
        (f"data/exported/{NAME}/network.tflite", None, f"network.tflite is missing; .* evaluate@{NAME}"),
    ],
)
def test_what_is_worthless_incomplete_or_without_a_licence_is_refused(lay, file, change, sentence):
    if change is None:
        Path(file).unlink()
    else:
        Path(file).write_text(json.dumps(read_json(file) | change))
    with pytest.raises(UserError, match=sentence):
        lay()
    assert [path.name for path in Path("pretrained").iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("bound", "value", "sentence"),
    [
        ("LIMIT", 100, r"0\.0 MB in half precision, and pretrained/ takes 0\.0001; choose a smaller detector"),
        ("TOLERANCE", -1.0, "moves the calibrated logit of a test face by .*; choose another detector"),
    ],
)
def test_what_is_too_large_or_strays_is_refused(lay, monkeypatch, bound, value, sentence):
    monkeypatch.setattr(stage, bound, value)
    with pytest.raises(UserError, match=sentence):
        lay()
    assert [path.name for path in Path("pretrained").iterdir()] == ["old"]


def test_what_half_precision_changes_is_measured_on_every_test_face(lay, monkeypatch, capsys):
    """Here it moves all logits by 2, or by 1 when calibrated; real is below -0.85, fake from 0.85."""
    opened = exported.network

    def network(path, threads=None):
        whole = opened(path)
        moved = 2.0 if path.parent.name == "pretrained" else 0.0
        return lambda image: (whole(image)[0] + moved, *whole(image)[1:])

    monkeypatch.setattr(exported, "network", network)
    monkeypatch.setattr(stage, "TOLERANCE", 1.5)
    lay()
    levels = np.arange(0, 256, 17)
    before, after = (np.digitize((6 * (levels - 127.5) / 127.5 + moved) / 2, [-0.847, 0.847]) for moved in (0, 2))
    halved = read_json("pretrained/detector.json")["half_precision"]
    assert halved["verdicts_changed"] == (before != after).sum() > 0
    assert halved["largest_difference"] == pytest.approx(1, abs=0.01)
    assert "moves a calibrated logit by 1 at most" in capsys.readouterr().out


def test_half_precision_that_is_no_number_is_refused(lay, monkeypatch):
    opened = exported.network

    def network(path, threads=None):
        nan = (np.float32("nan"), np.zeros((8, 8), np.float32), 1.0)
        return (lambda _: nan) if path.parent.name == "pretrained" else opened(path)

    monkeypatch.setattr(exported, "network", network)
    with pytest.raises(UserError, match="moves the calibrated logit of a test face by nan"):
        lay()


@pytest.mark.skipif(not (ROOT / "pretrained").is_dir(), reason="no detector came with this repository")
def test_the_one_that_came_with_this_repository_is_whole_small_and_not_worthless(noise):
    folder = ROOT / "pretrained"
    detector, facts = exported.load(folder), read_json(folder / "detector.json")
    assert detector.name == "pretrained"
    assert detector.caution is None
    assert (folder / "network.tflite").stat().st_size <= stage.LIMIT
    assert facts["half_precision"]["largest_difference"] <= stage.TOLERANCE
    assert all(licence in (folder / "LICENSE").read_text() for licence in facts["licences"])
    assert facts["command"] in (folder / "README.md").read_text()
    logit, evidence, _ = detector.judge(noise(0, detector.size, detector.size))
    assert logit == pytest.approx(evidence.mean(), abs=0.1)


def test_the_parameters_that_made_it_are_ones_that_the_pipeline_takes():
    assert params.load(ROOT / "docs/pretrained.yaml").learned_sets == ["faces", "sfhq"]
