"""Stage `explain`: what one detector's answers rest on, and a check whether that is true.

Reads ``data/exported/M-P/``, the detector as it judges photos, its ``data/scores/M-P.parquet``, and the test images
that it shows, out of ``data/raw/`` by ``data/index/``, as shards hold them. A logit is the mean, over the places of an
image, of the evidence there (:func:`stages.detectors.assembly.with_evidence`); here evidence counts from the threshold,
so that its mean is above 0 where the answer is fake. Writes, in ``data/explanations/M-P/``, ``sheet.jpg``, faces with
their evidence (right answers drawn by a seed, and the most confident wrong ones), ``explanations.json``, what the sheet
shows and the figures of the check, and ``deletion.csv``, the check: what answers lose when the places that speak most
for them are deleted, and what when as many random ones are. No TensorFlow.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.special import logit as logit_of

from stages.errors import UserError, run
from stages.evidence import choice, deletion, sheet
from stages.faces import archive, processing, records
from stages.faces.image import decode
from stages.files import publish, reading, write_json
from stages.params import detector_argument, load
from stages.photos import exported
from stages.photos.exported import Detector
from stages.progress import progress
from stages.scoring import intervals, scores
from stages.scoring.calibration import Calibration

NAME = 26  # characters of a file's name that fit under a face
NOTE = 100  # characters that fit into a line of the notes

Pixels = NDArray[np.float32]  # (n, size, size, 3), RGB in 0–255
Numbers = NDArray[np.float64]


def main() -> None:
    """Show what one detector's answers rest on, and check it by deletion."""
    name = detector_argument(main.__doc__)
    params = load()
    test = scores.read(f"data/scores/{name}.parquet", "test")
    detector = exported.load(exported.FOLDER / name)
    calibrated = detector.calibration

    called_fake = test.score >= calibrated.threshold
    generator = np.random.default_rng(params.explain.seed)
    kinds = choice.kinds(test.label, test.logit, called_fake, params.explain.images, generator)
    probes = choice.probes(called_fake, params.explain.deletion_images, generator)
    chosen = np.unique(np.concatenate([probes, *(kind.shown for kind in kinds)]))
    images = faces(test.member[chosen].tolist(), detector)
    logits, evidence = judged(detector, images)
    evidence -= logit_of(calibrated.threshold)
    face = {number: (images[i], evidence[i], logits[i]) for i, number in enumerate(chosen)}

    drops = np.stack(
        [
            _drops(detector, *face[number], bool(called_fake[number]), generator)
            for number in progress(probes, desc=f"{name}, deletion", unit="image")
        ]
    )
    check = _check(drops, called_fake[probes], params.evaluate.confidence)
    shown = {kind.name: [_row(test, calibrated, number) for number in kind.shown] for kind in kinds}

    sheets = [
        sheet.Group(
            kind.title,
            [sheet.Face(*face[n][:2], _caption(row)) for n, row in zip(kind.shown, shown[kind.name], strict=True)],
        )
        for kind in kinds
    ]
    with publish(f"data/explanations/{name}/sheet.jpg") as part:
        sheet.draw(sheets, f"{name}: what its answers rest on", _notes(check), part)
    write_json(
        f"data/explanations/{name}/explanations.json",
        {
            "n": len(test.label),
            "threshold": calibrated.threshold,
            "kinds": [{"name": k.name, "title": k.title, "of": k.of, "faces": shown[k.name]} for k in kinds],
            "deletion": check,
        },
    )
    with publish(f"data/explanations/{name}/deletion.csv") as part:
        table = deletion.curves(drops, evidence[0].size, params.evaluate.confidence)
        table.to_csv(part, index=False, float_format="%.4g")
    print(f"{name}: {check['sentence']}")


