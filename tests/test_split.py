"""Stage `split`: every image once, duplicates together, shares as asked."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages import split
from stages.errors import UserError
from stages.faces import manifest
from stages.faces.duplicates import apart
from stages.faces.layout import SPLITS
from stages.files import read_json

PARAMS = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A function that makes an empty project the working directory's, from an index and changes to ``split``."""
    monkeypatch.chdir(tmp_path)
    return write_project


def write_project(index, group_by=None, **changes):
    write_sets({"mine": (index, {"group_by": group_by})}, **changes)


def write_sets(sets, **changes):
    """A project of sets {name: (index, what differs from a set that trains)}, and changes to ``split``.

    Images of one ``group`` are alike, within sets and across.
    """
    content = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
    content["sets"] = {
        name: {"source": "folder", "use": "train", "path": "faces"} | keys for name, (_, keys) in sets.items()
    }
    content["weights"]["source"] = "random"
    content["split"] = {
        "method": "stratified",
        "fractions": {"train": 0.6, "valid": 0.15, "test": 0.25},
        "near_duplicates": "group",
        "leave_out": [],
        "limit_per_class": None,
        "train_per_class": None,
        "seed": 20,
    } | changes
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    for folder in ("data/index", "data/groups"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    sound = {name: index[index["verdict"] == "ok"] for name, (index, _) in sets.items()}
    for name, (index, _) in sets.items():
        index.drop(columns="group").to_parquet(f"data/index/{name}.parquet")
    code = np.concatenate([images["group"] for images in sound.values()]).astype(np.int64)
    part = np.repeat(np.arange(len(sets)), list(map(len, sound.values())))
    group, across = apart(code, np.empty((0, 2), np.int64), part)
    for number, name in enumerate(sets):
        pd.DataFrame({"group": group[part == number]}).to_parquet(f"data/groups/{name}.parquet")
    pd.DataFrame(across, columns=["group", "above"]).to_parquet("data/across.parquet")


def corpus(groups, splits=None):
    """An index of one image for each letter of each group: "r" is real, "f" is fake."""
    rows = [
        {"label": int(kind == "f"), "group": number, "verdict": "ok", "width": 256, "height": 256}
        for number, group in enumerate(groups)
        for kind in group
    ]
    index = pd.DataFrame(rows)
    names = pd.Series(["fake/" if label else "real/" for label in index["label"]])
    member = names + index.index.map("{:05}.jpg".format)
    return index.assign(member=member, split=pd.Series(splits, index.index, dtype=object))


def run_stage(name="mine"):
    split.main()
    return manifest.read(f"data/manifests/{name}.csv")


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
    assert not list(Path("data").glob("*manifests*")) + list(Path("data").glob("training.json"))


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
    assert "left out: 0 quarantined, 80 others" in capsys.readouterr().out


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


def named(index, names):
    """The index with a name such as "real/anna_00003.jpg" for each image; "real/00003.jpg" where the name is empty."""
    parts = zip(index["member"].str.split("/"), names, strict=True)
    return index.assign(member=[f"{kind}/{name}{name and '_'}{file}" for (kind, file), name in parts])


def straddling(table, key):
    """The keys, such as names, whose images are in more than one split."""
    parts = table["split"].groupby(key).nunique()
    return list(parts.index[parts > 1])


def components(*keys):
    """For each image, the first that it is tied to: images are tied if they share a key, directly or through others."""
    first = list(range(len(keys[0])))
    while True:
        before = list(first)
        for key in keys:
            lowest = {}
            for value, image in zip(key, first, strict=True):
                lowest[value] = min(image, lowest.get(value, image))
            first = [lowest[value] for value in key]
        if first == before:
            return first


NAMES = r"/([a-z]+)_"


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    groups=st.lists(st.text("rf", min_size=1, max_size=3), min_size=1, max_size=40),
    names=st.lists(st.sampled_from(["", *"abcdefghijkl"]), min_size=120, max_size=120),
    near_duplicates=st.sampled_from(["group", "drop", "keep"]),
    limits=st.sampled_from([{}, {"limit_per_class": 30}, {"train_per_class": 10}]),
    seed=st.integers(0, 2**31 - 1),
)
def test_relatives_never_straddle(tmp_path_factory, groups, names, near_duplicates, limits, seed):
    plain = corpus([*groups, *"rf" * 40])
    names = ["a", *names[1 : sum(map(len, groups))], *[""] * 80][: len(plain)]
    index = named(plain, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        write_project(index, seed=seed, group_by=NAMES, near_duplicates=near_duplicates, **limits)
        table = run_stage().set_index("member")

    relatives = [name or f"alone {place}" for place, name in enumerate(names)]
    index = index.assign(relatives=relatives, merged=components(relatives, index["group"])).set_index("member")
    alone = index.sort_index().drop_duplicates("group") if near_duplicates == "drop" else index
    if not limits:
        assert sorted(table.index) == sorted(alone.index)
    elif "limit_per_class" in limits:
        expected = alone["label"].value_counts().clip(upper=30)
        assert table["label"].value_counts().to_dict() == expected.to_dict()
    else:
        assert table.loc[table["split"] == "train", "label"].value_counts().max() <= 10
    index = index.loc[table.index]
    assert straddling(table, index["relatives"]) == []
    if near_duplicates != "keep":
        assert straddling(table, index["merged"]) == []
        assert straddling(table, index["group"]) == []
    assert (index["merged"].groupby(table["group"]).nunique() == 1).all()
    assert (table["group"].groupby(index["merged"]).nunique() == 1).all()


def test_relatives_of_one_size_meet_the_fractions_exactly(project):
    index = named(corpus(["r", "f"] * 80), [name for name in "abcdefghijklmnopqrst" for _ in range(8)])
    project(index, group_by=NAMES)
    table = run_stage()
    assert counts(table) == {"train": (48, 48), "valid": (12, 12), "test": (20, 20)}
    assert straddling(table, table["member"].str.extract(NAMES)[0]) == []


def test_relatives_that_share_a_near_duplicate_are_one_group(project):
    index = named(corpus(["rf", "rf", "rr", *"rf" * 30]), ["a", "b", "b", "c", "c", *[""] * 61])
    project(index, group_by=NAMES)
    groups = run_stage().set_index("member")["group"]
    assert groups[index["member"][:6]].nunique() == 1  # a - b, b - c, and c - an image without a name
    assert groups.nunique() == 1 + 60


def test_kept_duplicates_do_not_tie_relatives(project, capsys):
    index = named(corpus(["rr", "ff"] * 40), "abcdefghij" * 16)  # near-duplicates are a and b, c and d, and so on
    project(index, group_by=NAMES, near_duplicates="keep")
    table = run_stage()
    assert straddling(table, table["member"].str.extract(NAMES)[0]) == []
    assert straddling(table, table["group"])
    assert "WARNING" in capsys.readouterr().out


@pytest.mark.parametrize("group_by", [r"/([a-z]+)_", r"[a-z]+(?=_)", r"/([a-z]+)(_)"])
def test_the_first_group_or_the_whole_match_names_relatives(project, group_by):
    index = named(corpus(["r", "f"] * 40), [name for name in "abcdefghij" for _ in range(8)])
    project(index, group_by=group_by)
    table = run_stage()
    together = table["group"].groupby(table["member"].str.extract(NAMES)[0])
    assert table["group"].nunique() == 10
    assert (together.nunique() == 1).all()


def test_an_empty_match_names_no_group(project):
    index = named(corpus(["r", "f"] * 40), ["a", "a", *[""] * 78])
    project(index, group_by=r"/([a-z]*)")
    assert run_stage()["group"].nunique() == 79


@pytest.mark.parametrize("near_duplicates", ["group", "drop", "keep"])
def test_a_pattern_that_ties_nobody_changes_nothing(project, near_duplicates):
    index = corpus(["r", "f", "rr", "rf"] * 30)
    project(index, near_duplicates=near_duplicates)
    plain = run_stage()
    for group_by in ("", r"\d+"):
        project(index, near_duplicates=near_duplicates, group_by=group_by)
        pd.testing.assert_frame_equal(run_stage(), plain)


def test_a_summary_counts_the_groups_that_the_archives_splits_break(project, capsys):
    index = named(official((10, 10), (4, 4), (6, 6)), [*"aabbcc", *[""] * 32, *"ad"])
    project(index, group_by=NAMES)
    run_stage()
    said = "mine, group_by: 4 groups in 8 of 40 images"
    assert capsys.readouterr().out.splitlines()[0] == f"{said}; 1 straddle the archive's own splits"
    project(index.assign(split=None), group_by=NAMES)
    run_stage()
    assert capsys.readouterr().out.splitlines()[0] == said


def test_an_official_split_that_breaks_a_group_is_refused(project):
    names = [*["anna"] * 3, *["bob"] * 3, *[""] * 16, *["cleo"] * 4, "bob", "anna"]
    project(named(official((6, 6), (4, 4), (4, 4)), names), method="official", near_duplicates="keep", group_by=NAMES)
    refused(
        r"mine: its split is official, but the group 'anna' of its group_by has images in train and test \(2 of 3 "
        r"groups straddle\); set split\.method to stratified, or leave group_by empty"
    )


def test_an_official_split_that_breaks_no_group_is_the_archives_own(project, capsys):
    index = named(official((6, 6), (4, 4), (4, 4)), ["a"] * 12 + ["b"] * 8 + ["c"] * 8)
    index.loc[[0, 20], "group"] = 0  # a near-duplicate across splits ties no relatives: it is dropped
    project(index, method="official", near_duplicates="drop", group_by=NAMES)
    table = run_stage().set_index("member")["split"]
    assert table.to_dict() == index.drop(20).set_index("member")["split"].to_dict()

    project(index, method="official", near_duplicates="keep", group_by=NAMES)
    assert len(run_stage()) == len(index)
    assert "WARNING: 1 images are duplicates" in capsys.readouterr().out  # and not its seven relatives


def test_a_pattern_that_matches_no_name_is_refused(project):
    project(corpus(["r", "f"] * 40), group_by=NAMES)
    refused(
        r"sets\.mine\.group_by = '/\(\[a-z\]\+\)_' matches none of 80 names \(such as 'fake/00001\.jpg'\); change it, "
        "or leave it empty"
    )


def test_too_large_groups_are_refused_with_their_key(project):
    project(corpus(["r", "f"] * 40), group_by="real|fake")
    refused(r"change split\.fractions or group_by or split\.near_duplicates, whose groups may be too large")


def test_too_many_near_duplicates_are_refused_with_their_key(project):
    project(corpus(["r" * 40, "f" * 40]))
    refused(r"change split\.fractions or split\.near_duplicates, whose groups may be too large")


def test_the_official_split_is_the_archives_own(project):
    index = official((6, 5), (3, 2), (2, 4))
    project(index, method="official", near_duplicates="keep")
    table = run_stage().set_index("member")["split"]
    assert table.to_dict() == index.set_index("member")["split"].to_dict()


@pytest.mark.parametrize("near_duplicates", ["drop", "keep"])
def test_validation_is_drawn_from_train_where_the_official_split_has_none(project, near_duplicates, capsys):
    index = named(official((50, 100), (0, 0), (20, 30)), [*"abcde" * 30, *[""] * 50])
    project(index, method="official", near_duplicates=near_duplicates, group_by=NAMES)
    table = run_stage()
    assert counts(table) == {"train": (40, 80), "valid": (10, 20), "test": (20, 30)}
    assert straddling(table, table["member"].str.extract(NAMES)[0]) == []
    assert (
        "no usable image of mine lies below a folder valid; 30 of the training images validate"
        in capsys.readouterr().out
    )
    test = table.loc[table["split"] == "test", "member"]
    assert sorted(test) == sorted(index.loc[index["split"] == "test", "member"])


def test_without_train_there_is_nothing_to_draw_validation_from(project):
    project(official((0, 0), (0, 0), (20, 30)), method="official", near_duplicates="keep")
    refused(r"mine: there are 0 real images for train")


def test_of_official_duplicates_the_earlier_split_keeps_its_own(project, capsys):
    index = official((6, 6), (4, 4), (4, 4))
    train, valid, test = (index.index[index["split"] == name][0] for name in SPLITS)
    index.loc[[test, valid], "group"] = index.loc[train, "group"]
    index = index.sort_index(ascending=False)
    project(index, method="official", near_duplicates="drop")
    table = run_stage()
    assert set(index["member"]) - set(table["member"]) == {index.loc[test, "member"], index.loc[valid, "member"]}
    assert "left out: 0 quarantined, 2 others" in capsys.readouterr().out

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
        "data/manifests/mine.csv: 80 images",
        "  train        24 real        24 fake",
        "  valid         6 real         6 fake",
        "  test         10 real        10 fake",
        "left out: 2 quarantined, 18 others",
    ]


