"""Which path is a face of which class and split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.faces.layout import LABELS, SPLITS, Place, is_clutter, place_of


@pytest.mark.parametrize(
    ("member", "place"),
    [
        ("real/1.jpg", Place("real", None)),
        ("fake/deep/er/1.jpg", Place("fake", None)),
        ("real_vs_fake/real-vs-fake/train/real/1.jpg", Place("real", "train")),
        ("fake/test/1.jpg", Place("fake", "test")),
        ("real/fake/1.jpg", Place("fake", None)),
        ("test/train/real/1.jpg", Place("real", "train")),
        ("train/real/Val/1.jpg", Place("real", "train")),
        ("/Valid/FAKE/1.jpg", Place("fake", "valid")),
        ("train\\real\\1.jpg", Place("real", "train")),
        ("real/no-suffix", Place("real", None)),
        ("0_real/1.jpg", Place("real", None)),
        ("1_fake/1.jpg", Place("fake", None)),
        ("Fake Faces/1.jpg", Place("fake", None)),
        ("training_fake/1.jpg", Place("fake", "train")),
        ("real_and_fake_face/training_real/1.jpg", Place("real", "train")),
        ("Training/FAKE/1.jpg", Place("fake", "train")),
        ("Validation/real/1.jpg", Place("real", "valid")),
        ("val/real/1.jpg", Place("real", "valid")),
        ("testing/fake/1.jpg", Place("fake", "test")),
        ("test_set/real/1.jpg", Place("real", "test")),
        ("train_test/real/1.jpg", Place("real", None)),
        ("not_real/1.jpg", None),
        ("real-fake/1.jpg", None),
        ("real", None),
        ("real.jpg", None),
        ("unreal/1.jpg", None),
        ("train/1.jpg", None),
        ("train.csv", None),
        ("real/.hidden.jpg", None),
        ("real/", None),
        ("real\\", None),
        ("", None),
        (".", None),
        ("..", None),
    ],
)
def test_known_paths(member, place):
    assert place_of(member) == place


@pytest.mark.parametrize(
    "name",
    [
        "Thumbs.db",
        "desktop.ini",
        ".DS_Store",
        "._1.jpg",
        ".AppleDouble/1.jpg",
        "__MACOSX/1.jpg",
        "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
        "Icon\r",
        "1.jpg:Zone.Identifier",
        "1.xmp",
        "IMG_1.AAE",
    ],
)
@pytest.mark.parametrize("folder", ["real/", "real\\", "./fake/", ""])
def test_what_systems_and_programs_leave_behind_is_no_image(name, folder):
    assert is_clutter(folder + name)
    assert place_of(folder + name) is None


@pytest.mark.parametrize("name", ["1.jpg", "icon.png", "./1.jpg", "../1.jpg", "thumbs/1.jpg", "xmp", ""])
def test_a_picture_is_no_clutter(name):
    assert not is_clutter(name)


def test_a_place_reads_like_a_path():
    assert [str(Place("fake", "train")), str(Place("real", None))] == ["train/fake", "real"]


kinds = st.sampled_from(sorted(LABELS))
splits = st.sampled_from(SPLITS)
neutral = st.lists(st.text("abcxyz019 -_é", min_size=1).map(lambda name: f"x{name}"), max_size=3)
case = st.sampled_from([str.lower, str.upper, str.title])
separator = st.sampled_from("/\\")


@settings(deadline=None, derandomize=True)
@given(neutral, neutral, neutral, kinds, st.none() | splits, st.booleans(), case, separator)
def test_neither_neutral_folders_nor_order_nor_case_nor_separator_matter(
    above, between, below, kind, split, split_first, case, separator
):
    named = [[case(kind)], [case(split)] if split else []]
    first, second = reversed(named) if split_first else named
    member = separator.join([*above, *first, *between, *second, *below, "1.jpg"])
    assert place_of(member) == Place(kind, split)


@settings(deadline=None, derandomize=True)
@given(neutral, st.none() | splits)
def test_without_a_class_there_is_no_place(folders, split):
    assert place_of("/".join([*folders, *([split] if split else []), "1.jpg"])) is None


@settings(deadline=None, derandomize=True)
@given(st.text())
def test_any_text_has_a_place_or_none(member):
    place = place_of(member)
    assert place is None or (place.kind in LABELS and place.split in (*SPLITS, None))
