"""Command: lay a detector into ``pretrained/``, where it answers right after a clone, before anything is trained.

    python -m stages.pretrained M-P --command "dvc exp run …" [--licence "CORPUS: TERMS" …]

For after a run on photographs. Reads the detector as it was exported and reported, ``data/exported/M-P/`` and
``data/report/M-P.md``, with ``data/models/M-P.keras`` and its record, ``data/training.json``, ``data/raw/``, and the
test faces in ``data/shards/`` of the sets that it learned from. Writes ``network.tflite``, whose weights have half the
bits; ``calibration.json``; ``detector.json``, with what it learned from, what made it, and what half precision changed
of the answers about all test faces; the model card as ``README.md``; and ``LICENSE``, for the terms of the images bind
the detector too. All of it, or nothing.
"""

import argparse
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from stages.detectors import assembly, device
from stages.detectors.export import converted
from stages.errors import UserError, run
from stages.faces import shards
from stages.files import commit, publish, read_json, reading, sha256, write_json
from stages.photos import exported
from stages.photos.exported import PRETRAINED, Detector, Network
from stages.progress import progress
from stages.scoring import figures

LIMIT = 16_000_000  # bytes of the network: every clone fetches it, and every older one
TOLERANCE = 0.1  # of a calibrated logit: P(fake) moves by 0.025 at most


def main() -> None:
    """Lay one detector into ``pretrained/``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", metavar="M-P", help="such as densenet121-baseline")
    parser.add_argument("--command", required=True, help="what made it, for whoever wants to make it again")
    parser.add_argument("--licence", action="append", help="of some training images, if the source does not know it")
    arguments = parser.parse_args()

    name, code = arguments.detector, commit()
    model, folder = Path(f"data/models/{name}.keras"), exported.FOLDER / arguments.detector
    full = exported.load(folder)
    if full.caution:
        raise UserError(f"{name} cannot be laid into {PRETRAINED}/, for others to use: {full.caution.sentence}")
    if full.sha256 != sha256(model):
        raise UserError(f"{folder} was not made of {model}; {exported.remedy(folder)}")
    with reading(report := Path(f"data/report/{name}.md")):
        reported = report.read_text(encoding="utf-8")
    known = {one: source(one).get("licence") for one in learned() if source(one)["source"] != "sample"}
    licences = [f"{one}: {licence}" for one, licence in known.items() if licence] + (arguments.licence or [])
    if len(licences) < len(known):
        without = ", ".join(one for one, licence in known.items() if not licence)
        raise UserError(f'the licence of {without} is not known; give it for each: --licence "SET: TERMS"')

    device.prepare("float32", seed=0)  # nothing is drawn here
    answers = assembly.with_distance(assembly.with_evidence(assembly.load(model)), model.with_suffix(".npz"))
    network = converted(answers, full.size, half=True)
    if len(network) > LIMIT:
        raise UserError(
            f"{name} has {len(network) / 1e6:.1f} MB in half precision, and {PRETRAINED}/ takes {LIMIT / 1e6:g}; "
            "choose a smaller detector"
        )
    with publish(PRETRAINED) as part:
        part.mkdir()
        (part / exported.NETWORK).write_bytes(network)
        shutil.copyfile(folder / exported.READING, part / exported.READING)
        halved = difference(full, exported.network(part / exported.NETWORK))
        facts = read_json(folder / exported.FACTS) | {
            "detector": PRETRAINED.name,
            "model": name,
            "precision": "float16",  # of the weights
            "half_precision": halved,
            "trained_on": training_sets(),
            "licences": licences,
            "command": arguments.command,
            "commit": code,
        }
        write_json(part / exported.FACTS, facts)
        (part / "README.md").write_text(card(reported, facts), encoding="utf-8")
        (part / "LICENSE").write_text(terms(facts), encoding="utf-8")
    print(f"{PRETRAINED}: {name}, {len(network) / 1e6:.1f} MB; {sentence(halved)}")


def training_sets() -> list[dict[str, Any]]:
    """What the detector learned from: of each set its name, real and fake training images, and the archive's digest."""
    counts = {name: shards.counts([shards.folder("train", name)]) for name in learned()}
    return [
        {"name": name, "real": count["real"], "fake": count["fake"], "sha256": source(name)["sha256"]}
        for name, count in counts.items()
    ]


def learned() -> list[str]:
    """The names of the sets that the detector learned from."""
    return [folder.name for folder in shards.training("train")]


def source(name: str) -> dict[str, Any]:
    """What the stage `download` wrote down of a set."""
    return dict(read_json(f"data/raw/{name}.json"))


def difference(full: Detector, half: Network) -> dict[str, Any]:
    """What half precision changes of the answers about all test faces. Raises :class:`UserError` if it is much."""
    labels, logits = [], []
    folders = [shards.folder("test", name) for name in learned()]
    faces = shards.faces([there for there in folders if shards.holds(there)], size=full.size, batch_size=1)
    for images, label, _ in progress(faces, desc="test faces in full and half precision", unit="face"):
        image = images.numpy()[0].astype(np.float32)
        logits.append([network(image)[0] for network in (full.network, half)])
        labels.append(label.numpy()[0])
    pairs, label = np.array(logits, np.float64), np.array(labels, np.int8)
    scaled, verdicts = full.calibration.scaled(pairs), full.calibration.verdict(pairs)
    strays = float(np.abs(scaled[:, 1] - scaled[:, 0]).max())
    if not strays <= TOLERANCE:
        raise UserError(
            f"in half precision, {full.name} moves the calibrated logit of a test face by {strays:.2g}, and "
            f"{TOLERANCE:g} is allowed; choose another detector"
        )
    of_full, of_half = (figures.roc_auc(label, column) for column in scaled.T)
    return {
        "n": len(label),
        "largest_difference": strays,  # of a calibrated logit
        "verdicts_changed": int((verdicts[:, 0] != verdicts[:, 1]).sum()),
        "roc_auc_full": of_full,
        "roc_auc_half": of_half,
    }


def sentence(halved: dict[str, Any]) -> str:
    """What half precision changed, for people."""
    return (
        f"half precision moves a calibrated logit by {halved['largest_difference']:.2g} at most, changes "
        f"{halved['verdicts_changed']:,} verdicts on {halved['n']:,} test faces, and makes the AUC "
        f"{halved['roc_auc_half']:.4f}, from {halved['roc_auc_full']:.4f}"
    )


def card(reported: str, facts: dict[str, Any]) -> str:
    """The model card of the report, with what is so of this copy alone."""
    sets = [f"{one['name']} ({one['real']:,} real, {one['fake']:,} fake)" for one in facts["trained_on"]]
    general = re.sub("^license: .*$", "license: other\nlicense_link: LICENSE", reported, count=1, flags=re.MULTILINE)
    return f"""{general.rstrip()}

## The copy in this folder

`make predict` and `make demo` ask it where there is no champion, or one that is worth nothing for photographs.

- Its weights have 16 bits: {sentence(facts["half_precision"])}.
- Trained on {", ".join(sets)}.
- Made by `{facts["command"]}` at commit {facts["commit"]}.
- Licences of the images, which bind the detector too: [LICENSE](LICENSE).
"""


def terms(facts: dict[str, Any]) -> str:
    """The text of LICENSE."""
    listed = "".join(f"- {licence}\n" for licence in facts["licences"])
    return f"""The detector in this folder learned from images of others, whose terms bind its use too:

{listed}
The MIT licence of this repository's code is not for this folder.
"""


if __name__ == "__main__":
    run(main)
