"""The results: rows of what a project holds, tables and curves with known answers, and the docs show those tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dvc.repo import Repo

from bench import results
from stages.errors import UserError
from stages.files import write_json
from tests.clones import git

ROOT = Path(__file__).parents[1]
DVC_YAML = """
stages:
  evaluate:
    matrix: {model: ["resnet50", "densenet121"], phase: [baseline, finetune]}
    cmd: "true"
    deps: ["data/models/${item.model}-${item.phase}.json"]
    params: [training.seed]
    metrics: ["data/figures/${item.model}-${item.phase}.json": {cache: false}]
"""
FIGURES = {"roc_auc": 0.98765432, "roc_auc_low": 0.98, "roc_auc_high": 0.995, "accuracy": 0.95}
FIGURES |= {"average_precision": 0.97, "n": 360, "n_valid": 180}


@pytest.fixture
def measured(tmp_path, monkeypatch, write_params):
    """A function that makes detectors as a run leaves them behind, in a repository of its own."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    write_params()
    Path("dvc.yaml").write_text(DVC_YAML)
    Path("stages").mkdir()
    Path("stages/train.py").write_text("")
    with Repo.init() as repo:
        git("add", "stages", "dvc.yaml", "params.yaml")
        git("commit", "-qm", "code")

        def measured(*detectors, figures=FIGURES, images=1260):
            for detector in detectors:
                write_json(f"data/figures/{detector}.json", figures)
                write_json(f"data/models/{detector}.json", {"train_images": images, "train_seconds": 61.44})
                repo.commit(f"evaluate@{detector}", force=True)

        yield measured


