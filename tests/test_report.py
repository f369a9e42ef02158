"""The stage `report`, from the files of two detectors to one page and two cards."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from stages import compare, evaluate, report
from stages.errors import UserError
from stages.reporting.findings import interval

ROOT = Path(__file__).parents[1]
NAMES = ("resnet50-finetune", "resnet50-baseline")
OPTIONS = {"folder": {"path": "a"}, "kaggle": {"dataset": "a/b"}}
AUDIT = json.loads((ROOT / "metrics/data.json").read_text())


def scores(seed: int, distance: float, names: list[str], unseen: bool) -> pd.DataFrame:
    """A table of scores: 120 images a split, corruptions that are worse, an unseen set of fakes that look real.

    ``names``: of the sets to learn from, which share the images.
    """
    random = np.random.default_rng(seed)
    passes = [("valid", "clean", 1.0), ("test", "clean", 1.0), ("test", "jpeg 50", 0.6), ("test", "blur 2", 0.1)]
    if unseen:
        passes.append(("unseen", "clean", -0.5))
    parts = []
    for split, condition, factor in passes:
        label = np.ones(120, np.int8) if split == "unseen" else (np.arange(120) % 2).astype(np.int8)
        logit = random.normal(size=120) + factor * distance * (label - 0.5)
        member = [f"{split}/{number:03}.jpg" for number in range(120)]
        of = "elsewhere" if split == "unseen" else np.repeat(names, 120 // len(names))
        part = pd.DataFrame({"set": of, "split": split, "condition": condition, "member": member})
        parts.append(part.assign(label=label, logit=logit))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(score=1 / (1 + np.exp(-table["logit"])), distance=1.0)


def write(path: str, content: dict[str, Any]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))


def make(
    folder: Path,
    *,
    unseen: bool = True,
    sources: dict[str, dict[str, str]] | None = None,
    weights: str = "imagenet",
    **audit: Any,
) -> str:
    """Make a project of two evaluated and compared detectors in a folder, and give its report's page.

    ``sources``: what `download` wrote down of each set to learn from.
    """
    sources = sources or {"faces": {"source": "folder", "licence": "<mine>"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("stages.tracking.mirror", lambda params: None)  # has tests of its own
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        params["models"] = ["resnet50"]
        params["evaluate"]["resamples"] = 100
        params["weights"]["source"] = "imagenet"
        sample = params["sets"]["faces"]["sample"]
        params["sets"] = {
            name: {"source": one["source"], "use": "train"} | OPTIONS.get(one["source"], {"sample": sample})
            for name, one in sources.items()
        }
        if unseen:
            params["sets"]["elsewhere"] = {"source": "folder", "use": "test", "path": "a", "generator": "StyleGAN2"}
        yaml.dump(params, folder / "params.yaml")
        for seed, (name, distance) in enumerate(zip(NAMES, (3.0, 1.5), strict=True)):
            start = {"source": weights, "asked": "auto"}
            record = {"model": "resnet50", "phase": name.split("-")[1], "weights": start, "device": "CPU (2 cores)"}
            record |= {"precision": "float32", "train_images": 600, "valid_images": 120, "image_size": 64}
            record |= {"epochs": 6, "best_epoch": 5, "train_seconds": 12.3, "trainable_parameters": 4097}
            write(f"data/models/{name}.json", record | {"model_sha256": f"{seed:064}"})
            Path(f"data/models/{name}.keras").write_text("a model")
            Path("data/scores").mkdir(exist_ok=True)
            scores(seed, distance, list(sources), unseen).to_parquet(f"data/scores/{name}.parquet")
            patch.setattr(sys, "argv", ["evaluate", *name.split("-")])
            evaluate.main()
            check = {"low": 0.6, "n": 24, "better": 20, "sentence": f"of {name} the map shows what counts"}
            write(f"data/explanations/{name}/explanations.json", {"n": 120, "deletion": check})
            Image.new("RGB", (40, 30), "grey").save(f"data/explanations/{name}/sheet.jpg")
            steps = {"deleted": [0.25, 0.5], "drop": [0.4, 0.7], "low": [0.3, 0.5], "high": [0.5, 0.9], "n": 24}
            orders = [pd.DataFrame(steps).assign(order=order) for order in ("evidence", "random")]
            pd.concat(orders).to_csv(f"data/explanations/{name}/deletion.csv", index=False)
            columns = ["loss", "accuracy", "val_loss", "val_accuracy", "val_auc"]
            if name.endswith("finetune"):
                history = pd.DataFrame({"epoch": [1, 2]} | {column: [0.5, 0.6] for column in columns})
                history.to_csv(f"data/models/{name}.csv", index=False)
        compare.main()
        write("metrics/data.json", AUDIT | audit)
        sets = []
        for name, one in (sources | ({"elsewhere": {"source": "folder"}} if unseen else {})).items():
            write(f"data/raw/{name}.json", one | {"sha256": f"{name:_<16}" * 4})
            Path("data/contact_sheets").mkdir(exist_ok=True)
            Image.new("RGB", (40, 30), "grey").save(f"data/contact_sheets/{name}.jpg")
            use = "test" if name == "elsewhere" else "train"
            sets.append({"set": name, "generator": None, "use": use, **AUDIT, "real": 1000 + len(sets)})
        Path("plots/data").mkdir()
        pd.DataFrame(sets).to_csv("plots/data/sets.csv", index=False)
        report.main()
        return Path("data/report/index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one set to learn from, and one of others; tests only read it."""
    folder = tmp_path_factory.mktemp("project")
    make(folder)
    return folder


