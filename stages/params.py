"""Stage `params`: every parameter is known, well typed and possible, or nothing else starts.

Reads ``params.yaml``; writes nothing. DVC does not notice a misspelt key, so this stage does. The other stages read
their parameters through :func:`load`, and so get the same checks.
"""

import argparse
import re
import reprlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode

from stages.errors import UserError, run


def _compiles(pattern: str) -> str:
    """Refuse what is no regular expression."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"'{pattern}' is no regular expression ({error}); mend it, or leave it empty") from None
    return pattern


def _is_set_name(name: str) -> str:
    """Refuse what cannot be part of the names of files and stages."""
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(
            f"'{name}' cannot be a set's name; take letters from A to Z, digits, - and _, such as StyleGAN2"
        )
    if re.fullmatch("test|na|nan|null|none|inf|[0-9.e-]*", name, re.IGNORECASE):
        raise ValueError(f"'{name}' means something else in tables; give the set another name")
    return name


def _dataset(name: str) -> str:
    """OWNER/NAME of a Kaggle data set, which may be given by its address."""
    found = re.fullmatch(r"(?:https?://)?(?:www\.)?kaggle\.com/datasets/([\w.-]+/[\w.-]+)(?:[/?#].*)?", name)
    name = found[1] if found else name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(
            f"'{name}' is no data set of Kaggle; write OWNER/NAME or https://www.kaggle.com/datasets/OWNER/NAME"
        )
    return name


Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Quality = Annotated[int, Field(ge=1, le=100)]
SetName = Annotated[str, AfterValidator(_is_set_name)]
Pattern = Annotated[str, AfterValidator(_compiles)]
Name = Annotated[str, Field(min_length=1)]
Model = Literal["resnet50", "densenet121"]
Phase = Literal["baseline", "finetune"]
MAX_MERGED = 10_000  # keys that `<<` brings into one mapping of params.yaml
FORMER = {  # keys of earlier versions, and what to do about them
    "stress": "its name is corruptions now",
    "external": "other people's faces are under sets now, with use: test",
    **dict.fromkeys(("source", "sample", "folder", "kaggle"), "each of the sets has its own source now: see sets"),
    "group_by": "each of the sets has its own: sets.NAME.group_by",
    "baseline": "a baseline's head is solved, and has no parameters; delete the key",
}


class Section(BaseModel):
    """A part of params.yaml: unknown keys are refused, values are not bent into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, content: Any) -> Any:
        """Refuse unknown keys before all else: a misspelt key is also a missing one, and its spelling is the news."""
        for key in content if isinstance(content, dict) else ():
            if key not in cls.model_fields:
                close = get_close_matches(str(key), cls.model_fields, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known there: {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key {key!r}; {FORMER.get(key, hint)}")
        return content


class Sample(Section):
    """The built-in sample."""

    faces_per_class: Annotated[int, Field(ge=8)]
    size: Annotated[int, Field(ge=32, le=1024)]
    seed: Seed


class Labels(Section):
    """A table of labels: a CSV inside the folder or zip, and the names of its columns."""

    file: Name
    path: Name
    label: Name


class Classes(Section):
    """Where the classes of a set lie, if the names of its folders do not say: in paths, or in a table of labels.

    ``real`` and ``fake`` are regular expressions for paths or, where there is a table, for its labels.
    """

    real: Annotated[Name, AfterValidator(_compiles)] | None = None
    fake: Annotated[Name, AfterValidator(_compiles)] | None = None
    labels: Labels | None = None

    def pattern(self, kind: str) -> str | None:
        """The regular expression of a class, "real" or "fake", if there is one."""
        return {"real": self.real, "fake": self.fake}[kind]

    @property
    def by_words(self) -> bool:
        """Whether labels are words, for want of expressions."""
        return self.real is None and self.fake is None

    @model_validator(mode="after")
    def _enough(self) -> "Classes":
        """Refuse what says no class."""
        if self.by_words and not self.labels:
            raise ValueError("it says no class; set real or fake to a regular expression for paths, or labels to a CSV")
        return self


class FaceSet(Section):
    """One set of faces: where it comes from, and what it is for."""

    source: Literal["sample", "folder", "kaggle"]
    use: Literal["train", "test"]
    path: str | None = None
    dataset: Annotated[str, AfterValidator(_dataset)] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    sample: Sample | None = None
    generator: str | None = None
    licence: str | None = None
    split: Literal["stratified", "official"] | None = None
    group_by: Pattern | None = None
    classes: Classes | None = None


class Data(Section):
    """How bad faces may be."""

    max_quarantined: Fraction
    near_duplicate_bits: Annotated[int, Field(ge=0, le=64)]
    max_shortcut_auc: Annotated[float, Field(ge=0.5, le=1)]


class Fractions(Section):
    """The shares of the images that each split gets."""

    train: Share
    valid: Share
    test: Share


class Split(Section):
    """Which image goes where."""

    method: Literal["stratified", "official"]
    fractions: Fractions
    near_duplicates: Literal["keep", "drop", "group"]
    leave_out: list[str]
    limit_per_class: Annotated[int, Field(ge=6)] | None  # two in each of three splits
    train_per_class: Annotated[int, Field(ge=2)] | None
    seed: Seed


class Image(Section):
    """The pixels a network sees."""

    size: Annotated[int, Field(ge=32, le=1024)]
    crop: Annotated[int, Field(ge=32, le=1024)]
    jpeg: Quality | None
    align: bool

    @property
    def processing(self) -> dict[str, Any]:
        """What is done to every face, as :func:`stages.faces.processing.stored` takes it."""
        return self.model_dump(include={"size", "jpeg", "align"})


class Augment(Section):
    """What happens to a share of the training faces, so that a detector holds on faces that went through it."""

    blur: Fraction
    jpeg: Fraction


class Shards(Section):
    """The TFRecord files."""

    images: Positive


class Weights(Section):
    """What a backbone starts from."""

    source: Literal["imagenet", "random", "folder", "auto"]
    folder: str | None
    timeout: Annotated[int, Field(ge=1, le=3600)]
    seed: Seed


class Features(Section):
    """The frozen backbone's single pass."""

    from_block: Literal["conv2", "conv3", "conv4", "conv5"]
    spread: bool
    magnify: Annotated[int, Field(ge=1, le=4)]
    batch_size: Positive

    @property
    def seen(self) -> dict[str, Any]:
        """What heads see of a backbone, as :class:`stages.detectors.levels.Levels` takes it."""
        return self.model_dump(include={"from_block", "spread", "magnify"})


class Training(Section):
    """What all training has in common."""

    seed: Seed
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"]
    deterministic: bool


class Finetune(Section):
    """Backbone and head end to end."""

    start: Literal["probe", "fresh"]
    epochs: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0, le=1)]