@pytest.fixture
def rows(tmp_path, monkeypatch, write_params):
    """A function that writes docs/results.csv in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    write_params()
    Path("docs").mkdir()

    def rows(*changes):
        usual = {"set": "140k", "left_out": "", "n_train": 1260, "detector": "resnet50-baseline", "seed": 20}
        usual |= {figure: f"{FIGURES[figure]:.6f}" for figure in results.FIGURES}
        usual |= {"n": 360, "seconds": "61.4", "commit": "1234567", "command": "dvc repro"}
        table = pd.DataFrame([usual | change for change in changes], columns=results.COLUMNS)
        table.to_csv(results.RESULTS, index=False)

    return rows


def test_a_run_is_a_row_for_each_detector_that_is_up_to_date(measured, write_params, command, capsys):
    measured("resnet50-baseline", "densenet121-finetune", "densenet121-baseline")
    figures = Path("data/figures/densenet121-baseline.json")
    figures.write_text(figures.read_text().replace("0.95", "0.96"))  # of another run
    command(results.main, "record", "140k", "--command", "dvc exp run -S a=1,2")
    head, *lines = results.RESULTS.read_text().splitlines()
    assert head == (ROOT / "docs/results.csv").read_text().splitlines()[0]
    commit = git("rev-parse", "--short", "HEAD")
    end = f',20,0.987654,0.980000,0.995000,0.950000,0.970000,360,61.4,{commit},"dvc exp run -S a=1,2"'
    assert lines == [f"140k,,1260,densenet121-finetune{end}", f"140k,,1260,resnet50-baseline{end}"]
    said = capsys.readouterr().err
    assert all(f"{name} is not recorded" in said for name in ("densenet121-baseline", "resnet50-finetune"))
    write_params({"training.seed": 21})
    with pytest.raises(UserError, match="no detector here has figures that are up to date; make them with"):
        command(results.main, "record", "140k", "--command", "dvc repro")


def test_a_newer_measurement_takes_the_place_of_the_older(measured, command, tmp_path_factory):
    to = tmp_path_factory.mktemp("another") / "docs/results.csv"
    measured("resnet50-baseline")
    command(results.main, "record", "140k", "--command", "dvc repro", "--to", str(to))
    command(results.main, "record", "140k", "--command", "dvc repro", "--to", str(to), "--left-out", "stylegan")
    Path("stages/train.py").write_text("better")
    git("commit", "-aqm", "better")
    measured("resnet50-baseline", figures=FIGURES | {"roc_auc": 0.991})
    command(results.main, "record", "140k", "--command", "dvc repro", "--to", str(to))
    measured("resnet50-baseline", images=100)
    command(results.main, "record", "140k", "--command", "dvc repro", "--to", str(to))
    found = results.read(to)
    assert [(row["left_out"], row["n_train"], row["roc_auc"]) for row in found] == [
        ("", "100", "0.987654"),
        ("", "1260", "0.991000"),
        ("stylegan", "1260", "0.987654"),
    ]
    assert found[0]["commit"] == found[1]["commit"] == git("rev-parse", "--short", "HEAD") != found[2]["commit"]
    assert not results.RESULTS.exists()


@pytest.mark.parametrize("name", ["train.py", "new.py"])
def test_code_that_is_in_no_commit_is_refused(name, measured, command):
    measured("resnet50-baseline")
    Path("stages", name).write_text("x = 1\n")
    with pytest.raises(UserError, match=r"stages/ has changes that are in no commit"):
        command(results.main, "record", "140k", "--command", "dvc repro")
    assert not results.RESULTS.exists()


def test_the_table_has_a_line_for_each_detector_and_size(rows, command, capsys):
    rows({}, {"set": "other"}, {"n_train": 100, "roc_auc": "0.900000", "n": 1360})
    command(results.main, "table", "140k")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "| detector | training faces | ROC AUC | accuracy | average precision | training, s | n |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| resnet50-baseline | 100 | 0.9000 (0.9800–0.9950) | 0.9500 | 0.9700 | 61 | 1,360 |",
        "| resnet50-baseline | 1,260 | 0.9877 (0.9800–0.9950) | 0.9500 | 0.9700 | 61 | 360 |",
    ]
    command(results.main, "table", "140k", "--n-train", "1260")
    assert capsys.readouterr().out.splitlines() == [*lines[:2], lines[3]]
    with pytest.raises(UserError, match="no row of the set 140k with 5 training faces"):
        command(results.main, "table", "140k", "--n-train", "5")


def test_several_seeds_are_one_line_with_their_mean_and_range(rows, command, capsys):
    rows({"roc_auc": "0.98"}, {"roc_auc": "0.95", "seed": 21, "seconds": "90"}, {"roc_auc": "0.98", "seed": 22})
    command(results.main, "table", "140k")
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| resnet50-baseline | 1,260 | 0.9700 (0.9500 to 0.9800), 3 seeds | 0.9500 (0.9500 to 0.9500) "
        "| 0.9700 (0.9700 to 0.9700) | 71 (61 to 90) | 360 |"
    ]


def test_what_was_left_out_is_a_column_where_something_was(rows, command, capsys):
    rows({"left_out": "stylegan"}, {})
    command(results.main, "table", "140k")
    assert [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["| left out", "detector"],
        ["| ---", "---"],
        ["| nothing", "resnet50-baseline"],
        ["| stylegan", "resnet50-baseline"],
    ]


def test_several_sets_are_told_apart_in_a_column(rows, command, capsys):
    rows({}, {"set": "dfdc"})
    command(results.main, "table", "dfdc", "140k")
    first_two = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()]
    assert first_two == [
        ["| set", "detector"],
        ["| ---", "---"],
        ["| dfdc", "resnet50-baseline"],
        ["| 140k", "resnet50-baseline"],
    ]


def test_the_curve_has_what_was_measured_and_a_line_through_it(rows, command, capsys):
    """Errors of 2 / sqrt(n) at three sizes; the other detector has two, and one row without any error."""
    half = {"roc_auc_low": "0.7", "roc_auc_high": "0.95"}
    law = [{"n_train": n, "roc_auc": 1 - 2 / np.sqrt(n)} | half for n in (100, 400, 1600)]
    few = {"detector": "resnet50-finetune"}
    rows(*law, {"n_train": 400, "left_out": "stylegan"}, few, {"roc_auc": 1, "n_train": 9} | few, {"n_train": 7} | few)
    command(results.main, "curve", "140k")
    table = pd.read_csv(results.CURVE)
    assert list(table.columns) == ["detector", "kind", "images", "error", "low", "high"]
    points = table[table["kind"] == "measured"]
    assert list(points["images"]) == [100, 400, 1600, 7, 1260]
    np.testing.assert_allclose(points[["low", "high"]].iloc[0], [0.05, 0.3])
    line = table[table["detector"] == "resnet50-baseline"]
    np.testing.assert_allclose(line["error"], 2 / np.sqrt(line["images"]), rtol=1e-3)
    assert set(line.loc[line["images"] > 1600, "kind"]) == {"extrapolation"}
    assert results.CURVE.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "resnet50-baseline: 1 - AUC falls as n^-0.50; the line at 100,000 training faces (extrapolation)" in said
    assert "resnet50-finetune: no line" in said


def test_tables_in_the_docs_are_checked_and_written(rows, command, capsys):
    rows({}, {"n_train": 100})
    page = "# Results\n\n<!-- results: 140k --n-train 100 -->\n<!-- /results -->\n\nThe end.\n"
    Path("README.md").write_text(page)
    Path("docs/more.md").write_text("Nothing.\n")
    with pytest.raises(UserError, match=r"a table of README\.md is not that of docs/results\.csv; run `python -m"):
        command(results.main, "check")
    command(results.main, "write")
    command(results.main, "check")
    command(results.main, "table", "140k", "--n-train", "100")
    table = capsys.readouterr().out
    assert Path("README.md").read_text() == page.replace("-->\n<", f"-->\n\n{table}\n<")
    rows({}, {"n_train": 100, "accuracy": "0.1"})
    with pytest.raises(UserError, match=r"a table of README\.md is not that"):
        command(results.main, "check")


def test_a_table_without_an_end_is_refused(rows, command):
    rows({})
    marker = "<!-- results: 140k -->\n"
    for page in (marker, f"{marker}{marker}<!-- /results -->\n"):
        Path("README.md").write_text(page)
        with pytest.raises(UserError, match=r"a table of README\.md begins with .* and has no end"):
            command(results.main, "write")


def test_the_docs_show_the_tables_of_the_results(monkeypatch, command):
    monkeypatch.chdir(ROOT)
    command(results.main, "check")