@pytest.fixture
def page(made: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Inside that project: its page."""
    monkeypatch.chdir(made)
    return Path("data/report/index.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """The page's words, without drawings."""
    return re.sub(r"\s+", " ", re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))


def cells(page: str, table: str) -> list[list[str]]:
    """The cells of a table of the page."""
    body = re.search(rf'<table id="{table}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert body
    rows = re.findall(r"<tr.*?>(.*?)</tr>", body[1], re.DOTALL)
    return [[cell.strip() for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)] for row in rows]


def test_the_numbers_of_the_page_are_those_of_the_metrics_files(page: str) -> None:
    rows = {row[0]: row for row in cells(page, "leaderboard-table")}
    assert list(rows) == list(NAMES)
    for name, row in rows.items():
        metrics = json.loads(Path(f"data/figures/{name}.json").read_text())
        assert row[1] == f"{metrics['valid_roc_auc']:.4f}"
        assert row[2] == interval(metrics, "roc_auc")
        assert row[3] == f"{metrics['average_precision']:.4f}"
        assert row[4] == interval(metrics, "accuracy")
        assert row[4].startswith(f"{metrics['accuracy']:.4f} ({metrics['accuracy_low']:.3f}–")
        assert row[6] == f"{metrics['brier']:.4f}"


def test_other_peoples_faces_are_shown_with_what_is_unknown_left_open(page: str) -> None:
    rows = {(row[0], row[1]): row for row in cells(page, "cross-table")}
    table = pd.read_csv("plots/detectors/resnet50-finetune/sets.csv").set_index("set").loc["elsewhere"]
    assert ("test (60/60)", "resnet50-finetune") in rows
    row = rows["elsewhere (0/120, unseen)", "resnet50-finetune"]
    assert row[2] == row[4] == "–"  # there are no reals
    assert row[3] == interval(table, "recall_fake")
    said = text_of(page)
    assert "On elsewhere, which it did not learn from: it finds" in said
    assert "Not tested on what it did not learn from" not in said


