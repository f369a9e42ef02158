"""The plots: every figure of dvc.yaml can be drawn, tells the detectors apart, and needs no network."""

import csv
import importlib.util
import io
import re
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert
from dvc_render.vega import VegaRenderer
from ruamel.yaml import YAML

from stages import evaluate, params
from stages.evidence import deletion
from stages.params import Evaluate
from stages.scoring import calibration, curves, thresholds
from stages.scoring.scores import Scores

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / ".dvc/plots"
VEGA_LITE = "5.21"
DETECTORS = ("resnet50-baseline", "resnet50-finetune", "densenet121-baseline", "densenet121-finetune")
ENDS = {"_low": -0.04, "_high": 0.04}
OVERLAYS = ("detectors_square", "leaderboard", "dots", "robustness", "reliability")
PANELS = ("histogram", "confusion_counts", "report", "answers", "deletion")
SETTINGS = Evaluate(confidence=0.95, resamples=100, max_error=0.05, seed=0)
COLOURS = ("#56b4e9", "#d55e00", "#009e73", "#cc79a7")
DVC_YAML = YAML(typ="safe").load(ROOT / "dvc.yaml")
FIGURES = {title: props for figure in DVC_YAML["plots"] for title, props in figure.items()}


def tables() -> dict[str, pd.DataFrame]:
    """All tables that stages write for plots, by their paths, made of 200 test images a detector."""
    random = np.random.default_rng(0)
    label = (np.arange(200) % 2).astype(np.int8)
    of_all: dict[str, list[pd.DataFrame]] = {}
    board = []
    for number, name in enumerate(DETECTORS):
        own = {}
        score = 1 / (1 + np.exp(-random.normal(size=200) - (1 + number) * (label - 0.5)))
        own["roc"] = curves.roc(label, score)
        own["pr"] = curves.precision_recall(label, score)
        own["scores"] = curves.histogram(label, score)
        own["confusion"] = curves.confusion(label, score, 0.4)
        own["report"] = curves.report(label, score, {"validation": 0.4, "0.5": 0.5})
        logit = np.log(score / (1 - score))
        threshold = thresholds.best_balanced(label, score)
        reading = calibration.fit(label, logit, threshold, 0.05)
        images = Scores(np.arange(200).astype(np.str_), label, logit, score, score)
        every = evaluate.figures_of(images, reading, {"5pct": 0.8, "1pct": 0.9}, SETTINGS)
        own["answers"] = curves.answers(label, reading.verdict(logit))
        probabilities = {"raw": score, "calibrated": reading.probability(logit)}
        own["reliability"] = curves.reliability(label, probabilities, 0.95)
        own["operating_points"] = evaluate.operating_points(images, images, threshold, SETTINGS)
        levels = [("jpeg", "clean"), ("jpeg", "90"), ("jpeg", "50"), ("blur", "clean"), ("blur", "2")]
        own["robustness"] = pd.DataFrame([{"corruption": kind, "level": level, **every} for kind, level in levels])
        only_fakes = every | {figure: np.nan for figure in every if "auc" in figure or "false_positive" in figure}
        own["cross_generator"] = pd.DataFrame(
            [{"set": "test", "seen": True, **every}, {"set": "generator", "seen": False, **only_fakes}]
        )
        drops = random.normal(size=(200, 1 + deletion.DRAWS, 3)) + 1 + number
        own["deletion"] = deletion.curves(drops, 64, 0.95)
        if name.endswith("finetune"):
            own["history"] = history()
        for table, rows in own.items():
            of_all.setdefault(table, []).append(rows.assign(detector=name))
        row = {"detector": name, "n": 200, "roc_auc": 0.6 + number / 10, "accuracy": 0.55 + number / 10}
        board.append(row | {f"{f}{end}": row[f] + by for f in ("roc_auc", "accuracy") for end, by in ENDS.items()})
    found = {f"plots/overlaid/{table}.csv": pd.concat(every, ignore_index=True) for table, every in of_all.items()}
    found["plots/cross_generator.csv"] = found.pop("plots/overlaid/cross_generator.csv")
    found["plots/leaderboard.csv"] = pd.DataFrame(board)
    pairs = pd.DataFrame(
        [{"pair": f"{one} over {other}", "lead": 0.02, "n": 200} for one, other in combinations(reversed(DETECTORS), 2)]
    )
    found["plots/differences.csv"] = pairs.assign(lead_low=-0.01, lead_high=0.05)
    splits = [(split, label) for split in ("train", "valid", "test") for label in ("fake", "real")]
    found["plots/data/counts.csv"] = pd.DataFrame(splits, columns=["split", "label"]).assign(images=range(100, 106))
    made = [("Format", "JPEG", 9), ("Format", "PNG", 2), ("JPEG quality", "75", 9), ("JPEG quality", "none", 2)]
    found["plots/data/properties.csv"] = pd.DataFrame(
        [(*row[:2], label, row[2]) for row in made for label in ("fake", "real")],
        columns=["property", "value", "label", "images"],
    )
    bins = [(size, label) for label in ("fake", "real") for size in (10.0, 20.0, 30.0)]
    found["plots/data/file_size.csv"] = pd.DataFrame(bins, columns=["kilobytes", "label"]).assign(images=range(5, 11))
    return found


