"""What a run in MLflow shows of a detector: tags, parameters, curves, figures, all read from files."""

import csv
import getpass
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from stages.errors import UserError
from stages.files import digest, read_json, sha256
from stages.params import Params, detectors_of
from stages.reporting import worth

EVIDENCE = "class_activation_maps.jpg"
CALIBRATION, CARD = "calibration.json", "model_card.md"  # their names in a run
SET_STAGES, MODEL_STAGES = ("download", "index", "preprocess"), ("weights", "baseline")
SET_FIGURES = ("roc_auc", "recall_fake", "false_positive_rate", "tpr_at_fpr_5pct", "fpr_at_fpr_5pct")
FIT_FIGURES = ("epochs", "best_epoch", "best_val_auc", "trainable_parameters", "train_seconds", "images_per_second")


@dataclass(frozen=True)
class Detector:
    """One detector on disk: its records, its files by their names in a run, and ``digest``, the SHA-256 of all that."""

    model: str
    phase: str
    record: dict[str, Any]
    metrics: dict[str, Any]
    files: dict[str, Path]
    digest: str

    @property
    def name(self) -> str:
        """Its name in files, plots and runs."""
        return f"{self.model}-{self.phase}"

    @property
    def keras(self) -> Path:
        """The model."""
        return Path(f"data/models/{self.name}.keras")

    @property
    def trained(self) -> tuple[int, int]:
        """When its training began and ended, in ms since 1970. Raises :class:`UserError` where that cannot be."""
        try:
            end = datetime.fromisoformat(self.record["ended"]).timestamp()
            start = end - self.record["train_seconds"]
            if not 0 <= start <= end:
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            said = ", ".join(f"{name} = {self.record.get(name)}" for name in ("ended", "train_seconds"))
            raise UserError(
                f"{self.keras.with_suffix('.json')} does not say when its training was ({said}); "
                "`dvc repro` makes it again"
            ) from None
        return int(start * 1000), int(end * 1000)


class Point(NamedTuple):
    """One value of a curve. ``seconds``: since training began."""

    name: str
    value: float
    seconds: float
    epoch: int


def detectors(params: Params) -> Iterator[Detector]:
    """The detectors of params.yaml whose files are all there, in its order.

    Raises :class:`UserError` where params.yaml no longer describes one.
    """
    lock = _lock()
    for name, model, phase in detectors_of(params.models):
        record, metrics = Path(f"data/models/{name}.json"), Path(f"data/figures/{name}.json")
        plots, evidence = Path(f"plots/detectors/{name}"), Path(f"data/explanations/{name}")
        calibration = Path(f"data/exported/{name}/calibration.json")
        model_files = (record.with_suffix(".keras"), record.with_suffix(".npz"), record)
        sources = [source_file(name) for name in params.learned_sets]
        needed = (*model_files, metrics, plots / "sets.csv", calibration, *sources)
        if not all(path.exists() for path in needed):
            continue
        _check_params(params, lock, model, phase)
        files = {"metrics.json": metrics, "training.json": record, CALIBRATION: calibration}
        files |= {f"sets/{file.name}": file for file in sources}
        card = Path(f"data/report/{name}.md")
        files |= {CARD: card} if card.exists() else {}
        tables = {table.name: table for table in plots.glob("*.csv")}
        tables |= {"deletion.csv": evidence / "deletion.csv", "history.csv": record.with_suffix(".csv")}
        files |= {f"tables/{table}": file for table, file in sorted(tables.items()) if file.exists()}
        sheets = (Path(f"data/contact_sheets/{one}.jpg") for one in params.learned_sets)
        files |= {f"contact_sheets/{sheet.name}": sheet for sheet in sheets if sheet.exists()}
        files |= {EVIDENCE: evidence / "sheet.jpg"} if (evidence / "sheet.jpg").exists() else {}
        contents = "".join(f"{name} {sha256(path)}\n" for name, path in files.items())
        contents_digest = hashlib.sha256(contents.encode()).hexdigest()
        yield Detector(model, phase, read_json(record), read_json(metrics), files, contents_digest)


def _lock() -> dict[str, Any]:
    """What DVC wrote down of every stage; nothing where it did not run."""
    path = Path("dvc.lock")
    return dict(YAML(typ="safe").load(path.read_text(encoding="utf-8"))["stages"]) if path.exists() else {}


def _check_params(params: Params, lock: dict[str, Any], model: str, phase: str) -> None:
    """Refuse to describe a detector by a params.yaml that was edited after its training; DVC's ``lock`` knows."""
    of_sets = [f"{stage}@{name}" for stage in SET_STAGES for name in params.training_sets]
    of_model = [f"{stage}@{model}" for stage in dict.fromkeys((*MODEL_STAGES, phase))]
    for stage in (*of_sets, "audit", "split", *of_model):
        for key, then in lock.get(stage, {}).get("params", {}).get("params.yaml", {}).items():
            now: Any = params.model_dump()
            for part in key.split("."):
                now = now.get(part) if now else None
            for name, this, that in _differences(key, now, then):
                raise UserError(
                    f"params.yaml says {name} = {this}, but {model}-{phase} was made with {that} ({stage} in "
                    "dvc.lock); run `dvc repro`, which also tracks the new one, or bring back params.yaml"
                )


