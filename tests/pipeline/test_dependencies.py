"""dvc.yaml names, for each stage, the code files that can change its result: those that it imports, and no more."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = {name: stage.get("do", stage) for name, stage in STAGES.items()}  # foreach
SOURCES = ("sample", "folder", "kaggle")
MODELS = ("resnet50", "densenet121")
TEMPLATES = {"report": {f"stages/reporting/{name}.j2" for name in ("card.md", "page.html")}}  # loaded by name
# What a stage does not use of a folder that it depends on: a change there runs it once more than needed.
UNUSED = {"explain": {"stages/scoring/curves.py"}, "report": {"stages/reporting/drawing.py"}}

# How a stage refuses, publishes and reads its parameters changes no result; MLflow only mirrors what is on disk.
WITHOUT_EFFECT = {
    "stages/lifetime.py",
    "stages/errors.py",
    "stages/files.py",
    "stages/params.py",
    "stages/progress.py",
    "stages/backend.py",
    "stages/quiet.py",
}


def imported(path: str) -> set[str]:
    """The files of stages/ that a file imports, and those that they import."""
    found: set[str] = set()
    queue = [path]
    while queue:
        for node in ast.walk(ast.parse((ROOT / queue.pop()).read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("stages"):
                continue
            base = (node.module or "").replace(".", "/")
            candidates = {f"{base}.py", *(f"{base}/{name.name}.py" for name in node.names)}
            for file in candidates:
                if (ROOT / file).exists() and file not in found and not file.startswith("stages/tracking"):
                    found.add(file)
                    queue.append(file)
    return found - WITHOUT_EFFECT


def files(dep: str) -> set[str]:
    """The code that a dependency stands for: a file, or all files of a folder."""
    folder = ROOT / dep
    if not folder.is_dir():
        return {dep}
    return {str(path.relative_to(ROOT)) for path in folder.iterdir() if path.suffix in (".py", ".j2")} - {
        f"{dep}/__init__.py"
    }


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"params"}))
def test_code_dependencies_are_the_imports(stage: str) -> None:
    choices = {"${item.model}": MODELS, "${item.source}": SOURCES}
    listed = {file for dep in STAGES[stage]["deps"] if dep.startswith("stages/") for file in files(dep)}
    for variable, values in choices.items():
        chosen = [dep for dep in listed if variable in dep]
        listed = (listed - set(chosen)) | {dep.replace(variable, value) for dep in chosen for value in values}
    module = f"stages/{stage.partition('-')[0]}.py"
    wanted = {module} | imported(module)
    if stage in ("weights", "baseline", "finetune"):
        wanted |= {f"stages/detectors/{model}.py" for model in MODELS}  # imported by name
    wanted |= TEMPLATES.get(stage, set())
    assert listed - UNUSED.get(stage, set()) == wanted


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_stage_says_what_it_does_in_prose(stage: str) -> None:
    assert STAGES[stage]["desc"].endswith(".")


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"params"}))
def test_a_fresh_clone_runs_every_stage_even_if_it_brings_all_figures(stage: str) -> None:
    """DVC skips a stage whose outputs are there; those that git keeps always are, so one must be DVC's own."""
    outs = [out if isinstance(out, dict) else {out: {}} for out in STAGES[stage].get("outs", [])]
    assert [out for out in outs if all(settings.get("cache", True) for settings in out.values())]
