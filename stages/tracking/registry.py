"""The registry: which version of the one registered model is the champion.

The winner of ``compare`` becomes a version, which points to the model of its run. The alias ``champion`` moves to it
unless that could make things worse. Better and worse go by the AUC on the validation images, by which ``compare``
chooses: to choose by the test images, time and again, would wear them out. And AUCs are comparable only on the same
images: whether validation and test images are the same is told by the digests that lie beside them in ``data/shards/``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.files import digest, read_json, sha256
from stages.tracking.content import CARD, Detector

ALIAS, LEADERBOARD, CHAMPION = "champion", Path("data/leaderboard.json"), Path("data/champion.keras")
TRAINING = Path("data/training.json")
FIGURES = ("valid_roc_auc", "roc_auc", "accuracy", "threshold", "n", "n_valid")
LONGEST = 5000  # characters of a description, in MLflow's database
DESCRIPTION = (
    "Tells photographs of faces from generated ones. It takes rows of `image`, the base64 of an image of one face, "
    "and answers with `probability` (calibrated, that it is generated), `verdict` (real, uncertain or fake) and "
    "`unlike` (the training faces), or with `error`."
)
INSIST = "`make promote` (python -m stages.tracking --promote) makes it champion all the same"


def winner(found: list[Detector]) -> Detector | None:
    """The detector that the stage ``compare`` found best, or None where its answer is not of these detectors."""
    if not (LEADERBOARD.exists() and CHAMPION.exists() and held_out()):
        return None
    wanted = read_json(LEADERBOARD)["champion"], sha256(CHAMPION)
    return next((d for d in found if (d.name, d.record["model_sha256"]) == wanted), None)


def held_out() -> list[str]:
    """The digests of the validation and test images of the sets to learn from: their bytes, labels and names."""
    names = read_json(TRAINING)["valid"] if TRAINING.exists() else []
    found = [Path(f"data/shards/{split}/{name}/shards.json") for split in ("valid", "test") for name in names]
    return [read_json(path)["sha256"] for path in found if path.exists()]


def found_or_made(look: Callable[[], Any], make: Callable[[], Any]) -> Any:
    """What ``look`` finds, made where need be, though another mirror may make it too, and MLflow refuse the second."""
    from mlflow.exceptions import MlflowException

    if not (found := look()):
        try:
            make()
        except MlflowException:
            if not look():
                make()
        found = look()
    return found


def register(client: Any, name: str, detector: Detector, model: Any, *, promote: bool) -> str:
    """Register a detector's logged model under ``name``, make it champion where it may be, and say what was done.

    ``promote``: make it champion whatever the champion is.
    """
    found_or_made(
        lambda: client.search_registered_models(f"name = '{name}'"),
        lambda: client.create_registered_model(name, description=DESCRIPTION),
    )
    version = _version(client, name, detector, model)
    title = f"Registry: {name} version {version.version} ({detector.name})"
    number = client.get_registered_model(name).aliases.get(ALIAS)
    if number == version.version:
        return f"{title} is the champion"
    reason = _objection(client.get_model_version(name, number), version) if number else None
    if reason and not promote:
        return f"{title} is not made champion: {reason}; {INSIST}"
    client.set_registered_model_alias(name, ALIAS, version.version)
    return f"{title} is now the champion" + (f", in place of version {number}" if number else "")


def _version(client: Any, name: str, detector: Detector, model: Any) -> Any:
    """The version that points to the model, made if need be, with the detector's figures as tags and its model card."""
    tags = {"detector": detector.name, "model_sha256": detector.record["model_sha256"]}
    tags |= {key: str(detector.metrics[key]) for key in FIGURES} | {"held_out_digest": digest(held_out())}
    source, run_id = f"models:/{model.model_id}", model.source_run_id

    def first() -> Any:
        known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        return min((one for one in known if one.source == source), key=lambda one: int(one.version), default=None)

    version = first()
    if not version:
        made = client.create_model_version(name, source, run_id, tags, model_id=model.model_id)
        version = first()
        if version.version != made.version:  # another mirror was faster
            client.delete_model_version(name, made.version)
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(name, version.version, key, value)
    card = detector.files[CARD].read_text(encoding="utf-8") if CARD in detector.files else ""
    card = card.removeprefix("---\n").partition("\n---\n")[2].lstrip() if card.startswith("---\n") else card
    if len(card) > LONGEST:
        rest = "\n\n… (all of it is model_card.md of the run)"
        card = card[: LONGEST - len(rest)] + rest
    if (version.description or "") != card:
        client.update_model_version(name, version.version, card)
    return client.get_model_version(name, version.version)


def _objection(champion: Any, version: Any) -> str | None:
    """Why a version should not take the champion's place, or None."""
    number, named = champion.version, champion.tags.get("detector")
    if champion.tags.get("held_out_digest") != version.tags["held_out_digest"]:
        return f"version {number} ({named}) was measured on other images, so nobody can say which is better"
    theirs, ours = (float(one.tags["valid_roc_auc"]) for one in (champion, version))
    if ours < theirs:
        return (
            f"on the same images, version {number} ({named}) has a validation AUC of {theirs:.4f}, this one {ours:.4f}"
        )
    return None
