"""Stage `split`: every image once, duplicates together, shares as asked."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages import split
from stages.errors import UserError
from stages.faces import manifest
from stages.faces.layout import SPLITS

PARAMS = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A function that makes an empty project the working directory's, from an index and changes to ``split``."""
    monkeypatch.chdir(tmp_path)
    return write_project


def write_project(index, **changes):
    content = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
    content["data"] |= {"source": "folder", "folder": {"path": "faces"}}
    content["weights"]["source"] = "random"
    content["split"] = {
        "method": "stratified",
        "fractions": {"train": 0.6, "valid": 0.15, "test": 0.25},
        "near_duplicates": "group",
        "limit_per_class": None,
        "train_per_class": None,
        "seed": 20,
    } | changes
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    Path("data").mkdir(exist_ok=True)
    index.to_parquet("data/index.parquet")


def corpus(groups, splits=None):
    """An index of one image for each letter of each group: "r" is real, "f" is fake."""
    rows = [
        {"label": int(kind == "f"), "group": number, "verdict": "ok"}
        for number, group in enumerate(groups)
        for kind in group
    ]
    index = pd.DataFrame(rows)
    names = pd.Series(["fake/" if label else "real/" for label in index["label"]])
    member = names + index.index.map("{:05}.jpg".format)
    return index.assign(member=member, split=pd.Series(splits, index.index, dtype=object))


def run_stage():
    split.main()
    return manifest.read("data/manifest.csv")


def counts(table):
    """{split: (real, fake)}."""
    return {
        name: tuple(int(((table["split"] == name) & (table["label"] == label)).sum()) for label in (0, 1))
        for name in SPLITS
    }


def official(train, valid, test):
    """An index with so many (real, fake) images in each official split."""
    places = [(name, "r" * real + "f" * fake) for name, (real, fake) in zip(SPLITS, (train, valid, test), strict=True)]
    kinds = "".join(kinds for _, kinds in places)
    return corpus(kinds, [name for name, kinds in places for _ in kinds])


def refused(message):
    """Run the stage; it must refuse with this message, and write nothing."""
    with pytest.raises(UserError, match=message):
        split.main()
    assert not Path("data/manifest.csv").exists()


def test_images_without_duplicates_meet_the_fractions_exactly(project):
    project(corpus(["r"] * 100 + ["f"] * 60))
    assert counts(run_stage()) == {"train": (60, 36), "valid": (15, 9), "test": (25, 15)}


def test_single_images_make_up_for_large_groups(project):
    project(corpus(["r"] * 70 + ["rrrrrr"] * 5 + ["fr"] * 10 + ["fffff"] * 6 + ["f"] * 60))
    assert counts(run_stage()) == {"train": (66, 60), "valid": (17, 15), "test": (27, 25)}


def test_every_image_takes_part_once_except_quarantined_ones(project):
    index = corpus(["r"] * 40 + ["f"] * 40)
    index.loc[3, ["verdict", "group"]] = ["truncated", -1]
    project(index)
    assert sorted(run_stage()["member"]) == sorted(index["member"].drop(3))


def test_the_seed_alone_decides_and_not_the_order_of_the_archive(project):
    index = corpus(["r", "f", "rr", "rf"] * 30)
    project(index)
    first = run_stage()
    shuffled = index.sample(frac=1, random_state=1, ignore_index=True)
    project(shuffled.assign(group=shuffled["group"].max() - shuffled["group"]))
    pd.testing.assert_frame_equal(run_stage(), first)
    project(index, seed=21)
    both = run_stage().merge(first, on="member")
    assert 0.2 < (both["split_x"] != both["split_y"]).mean() < 0.8


@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    groups=st.lists(st.text("rf", min_size=1, max_size=9), min_size=1, max_size=60),
    one_class=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
    shares=st.sampled_from([(0.6, 0.15, 0.25), (0.8, 0.1, 0.1), (1 / 3, 1 / 3, 1 / 3), (0.5, 0.2, 0.3)]),
)
def test_groups_never_straddle_and_shares_hold_to_within_the_largest_group(
    tmp_path_factory, groups, one_class, seed, shares
):
    groups = [group[0] * len(group) if one_class else group for group in groups]
    index = corpus([*groups, *"rf" * 20])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        write_project(index, seed=seed, fractions=dict(zip(SPLITS, shares, strict=True)))
        table = run_stage()
    assert sorted(table["member"]) == sorted(index["member"])
    assert (table.groupby("group")["split"].nunique() == 1).all()
    together = index.set_index("member")["group"].groupby(table.set_index("member")["group"]).nunique()
    assert (together == 1).all()
    for label in (0, 1):
        total = (index["label"] == label).sum()
        largest = index["group"].value_counts().max()
        for name, share in zip(SPLITS, shares, strict=True):
            assert abs(counts(table)[name][label] - share * total) < largest + 1


def test_duplicates_that_span_classes_stay_together(project):
    project(corpus(["rf"] * 40))
    table = run_stage()
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert counts(table) == {"train": (24, 24), "valid": (6, 6), "test": (10, 10)}


def test_dropped_duplicates_leave_the_first_of_each_group(project, capsys):
    index = corpus(["rrr", "ff", "rf"] * 20)
    project(index, near_duplicates="drop")
    table = run_stage()
    assert sorted(table["member"]) == sorted(index.sort_values("member").drop_duplicates("group")["member"])
    assert "80 duplicates" in capsys.readouterr().out