class Detector(Section):
    """What a backbone's fine-tuning has for itself; there is nothing to choose about its baseline."""

    finetune: Finetune


class Score(Section):
    """Forward passes after training."""

    batch_size: Positive


class Corruptions(Section):
    """What is done to test faces; strengths as in :mod:`stages.faces.corruptions`, an empty list leaves a kind out."""

    images_per_class: Positive | None
    seed: Seed
    jpeg: list[Quality]
    blur: list[Annotated[float, Field(gt=0, le=16)]]
    resize: list[Share]
    noise: list[Annotated[float, Field(gt=0, le=128)]]
    social: list[Quality]

    def conditions(self) -> dict[str, list[float]]:
        """The strengths of each kind, mildest first, as params.yaml lists them."""
        return {kind: list(getattr(self, kind)) for kind in ("jpeg", "blur", "resize", "noise", "social")}


class Evaluate(Section):
    """Figures from scores."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    resamples: Annotated[int, Field(ge=100)]
    max_error: Annotated[float, Field(gt=0, lt=0.5)]
    seed: Seed


class Explain(Section):
    """Evidence laid over faces, and its check by deletion."""

    images: Annotated[int, Field(ge=1, le=12)]
    deletion_images: Annotated[int, Field(ge=4, multiple_of=2)]
    seed: Seed


class Tracking(Section):
    """MLflow."""

    experiment: Annotated[str, Field(pattern=r"^[^/:'\"]+$")]  # also a name in the registry


class Params(Section):
    """All of params.yaml."""

    models: Annotated[list[Model], Field(min_length=1)]
    sets: Annotated[dict[SetName, FaceSet], Field(min_length=1)]
    data: Data
    split: Split
    image: Image
    augment: Augment
    shards: Shards
    weights: Weights
    features: Features
    training: Training
    detectors: dict[Model, Detector]
    corruptions: Corruptions
    score: Score
    evaluate: Evaluate
    explain: Explain
    tracking: Tracking

    @model_validator(mode="after")
    def _possible(self) -> "Params":
        """Refuse what is well typed but cannot be, naming the keys."""
        fractions = self.split.fractions
        total = fractions.train + fractions.valid + fractions.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"split.fractions add up to {total:g}; make train + valid + test = 1")
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models names one backbone twice ({', '.join(self.models)}); name each once")
        if missing := [model for model in self.models if model not in self.detectors]:
            raise ValueError(f"models names {missing[0]}, but detectors.{missing[0]} is missing; add it")
        if self.image.crop > self.image.size:
            raise ValueError(
                f"image.crop = {self.image.crop} is larger than image.size = {self.image.size}; "
                f"make it {self.image.size} or less"
            )
        self._possible_sets()
        if self.weights.source == "folder" and not self.weights.folder:
            raise ValueError(
                "weights.source is folder, but weights.folder is empty; name a folder of .weights.h5 files"
            )
        if self.weights.source == "auto" and any(self.sets[name].source != "sample" for name in self.training_sets):
            raise ValueError("weights.source = auto is for the sample only; choose imagenet, random or folder")
        for kind, strengths in self.corruptions.conditions().items():
            if len(set(strengths)) < len(strengths):
                listed = ", ".join(f"{strength:g}" for strength in strengths)
                raise ValueError(f"corruptions.{kind} names one strength twice ({listed}); name each once")
        return self

    def _possible_sets(self) -> None:
        """Refuse sets that cannot be."""
        for name, one in self.sets.items():
            key = f"sets.{name}"
            if one.source == "folder" and not one.path:
                raise ValueError(
                    f"{key}.source is folder, but {key}.path is empty; name a folder or .zip with real/ and fake/"
                )
            if one.source != "folder" and one.path:
                raise ValueError(f"{key}.path is set, but {key}.source is {one.source}; empty it, or make that folder")
            if one.source == "kaggle" and not one.dataset:
                raise ValueError(f"{key}.source is kaggle, but {key}.dataset is empty; name one as OWNER/NAME")
            if one.source == "sample" and not one.sample:
                raise ValueError(
                    f"{key}.source is sample, but {key}.sample is empty; `git diff params.yaml` shows what was there"
                )
            if one.use == "test" and one.split:
                raise ValueError(f"{key}.split is {one.split}, but a set with use: test has no splits; empty it")
            official = one.use == "train" and self.method(name) == "official"
            if official and self.split.near_duplicates == "group":
                raise ValueError(
                    f"split.near_duplicates = group cannot move images between the official splits of {key}; use drop "
                    "or keep"
                )
            if official and one.source == "sample":
                raise ValueError(
                    f"{key}: official splits are folders train/, valid/ and test/, and the sample has none; use "
                    "stratified"
                )
        if len({name.lower() for name in self.sets}) < len(self.sets):
            raise ValueError(
                f"sets has names that differ in capital letters alone ({', '.join(self.sets)}), and not every "
                "file system tells them apart; rename one"
            )
        if not self.training_sets:
            raise ValueError("no set has use: train, so there is nothing to learn from; give one")
        possible = {f"{name}{kind}" for name in self.training_sets for kind in ("", "/real", "/fake")}
        for entry in self.split.leave_out:
            if entry not in possible:
                raise ValueError(
                    f"split.leave_out names {entry!r}; write NAME, NAME/real or NAME/fake of a set that trains: "
                    f"{', '.join(self.training_sets)}"
                )

    def of(self, name: str) -> FaceSet:
        """A set by its name. Raises :class:`UserError` where there is none."""
        if name not in self.sets:
            raise UserError(f"params.yaml has no set {name!r}; it has: {', '.join(self.sets)}")
        return self.sets[name]

    @property
    def training_sets(self) -> list[str]:
        """The names of the sets to learn from, in their order."""
        return [name for name, one in self.sets.items() if one.use == "train"]

    @property
    def learned_sets(self) -> list[str]:
        """The names of the sets that detectors learn from: those to learn from that are not left out as a whole."""
        return [name for name in self.training_sets if self.unseen(name) != {"real", "fake"}]

    def needs_both(self, name: str) -> bool:
        """Whether a set must hold both classes, as no other set to learn from may have the one that it lacks."""
        return self.training_sets == [name]

    def method(self, name: str) -> str:
        """How a set is split: stratified or official."""
        return self.sets[name].split or self.split.method

    def unseen(self, name: str) -> set[str]:
        """The classes of a set, real, fake or both, that no detector learns from."""
        return self.left_out(name) if self.sets[name].use == "train" else {"real", "fake"}

    def left_out(self, name: str) -> set[str]:
        """The classes of a set, real, fake or both, that ``split.leave_out`` keeps out of training and validation."""
        kinds = {name: {"real", "fake"}, f"{name}/real": {"real"}, f"{name}/fake": {"fake"}}
        return set().union(*(kinds.get(entry, set()) for entry in self.split.leave_out))


def detectors_of(models: Sequence[Model]) -> list[tuple[str, Model, Phase]]:
    """The name, such as ``resnet50-finetune``, model and phase of each detector of these models, in their order."""
    return [(f"{model}-{phase}", model, phase) for model in models for phase in get_args(Phase)]


def detector_argument(description: str | None) -> str:
    """The detector that the command line names, MODEL PHASE, as files are named: such as ``resnet50-finetune``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", choices=get_args(Model))
    parser.add_argument("phase", choices=get_args(Phase))
    arguments = parser.parse_args()
    return f"{arguments.model}-{arguments.phase}"