def history() -> pd.DataFrame:
    """Five epochs."""
    table = pd.DataFrame({"epoch": range(1, 6)})
    for number, column in enumerate(("loss", "accuracy", "val_loss", "val_accuracy", "val_auc")):
        table[column] = 0.5 + np.linspace(0, 0.1, 5) + number / 100
    return table


TABLES = tables()


def figure(title: str, *revisions: str) -> dict[str, Any]:
    """A figure of dvc.yaml as Vega-Lite, filled by DVC's own renderer, with DVC's strings for cells."""
    props = FIGURES[title]
    points = [
        {**row, "rev": revision}
        for revision in revisions or ["workspace"]
        for path in props["y"]
        for row in csv.DictReader(io.StringIO(TABLES[path].to_csv(index=False)))
    ]
    y = next(iter(props["y"].values()))
    renderer = VegaRenderer(
        points, title, **{"title": title, "y_label": y, **props, "y": y, "template_dir": str(TEMPLATES)}
    )
    content: dict[str, Any] = renderer.get_filled_template()
    return content


def draw(title: str, *revisions: str) -> str:
    """A figure of dvc.yaml as SVG."""
    svg: str = vl_convert.vegalite_to_svg(figure(title, *revisions), vl_version=VEGA_LITE)
    return svg


def titled(*templates: str) -> list[str]:
    """The titles of the figures that use one of these templates."""
    return [title for title, props in FIGURES.items() if props["template"] in templates]


def test_every_template_is_used() -> None:
    used = {props["template"] for props in FIGURES.values()}
    assert used == {path.stem for path in TEMPLATES.glob("*.json")}


@pytest.mark.parametrize("title", FIGURES)
def test_every_figure_draws_without_a_warning_under_its_title_and_labels(
    title: str, capfd: pytest.CaptureFixture[str]
) -> None:
    svg = draw(title)
    assert capfd.readouterr().err == ""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert title in texts
    for label in ("x_label", "y_label"):
        if label in FIGURES[title]:
            assert FIGURES[title][label] in texts
    assert not {"undefined", "null", "NaN"} & set(texts)
    assert "NaN" not in svg


@pytest.mark.parametrize("title", titled(*OVERLAYS))
def test_overlaid_detectors_have_four_colours(title: str) -> None:
    svg = draw(title).lower()
    assert all(colour in svg for colour in COLOURS)
    assert all(name in svg for name in DETECTORS)


@pytest.mark.parametrize("title", titled("detectors"))
def test_fine_tuned_detectors_have_the_colours_that_they_have_beside_their_baselines(title: str) -> None:
    svg = draw(title).lower()
    colour_of = dict(zip(sorted(DETECTORS), COLOURS, strict=True))
    for name, colour in colour_of.items():
        assert (name in svg) == (colour in svg) == name.endswith("-finetune")


@pytest.mark.parametrize("title", titled(*PANELS))
def test_panels_are_named_after_their_detectors_and_say_how_many_images(title: str) -> None:
    svg = draw(title)
    assert all(name in svg for name in DETECTORS)
    assert "workspace (200 test images)" in svg