def test_kept_duplicates_fall_anywhere_with_a_warning(project, capsys):
    project(corpus(["rr", "ff"] * 40), near_duplicates="keep")
    table = run_stage()
    assert (table.groupby("group")["split"].nunique() > 1).any()
    assert counts(table) == {"train": (48, 48), "valid": (12, 12), "test": (20, 20)}
    assert "WARNING" in capsys.readouterr().out


def test_a_grouped_split_gives_no_warning(project, capsys):
    project(corpus(["rr", "ff"] * 40))
    run_stage()
    assert "WARNING" not in capsys.readouterr().out


def test_the_official_split_is_the_archives_own(project):
    index = official((6, 5), (3, 2), (2, 4))
    project(index, method="official", near_duplicates="keep")
    table = run_stage().set_index("member")["split"]
    assert table.to_dict() == index.set_index("member")["split"].to_dict()


def test_of_official_duplicates_the_earlier_split_keeps_its_own(project, capsys):
    index = official((6, 6), (4, 4), (4, 4))
    train, valid, test = (index.index[index["split"] == name][0] for name in SPLITS)
    index.loc[[test, valid], "group"] = index.loc[train, "group"]
    index = index.sort_index(ascending=False)
    project(index, method="official", near_duplicates="drop")
    table = run_stage()
    assert set(index["member"]) - set(table["member"]) == {index.loc[test, "member"], index.loc[valid, "member"]}
    assert "2 duplicates" in capsys.readouterr().out

    project(index, method="official", near_duplicates="keep")
    assert len(run_stage()) == len(index)
    assert "WARNING: 2 images are duplicates" in capsys.readouterr().out


@pytest.mark.parametrize(("limit", "expected"), [(20, 20), (33, 33), (500, 50)])
def test_a_limit_keeps_so_many_of_each_class_before_splitting(project, limit, expected):
    project(corpus(["r"] * 50 + ["f"] * 50), limit_per_class=limit)
    table = run_stage()
    assert table["label"].value_counts().to_dict() == {0: expected, 1: expected}
    assert counts(table)["train"][0] == round(0.6 * expected)


def test_a_limit_draws_by_the_seed(project):
    index = corpus(["r"] * 50 + ["f"] * 50)
    drawn = []
    for seed in (1, 1, 2):
        project(index, limit_per_class=20, seed=seed)
        drawn.append(set(run_stage()["member"]))
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_limit_is_shared_out_over_the_official_splits(project):
    project(official((50, 100), (10, 20), (20, 40)), method="official", near_duplicates="keep", limit_per_class=16)
    assert counts(run_stage()) == {"train": (10, 10), "valid": (2, 2), "test": (4, 4)}


def test_training_images_are_thinned_out_and_a_smaller_set_is_part_of_a_larger_one(project):
    index, found = corpus(["r"] * 50 + ["f"] * 50), []
    for limit in (None, 20, 5):
        project(index, train_per_class=limit)
        found.append(run_stage())
    whole, more, less = found
    assert counts(more) == counts(whole) | {"train": (20, 20)}
    assert counts(less) == counts(whole) | {"train": (5, 5)}
    assert set(less["member"]) < set(more["member"]) < set(whole["member"])


def test_a_summary_tells_what_there_is_and_what_was_left_out(project, capsys):
    index = corpus(["r"] * 50 + ["f"] * 50)
    index.loc[[0, 60], "verdict"] = "damaged"
    project(index, limit_per_class=40)
    run_stage()
    assert capsys.readouterr().out.splitlines() == [
        "data/manifest.csv: 80 images",
        "  train        24 real        24 fake",
        "  valid         6 real         6 fake",
        "  test         10 real        10 fake",
        "left out: 2 quarantined, 0 duplicates, 18 above split.limit_per_class",
    ]


def test_images_outside_the_official_folders_are_refused(project):
    index = official((6, 6), (4, 4), (4, 4))
    index.loc[[1, 2], "split"] = None
    project(index, method="official", near_duplicates="keep")
    refused(
        r"2 of 28 images lie below no folder train, valid or test \(such as 'real/00001.jpg'\); move them there, or"
    )


def test_an_official_split_without_a_class_is_refused(project):
    project(official((6, 6), (4, 4), (4, 0)), method="official", near_duplicates="keep")
    refused(
        r"split\.method = official leaves 0 fake images for test, and each split needs 2 of each class "
        r"\(real/fake: train 6/6, valid 4/4, test 4/0\); add images, or set split\.method to stratified"
    )


def test_too_few_images_are_refused_with_the_counts(project):
    project(corpus(["r"] * 8 + ["f"] * 50))
    refused(
        r"leaves 1 real images for valid, and each split needs 2 of each class \(real/fake: "
        r"train 5/30, valid 1/8, test 2/12\); add images, or change split\.fractions"
    )


def test_too_low_a_limit_is_refused_with_its_key(project):
    project(corpus(["r"] * 50 + ["f"] * 50), limit_per_class=6)
    refused(r"raise split\.limit_per_class")


def test_a_missing_index_names_the_stage_that_makes_it(project):
    project(corpus(["r", "f"]))
    Path("data/index.parquet").unlink()
    refused(r"data/index\.parquet is missing; run the index stage first")