def test_of_several_sets_the_page_and_the_cards_show_each(tmp_path: Path) -> None:
    licensed = {"source": "kaggle", "dataset": "a/b", "url": "https://www.kaggle.com/datasets/a/b", "licence": "CC0"}
    page = make(tmp_path, sources={"drawn": {"source": "sample"}, "bought": licensed})
    said = text_of(page)
    assert re.search(r"images of drawn, bought Would this detector", said)
    assert [row[:4] for row in cells(page, "sets-table")] == [
        ["drawn", "train", "sample, sha256 <code>drawn___________…</code>", "1,000"],
        ["bought", "train", f'<a href="{licensed["url"]}">a/b</a>, sha256 <code>bought__________…</code>', "1,001"],
        ["elsewhere", "test", "folder, sha256 <code>elsewhere_______…</code>", "1,002"],
    ]
    assert said.count("Licence: drawn: drawn by this project, MIT; bought: CC0.") == 1
    assert "Licence of the images: drawn: drawn by this project, MIT; bought: CC0." in said
    assert "First of all" not in said  # it learned not only from drawn faces
    for name in ("drawn", "bought", "elsewhere"):
        assert f"{name}: faces of each class, evenly drawn." in said
    shown = [row[0] for row in cells(page, "cross-table")]
    of_each = ["test (60/60)", "drawn (30/30)", "bought (30/30)", "elsewhere (0/120, unseen)"]
    assert shown == [row for row in of_each for _ in NAMES]
    for row in ("On drawn: it finds", "On bought: it finds", "On elsewhere, which it did not learn from: it finds"):
        assert row in said
    for name in NAMES:
        card = (tmp_path / f"data/report/{name}.md").read_text(encoding="utf-8")
        result = YAML(typ="safe").load(card.split("---\n")[1])["model-index"][0]["results"][0]
        assert result["dataset"] == {"name": "drawn, bought", "type": "drawn-bought", "split": "test"}
        assert "| bought | 30/30 |" in card
        assert "| elsewhere, unseen | 0/120 |" in card
        assert f"drawn (sample, sha256 `drawn___________{'drawn___________' * 3}`), bought ({licensed['url']}," in card
        assert "Licence: drawn: drawn by this project, MIT; bought: CC0." in card


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    assert not re.search(r'(?:src|href)="(?!#|data:|https://www.kaggle.com)[^"]*"', page)
    assert "url(http" not in page
    assert page.count("<svg") == 8
    assert page.count("data:image/jpeg;base64,") == 4
    ids = set(re.findall(r' id="([\w-]+)"', page))
    assert {target for target in re.findall(r'href="#([\w-]+)"', page) if not target.startswith("m")} <= ids


