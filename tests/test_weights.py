"""Stage `weights`: where a backbone's starting weights come from, and what is said when they do not."""

import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from stages import weights
from stages.backend import keras
from stages.detectors import densenet121, resnet50
from stages.errors import UserError
from stages.files import sha256

SHARED = Path(__file__).parents[1] / ".." / "shared" / "weights"
FILE, JSON = Path("data/weights/resnet50.weights.h5"), Path("data/weights/resnet50.json")


@pytest.fixture
def project(tmp_path, monkeypatch, write_params, command):
    """A function that runs the stage for resnet50 in an empty project, with params of ``weights`` changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    waits = socket.getdefaulttimeout()

    def project(**changes):
        write_params({f"weights.{key}": value for key, value in changes.items()})
        keras.utils.clear_session()  # names of layers count from 1, as in a process of its own: they are in the file
        command(weights.main, "resnet50")

    yield project
    socket.setdefaulttimeout(waits)


@pytest.fixture
def small(toy, monkeypatch):
    """The toy in the place of every backbone."""
    monkeypatch.setattr(weights, "backbone_module", lambda model: toy)
    return toy


def unreachable(tmp_path):
    """A backbone whose ImageNet weights Keras tries to download from where nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keras.utils.get_file("toy.weights.h5", f"http://127.0.0.1:{port}/toy.weights.h5", cache_dir=tmp_path / "cache")


@pytest.fixture
def offline(small, monkeypatch, tmp_path):
    """The toy, whose ImageNet weights cannot be had."""
    random = small.backbone
    monkeypatch.setattr(small, "backbone", lambda source=None: unreachable(tmp_path) if source else random())


def origin():
    return json.loads(JSON.read_text(encoding="utf-8"))


def written():
    """What the stage left in data/."""
    return sorted(path.name for path in Path("data").rglob("*") if path.is_file()) if Path("data").exists() else []


def test_random_weights_are_decided_by_the_seed(project, small):
    digests = []
    for seed in (1, 1, 2):
        project(source="random", seed=seed)
        assert origin() == {"source": "random", "seed": seed, "asked": "random", "sha256": sha256(FILE)}
        digests.append(sha256(FILE))
    assert digests[0] == digests[1] != digests[2]
    assert written() == ["resnet50.json", "resnet50.weights.h5"]


def test_the_file_holds_the_backbones_weights(project, small):
    project(source="random", seed=1)
    expected = weights.random(small, 1).get_weights()
    for one, other in zip(small.backbone(str(FILE)).get_weights(), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_gives_its_file(project, small, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    mine = weights.random(small, 9)
    mine.save_weights(folder / "resnet50_mine.weights.h5")
    (folder / "densenet121.weights.h5").write_text("of the other backbone")
    project(source="folder", folder="mine")
    assert origin() | {"sha256": ""} == {
        "source": "folder",
        "file": "resnet50_mine.weights.h5",
        "asked": "folder",
        "sha256": "",
    }
    for one, other in zip(small.backbone(str(FILE)).get_weights(), mine.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_folder_is_looked_for_in_the_real_project(project, small, tmp_path, monkeypatch):
    elsewhere = tmp_path / "real project"
    elsewhere.mkdir()
    weights.random(small, 9).save_weights(elsewhere / "resnet50.weights.h5")
    monkeypatch.setenv("DVC_ROOT", str(elsewhere))
    project(source="folder", folder=".")
    assert origin()["file"] == "resnet50.weights.h5"


def test_a_folder_that_is_missing_is_named(project, small):
    with pytest.raises(UserError, match=r"^weights.folder = .*nowhere is not a folder; name one that holds resnet50"):
        project(source="folder", folder="nowhere")
    assert written() == []


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], "none"),
        (["densenet121.weights.h5", "resnet50.h5"], "none"),
        (["resnet50.weights.h5", "resnet50_b.weights.h5"], "resnet50.weights.h5, resnet50_b.weights.h5"),
    ],
)
def test_a_folder_must_hold_one_file_for_the_backbone(project, small, tmp_path, names, found):
    (tmp_path / "mine").mkdir()
    for name in names:
        (tmp_path / "mine" / name).touch()
    with pytest.raises(UserError, match=rf"must hold exactly one resnet50\*.weights.h5, but holds {found}$"):
        project(source="folder", folder="mine")
    assert written() == []