def _differences(key: str, now: Any, then: Any) -> Iterator[tuple[str, Any, Any]]:
    """The parameters below ``key`` that differ, with both values; one that is absent is empty."""
    if isinstance(now, dict) and isinstance(then, dict):
        for part in now | then:
            yield from _differences(f"{key}.{part}", now.get(part), then.get(part))
    elif now != then:
        yield key, now, then


def tags(detector: Detector, params: Params) -> dict[str, str]:
    """Where a detector comes from. MLflow's page knows the ``mlflow.`` ones."""
    record = detector.record
    asked, source = record["weights"]["asked"], record["weights"]["source"]
    commit = _git("rev-parse", "HEAD")
    dirty = bool(_git("status", "--porcelain", "--", "stages", "dvc.yaml", "params.yaml"))
    values = {
        **{name: value for name, value in detector.metrics.items() if isinstance(value, str)},
        "model": detector.model,
        "phase": detector.phase,
        "model_sha256": record["model_sha256"],
        "data_digest": digest(*(read_json(source_file(name))["sha256"] for name in params.learned_sets)),
        "params_digest": hashlib.sha256(params.model_dump_json().encode()).hexdigest(),
        "weights": source,
        "weights_asked": asked,
        "weights_substituted": str(source != ("imagenet" if asked == "auto" else asked)).lower(),
        "device": record["device"],
        "precision": record["precision"],
        "git_commit": commit,
        "git_dirty": str(dirty).lower() if commit else None,
        "dvc_stage": f"{detector.phase}@{detector.model}",  # that made it; DVC_STAGE is the one that mirrors it
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": f"{detector.phase}@{detector.model}",
        "mlflow.source.git.commit": commit,
    }
    return {name: value for name, value in values.items() if value}


def source_file(name: str) -> Path:
    """What the stage `download` wrote down of a set."""
    return Path(f"data/raw/{name}.json")


def description(detector: Detector, params: Params) -> str:
    """What a detector is, in sentences, and before that what must be known of it."""
    record = detector.record
    source = worth.source(params.sets[name].source for name in params.learned_sets)
    caution = worth.caution(source, record["weights"]["source"])
    phase = "a linear head on the frozen backbone" if detector.phase == "baseline" else "fine-tuned end to end"
    sets = ", ".join(params.learned_sets)
    said = f"{detector.model}, {phase}, trained on {record['train_images']:,} faces of {sets} ({source})."
    return f"**{caution.sentence}**\n\n{said}" if caution else said


def _user() -> str | None:
    """Who runs this, or None in a container whose user has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def _git(*arguments: str) -> str | None:
    """What git says, or None where there is no git, no repository or no commit."""
    if not shutil.which("git"):
        return None
    answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def parameters(detector: Detector, params: Params) -> dict[str, str]:
    """What a detector was made with, flat: the same names for every detector, and fine-tuning's own."""
    finetune = params.detectors[detector.model].finetune  # type: ignore[index]
    values = {
        "model": detector.model,
        "phase": detector.phase,
        "sets": ",".join(params.learned_sets),
        "left_out": ",".join(params.split.leave_out),
        "weights": detector.record["weights"]["source"],
        "train_images": detector.record["train_images"],
        "valid_images": detector.record["valid_images"],
        "image_size": detector.record["image_size"],
        "image_crop": params.image.crop,
        "image_jpeg": params.image.jpeg or "as it came",
        "image_align": params.image.align,
        "split_method": params.split.method,
        "split_seed": params.split.seed,
        "features_from_block": params.features.from_block,
        "features_spread": params.features.spread,
        "features_magnify": params.features.magnify,
        **{f"augment_{kind}": share for kind, share in params.augment.model_dump().items()},
        **({"seed": params.training.seed, **finetune.model_dump()} if detector.phase == "finetune" else {}),
    }
    return {name: str(value) for name, value in values.items()}


def curves(detector: Detector) -> Iterator[Point]:
    """The history of the training: ``train/loss``, ``valid/loss`` and so on, a point an epoch; none of a baseline."""
    if detector.phase == "baseline":
        return
    elapsed = 0.0
    with detector.keras.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            elapsed += float(row["seconds"])
            epoch = int(row.pop("epoch"))
            for column, cell in row.items():
                split, name = ("valid", column[4:]) if column.startswith("val_") else ("train", column)
                yield Point(f"{split}/{name}", float(cell), elapsed, epoch)


def figures(detector: Detector) -> dict[str, float]:
    """The numbers of the metrics file under their own names, the record's as ``fit/…``, a set's as ``NAME/…``."""
    values = {**detector.metrics, **{f"fit/{name}": detector.record.get(name) for name in FIT_FIGURES}}
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    with detector.files["tables/sets.csv"].open(newline="", encoding="utf-8") as file:
        of_sets = [row for row in csv.DictReader(file) if row["set"] != "test"]
    return numbers | {f"{row['set']}/{name}": float(row[name]) for row in of_sets for name in SET_FIGURES if row[name]}
