"""Stage `report`: one page that answers "would this detector work for me?", and a model card for each detector.

Reads what the stages before it published: ``metrics/data.json``, ``plots/``, ``data/figures/``,
``data/leaderboard.json``, ``data/models/M-P.json``, ``data/exported/``, ``data/explanations/``, ``data/raw/`` and
``data/contact_sheets/``. Writes
``data/report/index.html``, which needs no network and prints well, and ``data/report/M-P.md``, a model card (Mitchell
et al. 2019, arXiv:1810.03993) with the front matter that model hubs read. The page shows faces, so both lie under
``data/``. Nothing is computed anew: every number is one of those files', rounded. As the last stage, it shows MLflow
what there is, and says what comes next.
"""

import base64
import io
import os
from pathlib import Path
from typing import Any, get_args

import jinja2
import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from stages import tracking
from stages.errors import run
from stages.files import publish, read_json
from stages.params import Params, Phase, load
from stages.reporting import figures, findings

REPORT = Path("data/report")
MADE = f"""Made: {REPORT}/index.html, {REPORT}/*.md (a card for each detector), data/champion.keras, metrics/, plots/.
Next: """
COMMIT = """git add . && git commit -m "My run"   keep it: experiments are compared with the last commit
      """
OPEN = f"""open {REPORT}/index.html in a browser: would this detector work for you? It needs no network.
      dvc plots show     every curve of every detector, in dvc_plots/index.html
      dvc metrics show   the headline figures;  dvc metrics diff  what an experiment changed
      make ui            the runs in MLflow"""
TABLES = (
    *("roc", "reliability", "robustness", "sets", "operating_points", "answers"),
    *("report", "confusion"),
)


def main() -> None:
    """Write the page and the cards."""
    params = load()
    content = gather(params)
    page = environment().get_template("page.html.j2").render(content, pictures=pictures(content))
    card = environment().get_template("card.md.j2")
    with publish(REPORT) as part:
        part.mkdir()
        (part / "index.html").write_text(page, encoding="utf-8")
        for name in content["detectors"]:
            (part / f"{name}.md").write_text(card.render(content, name=name), encoding="utf-8")
    tracking.mirror(params)
    print(f"{MADE}{'' if os.environ.get('DVC_EXP_NAME') else COMMIT}{OPEN}")


def gather(params: Params) -> dict[str, Any]:
    """All that the templates show: files as they are, by their names, and for each detector what they say in words."""
    board = pd.read_csv("plots/leaderboard.csv")
    detectors = {name: read_detector(name) for name in board["detector"]}
    sources = {name: read_json(f"data/raw/{name}.json") for name in params.sets}
    data = read_json("metrics/data.json")
    pairs = pd.read_csv("plots/differences.csv")
    words = findings.Findings(data, sources, board, pairs, params)
    return {
        "params": params,
        "phases": get_args(Phase),
        "champion": read_json("data/leaderboard.json")["champion"],
        "detectors": detectors,
        "pairs": pairs.to_dict("records"),
        "cross": pd.read_csv("plots/cross_generator.csv"),
        "sets": pd.read_csv("plots/data/sets.csv"),
        "data": data,
        "sources": sources,
        "licence": words.licence,
        "drawn": words.source == "sample",
        "cautions": {name: words.caution(detector) for name, detector in detectors.items()},
        "findings": {name: words.of(detector) for name, detector in detectors.items()},
    }


def read_detector(name: str) -> dict[str, Any]:
    """The files of one detector: ``metrics``, ``record``, ``calibration``, ``explanations`` and its tables."""
    return {
        "name": name,
        "metrics": read_json(f"data/figures/{name}.json"),
        "record": read_json(f"data/models/{name}.json"),
        "calibration": read_json(f"data/exported/{name}/calibration.json"),
        "explanations": read_json(f"data/explanations/{name}/explanations.json"),
        "deletion": pd.read_csv(f"data/explanations/{name}/deletion.csv"),
        **{table: pd.read_csv(f"plots/detectors/{name}/{table}.csv", dtype={"level": str}) for table in TABLES},
    }


def pictures(content: dict[str, Any]) -> dict[str, Markup]:
    """The page's figures as SVG, and its sheets of faces as JPEG, all ready to stand in HTML."""
    kinds = (*TABLES, "deletion")
    tables = {kind: {name: files[kind] for name, files in content["detectors"].items()} for kind in kinds}
    drawn = {
        "roc": figures.roc(tables["roc"]),
        "reliability": figures.reliability(tables["reliability"]),
        "answers": figures.answers(tables["answers"]),
        "elsewhere": figures.elsewhere(content["cross"]),
        "deletion": figures.deletion(tables["deletion"]),
        "history": figures.history(
            {
                name: pd.read_csv(f"data/models/{name}.csv")
                for name, files in content["detectors"].items()
                if files["record"]["phase"] == "finetune"
            }
        ),
    }
    if len(next(iter(tables["robustness"].values()))):
        drawn["robustness"] = figures.robustness(tables["robustness"], "roc_auc", "AUC")
        drawn["robustness_recall"] = figures.robustness(tables["robustness"], "recall_fake", "Fakes called fake")
    sheets = {name: jpeg(f"data/explanations/{name}/sheet.jpg") for name in content["detectors"]}
    faces = {name: jpeg(f"data/contact_sheets/{name}.jpg") for name in content["sources"]}
    return {name: svg(figure) for name, figure in drawn.items()} | sheets | {"faces": faces}


def svg(figure: Figure) -> Markup:
    """A figure as an ``<svg>`` element; the same tables give the same text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "report", "font.size": 9}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def jpeg(path: str) -> Markup:
    """A JPEG file as an address that holds it."""
    return Markup("data:image/jpeg;base64,") + base64.b64encode(Path(path).read_bytes()).decode()


def environment() -> jinja2.Environment:
    """The templates; HTML is escaped, a name that is missing is an error."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("stages.reporting", "."),
        autoescape=jinja2.select_autoescape(["html", "html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"interval": findings.interval, "percent": findings.percent, "number": findings.number}
    return found


if __name__ == "__main__":
    run(main)
