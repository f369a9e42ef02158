"""The audit of a corpus: known counts, and shortcuts that give a class away."""

import numpy as np
import pandas as pd
import pytest

from stages.faces import audit
from stages.faces.duplicates import Likeness


@pytest.fixture
def corpus():
    """A function that makes the index of ``count`` images, classes in turn, alike in all that the audit sees."""

    def corpus(count=400):
        random = np.random.default_rng(0)
        index = pd.DataFrame(
            {
                "member": [f"{number:04}.jpg" for number in range(count)],
                "label": np.arange(count) % 2,
                "split": None,
                "bytes": random.integers(8_000, 12_000, count),
                "format": "JPEG",
                "mode": "RGB",
                "width": 64,
                "height": 32,
                "encoding": "original",
                "jpeg_quality": 75,
                "quantisation": "aaaaaaaa",
                "group": np.arange(count),
            }
        )
        channels = [f"{figure}_{channel}" for figure in ("mean", "std") for channel in ("red", "green", "blue")]
        return index.assign(**{channel: random.uniform(50, 200, count) for channel in channels})

    return corpus


def unlike(count):
    return Likeness(np.arange(count), np.empty((0, 2), np.int64), np.arange(count))


def test_counts_of_images_quarantine_and_duplicates(corpus):
    images = corpus(9)
    images["split"] = ["train"] * 4 + ["valid"] * 2 + ["test"] * 3
    images.loc[1, "encoding"] = "png"
    # 0 and 1 are near (train; real and fake); 2 and 6 are one file, real, in train and test.
    code = np.array([0, 1, 2, 3, 4, 5, 2, 7, 8])
    images["group"] = [0, 0, 2, 3, 4, 5, 2, 7, 8]
    likeness = Likeness(code, np.array([[0, 1]]), images["group"].to_numpy())
    figures = audit.figures(images, likeness, code, quarantined=1, other=3)
    expected = {
        "images": 9,
        "real": 5,
        "fake": 4,
        "quarantined": 1,
        "other_files": 3,
        "converted": 1,
        "exact_duplicates": 1,
        "exact_duplicates_across_splits": 1,
        "exact_duplicates_across_classes": 0,
        "near_duplicates": 1,
        "near_duplicates_across_splits": 0,
        "near_duplicates_across_classes": 1,
        "largest_group": 2,
        "median_width": 64,
        "median_height": 32,
    }
    assert {name: figures[name] for name in expected} == expected
    assert figures["median_kilobytes"] == np.median(images["bytes"]) / 1000


def test_what_it_sees_of_an_image_is_what_the_index_has_of_it(corpus, png):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20] = (10, 20, 30)
    data = png(pixels)
    seen = audit.described(data)
    assert {"label", "group", *seen} >= set(corpus(1)) - {"member", "split"}
    wanted = {"bytes": len(data), "width": 60, "height": 40, "format": "PNG", "jpeg_quality": None}
    assert seen.items() >= (wanted | {"mean_blue": 15.0, "std_green": 10.0}).items()


@pytest.mark.parametrize("count", [4, 40])
def test_pictures_without_a_jpeg_quality_are_no_obstacle(corpus, count):
    auc, low, high = audit.shortcut_auc(corpus(count).assign(format="PNG", jpeg_quality=np.nan, quantisation=None))
    assert 0 <= low <= auc <= high <= 1


def test_the_figures_are_at_most_twenty_numbers(corpus):
    figures = audit.figures(corpus(), unlike(400), np.arange(400), quarantined=0, other=0)
    assert len(figures) <= 20
    assert all(isinstance(figure, int | float) for figure in figures.values())


def test_classes_made_alike_cannot_be_told_apart(corpus):
    auc, low, high = audit.shortcut_auc(corpus(2000))
    assert auc == pytest.approx(0.5, abs=0.05)
    assert low < auc < high


@pytest.mark.parametrize(
    "shortcut",
    [
        {"jpeg_quality": 90, "quantisation": "bbbbbbbb"},
        {"quantisation": "bbbbbbbb"},
        {"format": "PNG"},
        {"mode": "L"},
        {"width": 65},
        {"bytes": 20_000},
        {"mean_blue": 10.0},
    ],
    ids=lambda shortcut: "+".join(shortcut),
)
def test_a_class_that_was_made_differently_is_found_out(corpus, shortcut):
    index = corpus()
    index.loc[index["label"] == 1, list(shortcut)] = list(shortcut.values())
    auc, low, high = audit.shortcut_auc(index)
    assert auc > 0.99
    assert low <= auc <= high <= 1


def test_equal_images_in_train_and_test_do_not_make_a_shortcut(corpus):
    index = corpus(40)
    index["group"] = np.arange(40)
    repeated = pd.concat([index] * 20, ignore_index=True)  # memorised, each image would give itself away
    assert audit.shortcut_auc(repeated)[0] < 0.8


def test_the_order_of_few_images_hardly_matters_and_runs_repeat(corpus):
    assert audit.shortcut_auc(corpus()) == audit.shortcut_auc(corpus())


def test_there_is_no_shortcut_auc_where_one_group_is_all_of_a_class(corpus):
    index = corpus(20)
    index.loc[index["label"] == 1, "group"] = 1
    assert audit.shortcut_auc(index) == (None, None, None)


def test_counts_by_split_and_class(corpus):
    index = corpus(6)
    index["split"] = ["train", "train", "train", "test", None, None]
    assert audit.counts(index).values.tolist() == [
        ["none", "fake", 1],
        ["none", "real", 1],
        ["test", "fake", 1],
        ["train", "fake", 1],
        ["train", "real", 2],
    ]


def test_file_sizes_share_their_bins_and_lose_no_image(corpus):
    index = corpus(1001)
    index.loc[0, "bytes"] = 10_000_000  # far above the 99th percentile, and yet counted
    table = audit.file_sizes(index)
    real, fake = (table[table["label"] == label] for label in ("real", "fake"))
    assert real["kilobytes"].tolist() == fake["kilobytes"].tolist()
    assert (real["images"].sum(), fake["images"].sum()) == (501, 500)
    assert real["kilobytes"].iloc[-1] == pytest.approx(12, abs=0.1)


def test_properties_are_counted_by_class_and_rare_values_together(corpus):
    index = corpus(19)
    index["width"] = [64] * 9 + [*range(101, 111)]  # eleven resolutions, of which eight are shown
    index.loc[0, ["format", "jpeg_quality", "quantisation"]] = ["PNG", None, None]
    table = audit.properties(index)
    assert table.groupby("property")["images"].sum().to_dict() == dict.fromkeys(
        ("Format", "Resolution", "JPEG quality", "Quantisation tables"), 19
    )
    rows = {name: rows[["value", "label", "images"]].values.tolist() for name, rows in table.groupby("property")}
    assert rows["Format"] == [["JPEG", "fake", 9], ["JPEG", "real", 9], ["PNG", "real", 1]]
    assert rows["JPEG quality"] == [["75", "fake", 9], ["75", "real", 9], ["none", "real", 1]]
    assert rows["Quantisation tables"] == [["aaaaaaaa", "fake", 9], ["aaaaaaaa", "real", 9], ["none", "real", 1]]
    assert rows["Resolution"][:2] == [["64 × 32", "fake", 4], ["64 × 32", "real", 5]]
    assert [row for row in rows["Resolution"] if row[0] == "other"] == [["other", "fake", 1], ["other", "real", 2]]
