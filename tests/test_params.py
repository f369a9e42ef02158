"""params.yaml: what is unknown, ill-typed or impossible stops the run with one sentence."""

import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages import params
from stages.errors import UserError, refusal

ROOT = Path(__file__).parents[1]


TEST = {"source": "folder", "use": "test", "path": "elsewhere"}


@pytest.fixture
def content() -> dict[str, Any]:
    return dict(YAML(typ="safe").load((ROOT / "params.yaml").read_text()))


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree[part]
    tree[last] = value


def test_the_committed_file_is_sound_and_trains_four_detectors_on_the_sample() -> None:
    loaded = params.load(ROOT / "params.yaml")
    assert loaded.models == ["resnet50", "densenet121"]
    assert loaded.sets["faces"].source == "sample"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("imgae", {}, r"unknown key 'imgae'; did you mean image\?"),
        ("stress", {}, "unknown key 'stress'; its name is corruptions now"),
        ("image.sise", 64, r"image: unknown key 'sise'; did you mean size\?"),
        ("detectors.resnet50.finetune.xyz", 1, "unknown key 'xyz'; known there: start, epochs, "),
        ("detectors.resnet50.baseline", {}, "unknown key 'baseline'; a baseline's head is solved"),
        ("image.size", "64", "image.size = '64': input should be a valid integer"),
        ("image.size", 64.5, "image.size = 64.5: input should be a valid integer"),
        ("image.size", 8, "image.size = 8: input should be greater than or equal to 32"),
        ("image.crop", 65, "image.crop = 65 is larger than image.size = 64; make it 64 or less"),
        ("training.deterministic", "no", "training.deterministic = 'no': input should be a valid boolean"),
        ("sets.faces.source", "kagle", "sets.faces.source = 'kagle': input should be 'sample', 'folder' or 'kaggle'"),
        ("sets.faces.source", "folder", "sets.faces.source is folder, but sets.faces.path is empty"),
        ("sets.faces.path", "faces", "sets.faces.path is set, but sets.faces.source is sample"),
        (
            "sets.faces.dataset",
            "no slash",
            "sets.faces.dataset: 'no slash' is no data set of Kaggle; write OWNER/NAME or https://www.kaggle.com/datasets/",
        ),
        (
            "sets.faces.dataset",
            "https://www.kaggle.com/competitions/someone/data",
            "is no data set of Kaggle; write OWNER",
        ),
        ("split.fractions.train", 0.5, r"split.fractions add up to 0.9; make train \+ valid \+ test = 1"),
        ("split.fractions.train", 0, "split.fractions.train = 0: input should be greater than 0"),
        (
            "split.method",
            "official",
            "split.near_duplicates = group cannot move images between the official splits of sets.faces",
        ),
        (
            "sets.faces.group_by",
            r"/(\w+_",
            r"params.yaml: sets.faces.group_by: '/\(\\w\+_' is no regular expression \(missing \), unterminated "
            r"subpattern at position 1\); mend it, or leave it empty$",
        ),
        ("sets.faces.group_by", "a{99999999999999999999}", "is no regular expression"),
        ("split.limit_per_class", 5, "split.limit_per_class = 5: input should be greater than or equal to 6"),
        ("split.train_per_class", 1, "split.train_per_class = 1: input should be greater than or equal to 2"),
        ("sets.faces.group_by", 7, "sets.faces.group_by = 7: input should be a valid string"),
        ("weights.source", "folder", "weights.folder is empty"),
        ("image.jpeg", 0, "image.jpeg = 0: input should be greater than or equal to 1"),
        ("image.jpeg", 101, "image.jpeg = 101: input should be less than or equal to 100"),
        ("image.jpeg", "high", "image.jpeg = 'high': input should be a valid integer"),
        ("image.align", "yes", "image.align = 'yes': input should be a valid boolean"),
        ("corruptions.jpeg", [101], "corruptions.jpeg.0 = 101: input should be less than or equal to 100"),
        ("corruptions.blur", [1.0, 2, 1], r"corruptions.blur names one strength twice \(1, 2, 1\); name each once"),
        ("sets.Other Set", TEST, "'Other Set' cannot be a set's name; take letters from"),
        ("sets.Faces", TEST, r"sets has names that differ in capital letters alone \(faces, Faces\)"),
        ("sets.other", TEST | {"split": "official"}, "sets.other.split is official, but a set with use: test has no"),
        ("sets.faces.use", "test", "no set has use: train, so there is nothing to learn from; give one"),
        ("sets.faces.sample", None, "sets.faces.source is sample, but sets.faces.sample is empty"),
        ("sets.faces.split", "official", "split.near_duplicates = group cannot move images between the official"),
        ("sets", {}, "sets = .*: dictionary should have at least 1 item"),
        ("external", {}, "unknown key 'external'; other people's faces are under sets now, with use: test"),
        ("data.source", "sample", "unknown key 'source'; each of the sets has its own source now: see sets"),
        ("split.group_by", "x", "unknown key 'group_by'; each of the sets has its own: sets.NAME.group_by"),
        ("split.leave_out", ["other"], "split.leave_out names 'other'; write NAME, NAME/real or NAME/fake"),
        ("split.leave_out", ["faces/both"], "split.leave_out names 'faces/both'; write NAME"),
        ("split.leave_out", ["faces/"], "split.leave_out names 'faces/'; write NAME"),
        ("explain.deletion_images", 25, "explain.deletion_images = 25: input should be a multiple of 2"),
        ("explain.images", 0, "explain.images = 0: input should be greater than or equal to 1"),
        ("models", [], "models = .*: list should have at least 1 item"),
        ("models", ["resnet50", "resnet50"], "models names one backbone twice"),
        ("models", ["vgg16"], "models.0 = 'vgg16': input should be 'resnet50' or 'densenet121'"),
        ("features.from_block", "conv9", "features.from_block = 'conv9': input should be 'conv2', "),
        ("detectors.resnet50.finetune.start", "warm", "start = 'warm': input should be 'probe' or 'fresh'"),
        ("detectors.resnet50.finetune.learning_rate", 0, "learning_rate = 0: input should be greater than 0"),
        ("detectors.resnet50.finetune.learning_rate", "1e-3", "learning_rate = '1e-3': input should be a valid number"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    content: dict[str, Any], key: str, value: Any, message: str
) -> None:
    put(content, key, value)
    with pytest.raises(UserError, match=message):
        params.check(content, "params.yaml")


