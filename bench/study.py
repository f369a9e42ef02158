"""The recipe's study: what makes a detector accurate, as DVC experiments that differ in parameters alone.

    python -m bench.study --list
    python -m bench.study tune tune-seed -S data.source=folder -S data.folder.path=/path/to/faces
    python -m bench.study --table

Each variant is one ``dvc exp run`` of one detector, from the preset ``cpu`` on, in a temporary folder: your files stay
as they are, and what an earlier variant made (shards, features, the baseline) is taken from DVC's cache. A variant that
has run is not run again, ``dvc exp remove`` forgets it. Test faces are scored as they are, but with ``--spoilt`` spoilt
and external ones too. The table reads what the experiments left behind; a ``-S`` comes after the variant's own.
"""

import argparse
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import dvc.api
from dvc.repo import Repo
from ruamel.yaml import YAML

from stages.errors import UserError, run
from stages.params import Model, Phase
from stages.preset import leaves, literal, preset_file

KINDS = ("jpeg", "blur", "resize", "noise", "social")
COLUMNS = (
    "| variant | epochs (best) | AUC, valid, before → after | AUC, test | AP | accuracy | n | training, s |\n"
    "|---|" + "---:|" * 7
)


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs from ``presets``: ``changes`` of the phase's own parameters, and ``others``, full keys."""

    changes: dict[str, Any]
    others: dict[str, Any] = field(default_factory=dict)
    model: Model = "resnet50"
    phase: Phase = "finetune"
    presets: tuple[str, ...] = ("cpu",)

    @property
    def detector(self) -> str:
        """Its name, as files are named."""
        return f"{self.model}-{self.phase}"

    def overrides(self) -> Iterator[str]:
        """The arguments of ``-S``."""
        for key, value in self.changes.items():
            yield f"detectors.{self.model}.{self.phase}.{key}={literal(value)}"
        for key, value in self.others.items():
            yield f"{key}={literal(value)}"


AS_THEY_ARE = {"features.magnify": 1, "image.crop": 128}  # a quarter of the work on faces that are magnified
TUNE = AS_THEY_ARE | {"features.views": 1}  # heads are made anew after each epoch, of one view in half the time
BLOCKS = TUNE | {"features.spread": False}
ONCE = {"epochs": 1}
MODELS: tuple[Model, ...] = get_args(Model)
PHASES: tuple[Phase, ...] = get_args(Phase)
SIZES = (100, 200, 400, 800, 1600)  # training faces of learning curves; one size more than there are means all of them
ROBUST = ("cpu", "robust")


def curve(detector: str, size: int) -> str:
    """The variant that is a detector's learning curve at a size."""
    return f"curve-{detector}-{size}"