def text(path):
    path.write_text("not weights")


def nothing(path):
    path.touch()


def of_another_network(path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)]).save_weights(path)


@pytest.mark.parametrize("content", [text, nothing, of_another_network])
def test_a_file_of_something_else_is_refused(project, tmp_path, content, recwarn):
    (tmp_path / "mine").mkdir()
    content(tmp_path / "mine" / "resnet50.weights.h5")
    with pytest.raises(UserError, match=r"resnet50.weights.h5 does not hold weights of this backbone") as caught:
        project(source="folder", folder="mine")
    assert "\n" not in str(caught.value)
    assert not [warning for warning in recwarn if warning.category is UserWarning]  # one sentence, not one a layer
    assert written() == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the ImageNet weights in ../shared/weights")
def test_weights_of_the_other_backbone_are_refused(project, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "resnet50.weights.h5").symlink_to(SHARED.resolve() / "densenet121_imagenet_notop.weights.h5")
    with pytest.raises(UserError, match="does not hold weights of this backbone"):
        project(source="folder", folder="mine")
    assert written() == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the ImageNet weights in ../shared/weights")
@pytest.mark.parametrize(("model", "module"), [("resnet50", resnet50), ("densenet121", densenet121)])
def test_imagenet_weights_are_loaded_from_a_folder(project, write_params, command, model, module):
    write_params({"weights.source": "folder", "weights.folder": str(SHARED.resolve())})
    command(weights.main, model)
    content = json.loads(Path(f"data/weights/{model}.json").read_text(encoding="utf-8"))
    assert content["file"] == f"{model}_imagenet_notop.weights.h5"
    loaded = module.backbone(f"data/weights/{model}.weights.h5")
    variance = np.concatenate(
        [layer.moving_variance.numpy() for layer in loaded.layers if isinstance(layer, keras.layers.BatchNormalization)]
    )
    assert (variance != 1).mean() > 0.99  # statistics of images, not the ones of initialisation


def test_imagenet_weights_are_asked_of_keras(project, small, monkeypatch, capsys):
    random, asked = small.backbone, []
    monkeypatch.setattr(small, "backbone", lambda source=None: asked.append(source) or random())
    project(source="imagenet")
    assert asked == ["imagenet"]
    assert origin() == {"source": "imagenet", "asked": "imagenet", "sha256": sha256(FILE)}
    project(source="auto")
    assert origin() == {"source": "imagenet", "asked": "auto", "sha256": sha256(FILE)}
    assert "note" not in capsys.readouterr().out


def test_imagenet_without_a_network_is_one_sentence(project, offline):
    with pytest.raises(UserError) as caught:
        project(source="imagenet")
    sentence = str(caught.value)
    assert sentence.startswith("weights.source is imagenet, but the weights could not be downloaded (")
    assert "Connection refused" in sentence
    assert "\n" not in sentence
    assert "connect to the internet" in sentence
    assert "weights.folder" in sentence
    assert "http" not in sentence
    assert written() == []


def test_auto_without_a_network_is_random_and_says_so(project, offline, small, capsys):
    project(source="auto", seed=4)
    content = origin()
    assert content.pop("reason").startswith("the weights could not be downloaded (")
    assert content == {"source": "random", "seed": 4, "asked": "auto", "sha256": sha256(FILE)}
    project(source="random", seed=4)
    assert sha256(FILE) == content["sha256"]
    note = capsys.readouterr().out
    assert "note: resnet50 starts from random weights instead of ImageNet's" in note
    assert "dvc repro -f weights@resnet50" in note
    assert "resnet50 starts from random weights\n" in note


def test_auto_waits_no_longer_than_it_was_told(project, small, monkeypatch, capsys):
    random, given_up = small.backbone, threading.Event()
    monkeypatch.setattr(small, "backbone", lambda source=None: given_up.wait() if source else random())
    try:
        project(source="auto", timeout=1)
    finally:
        given_up.set()
    assert origin()["reason"] == "the weights did not come within 1 s"
    assert origin()["source"] == "random"
    assert "did not come within 1 s" in capsys.readouterr().out
