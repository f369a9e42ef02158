"""The docs tell the truth: each command that they show is one that its tool takes; links, keys and messages exist.

What the commands do is tested elsewhere (tests/pipeline, tests/tracking); here each is given to the parser of its tool.
"""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import params
from tests.reliability import rows

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# words that need no test
SHELL = {
    "base64",
    "cat",
    "cd",
    "chmod",
    "cp",
    "curl",
    "docker",
    "export",
    "git",
    "grep",
    "read",
    "sed",
    "source",
    "ssh",
    "tr",
}
SUBSTITUTION = re.compile(r"\$\((python -m stages\.preset \S+ --overrides)\)")


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shown(path: Path) -> Iterator[tuple[str, Path]]:
    """The commands of a page: those after `$ ` in console blocks, and those in the text that begin with a tool.

    With each the params.yaml that it finds: ours, or what a command above, in its block, copied there.
    """
    text, ours = path.read_text(), ROOT / "params.yaml"
    for block in fenced(text, "console"):
        found = ours
        for command in re.findall(r"^\$ (.+)$", block.replace("\\\n", " "), re.MULTILINE):
            if copied := re.fullmatch(r"cp (\S+) params\.yaml", command):
                found = ROOT / copied[1]
            yield command, found
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`((?:dvc|make|mlflow|pre-commit|pytest|python -m) [^`]+)`", prose)
    for command in inline:
        yield " ".join(command.split()), ours


COMMANDS = [
    pytest.param(command, found, id=f"{path.name}: {command[:60]}") for path in DOCS for command, found in shown(path)
]


@pytest.mark.parametrize(("command", "found"), COMMANDS)
def test_a_command_is_one_that_its_tool_takes(
    command: str, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    line = SUBSTITUTION.sub(lambda found: output(found[1]), command)
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("|&;<>()"):
            parts.append([])
        else:
            parts[-1].append(word)
    for tool, *arguments in filter(None, parts):
        if tool.isdigit():  # of a redirection
            continue
        shutil.copy(found, tmp_path / "params.yaml")
        check(tool, arguments, tmp_path)


def check(tool: str, arguments: list[str], folder: Path) -> None:
    """Give a command to its tool's parser; ``folder`` has the params.yaml that it finds."""
    match tool:
        case "make":
            for target in arguments:
                name, is_variable, _ = target.partition("=")
                wanted = rf"\$\(?{name}\b" if is_variable else rf"^{re.escape(target)}:"
                assert re.search(wanted, (ROOT / "Makefile").read_text(), re.MULTILINE), f"no {target} in the Makefile"
        case "python":
            program = "-m " + arguments[1] if arguments[0] == "-m" else arguments[0]
            known = output(f"python {program} --help")
            for option in [word for word in arguments if word.startswith("--")]:
                assert option in known
            if arguments[1] == "stages.preset" and arguments[2] != "NAME":
                assert (ROOT / f"presets/{arguments[2]}.yaml").exists()
        case "dvc":
            from dvc.cli.parser import get_main_parser

            parsed = get_main_parser().parse_args(arguments)
            check_parameters(getattr(parsed, "set_param", None) or [], folder)
        case "mlflow":
            from mlflow.cli import cli

            tool_command = cli
            while hasattr(tool_command, "commands"):
                tool_command = tool_command.commands[arguments.pop(0)]
            tool_command.make_context("mlflow", arguments)
        case "pre-commit":
            output(f"pre-commit {arguments[0]} --help")
        case "pytest":
            for path in [word for word in arguments if not word.startswith("-")]:
                assert (ROOT / path).exists()
        case _ if "=" in tool:  # a variable for the command behind it
            check(arguments[0], arguments[1:], folder)
        case _:
            assert tool in SHELL, f"nobody checks {tool}; teach this test to, or give it to SHELL"


def check_parameters(overrides: list[str], folder: Path) -> None:
    """Every parameter that is set exists and may have that value, in every cell of a grid."""
    from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

    for cell in get_hydra_sweeps({"params.yaml": overrides}) if overrides else []:
        changed = shutil.copy(folder / "params.yaml", folder / "changed.yaml")
        apply_overrides(str(changed), cell["params.yaml"])
        params.load(changed)


@cache
def output(command: str) -> str:
    """What a command of this environment prints; it must succeed."""
    tool, *arguments = command.split()
    program = [sys.executable] if tool == "python" else [str(Path(sys.executable).with_name(tool))]
    result = subprocess.run([*program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not link.startswith(("http://", "https://")):
            file, _, anchor = link.partition("#")
            assert (path.parent / file).exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.+)$", (path.parent / file).read_text(), re.MULTILINE)
                assert anchor in [heading.lower().replace(" ", "-") for heading in headings], link


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_parameters_in_the_text_exist(path: Path) -> None:
    content = YAML(typ="safe").load(ROOT / "params.yaml")
    for key in re.findall(r"`([a-z_]+(?:\.[a-z0-9_]+)+)(?:: \w+)?`", path.read_text()):
        section, *rest = key.split(".")
        if section in content:
            value = content[section]
            for name in rest:
                assert name in value, key
                value = value[name]


@cache
def messages() -> list[str]:
    """Every text in the code, with … where something is filled in."""
    found = []
    for path in (ROOT / "stages").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                )
    return found


TROUBLE = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/trouble.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("message", TROUBLE)
def test_a_message_in_the_table_of_troubles_is_one_that_the_code_says(message: str) -> None:
    assert len(TROUBLE) > 5
    wanted = re.compile(".*".join(re.escape(part) for part in message.split("…")))
    assert any(wanted.search(text) for text in messages())


def test_the_counts_of_faults_are_those_that_the_suite_wrote_down(tmp_path: Path) -> None:
    page = (ROOT / "docs/reliability.md").read_text()
    shown = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([\d,]+) \| ([\d,]+) \| [^|]+ \|$", page, re.MULTILINE)
    counted = [(fault, *(f"{int(row[kind]):,}" for kind in ("tried", "lost"))) for fault, row in rows().items()]
    assert sorted(shown) == sorted(counted)
    for row in rows().values():
        assert row["lost"] == "0"
        tool, *arguments = row["command"].split()
        check(tool, arguments, tmp_path)
