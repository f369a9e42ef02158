"""The registry: the winner is registered once, and becomes the champion unless that could make things worse."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from stages import tracking
from stages.errors import UserError
from stages.files import sha256
from stages.params import Params
from tests.tracking.conftest import WINNER, command, edit, mlflow_client, write_set

NAME = "real-or-generated-faces"
LOSER = "resnet50-baseline"


def win(name: str, **figures: float) -> None:
    """As if `compare` had found another detector best."""
    shutil.copy(f"data/models/{name}.keras", "data/champion.keras")
    edit(Path("data/leaderboard.json"), champion=name)
    edit(Path(f"data/figures/{name}.json"), **figures)


def champion(client: Any) -> tuple[str, str]:
    """Version and detector of the champion."""
    version = client.get_model_version_by_alias(NAME, "champion")
    return str(version.version), version.tags["detector"]


def registered(printed: str) -> str:
    """The registry's sentence without its beginning."""
    (sentence,) = re.findall(f"^Registry: {NAME} (.+)$", printed, re.MULTILINE)
    return str(sentence)


def test_the_winner_is_a_version_with_all_that_a_user_needs(params: Params) -> None:
    card = Path(f"data/report/{WINNER}.md")
    card.parent.mkdir()
    card.write_text("---\nlicense: mit\n---\n\n# What this detector is not for\n")
    tracking.send(params)
    client = mlflow_client()
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    assert champion(client) == ("1", WINNER)
    assert version.description == "# What this detector is not for\n"
    assert float(version.tags["valid_roc_auc"]) == 0.9
    assert float(version.tags["roc_auc"]) == 0.81
    assert version.tags["model_sha256"] == sha256(f"data/models/{WINNER}.keras")
    run = client.get_run(version.run_id)
    assert run.info.run_name == WINNER
    assert "model_card.md" in {item.path for item in client.list_artifacts(version.run_id)}
    (output,) = run.outputs.model_outputs
    assert version.source == f"models:/{output.model_id}"
    model = client.get_logged_model(output.model_id)
    assert {metric.key: metric.value for metric in model.metrics}["valid_roc_auc"] == 0.9
    files = {path.name for path in Path(model.artifact_location.removeprefix("file://")).iterdir()}
    assert {"MLmodel", "input_example.json", "requirements.txt"} <= files
    assert "the base64 of an image" in client.get_registered_model(NAME).description