@pytest.mark.parametrize(
    ("image", "leave_out", "warned"),
    [
        ({"size": 64, "jpeg": None}, [], True),
        ({"size": 128, "jpeg": 75}, [], False),
        ({"size": 256, "jpeg": 75}, [], True),  # one set would be enlarged
        ({"size": 64, "jpeg": None}, ["small"], False),
    ],
)
def test_sets_that_reach_one_size_in_different_ways_are_warned_of(project, capsys, image, leave_out, warned):
    large, small = corpus(["r"] * 20 + ["f"] * 20), corpus(["r"] * 20 + ["f"] * 20)
    small = small.assign(width=128, height=160, group=small["group"] + 100)
    write_sets({"mine": (large, {}), "small": (small, {})}, leave_out=leave_out)
    content = YAML(typ="safe").load(Path("params.yaml"))
    content["image"] |= image
    YAML().dump(content, Path("params.yaml"))
    split.main()
    said = "different sizes (mine: 256 × 256 px, small: 128 × 160 px)"
    assert (said in capsys.readouterr().out) is warned


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
        r"mine: there are 0 fake images for test, and each split needs 2 of each class "
        r"\(real/fake: train 6/6, valid 4/4, test 4/0\); add images, or set split\.method to stratified"
    )


def test_too_few_images_are_refused_with_the_counts(project):
    project(corpus(["r"] * 8 + ["f"] * 50))
    refused(
        r"mine: there are 1 real images for valid, and each split needs 2 of each class \(real/fake: "
        r"train 5/30, valid 1/8, test 2/12\); add images, or change split\.fractions"
    )