VARIANTS: dict[str, Variant] = {
    # fine-tuning: one epoch of the preset's, and what differs from it
    "tune": Variant(ONCE, TUNE),
    "tune-seed": Variant(ONCE, TUNE | {"training.seed": 21}),
    "tune-densenet121": Variant(ONCE, TUNE, "densenet121"),
    "tune-rate-1e-5": Variant(ONCE | {"learning_rate": 0.00001}, TUNE),
    "tune-rate-2e-5": Variant(ONCE | {"learning_rate": 0.00002}, TUNE),
    "tune-rate-1e-4": Variant(ONCE | {"learning_rate": 0.0001}, TUNE),
    "tune-rate-3e-4": Variant(ONCE | {"learning_rate": 0.0003}, TUNE),
    "tune-no-warmup": Variant(ONCE | {"warmup": 0.0}, TUNE),
    "tune-batch-16": Variant(ONCE | {"batch_size": 16}, TUNE),
    "tune-sgd": Variant(ONCE | {"optimizer": "sgd", "learning_rate": 0.0001}, TUNE),
    "tune-ema": Variant(ONCE | {"ema": 0.9}, TUNE),
    "tune-smoothing": Variant(ONCE | {"label_smoothing": 0.1}, TUNE),
    "tune-batch-norm": Variant(ONCE | {"batch_norm": "training"}, TUNE),
    "tune-from-conv3": Variant(ONCE | {"unfreeze_from": "conv3"}, TUNE),
    "tune-from-conv4": Variant(ONCE | {"unfreeze_from": "conv4"}, TUNE),
    "tune-from-conv5": Variant(ONCE | {"unfreeze_from": "conv5"}, TUNE),
    "tune-crop-64": Variant({"epochs": 4}, TUNE | {"image.crop": 64}),  # as many pixels
    "tune-whole": Variant(ONCE, TUNE | {"image.crop": 256}),  # four times as many pixels
    "tune-resized": Variant(ONCE, TUNE | {"image.size": 128}),  # whole faces, as many pixels
    # crops are spoilt alone, not the heads' views
    "tune-spoilt": Variant(ONCE, TUNE | {"augment.blur": 0.5, "augment.jpeg": 0.5}),
    "tune-colour": Variant(ONCE, TUNE | {"augment.colour": 0.5}),
    **{
        curve(f"{model}-{phase}", size): Variant({}, TUNE | {"split.train_per_class": size // 2}, model, phase)
        for model in MODELS
        for phase in PHASES
        for size in SIZES
    },
    # the baselines: what the head sees
    **{
        f"baseline-{model}-{block}": Variant({}, BLOCKS | {"features.from_block": block}, model, "baseline")
        for model in MODELS
        for block in ("conv5", "conv4", "conv3", "conv2")
    },
    **{
        f"baseline-{model}-{name}": Variant({}, {"features.views": 1} | others, model, "baseline")
        for model in MODELS
        for name, others in (
            ("spread", AS_THEY_ARE),
            ("magnified", {"features.spread": False}),
            ("magnified-spread", {}),
        )
    },
    # the baselines: where the head starts; with a shrinkage of 1 it knows nothing of how features vary together
    **{
        f"baseline-{model}-shrinkage-{percent}": Variant({"shrinkage": percent / 100}, TUNE, model, "baseline")
        for model in MODELS
        for percent in (10, 50, 100)
    },
    # trained on faces as they are, or on spoilt ones too
    **{
        f"{name}-{model}-{phase}": Variant({}, AS_THEY_ARE | others, model, phase, presets)
        for model in MODELS
        for phase in PHASES
        for name, presets, others in (
            ("clean", ("cpu",), {}),
            ("robust", ROBUST, {}),
            ("robust-resize", ROBUST, {"augment.resize": 0.5}),
        )
    },
}


def main() -> None:
    """Run variants, or show what they reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="what to run; see --list")
    parser.add_argument("--list", action="store_true", help="list the variants and what they change")
    parser.add_argument("--table", action="store_true", help="show the variants that have run")
    parser.add_argument("--spoilt", action="store_true", help="score spoilt test faces too, as params.yaml says")
    parser.add_argument("-S", dest="extra", action="append", default=[], metavar="KEY=VALUE", help="as of dvc exp run")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.variants if name not in VARIANTS]:
        parser.error(f"there is no variant {unknown[0]!r}; `python -m bench.study --list` shows all")
    if arguments.list:
        for name, variant in VARIANTS.items():
            print(f"{name}: {variant.detector}, {' '.join([' and '.join(variant.presets), *variant.overrides()])}")
        return
    for name in arguments.variants:
        if experiment(name) not in experiments():
            done = subprocess.run(command(name, arguments.extra, spoilt=arguments.spoilt), check=False)
            if done.returncode:
                raise UserError(f"the variant {name} failed, and left nothing behind; what its stage said is above")
    found = experiments()
    names = [name for name in VARIANTS if experiment(name) in found and name in (arguments.variants or VARIANTS)]
    print("\n".join(table(names)))


def experiment(name: str) -> str:
    """The name of a variant's experiment."""
    return f"study-{name}"


def experiments() -> set[str]:
    """The names of all experiments here."""
    with Repo() as repo:
        return {str(found) for listed in repo.experiments.ls(all_commits=True).values() for found, _ in listed}


def command(name: str, extra: Iterable[str] = (), *, spoilt: bool = False) -> list[str]:
    """The ``dvc exp run`` of a variant."""
    variant = VARIANTS[name]
    presets = [YAML(typ="safe").load(preset_file(preset)) for preset in variant.presets]
    settings = [f"{key}={literal(value)}" for preset in presets for key, value in leaves(preset)]
    if not spoilt:
        settings += [f"stress.{kind}=[]" for kind in KINDS]
    settings += [*variant.overrides(), *extra]
    arguments = [argument for setting in settings for argument in ("-S", setting)]
    tool = Path(sys.executable).with_name("dvc")
    return [str(tool), "exp", "run", "--temp", "-n", experiment(name), *arguments, f"evaluate@{variant.detector}"]


class Results(NamedTuple):
    """What the experiment of a variant left behind."""

    figures: dict[str, Any]
    training: dict[str, Any]
    history: list[dict[str, str]]


def results(name: str) -> Results:
    """The figures on the test faces, the record of the training, and its epochs, of a variant that has run."""
    detector = VARIANTS[name].detector
    files = dvc.api.DVCFileSystem(rev=experiment(name))
    return Results(
        json.loads(files.read_text(f"metrics/detectors/{detector}.json")),
        json.loads(files.read_text(f"data/models/{detector}.json")),
        list(csv.DictReader(io.StringIO(files.read_text(f"plots/{detector}/history.csv")))),
    )


def table(names: Iterable[str]) -> Iterator[str]:
    """The lines of a Markdown table, in the order of the names; intervals are those of ``evaluate.confidence``.

    "Before" is epoch 0, "after" the best of the others, even where epoch 0 was better and is what the test is of.
    """
    yield COLUMNS
    for name in names:
        got, made, history = results(name)
        before, *after = (float(row["val_auc"]) for row in history)
        figures = (
            f"{made['epochs']} ({made['best_epoch']})",
            f"{before:.3f} → {max(after):.3f}",
            f"{got['roc_auc']:.3f} ({got['roc_auc_low']:.3f}–{got['roc_auc_high']:.3f})",
            f"{got['average_precision']:.3f}",
            f"{got['accuracy']:.3f} ({got['accuracy_low']:.3f}–{got['accuracy_high']:.3f})",
            f"{got['n']:.0f}",
            f"{made['train_seconds']:.0f}",
        )
        yield f"| {name} | {' | '.join(figures)} |"


if __name__ == "__main__":
    run(main)