def test_a_second_time_nothing_is_registered(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    for sentence in ("is now the champion", "is the champion"):
        tracking.send(params)
        assert registered(capsys.readouterr().out) == f"version 1 ({WINNER}) {sentence}"
    assert len(mlflow_client().search_model_versions()) == 1


def test_nothing_worse_on_the_same_images_replaces_a_champion_unless_told_to(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking.send(params)
    win(LOSER, valid_roc_auc=0.8999)
    capsys.readouterr()
    tracking.mirror(params)
    assert registered(capsys.readouterr().out) == (
        f"version 2 ({LOSER}) is not made champion: on the same images, version 1 ({WINNER}) has a validation AUC of "
        "0.9000, this one 0.8999; `make promote` (python -m stages.tracking --promote) makes it champion all the same"
    )
    client = mlflow_client()
    assert champion(client) == ("1", WINNER)

    result = command(Path.cwd(), "--promote")
    assert (result.returncode, result.stderr) == (0, "")
    assert registered(result.stdout) == f"version 2 ({LOSER}) is now the champion, in place of version 1"
    assert champion(client) == ("2", LOSER)

    tracking.send(params)  # the figures decide, not the past: the same winner stays
    assert champion(client) == ("2", LOSER)


@pytest.mark.parametrize("auc", [0.9, 0.95])
def test_what_is_as_good_or_better_becomes_champion(
    auc: float, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking.send(params)
    win(LOSER, valid_roc_auc=auc, roc_auc=0.1)  # the test images report, and choose nothing
    tracking.send(params)
    assert champion(mlflow_client()) == ("2", LOSER)
    assert "in place of version 1" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["valid", "test"])
def test_figures_of_other_images_say_nothing(split: str, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    tracking.send(params)
    edit(Path(f"data/shards/{split}/faces/shards.json"), sha256="7" * 64)
    win(LOSER, valid_roc_auc=1.0)
    capsys.readouterr()
    tracking.send(params)
    sentence = registered(capsys.readouterr().out)
    assert f"version 1 ({WINNER}) was measured on other images, so nobody can say which is better" in sentence
    assert "`make promote`" in sentence
    assert champion(mlflow_client()) == ("1", WINNER)
    tracking.send(params, promote=True)
    assert champion(mlflow_client()) == ("2", LOSER)


def test_a_new_set_to_test_on_leaves_the_figures_comparable(params: Params) -> None:
    tracking.send(params)
    write_set(Path(), "other", {"source": "folder", "sha256": "6" * 64})
    win(LOSER, valid_roc_auc=1.0)
    tracking.send(params)
    assert champion(mlflow_client()) == ("2", LOSER)


def test_a_new_calibration_is_a_new_version_and_new_figures_are_not(params: Params) -> None:
    tracking.send(params)
    edit(Path(f"data/figures/{WINNER}.json"), roc_auc=0.77)
    tracking.send(params)
    client = mlflow_client()
    assert champion(client) == ("1", WINNER)
    assert client.get_model_version(NAME, "1").tags["roc_auc"] == "0.77"
    edit(Path(f"data/exported/{WINNER}/calibration.json"), temperature=3.0)
    tracking.send(params)
    assert champion(client) == ("2", WINNER)
    first, second = (client.get_model_version(NAME, number) for number in ("1", "2"))
    assert first.run_id == second.run_id
    assert first.source != second.source
    metrics = {
        metric.key: metric.value for metric in client.get_logged_model(second.source.removeprefix("models:/")).metrics
    }
    assert metrics["roc_auc"] == 0.77


def test_a_card_that_is_too_long_for_the_registry_says_where_the_rest_is(params: Params) -> None:
    card = Path(f"data/report/{WINNER}.md")
    card.parent.mkdir()
    card.write_text("word " * 2000)
    tracking.send(params)
    description = mlflow_client().get_model_version(NAME, "1").description
    assert len(description) == 5000
    assert description.endswith("(all of it is model_card.md of the run)")


@pytest.mark.parametrize("missing", ["data/leaderboard.json", "data/champion.keras", "data/training.json"])
def test_without_a_winner_runs_are_sent_and_nothing_is_registered(
    missing: str, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(missing).unlink()
    tracking.send(params)
    assert "Registry" not in capsys.readouterr().out
    assert mlflow_client().search_registered_models() == []
    with pytest.raises(UserError, match=r"no winner of these detectors to promote; run `dvc repro` first"):
        tracking.send(params, promote=True)


def test_a_leaderboard_older_than_the_detectors_names_no_winner(params: Params) -> None:
    shutil.copy(f"data/models/{LOSER}.keras", "data/champion.keras")
    tracking.send(params)
    assert mlflow_client().search_registered_models() == []


@pytest.mark.parametrize("call", ["create_registered_model", "create_model_version", "set_registered_model_alias"])
def test_a_registration_that_was_cut_off_is_completed_not_doubled(
    call: str, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    true_call = getattr(MlflowClient, call)

    def die_afterwards(*args: Any, **kwargs: Any) -> None:
        true_call(*args, **kwargs)
        raise ConnectionResetError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, die_afterwards)
        tracking.mirror(params)
    assert "did not take the registration of the winner (cut off); every file is in place" in capsys.readouterr().err
    tracking.send(params)
    assert champion(mlflow_client()) == ("1", WINNER)
    assert len(mlflow_client().search_model_versions()) == 1