def faces(members: Sequence[str], detector: Detector) -> Pixels:
    """The test images of these names (set/name), in their order, as the detector sees them."""
    size = detector.size
    found: dict[str, Pixels] = {}
    for name in dict.fromkeys(member.partition("/")[0] for member in members):
        wanted = [member.partition("/")[2] for member in members if member.startswith(f"{name}/")]
        index = Path(f"data/index/{name}.parquet")
        with reading(index):
            rows = pd.read_parquet(index, filters=[("verdict", "==", "ok"), ("member", "in", wanted)])
        with archive.open_archive(Path(f"data/raw/{name}.zip")) as zipped:
            stored = records.read(name, zipped, rows, size=size, jpeg=detector.jpeg, align=detector.align)
            for data, _, member in stored:
                picture = processing.whole(Image.fromarray(decode(data)), size, None)
                found[member] = np.asarray(picture, np.float32)
    if missing := [member for member in members if member not in found]:
        raise UserError(
            f"data/index does not know {missing[0]} as sound, though it was scored; score anew with `dvc repro`"
        )
    return np.stack([found[member] for member in members])


def judged(detector: Detector, images: Pixels) -> tuple[Numbers, Numbers]:
    """Of each image the logit (n,) and the evidence (n, h, w), in logits."""
    logits, evidence, _ = zip(*map(detector.network, images), strict=True)
    return np.array(logits, np.float64), np.array(evidence, np.float64)


def _drops(
    detector: Detector,
    image: NDArray[np.float32],
    evidence: Numbers,
    logit: float,
    called_fake: bool,
    generator: np.random.Generator,
) -> Numbers:
    """What the answer on one image loses, in logits, by each deletion of :func:`deletion.plan`: its first two axes."""
    towards = 1 if called_fake else -1
    deleted = deletion.plan(towards * evidence, generator)
    # On a map of few places random orders often delete the same ones.
    different, which = np.unique(deleted.reshape(-1, *evidence.shape), axis=0, return_inverse=True)
    logits, _ = judged(detector, deletion.without(image, different))
    return (towards * (logit - logits))[which].reshape(deleted.shape[:2])


def _check(drops: Numbers, called_fake: NDArray[np.bool_], confidence: float) -> dict[str, Any]:
    """The figures of the deletion check: in how many images the map does better than chance, and what that says."""
    n, better = len(drops), int(deletion.better(drops).sum())
    low, high = intervals.of_share(better, n, confidence)
    verdict = "the map shows what its answers rest on" if low > 0.5 else "the map is no better than chance here"
    return {
        "n": n,
        "called_fake": int(called_fake.sum()),
        "called_real": int((~called_fake).sum()),
        "random_orders": deletion.DRAWS,
        "better": better,
        "share": better / n,
        "low": low,
        "high": high,
        "confidence": confidence,
        "sentence": (
            f"deleting what speaks most for an answer costs it more than deleting at random in {better} of {n} test "
            f"images ({100 * better / n:.0f} %, {100 * confidence:g} % interval {100 * low:.0f} % to "
            f"{100 * high:.0f} %): {verdict}"
        ),
    }


def _row(test: scores.Scores, calibrated: Calibration, number: int) -> dict[str, Any]:
    """What there is to say about a test image, by its number."""
    return {
        "member": str(test.member[number]),
        "label": int(test.label[number]),
        "logit": float(test.logit[number]),
        "probability": float(calibrated.probability(test.logit[number])),
    }


def _caption(row: dict[str, Any]) -> str:
    """True class and calibrated probability, and the end of the file's name."""
    name = PurePosixPath(row["member"]).name
    short = name if len(name) <= NAME else f"…{name[1 - NAME :]}"
    return f"{('real', 'fake')[row['label']]}, P(fake) {row['probability']:.3f}\n{short}"


def _notes(check: dict[str, Any]) -> str:
    """What a reader of the sheet must know."""
    return "\n".join(
        [
            "Evidence is exact: its mean over a face is the detector's logit, here counted from the threshold.",
            "Each square stands for a place of the last layer, which sees a good deal beyond it.",
            *textwrap.wrap(f"Check: {check['sentence']}.", NOTE),
        ]
    )


if __name__ == "__main__":
    run(main)