@pytest.mark.parametrize(
    "address",
    [
        "someone/their-faces",
        "https://www.kaggle.com/datasets/someone/their-faces",
        "https://www.kaggle.com/datasets/someone/their-faces?select=real#top",
        "kaggle.com/datasets/someone/their-faces/data",
    ],
)
def test_a_kaggle_data_set_may_be_given_by_its_address(content: dict[str, Any], address: str) -> None:
    put(content, "sets.faces.dataset", address)
    assert params.check(content, "params.yaml").sets["faces"].dataset == "someone/their-faces"


def test_a_set_may_have_capital_letters_and_another_split_than_the_others(content: dict[str, Any]) -> None:
    put(content, "sets.StyleGAN2", {"source": "folder", "use": "train", "path": "gan", "split": "official"})
    put(content, "split.near_duplicates", "drop")
    put(content, "weights.source", "random")
    loaded = params.check(content, "params.yaml")
    assert [loaded.method(name) for name in loaded.training_sets] == ["stratified", "official"]


def test_a_test_set_cannot_be_left_out(content: dict[str, Any]) -> None:
    put(content, "sets.other", TEST)
    put(content, "split.leave_out", ["other"])
    with pytest.raises(UserError, match="'other'; write NAME, NAME/real or NAME/fake of a set that trains: faces"):
        params.check(content, "params.yaml")


def test_what_is_left_out_is_unseen_and_so_is_a_test_set(content: dict[str, Any]) -> None:
    put(content, "sets.other", TEST)
    put(content, "split.leave_out", ["faces/fake"])
    loaded = params.check(content, "params.yaml")
    assert (loaded.unseen("faces"), loaded.unseen("other")) == ({"fake"}, {"real", "fake"})


def test_auto_weights_are_for_the_sample_only(content: dict[str, Any]) -> None:
    put(content, "sets.faces.source", "kaggle")
    with pytest.raises(UserError, match=r"weights\.source = auto is for the sample only"):
        params.check(content, "params.yaml")


