"""What tests of several rooms share: a project in an empty folder, pictures, and a backbone small enough to train."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

PARAMS = Path(__file__).parents[1] / "params.yaml"

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and threads that wait for one another would spin
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def pytest_collection_modifyitems(items):
    """Begin with the pipeline's tests, which take longest: another worker does the rest meanwhile."""
    items.sort(key=lambda item: "pipeline" not in item.path.parts)


@pytest.fixture(scope="session")
def write_params():
    """A function that writes ./params.yaml: the project's own, with some keys (dotted) changed."""

    def write_params(changes=None):
        content = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
        for key, value in (changes or {}).items():
            section = content
            *sections, last = key.split(".")
            for name in sections:
                section = section[name]
            section[last] = value
        with Path("params.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(content, file)

    return write_params


@pytest.fixture(scope="session")
def command():
    """A function that runs a stage's ``main`` with command-line arguments."""

    def command(main, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["stage", *arguments])
            main()

    return command


@pytest.fixture(scope="session")
def png():
    """A function that encodes pixels (uint8, height × width or height × width × 3) as PNG."""

    def png(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    return png


@pytest.fixture(scope="session")
def noise():
    """A function that draws pixels without structure, so that every window of them is unique: uint8, RGB."""

    def noise(seed, height, width):
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return noise


@pytest.fixture(scope="session")
def write_shards():
    """A function that packs records as a set's images of one split, and lists them in data/training.json."""
    from stages.faces import shards
    from stages.files import read_json, write_json

    def write_shards(split, name, records, per_shard=4):
        folder = shards.folder(split, name)
        folder.mkdir(parents=True)
        summary = shards.write(records, len(records), folder, per_shard)
        training = read_json(shards.TRAINING) if shards.TRAINING.exists() else {"sources": {}, "train": {}, "valid": {}}
        if split in training:
            training["sources"][name] = "folder"
            training[split][name] = {kind: summary[kind] for kind in ("real", "fake")}
        write_json(shards.TRAINING, training)

    return write_shards


@pytest.fixture
def float32():
    """Run under Keras' float32 policy, whatever a test sets."""
    from stages.backend import keras

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy(policy)


def toy_backbone():
    """A backbone module like those of stages/detectors, of two convolutions with BatchNorm and 8 channels."""
    from stages.backend import keras

    def backbone(weights=None):
        layers = keras.layers
        images = keras.Input((None, None, 3))
        hidden = layers.Conv2D(4, 3, strides=2, padding="same", name="conv1_conv")(images)
        hidden = layers.BatchNormalization(name="conv1_bn")(hidden)
        hidden = layers.ReLU(name="conv1_relu")(hidden)
        hidden = layers.Conv2D(8, 3, strides=2, padding="same", name="conv5_conv")(hidden)
        hidden = layers.BatchNormalization(name="conv5_bn")(hidden)
        model = keras.Model(images, layers.ReLU(name="conv5_relu")(hidden), name="toy")
        if weights:
            model.load_weights(weights)
        return model

    def preprocess(images):
        return keras.layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="preprocess")(images)

    blocks = {"conv4": "conv1_relu", "conv5": "conv5_relu"}
    return SimpleNamespace(BLOCKS=blocks, HALVING="same", backbone=backbone, preprocess=preprocess)


@pytest.fixture(scope="session")
def toy():
    """A backbone module that is small enough to train in a test."""
    return toy_backbone()


@pytest.fixture(scope="session")
def bright(tmp_path_factory, write_params, write_shards, png):
    """A project with two exported detectors of 64 px that take bright for fake, and nothing trained.

    Of a picture of one grey level v, the logit of densenet121-baseline (the champion) is 6 (v - 127.5) / 127.5, and
    that of densenet121-finetune a third of it. Calibrated, both are halved; real is below P = 0.3, fake from 0.7.
    Red and green, as they differ by 50, are at a distance of 1 from the training faces: unlike them to the champion,
    and to the other three times as far.
    """
    from scipy.special import expit, logit

    from stages.backend import keras
    from stages.detectors import assembly, device
    from stages.detectors.export import export
    from stages.faces import shards
    from stages.files import write_json
    from stages.params import load
    from stages.scoring import calibration

    def backbone(weights=None):
        images = keras.Input((None, None, 3))
        return keras.Model(images, keras.layers.AveragePooling2D(8, name="conv5_pool")(images), name="bright")

    module = SimpleNamespace(
        backbone=backbone, preprocess=keras.layers.Rescaling(1.0, dtype="float32", name="preprocess")
    )
    folder = tmp_path_factory.mktemp("bright")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params()
        device.prepare("float32", 0)
        write_json("data/raw/faces.json", {"source": "folder"})
        write_json("data/leaderboard.json", {"champion": "densenet121-baseline"})
        greys = [png(np.full((64, 64, 3), level, np.uint8)) for level in range(0, 256, 17)]
        write_shards("valid", "faces", [shards.Record(grey, 0, f"faces/{n}.png") for n, grey in enumerate(greys)])
        for phase, steepness in (("baseline", 6.0), ("finetune", 2.0)):
            write_json(f"data/models/densenet121-{phase}.json", {"weights": {"source": "imagenet"}})
            top = assembly.head(np.full(3, 127.5), np.full(3, 127.5**2))
            top.get_layer("logit").set_weights([np.full((3, 1), steepness / 3), np.zeros(1)])
            path = Path(f"data/models/densenet121-{phase}.keras")
            assembly.save(module, backbone(), top, path)
            np.savez(path.with_suffix(".npz"), kernel=[[0.02], [-0.02], [0]], bias=[0])
            detector = assembly.with_distance(assembly.with_evidence(assembly.load(path)), path.with_suffix(".npz"))
            export(detector, path, load().image)
            low, high = expit(2 * logit([0.3, 0.7]))
            reading = calibration.Calibration(
                2.0, 0.0, 0.5, float(low), float(high), 0.05, 0.5, 100, unlike_from=6 / steepness
            )
            calibration.write(f"data/exported/densenet121-{phase}/calibration.json", reading)
    return folder


@pytest.fixture(scope="session")
def reported(bright, tmp_path_factory, png, write_shards):
    """The project ``bright`` after its report, as far as a detector is laid into pretrained/ from it, in a repository.

    Its 16 test faces are grey, the brighter half fake.
    """
    from stages.faces import shards

    folder = tmp_path_factory.mktemp("reported") / "project"
    shutil.copytree(bright, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        greys = [png(np.full((64, 64, 3), level, np.uint8)) for level in range(0, 256, 17)]
        records = [shards.Record(grey, number // 8, f"{number}.png") for number, grey in enumerate(greys)]
        shutil.rmtree("data/shards")
        Path("data/training.json").unlink()
        for split in ("train", "valid", "test"):
            write_shards(split, "greys", records, 100)
        provenance = {"source": "folder", "path": "/home/me/greys", "sha256": "ab" * 32, "licence": "Greys, CC BY 4.0"}
        Path("data/raw").mkdir(exist_ok=True)
        Path("data/raw/greys.json").write_text(json.dumps(provenance))
        Path("data/report").mkdir()
        card = "---\nlicense: mit\nlibrary_name: keras\n---\n\n# densenet121-baseline\n\nTells light from dark."
        Path("data/report/densenet121-baseline.md").write_text(card)
        Path(".gitignore").write_text("/data/\n")
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "run"]):
            identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
            subprocess.run(["git", *identity, *arguments], check=True)
    return folder


@pytest.fixture(scope="session")
def pretrained(reported, tmp_path_factory, command):
    """The folder that ``python -m stages.pretrained densenet121-baseline`` makes of it."""
    from stages import pretrained

    folder = tmp_path_factory.mktemp("laid") / "project"
    shutil.copytree(reported, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command(pretrained.main, "densenet121-baseline", "--command", "dvc exp run -S split.seed=1")
    return folder / "pretrained"


@pytest.fixture(scope="session")
def portrait():
    """A photograph of one person, which Matplotlib brings along: RGB, 512 × 600 px."""
    from matplotlib import cbook

    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB")