def test_too_low_a_limit_is_refused_with_its_key(project):
    project(corpus(["r"] * 50 + ["f"] * 50), limit_per_class=6)
    refused(r"raise split\.limit_per_class")


def test_a_missing_index_says_what_makes_it(project):
    project(corpus(["r", "f"]))
    Path("data/index/mine.parquet").unlink()
    refused(r"data/index/mine\.parquet is missing; make it with `dvc repro`")


def manifests(sets, **changes):
    """The manifests of a project of such sets, by name."""
    write_sets(sets, **changes)
    split.main()
    return {name: manifest.read(f"data/manifests/{name}.csv").set_index("member") for name in sets}


def of_sets(groups, *, use="test", **keys):
    """A set whose images are alike, one by one, with those of these groups."""
    index = corpus(["r", "f"] * (len(groups) // 2))
    return index.assign(group=groups), {"use": use} | keys


PLAIN = (corpus(["r", "f"] * 40), {})  # groups 0 to 79


def test_a_test_set_tests_with_all_its_images_but_those_that_train_above(project, capsys):
    project(PLAIN[0])
    found = manifests({"mine": PLAIN, "theirs": of_sets([*range(80), *range(100, 120)])})
    assert set(found["theirs"]["split"]) == {"test"}
    assert len(found["theirs"]) == counts(found["mine"].reset_index())["test"][0] * 2 + 20
    assert "theirs: 60 images are left out: a set above has them, in another split" in capsys.readouterr().out
    assert set(read_json("data/training.json")["train"]) == {"mine"}


def test_a_training_set_follows_the_sets_above_it(project):
    project(PLAIN[0])
    same = of_sets(list(range(80)), use="train")
    found = manifests({"theirs": of_sets([0, 1, 2, 3]), "mine": PLAIN, "again": same})
    assert set(found["mine"]["split"].sort_index()[["real/00000.jpg", "real/00002.jpg", "fake/00001.jpg"]]) == {"test"}
    assert len(found["mine"]) == 80
    pd.testing.assert_series_equal(found["again"]["split"], found["mine"]["split"])


def test_of_official_sets_what_is_in_another_split_above_is_left_out(project):
    upper, lower = official((6, 6), (4, 4), (4, 4)), official((6, 6), (4, 4), (4, 4))
    lower["group"] += 100
    lower.loc[[0, 20], "group"] = [upper.loc[20, "group"], upper.loc[21, "group"]]
    project(upper)
    found = manifests({"upper": (upper, {}), "lower": (lower, {})}, method="official", near_duplicates="drop")
    assert sorted(found["lower"].index) == sorted(lower["member"].drop(0))


def test_a_set_of_which_nothing_is_left_is_refused(project):
    index = official((6, 6), (4, 4), (4, 4))
    project(index)
    write_sets({"mine": (index, {"split": "official"}), "theirs": of_sets([0, 6])}, near_duplicates="keep")
    refused("theirs: not one of its 2 images is left, for sets above have them in another split")


def test_sets_of_one_class_train_together_and_each_may_have_a_split_of_its_own(project):
    project(PLAIN[0])
    real, fake = official((20, 0), (5, 0), (5, 0)), corpus(["f"] * 40)
    fake["group"] += 1000
    found = manifests({"camera": (real, {"split": "official"}), "gan": (fake, {})}, near_duplicates="drop")
    assert counts(found["camera"].reset_index()) == {"train": (20, 0), "valid": (5, 0), "test": (5, 0)}
    assert counts(found["gan"].reset_index()) == {"train": (0, 24), "valid": (0, 6), "test": (0, 10)}
    assert read_json("data/training.json")["valid"] == {
        "camera": {"real": 5, "fake": 0},
        "gan": {"real": 0, "fake": 6},
    }


def test_a_set_that_is_left_out_keeps_its_test_images(project):
    project(PLAIN[0])
    other = of_sets(list(range(100, 180)), use="train")
    whole = manifests({"mine": PLAIN, "other": other})
    less = manifests({"mine": PLAIN, "other": other}, leave_out=["other/fake"])
    gone = whole["other"][(whole["other"]["label"] == 1) & (whole["other"]["split"] != "test")]
    assert set(whole["other"].index) - set(less["other"].index) == set(gone.index)
    assert read_json("data/training.json")["train"]["other"] == {"real": 24, "fake": 0}


def test_leaving_out_all_of_a_class_is_refused(project):
    project(PLAIN[0], leave_out=["mine/fake"])
    refused(r"there are 0 fake images for train.*leave fewer sets out \(split\.leave_out\)")


def test_fewer_training_images_change_no_test_set_below(project):
    project(PLAIN[0])
    sets = {"mine": PLAIN, "theirs": of_sets([*range(80), *range(100, 120)])}
    pd.testing.assert_frame_equal(manifests(sets, train_per_class=5)["theirs"], manifests(sets)["theirs"])


def test_a_pattern_that_finds_one_text_in_all_names_is_refused(project):
    project(named(corpus(["r", "f"] * 40), ["a"] * 80), group_by=NAMES)
    refused(r"sets\.mine\.group_by = .* finds 'a' in all 80 names, so they cannot be split")


@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    upper=st.lists(st.integers(0, 60), min_size=1, max_size=30),
    lower=st.lists(st.integers(0, 60), min_size=2, max_size=30),
    use=st.sampled_from(["train", "test"]),
    near_duplicates=st.sampled_from(["group", "drop", "keep"]),
)
def test_a_set_added_below_moves_nothing_above_and_brings_no_trained_face_into_test(
    tmp_path_factory, upper, lower, use, near_duplicates
):
    first = corpus(["r", "f"] * 30)
    first.loc[: len(upper) - 1, "group"] = upper
    second = of_sets([100, 101, *lower[: len(lower) // 2 * 2]], use=use)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        write_sets({"first": (first, {})}, near_duplicates=near_duplicates)
        split.main()
        alone = Path("data/manifests/first.csv").read_bytes()
        found = manifests({"first": (first, {}), "second": second}, near_duplicates=near_duplicates)
        assert Path("data/manifests/first.csv").read_bytes() == alone
    place = first.set_index("member")["group"]
    trained = {int(place[member]) for member in found["first"].query("split == 'train'").index}
    below = second[0].set_index("member")["group"]
    tested = {int(below[member]) for member in found["second"].query("split == 'test'").index}
    assert not trained & tested