def test_a_missing_key_is_named(content: dict[str, Any]) -> None:
    del content["image"]["size"]
    with pytest.raises(UserError, match=r"params.yaml: image.size is missing"):
        params.check(content, "params.yaml")


def test_a_detector_without_its_section_is_named(content: dict[str, Any]) -> None:
    del content["detectors"]["resnet50"]
    with pytest.raises(UserError, match=r"models names resnet50, but detectors\.resnet50 is missing"):
        params.check(content, "params.yaml")


def test_further_problems_are_counted(content: dict[str, Any]) -> None:
    put(content, "image.size", 8)
    put(content, "features.magnify", 0)
    with pytest.raises(UserError, match=r"\(and 1 more\)$"):
        params.check(content, "params.yaml")


def test_scientific_notation_is_a_number(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("learning_rate: 0.001 ", "learning_rate: 1e-4 ", 1)
    (tmp_path / "params.yaml").write_text(text)
    assert params.load(tmp_path / "params.yaml").detectors["resnet50"].finetune.learning_rate == 0.0001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("", "params.yaml"),
        ("- 1", "params.yaml"),
        ("a: 1\na: 2\n", "duplicate key"),
        ("a: 2024-13-45", "is not valid YAML: month must be in"),
        ("a: !!bool maybe", "is not valid YAML"),
        ('a: "\\UFFFFFFFF"', "is not valid YAML"),
        ("? [[a]]\n: 1", "is not valid YAML: .*unhashable"),
        (f"a: {'9' * 5000}", r"is not valid YAML: Exceeds the limit \(4300 digits\)"),
        (
            "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)),
            r"is not valid YAML: line \d+ merges more than 10,000 keys",
        ),
        ("[" * 2000, "is not valid YAML: maximum recursion depth exceeded"),
        ("a: \xe9".encode("latin-1"), "is not valid YAML: 'utf-8' codec can't decode"),
        (bytes(10), "is not valid YAML: unacceptable character"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        params.load(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


def test_a_folder_in_its_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(UserError, match=r"params.yaml is a folder; run in the project's root, or bring it back with"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "value",
    ["k" * 5000, 16**5000, functools.reduce(lambda inner, _: [inner] * 9, range(9), [1])],  # the last has 9⁹ leaves
    ids=["text", "number", "aliases"],
)
def test_a_value_of_many_pages_is_shown_in_short(content: dict[str, Any], value: Any) -> None:
    put(content, "image.size", value)
    with pytest.raises(UserError, match=r"image.size = .*: input should be") as caught:
        params.check(content, "params.yaml")
    assert len(str(caught.value)) < 300


def test_a_value_does_not_command_the_terminal(content: dict[str, Any]) -> None:
    put(content, "sets.faces.dataset", "\x1b[2J\n")
    with pytest.raises(UserError) as error:
        params.check(content, "params.yaml")
    assert r"sets.faces.dataset: '\x1b[2J\n' is no data set of Kaggle" in (refusal(error.value) or "")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_refused(content: dict[str, Any], value: float) -> None:
    put(content, "detectors.resnet50.finetune.learning_rate", value)
    with pytest.raises(UserError, match=r"learning_rate = (nan|inf): input should be less than or equal to 1"):
        params.check(content, "params.yaml")


@pytest.mark.parametrize("name", ["é", "写真", "archive (1).zip", "a&b", "x=y", "[x]", "x,y", "my faces", "{x}", "#1"])
def test_any_path_gets_through_dvcs_overrides_in_the_quotes_that_the_docs_show(tmp_path: Path, name: str) -> None:
    from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

    (shown,) = re.findall(r'-S "(sets.faces.path=.*?)"', (ROOT / "docs/trouble.md").read_text(encoding="utf-8"))
    override = shown.replace("~/faces (1)", f"~/{name}")
    assert name in override
    file = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", file)
    (changes,) = get_hydra_sweeps({str(file): [override, "sets.faces.source=folder", "weights.source=random"]})
    apply_overrides(file, list(changes[str(file)]))
    assert params.load(file).sets["faces"].path == f"~/{name}"


def test_the_stage_ends_with_a_sentence_and_exit_code_1(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "stages.params"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: params.yaml is missing; run in the project's root")
    assert "Traceback" not in answer.stderr
