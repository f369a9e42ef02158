"""Presets: only the keys that differ, applied with the comments kept, or as overrides for `dvc exp run`."""

import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import params, preset
from stages.errors import UserError

ROOT = Path(__file__).parents[1]
PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["preset", *arguments])
    preset.main()


def test_a_broken_params_file_is_one_sentence(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("params.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"params.yaml is not valid YAML"):
        command(monkeypatch, PRESETS[0])


@pytest.mark.parametrize("name", PRESETS)
def test_every_shipped_preset_applies_and_changes_nothing_but_its_keys(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = dict(preset.leaves(YAML(typ="safe").load(Path("params.yaml"))))
    wanted = dict(preset.leaves(YAML(typ="safe").load(Path(f"presets/{name}.yaml"))))
    comments = [line.partition("#")[2] for line in Path("params.yaml").read_text().splitlines() if "#" in line]
    command(monkeypatch, name)
    params.load()
    text = Path("params.yaml").read_text()
    assert dict(preset.leaves(YAML(typ="safe").load(text))) == before | wanted
    assert [line.partition("#")[2] for line in text.splitlines() if "#" in line] == comments


def test_kaggle_is_the_full_corpus_with_its_official_split(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "kaggle")
    loaded = params.load()
    assert (loaded.sets["faces"].source, loaded.split.method, loaded.split.limit_per_class) == (
        "kaggle",
        "official",
        None,
    )


def test_several_presets_apply_in_their_order_and_may_add_sets(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "kaggle", "many")
    loaded = params.load()
    assert loaded.training_sets == ["faces", "sfhq", "artifact"]
    assert {name: loaded.method(name) for name in loaded.sets} == {
        "faces": "official",
        "sfhq": "stratified",
        "artifact": "stratified",
    }
    assert (loaded.image.size, loaded.image.crop, loaded.features.batch_size) == (200, 192, 256)


def test_sets_that_a_preset_adds_are_not_printed_as_overrides(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path("params.yaml").read_bytes()
    with pytest.raises(UserError, match=r"kaggle and many add sets\.sfhq\.source and more that -S cannot add"):
        command(monkeypatch, "kaggle", "many", "--overrides")
    assert Path("params.yaml").read_bytes() == before


def test_overrides_are_printed_and_change_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("params.yaml").read_bytes()
    command(monkeypatch, "kaggle", "--overrides")
    printed = capsys.readouterr().out
    assert "-S sets.faces.source=kaggle" in printed
    assert "-S split.limit_per_class=null" in printed
    assert "-S detectors.resnet50.finetune.learning_rate=0.0001" in printed
    assert Path("params.yaml").read_bytes() == before


def test_an_unknown_preset_names_those_that_exist(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"there is no preset 'huge'; choose one of: {', '.join(PRESETS)}"):
        command(monkeypatch, "huge")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image:\n  sise: 3\n", "sets image.sise, which params.yaml does not have"),
        ("image:\n  size: 3\n", "image.size = 3: input should be greater than or equal to 32"),
    ],
)
def test_a_preset_that_does_not_fit_changes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    Path("presets/mine.yaml").write_text(text)
    before = Path("params.yaml").read_bytes()
    with pytest.raises(UserError, match=message):
        command(monkeypatch, "mine")
    assert Path("params.yaml").read_bytes() == before


def test_a_preset_for_a_set_that_has_another_name_now_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path("params.yaml").read_text().replace("\n  faces:\n", "\n  mine:\n")
    Path("params.yaml").write_text(text)
    with pytest.raises(UserError, match="the preset changes the set faces, which"):
        command(monkeypatch, "kaggle")
    assert Path("params.yaml").read_text() == text


def test_a_preset_fills_an_empty_section_of_a_set(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path("params.yaml").read_text().replace("\n  faces:\n", "\n  faces:\n    classes:\n")
    Path("params.yaml").write_text(text)
    Path("presets/mine.yaml").write_text("sets:\n  faces:\n    classes:\n      real: ^a\n      fake: ^b\n")
    command(monkeypatch, "mine")
    assert params.load().sets["faces"].classes.real == "^a"