def test_detectors_whose_evidence_was_checked_on_other_numbers_of_images_keep_their_panels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Vega mixes up the panels of a grid of facets in which some are empty."""
    path = "plots/overlaid/deletion.csv"
    table = TABLES[path]
    monkeypatch.setitem(TABLES, path, table.assign(n=table["n"].where(table["detector"] != "resnet50-finetune", 12)))
    heads = re.findall(r">workspace \((\d+) test images\), ([^<]*)<", draw(*titled("deletion")))
    assert heads == [("12" if name == "resnet50-finetune" else "200", name) for name in DETECTORS]


@pytest.mark.parametrize("title", titled(*PANELS))
def test_a_revision_that_lacks_a_detector_leaves_the_other_panels_their_names(title: str) -> None:
    content = figure(title, "main", "experiment")
    values = content["data"]["values"]
    content["data"]["values"] = [v for v in values if v["rev"] == "main" or v["detector"] != DETECTORS[0]]
    svg: str = vl_convert.vegalite_to_svg(content, vl_version=VEGA_LITE)
    heads = re.findall(r">(main|experiment) \(200 test images\), ([^<]*)<", svg)
    assert heads == [("main", name) for name in DETECTORS] + [("experiment", name) for name in DETECTORS[1:]]


@pytest.mark.parametrize("title", FIGURES)
def test_two_revisions_are_told_apart_and_named_in_their_order(title: str) -> None:
    svg = draw(title, "main", "experiment")  # which is not the order of the alphabet
    names = [text.split()[0] for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    assert names.index("main") < names.index("experiment")
    if FIGURES[title]["template"] in ("detectors", "detectors_square"):
        assert "stroke-dasharray" in svg


def test_confusion_shows_counts_and_shares() -> None:
    svg = draw("Confusion matrix at the validation threshold, test images")
    cells = TABLES["plots/overlaid/confusion.csv"]
    for count, share in zip(cells["count"], cells["share"], strict=True):
        assert f"{count} ({share:.1%})" in svg


@pytest.mark.parametrize("title", titled("robustness"))
def test_each_kind_of_corruption_has_its_unit(title: str) -> None:
    svg = draw(title)
    assert "JPEG, quality" in svg
    assert "Gaussian blur, σ in px" in svg


def test_every_kind_of_corruption_is_named_in_the_template() -> None:
    template = (TEMPLATES / "robustness.json").read_text(encoding="utf-8")
    assert all(f"{kind}: '" in template for kind in params.load(ROOT / "params.yaml").corruptions.conditions())


def test_file_sizes_begin_each_bar_where_the_last_one_ends() -> None:
    svg = draw("Data: file size per class")
    bars = re.findall(r'aria-label="[^"]*?low: (\d+)\.0; high: (\d+)\.0', svg)
    assert sorted({(int(low), int(high)) for low, high in bars}) == [(0, 10), (10, 20), (20, 30)]


def test_every_property_has_a_panel_of_its_own_values_the_commonest_first() -> None:
    svg = draw("Data: format, resolution and compression per class")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    shown = [text for text in texts if text in ("Format", "JPEG quality", "JPEG", "PNG", "75", "none")]
    assert shown == ["Format", "JPEG quality", "JPEG", "PNG", "75", "none"]


def built_page() -> str:
    """The page as .dvc/plots/build_page.py makes it."""
    spec = importlib.util.spec_from_file_location("build_page", TEMPLATES / "build_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page: str = module.page()
    return page


def test_the_page_is_what_the_pinned_vl_convert_makes() -> None:
    committed = (TEMPLATES / "page.html").read_text(encoding="utf-8")
    assert committed == built_page(), "run `python .dvc/plots/build_page.py` and commit its page.html"


def test_the_page_keeps_what_dvc_fills_in_and_loads_nothing() -> None:
    page = (TEMPLATES / "page.html").read_text(encoding="utf-8")
    assert page.count("{plot_divs}") == page.count("{refresh_tag}") == 1
    assert "{scripts}" not in page  # where DVC would put links to a server
    assert not re.search(r"<(script|link)[^>]*\s(src|href)=", page)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that `dvc plots show` writes for all figures of dvc.yaml."""
    folder = tmp_path_factory.mktemp("plots")
    shutil.copytree(TEMPLATES, folder / ".dvc/plots")
    (folder / ".dvc/config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n[plots]\n    html_template = plots/page.html\n"
    )
    YAML().dump({"plots": DVC_YAML["plots"]}, folder / "dvc.yaml")
    for path, table in TABLES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / path, index=False)
    subprocess.run([sys.executable, "-m", "dvc", "plots", "show", "-q"], cwd=folder, check=True)
    return folder / "dvc_plots/index.html"


def test_a_browser_draws_every_figure_of_the_page_once_without_a_network(shown: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here to open the page with")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    nowhere = ["--proxy-server=127.0.0.1:9", f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000"]
    document = subprocess.run(
        [browser, *flags, *nowhere, "--dump-dom", shown.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    ).stdout
    body = document[document.index("<main>") :]
    assert len(re.findall(r'<svg[^>]*class="marks"', body)) == len(FIGURES)
    for title in FIGURES:
        assert body.count(f">{title}</text>") == 1
    assert "Real faces from generated ones</h1>" in document