def test_the_same_files_give_the_same_page_and_say_what_comes_next(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mirrored = []
    monkeypatch.setattr("stages.tracking.mirror", mirrored.append)
    report.main()
    assert Path("data/report/index.html").read_text(encoding="utf-8") == page
    assert len(mirrored) == 1
    said = capsys.readouterr().out
    assert "data/report/index.html" in said
    assert "dvc plots show" in said
    assert 'Next: git add . && git commit -m "My run"' in said


def test_after_an_experiment_nothing_is_to_be_committed(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stages.tracking.mirror", lambda params: None)
    monkeypatch.setenv("DVC_EXP_NAME", "lower-rate")
    report.main()
    said = capsys.readouterr().out
    assert "git commit" not in said
    assert "Next: open data/report/index.html" in said


def test_bad_news_is_told(tmp_path: Path) -> None:
    said = text_of(make(tmp_path, shortcut_auc=0.93))
    assert (
        "bad Shortcuts in the data: file size, format and average colour alone tell the classes apart with AUC 0.93"
        in said
    )
    assert "the worst of the 2 conditions is blur 2: AUC" in said
    assert "60 real validation images are too few to aim at 1 %" in said
    assert "(auto was asked for)" in said


@pytest.mark.parametrize(
    ("sources", "weights", "why"),
    [
        (["sample"], "imagenet", "Worth nothing for photographs: it was trained only on drawn faces."),
        (["sample", "sample"], "imagenet", "Worth nothing for photographs: it was trained only on drawn faces."),
        (["folder"], "random", "Do not rely on it yet: its backbone started from random weights"),
    ],
)
def test_what_must_be_known_first_stands_above_any_figure(
    tmp_path: Path, sources: list[str], weights: str, why: str
) -> None:
    named = {f"set{number}": {"source": source} for number, source in enumerate(sources)}
    page = make(tmp_path, sources=named, weights=weights)
    assert text_of(page).index(why) < text_of(page).index("The champion is")
    assert '<li class="bad"><span class="tag">bad</span><b>First of all:' in page
    assert ('class="good"' in page) == ("sample" not in sources)  # of what is worthless no figure is good news
    for name in NAMES:
        _, _, body = (tmp_path / f"data/report/{name}.md").read_text(encoding="utf-8").split("---\n", 2)
        assert body.lstrip().startswith(f"# {name}\n\n**{why}")


def test_what_may_be_worth_something_gets_no_such_warning(page: str) -> None:
    assert "First of all" not in text_of(page)
    assert 'class="good"' in page
    assert "First of all" not in Path(f"data/report/{NAMES[0]}.md").read_text(encoding="utf-8")


def test_the_three_answers_are_an_aim_and_a_measurement(page: str) -> None:
    said = text_of(page)
    assert "chosen so that at most 5 % of either class of the validation images get the wrong answer" in said
    assert "so this is an aim; what was measured on the test images is below" in said
    assert "of the 120 test faces, and" in said


def test_what_was_not_tested_is_said(tmp_path: Path) -> None:
    page = make(tmp_path, unseen=False, shortcut_auc=None)
    said = text_of(page)
    assert "bad On faces of other generators: was not tested." in said
    assert "Not tested on what it did not learn from." in said
    assert "cross-table" not in page  # one set has no more to say than the test images
    assert "could not be looked for: there are too few images of a class" in said


def test_a_card_for_each_detector_that_hubs_can_read(page: str) -> None:
    for name in NAMES:
        card = Path(f"data/report/{name}.md").read_text(encoding="utf-8")
        metrics = json.loads(Path(f"data/figures/{name}.json").read_text())
        assert card.startswith("---\n")
        front = YAML(typ="safe").load(card.split("---\n")[1])
        result = front["model-index"][0]["results"][0]
        assert {row["type"]: row["value"] for row in result["metrics"]} == {
            key: metrics[key] for key in ("accuracy", "roc_auc", "average_precision")
        }
        assert front["license"] == "other"  # nobody said what the licence of the faces is
        for heading in ("Model details", "Intended use", "Factors", "Metrics", "Quantitative analyses", "Ethical"):
            assert f"\n## {heading}" in card
        found = pd.read_csv(f"plots/detectors/{name}/sets.csv", index_col="set").loc["elsewhere", "recall_fake"]
        assert f"| elsewhere, unseen | 0/120 | – | {found:.4f}" in card
        assert "\n\n\n\n" not in card


def test_html_in_a_file_stays_text(page: str) -> None:
    assert "<mine>" not in page
    assert "Licence: &lt;mine&gt;" in page


def test_a_missing_file_is_named(page: str) -> None:
    kept = Path("data/explanations/resnet50-baseline/explanations.json")
    moved = kept.rename("elsewhere.json")
    with pytest.raises(UserError, match=f"{kept} is missing; make it with `dvc repro`"):
        report.main()
    moved.rename(kept)
    assert Path("data/report/index.html").read_text(encoding="utf-8") == page


def test_a_browser_shows_the_page_without_a_network(page: str, made: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here to open the page with")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    nowhere = ["--proxy-server=127.0.0.1:9", f"--user-data-dir={tmp_path / 'profile'}"]
    address = (made / "data/report/index.html").as_uri()
    document = subprocess.run(
        [browser, *flags, *nowhere, "--dump-dom", address], capture_output=True, text=True, check=True, timeout=50
    ).stdout
    assert "Would this detector work for you?" in document
    assert document.count("<svg") == 8