def set_argument(description: str | None) -> str:
    """The set that the command line names. Raises :class:`UserError` where params.yaml has no such set."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("set")
    name: str = parser.parse_args().set
    load().of(name)
    return name


class _Constructor(SafeConstructor):
    """Builds what YAML says, but not mappings whose ``<<`` double from line to line until memory is full."""

    def flatten_mapping(self, node: MappingNode) -> Any:  # of ruamel.yaml
        merged = super().flatten_mapping(node)
        if len(node.value) > MAX_MERGED:
            raise ValueError(f"line {node.start_mark.line + 1} merges more than {MAX_MERGED:,} keys")
        return merged


def load(path: Path | str = "params.yaml") -> Params:
    """The parameters in ``path``, read as YAML 1.2 (PyYAML would take ``1e-4`` for a string) and checked.

    Raises :class:`UserError`, naming the first key that is wrong, its value and what is allowed.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    return check(read(path, yaml), path)


def read(path: Path | str, yaml: YAML) -> Any:
    """The content of a YAML file. Raises :class:`UserError` where there is none, or none that can be read."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "missing" if isinstance(error, FileNotFoundError) else "a folder"
        raise UserError(
            f"{path} is {what}; run in the project's root, or bring it back with `git checkout {path}`"
        ) from None
    except (YAMLError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:  # of some values, too
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def check(content: Any, name: Path | str) -> Params:
    """Check the content of a params file (``name`` is for the message). Raises :class:`UserError`."""
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{name}: {_sentence(problems[0])}{more}") from None


def _sentence(problem: Any) -> str:
    """One of pydantic's findings as a sentence: the key, what it is, what is allowed."""
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    match problem["type"]:
        case "missing":
            return f"{key} is missing; `git diff params.yaml` shows what was there"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}" if key else str(problem["ctx"]["error"])
        case _:
            return f"{key} = {_short(problem['input'])}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _short(value: Any) -> str:
    """A value as it is written, but not pages of it."""
    shown = reprlib.Repr()
    shown.maxlevel, shown.maxstring = 1, 100
    try:
        return shown.repr(value)
    except ValueError:  # of Python, for a number of thousands of digits
        return "a number too long to show"


def main() -> None:
    """Check params.yaml."""
    params = load()
    detectors = len(detectors_of(params.models))
    models = ", ".join(params.models)
    sets = ", ".join(f"{name} ({one.source}, {one.use})" for name, one in params.sets.items())
    print(f"params.yaml is sound: {detectors} detectors ({models}; baseline and finetune) on {sets}")


if __name__ == "__main__":
    run(main)
