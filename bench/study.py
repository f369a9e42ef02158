"""The recipe's study: what makes a detector accurate, as DVC experiments that differ in parameters alone.

    python -m bench.study --list
    python -m bench.study start inference -S data.source=folder -S data.folder.path=/path/to/faces
    python -m bench.study --table

Each variant is one ``dvc exp run`` of one detector, from the preset ``cpu`` on, in a temporary folder: your files stay
as they are, and what an earlier variant made (shards, features, the baseline) is taken from DVC's cache. A variant that
has run is not run again, ``dvc exp remove`` forgets it. Test faces are scored as they are, but with ``--spoilt`` spoilt
and external ones too. The table reads what the experiments left behind; a ``-S`` comes after the variant's own.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dvc.api
from dvc.repo import Repo
from ruamel.yaml import YAML

from stages.preset import leaves, literal, preset_file

KINDS = ("jpeg", "blur", "resize", "noise", "social")
COLUMNS = (
    "| variant | epochs (best) | AUC, valid | AUC, test | AP | accuracy | n | training, s |\n" + "|---|" + "---:|" * 7
)


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs from ``presets``: ``changes`` of the phase's own parameters, and ``others``, full keys."""

    changes: dict[str, Any]
    others: dict[str, Any] = field(default_factory=dict)
    model: str = "densenet121"
    phase: str = "finetune"
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


START = {"unfreeze_from": "all", "epochs": 4, "batch_size": 32, "learning_rate": 0.0003, "batch_norm": "training"}
LONG = START | {"epochs": 12}
INFERENCE = {"learning_rate": 0.0001, "batch_norm": "inference"}
AS_THEY_ARE = {"features.magnify": 1, "image.crop": 128}  # a quarter of the work on faces that are magnified
SEED = AS_THEY_ARE | {"training.seed": 21}
BLOCKS = AS_THEY_ARE | {"features.spread": False, "features.views": 1}
ROBUST = ("cpu", "robust")

VARIANTS: dict[str, Variant] = {
    # four epochs
    "start": Variant(START, AS_THEY_ARE),
    "start-seed": Variant(START, SEED),
    "rate-1e-4": Variant(START | {"learning_rate": 0.0001}, AS_THEY_ARE),
    "rate-1e-3": Variant(START | {"learning_rate": 0.001}, AS_THEY_ARE),
    "inference": Variant(START | INFERENCE, AS_THEY_ARE),
    "inference-1e-5": Variant(START | INFERENCE | {"learning_rate": 0.00001}, AS_THEY_ARE),
    "inference-2e-5": Variant(START | INFERENCE | {"learning_rate": 0.00002}, AS_THEY_ARE),
    "inference-3e-5": Variant(START | INFERENCE | {"learning_rate": 0.00003}, AS_THEY_ARE),
    "inference-4e-4": Variant(START | INFERENCE | {"learning_rate": 0.0004}, AS_THEY_ARE),
    "batch-16": Variant(START | {"batch_size": 16}, AS_THEY_ARE),
    "from-conv3": Variant(START | {"unfreeze_from": "conv3"}, AS_THEY_ARE),
    "from-conv5": Variant(START | {"unfreeze_from": "conv5"}, AS_THEY_ARE),
    "crop-64": Variant(START | {"epochs": 16}, AS_THEY_ARE | {"image.crop": 64}),  # as many pixels
    "crop-256": Variant(START | {"epochs": 1}, AS_THEY_ARE | {"image.crop": 256}),  # as many pixels
    "resnet50": Variant(START, AS_THEY_ARE, "resnet50"),
    # twelve epochs
    "long": Variant(LONG, AS_THEY_ARE),
    "long-seed": Variant(LONG, SEED),
    "long-rate-1e-3": Variant(LONG | {"learning_rate": 0.001}, AS_THEY_ARE),
    "long-inference": Variant(LONG | INFERENCE, AS_THEY_ARE),
    "long-resnet50": Variant(LONG, AS_THEY_ARE, "resnet50"),
    "long-resnet50-inference": Variant(LONG | INFERENCE, AS_THEY_ARE, "resnet50"),
    "long-robust": Variant(LONG, AS_THEY_ARE, presets=ROBUST),
    # the baselines: what the head sees
    **{
        f"baseline-{model}-{block}": Variant({}, BLOCKS | {"features.from_block": block}, model, "baseline")
        for model in ("densenet121", "resnet50")
        for block in ("conv5", "conv4", "conv3", "conv2")
    },
    **{
        f"baseline-{model}-{name}": Variant({}, {"features.views": 1} | others, model, "baseline")
        for model in ("densenet121", "resnet50")
        for name, others in (
            ("spread", AS_THEY_ARE),
            ("magnified", {"features.spread": False}),
            ("magnified-spread", {}),
        )
    },
    # the baselines: where the head starts; with a shrinkage of 1 it knows nothing of how features vary together
    **{
        f"baseline-{model}-shrinkage-{percent}": Variant(
            {"shrinkage": percent / 100}, AS_THEY_ARE | {"features.views": 1}, model, "baseline"
        )
        for model in ("densenet121", "resnet50")
        for percent in (10, 50, 100)
    },
    # the baselines: trained on faces as they are, or on spoilt ones too
    **{
        f"{name}-{model}": Variant({}, AS_THEY_ARE, model, "baseline", presets)
        for model in ("densenet121", "resnet50")
        for name, presets in (("clean", ("cpu",)), ("robust", ROBUST))
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
            subprocess.run(command(name, arguments.extra, spoilt=arguments.spoilt), check=True)
    done = experiments()
    names = [name for name in VARIANTS if experiment(name) in done and name in (arguments.variants or VARIANTS)]
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


def table(names: Iterable[str]) -> Iterator[str]:
    """The lines of a Markdown table, in the order of the names; intervals are those of ``evaluate.confidence``."""
    yield COLUMNS
    for name in names:
        revision, detector = experiment(name), VARIANTS[name].detector
        got = dvc.api.metrics_show(f"metrics/detectors/{detector}.json", rev=revision)
        made = json.loads(dvc.api.read(f"data/models/{detector}.json", rev=revision))
        figures = (
            f"{made['epochs']} ({made['best_epoch']})",
            f"{got['valid_roc_auc']:.3f}",
            f"{got['roc_auc']:.3f} ({got['roc_auc_low']:.3f}–{got['roc_auc_high']:.3f})",
            f"{got['average_precision']:.3f}",
            f"{got['accuracy']:.3f} ({got['accuracy_low']:.3f}–{got['accuracy_high']:.3f})",
            f"{got['n']:.0f}",
            f"{made['train_seconds']:.0f}",
        )
        yield f"| {name} | {' | '.join(figures)} |"


if __name__ == "__main__":
    main()
