"""What is in the corpus, in numbers, and whether the classes can be told apart without looking at a face."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from stages.faces import image
from stages.faces.duplicates import Integers, Likeness, count_pairs
from stages.faces.layout import LABELS, SPLITS

# What the shortcut classifier sees: nothing of a face, only how the file was made and its average colours.
SHORTCUTS = [
    "bytes",
    "bytes_per_pixel",
    "width",
    "height",
    "jpeg_quality",
    "format",
    "mode",
    "quantisation",
    "mean_red",
    "mean_green",
    "mean_blue",
    "std_red",
    "std_green",
    "std_blue",
]
COLUMNS = [
    "label",
    "split",
    "sha256",
    "encoding",
    "verdict",
    "group",
    *(set(SHORTCUTS) - {"bytes_per_pixel"}),
]  # of the index
SHORTCUT_IMAGES = 20_000  # enough for two decimals of an AUC, in seconds
SHORTCUT_FOLDS = 5
FILE_SIZE_BINS = 20
COMMONEST = 8  # values of a property that get bars of their own


def figures(
    images: pd.DataFrame, likeness: Likeness, files: Integers, *, quarantined: int, other: int
) -> dict[str, float | None]:
    """At most 20 numbers about the corpus.

    ``images``: one row an image that can be used, ``COLUMNS`` of data/index/NAME.parquet; ``likeness`` and ``files``
    (int64, n: which distinct file an image is) in the same order; ``quarantined``: how many images cannot be used;
    ``other``: members of the archive that are no faces. Duplicates are counted in pairs; near ones exclude exact ones.
    """
    no_links = np.empty((0, 2), np.int64)
    together = np.zeros(len(images), np.int64)
    label = images["label"].to_numpy().astype(np.int64)
    split = pd.Categorical(images["split"], SPLITS).codes.astype(np.int64) + 1  # 0: none

    def exact(part: Integers) -> int:
        return count_pairs(files, no_links, part)

    def near(part: Integers) -> int:
        return count_pairs(likeness.code, likeness.links, part) - exact(part)

    auc, low, high = shortcut_auc(images)
    return {
        "images": len(images),
        "real": int((label == LABELS["real"]).sum()),
        "fake": int((label == LABELS["fake"]).sum()),
        "quarantined": quarantined,
        "other_files": other,
        "converted": int((images["encoding"] == "png").sum()),
        "exact_duplicates": exact(together),
        "exact_duplicates_across_splits": exact(together) - exact(split),
        "exact_duplicates_across_classes": exact(together) - exact(label),
        "near_duplicates": near(together),
        "near_duplicates_across_splits": near(together) - near(split),
        "near_duplicates_across_classes": near(together) - near(label),
        "largest_group": int(images["group"].value_counts().max()),
        "median_width": float(images["width"].median()),
        "median_height": float(images["height"].median()),
        "median_kilobytes": float(images["bytes"].median() / 1000),
        "shortcut_auc": auc,
        "shortcut_auc_low": low,
        "shortcut_auc_high": high,
    }


def shortcut_auc(images: pd.DataFrame) -> tuple[float | None, float | None, float | None]:
    """The cross-validated AUC of a classifier that sees only ``SHORTCUTS``, and its 95 % interval.

    0.5: the classes cannot be told apart by them; 1: every image can. Duplicates stay in one fold. The interval is
    Hanley and McNeil's (doi:10.1148/radiology.143.1.7063747). All None where a class has fewer than two groups.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    images = images.sample(min(len(images), SHORTCUT_IMAGES), random_state=0)
    fake, groups = images["label"].to_numpy() == LABELS["fake"], images["group"].to_numpy()
    folds = min(SHORTCUT_FOLDS, len(np.unique(groups[fake])), len(np.unique(groups[~fake])))
    if folds < 2:
        return None, None, None
    seen = images.assign(bytes_per_pixel=images["bytes"] / (images["width"] * images["height"]))[SHORTCUTS]
    for column in ("format", "mode", "quantisation"):
        seen[column] = seen[column].astype("category").cat.codes
    seen["jpeg_quality"] = seen["jpeg_quality"].fillna(-1)  # or a fold of PNGs would be a column of nothing
    with threadpool_limits(1):  # several threads save no time on so little, and lose minutes on a busy machine
        scores = cross_val_predict(
            HistGradientBoostingClassifier(max_iter=50, random_state=0),
            seen.to_numpy(float),
            fake,
            groups=groups,
            cv=StratifiedGroupKFold(folds, shuffle=True, random_state=0),
            method="predict_proba",
        )[:, 1]
    auc = float(roc_auc_score(fake, scores))
    margin = 1.96 * _standard_error(auc, int(fake.sum()), int((~fake).sum()))
    return auc, max(0.0, auc - margin), min(1.0, auc + margin)


def described(data: bytes) -> dict[str, Any]:
    """What the shortcut classifier may see of an image (bytes of any kind that is read): a row of ``COLUMNS``."""
    return {"bytes": len(data), **asdict(image.inspect(data)), **image.colours(image.decode(data))}


def counts(images: pd.DataFrame) -> pd.DataFrame:
    """The images of each official split and class: ``split,label,images``; split is "none" where there is none."""
    images = _named(images)
    return images.groupby(["split", "label"]).size().rename("images").reset_index()


def file_sizes(images: pd.DataFrame) -> pd.DataFrame:
    """Histograms of the file size of each class: ``kilobytes`` (upper edge of the bin), ``label``, ``images``.

    Both classes share the bins, which reach to the 99th percentile; the last bin also takes the larger files.
    """
    images = _named(images)
    kilobytes = images["bytes"] / 1000
    edges = np.linspace(0, np.percentile(kilobytes, 99), FILE_SIZE_BINS + 1)
    rows = [
        pd.DataFrame(
            {
                "kilobytes": edges[1:].round(3),
                "label": label,
                "images": np.histogram(np.minimum(kilobytes[images["label"] == label], edges[-1]), edges)[0],
            }
        )
        for label in LABELS
    ]
    return pd.concat(rows)


def properties(images: pd.DataFrame) -> pd.DataFrame:
    """How the files of each class were made: ``property,value,label,images``, the commonest value of a property first.

    Properties are the format, the resolution (width × height, px), the JPEG quality and the quantisation tables (their
    digest); value is "none" where a file has no such thing, and "other" for all but the ``COMMONEST`` values.
    """
    images = _named(images)
    values = {
        "Format": images["format"],
        "Resolution": images["width"].astype(str) + " × " + images["height"].astype(str),
        "JPEG quality": images["jpeg_quality"].astype("Int8").astype("string").fillna("none"),
        "Quantisation tables": images["quantisation"].fillna("none"),
    }
    tables = []
    for name, value in values.items():
        order = [*value.value_counts(sort=True).index[:COMMONEST], "other"]
        shown = pd.Categorical(value.where(value.isin(order), "other"), order)
        count = images.groupby([shown, "label"], observed=True).size()
        tables.append(count.rename_axis(["value", "label"]).rename("images").reset_index().assign(property=name))
    return pd.concat(tables)[["property", "value", "label", "images"]]


def _named(images: pd.DataFrame) -> pd.DataFrame:
    """The images with the names of their labels and splits."""
    names = {number: name for name, number in LABELS.items()}
    return images.assign(label=images["label"].map(names), split=images["split"].fillna("none"))


def _standard_error(auc: float, positives: int, negatives: int) -> float:
    """The standard error of an AUC, by Hanley and McNeil."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return float(np.sqrt(variance / (positives * negatives)))
