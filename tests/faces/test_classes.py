"""Where a set says that its classes lie: in paths, or in a table of labels."""

import csv
import io
import pickle
import re
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.errors import UserError
from stages.faces import archive, classes
from stages.faces.layout import SPLITS, Place, place_of
from stages.params import Classes
from stages.sources import folder

LABELS = {"file": "data.csv", "path": "image", "label": "class"}


def rule_of(parameters, files=(), table=b""):
    """The rule of a set of these files; the content of each is that of the table."""
    return classes.rule_of(parameters, ((name, table) for name in files), io.BytesIO)


def by_table(rows, files=("real/1.jpg", "b/2.jpg", "c/2.jpg"), *, file="data.csv", **patterns):
    """The rule of a set with a table of these rows, below a header, or of this content."""
    content = rows if isinstance(rows, bytes) else "\n".join(["image,class", *rows]).encode()
    return rule_of(Classes(labels={**LABELS, "file": file}, **patterns), [*files, file], content)


def refusal(rows, **patterns):
    with pytest.raises(UserError) as caught:
        by_table(rows, **patterns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- The parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "it says no class; set real or fake to a regular expression for paths, or labels to a CSV"),
        ({"real": "("}, "'(' is no regular expression"),
        ({"real": ""}, "at least 1 character"),
        ({"fake": 1}, "valid string"),
        ({"labels": "data.csv"}, "valid dictionary"),
        ({"labels": {"file": "data.csv", "path": "image"}}, "labels.label"),
        ({"labels": {**LABELS, "labels": "x"}}, "unknown key 'labels'; did you mean label?"),
        ({"reals": "x"}, "unknown key 'reals'; did you mean real?"),
    ],
)
def test_parameters_that_say_no_rule_are_refused(content, said):
    with pytest.raises(ValidationError) as caught:
        Classes.model_validate(content)
    assert said in str(caught.value)


# --- By paths ---------------------------------------------------------------------------------------------------------


def test_without_parameters_folders_say_the_class():
    assert rule_of(None) is place_of


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("train/0/1.jpg", Place("real", "train")),
        ("./val/1/1.jpg", Place("fake", "valid")),
        ("ds\\test\\1\\a.jpg", Place("fake", "test")),
        ("0/1.jpg", Place("real", None)),
        ("0/real/fake/1.jpg", Place("real", None)),
        ("2/1.jpg", None),
        ("real/1.jpg", None),
        ("0/.hidden.jpg", None),
        ("__MACOSX/0/1/._1.jpg", None),
        ("0/", None),
        ("", None),
    ],
)
def test_expressions_are_searched_in_paths(path, place):
    assert rule_of(Classes(real=r"(^|/)0/", fake=r"(^|/)1/"))(path) == place


def test_a_set_may_have_one_class():
    rule = rule_of(Classes(fake=r"\.png$"))
    assert rule("a/real/1.png") == Place("fake", None)
    assert rule("a/real/1.jpg") is None


def test_a_path_of_both_classes_is_refused():
    rule = rule_of(Classes(real="real", fake="fake"))
    with pytest.raises(UserError) as caught:
        rule("real-vs-fake\\real\\1.jpg")
    assert str(caught.value) == (
        "'real-vs-fake/real/1.jpg' matches both classes.real = 'real' and classes.fake = 'fake'; "
        "make one of them stricter"
    )


names = st.text("abcXYZ019 -_é.", min_size=1, max_size=6).map(lambda name: f"x{name}x")
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


@settings(deadline=None, derandomize=True)
@given(
    paths, st.none() | st.sampled_from(SPLITS), st.sampled_from(["a", "X", "[0-9]", "é", "^x", "-|_"]), st.booleans()
)
def test_an_expression_says_the_class_and_folders_the_split(path, split, pattern, windows):
    path = f"{split}/{path}" if split else path
    member = path.replace("/", "\\") if windows else path
    expected = Place("fake", split) if re.search(pattern, path) else None
    assert rule_of(Classes(fake=pattern))(member) == expected


@pytest.mark.parametrize("parameters", [None, Classes(real="^a", fake="^b"), Classes(labels=LABELS)])
def test_a_rule_can_be_pickled(parameters):
    rule = rule_of(parameters, ["a/1.jpg", "data.csv"], b"image,class\na/1.jpg,real")
    for path in ("a/1.jpg", "b/1.jpg", "data.csv"):
        assert pickle.loads(pickle.dumps(rule))(path) == rule(path)


@pytest.mark.parametrize(
    ("parameters", "both", "said"),
    [
        (
            Classes(real="^c", fake="^b"),
            True,
            "has 1 images and none of them is real; no path matches classes.real = '^c'",
        ),
        (Classes(fake="^c"), False, "has 2 members and no faces; no path matches classes.fake = '^c'"),
    ],
)
def test_a_listing_misses_a_class_by_the_rule_in_use(tmp_path, parameters, both, said):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("a/1.jpg", b"a")
        file.writestr("b/1.jpg", b"b")
    with archive.open_archive(tmp_path / "set.zip") as file, pytest.raises(UserError) as caught:
        archive.listing(file, both=both, classes=parameters)
    assert str(caught.value) == f"{tmp_path / 'set.zip'} {said}"


# --- By a table -------------------------------------------------------------------------------------------------------


def test_a_table_says_the_class_of_the_images_that_it_names():
    rule = by_table(["real/1.jpg,fake", "b/2.jpg,real"])
    assert [rule(path) for path in ("real/1.jpg", "b/2.jpg", "c/2.jpg", "data.csv")] == [
        Place("fake", None),
        Place("real", None),
        None,
        None,
    ]


@pytest.mark.parametrize("label", ["real", "REAL", " Real ", '"real"'])
def test_labels_are_words(label):
    assert by_table([f"real/1.jpg,{label}"])("real/1.jpg") == Place("real", None)


def test_labels_may_be_told_by_expressions_and_the_others_are_not_taken():
    rule = by_table(["real/1.jpg,FLUX.1", "b/2.jpg,photo", "c/2.jpg,SDXL"], fake="^FLUX", real="^photo$")
    assert [rule(path) for path in ("real/1.jpg", "b/2.jpg", "c/2.jpg")] == [
        Place("fake", None),
        Place("real", None),
        None,
    ]


@pytest.mark.parametrize(
    "path", ["ds/train/7.jpg", "train/7.jpg", "7.jpg", "7", "./train//7.jpg", "train\\7.jpg", "x/7.jpg"]
)
def test_a_path_counts_from_the_root_or_from_the_table_or_is_a_name_that_one_image_has(path):
    rule = by_table([f"{path},fake"], ["ds/train/7.jpg", "ds/train/8.jpg", ".thumbs/7.jpg"], file="ds/data.csv")
    assert rule("ds/train/7.jpg") == Place("fake", "train")


def test_a_path_that_counts_from_the_table_needs_no_name_of_its_own():
    files = ["ds/a/7.jpg", "ds/b/7.jpg", "a/7.jpg"]
    rule = by_table(["a/7.jpg,fake", "b/7.jpg,real"], files, file="ds/data.csv")
    assert [rule(path) for path in files] == [None, Place("real", None), Place("fake", None)]


def test_tables_as_programs_write_them_are_read():
    content = '\ufeff"image","class"\r\n\r\n"real/1.jpg", "fake"\r\n"b/2.jpg",fake\r\n'.encode()
    rule = by_table(content)
    assert rule("real/1.jpg") == rule("b/2.jpg") == Place("fake", None)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["1.jpg,real", "../1.jpg,real"], "data.csv, line 3: '../1.jpg' leads out of the set"),
        (["a/../../1.jpg,real"], "data.csv, line 2: 'a/../../1.jpg' leads out of the set"),
        (["/real/1.jpg,real"], "'/real/1.jpg' leads out of the set"),
        (["C:\\real\\1.jpg,real"], "leads out of the set"),
        (["real/3.jpg,real"], "line 2: 'real/3.jpg' names no file of the set"),
        ([",real"], "line 2: '' names no file of the set"),
        (["2.jpg,real"], "'2.jpg' names no file of the set, or is a name that several have; write the whole path"),
        (
            ["1.jpg,Real", "real/1.jpg,fake"],
            "line 3: 'real/1.jpg' has another label further up; keep one of the two rows",
        ),
        (["1.jpg,2"], "data.csv, line 2: the label '2' is unknown; write real or fake, or set classes.real"),
        (["1.jpg,"], "the label '' is unknown"),
        (["1.jpg,real,x"], "data.csv, line 2: 3 cells, but 2 in the header"),
        (["1.jpg"], "line 2: 1 cells, but 2 in the header"),
        ([], "data.csv has no row below its header"),
        (['"1.jpg"x,real'], "data.csv, line 2: this is no CSV ("),
        (['"1.jpg,real'], "this is no CSV (unexpected end of data)"),
        ([f"{'x' * 200_000},real"], "this is no CSV (field larger than field limit"),
        (b"image;class\n1.jpg;real", "data.csv has no column 'image'; the columns of its header are: 'image;class'"),
        (b"image,label\n1.jpg,real", "no column 'class'; the columns of its header are: 'image', 'label'"),
        (b"image,class,class\n1.jpg,real,fake", "data.csv has several columns 'class'"),
        (b"", "data.csv has no column 'image'; the columns of its header are: none"),
        ("image,class\né.jpg,real".encode("latin-1"), "data.csv is not in UTF-8; save it as CSV in UTF-8"),
        ("image,class\n1.jpg,real".encode("utf-16"), "data.csv is not in UTF-8"),
        (b"PK\x03\x04\xff\xfe\x00", "data.csv is not in UTF-8"),
    ],
)
def test_a_table_that_does_not_tell_is_refused(rows, said):
    assert said in refusal(rows)


def test_a_table_that_is_not_there_is_refused_and_those_that_are_there_are_named():
    with pytest.raises(UserError) as caught:
        rule_of(Classes(labels=LABELS), ["ds/data.csv", "ds/.x.csv", "1.jpg"])
    assert str(caught.value) == (
        "classes.labels.file is 'data.csv', and no such file is in the folder or zip; write its path below the root "
        "(the .csv files there: 'ds/data.csv')"
    )


def test_a_label_of_both_classes_is_refused_with_its_row():
    said = refusal(["1.jpg,deepfake of a real face"], real="real", fake="fake")
    assert said.startswith("data.csv, line 2: 'deepfake of a real face' matches both classes.real = 'real' and")


def test_what_is_said_of_a_hostile_cell_is_short_and_harmless():
    said = refusal([f"\x1b[2J{'x' * 100_000},real"])
    assert len(said) < 400
    assert "\x1b" not in said


def test_a_line_without_end_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(classes, "LONGEST", 100)
    assert refusal(["1.jpg,real" + " " * 100]).startswith("data.csv, line 1: this is no CSV (the line has no end)")


@settings(deadline=None, derandomize=True)
@given(
    st.binary(max_size=60) | st.text('image,class\n\r"/.\\1 jpgrefk\0\ufeff', max_size=60).map(str.encode),
    st.booleans(),
)
def test_whatever_a_table_holds_it_tells_or_is_refused(content, with_header):
    with suppress(UserError):
        rule = by_table(b"image,class\n" * with_header + content)
        assert {rule(path) for path in ("real/1.jpg", "b/2.jpg")} <= {None, Place("real", None), Place("fake", None)}


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.dictionaries(paths, st.sampled_from(["real", "fake", "other", None]), min_size=1, max_size=8), st.data())
def test_a_folder_and_its_zip_are_read_alike(labels, data):
    kinds = {f"{data.draw(st.sampled_from(['', 'train/', 'test/']))}{path}.jpg": kind for path, kind in labels.items()}
    named = [path for path in kinds if kinds[path]]
    taken = [path for path in named if kinds[path] != "other"]
    with tempfile.TemporaryDirectory() as home:
        root, zipped, packed, copied = (Path(home, name) for name in ("set", "set.zip", "1.zip", "2.zip"))
        for path in kinds:
            Path(root, path).parent.mkdir(parents=True, exist_ok=True)
            Path(root, path).write_text(path)
        with Path(root, "data.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["class", "image"])
            for path in data.draw(st.permutations(named)):
                alone = [Path(other).name for other in kinds].count(Path(path).name) == 1
                writer.writerow([kinds[path], Path(path).name if alone and data.draw(st.booleans()) else path])
        with zipfile.ZipFile(zipped, "w") as file:
            for path in [*kinds, "data.csv"]:
                file.write(root / path, path)
        parameters = Classes(labels=LABELS, **({"real": "^real$", "fake": "^fake$"} if named != taken else {}))
        if not taken:
            said = "no label in data.csv matches classes.real" if named else "has no row below its header"
            for source in (root, zipped):
                with pytest.raises(UserError, match=said):
                    folder.fetch(source, packed, both=False, classes=parameters)
            return
        expected = {path: (kinds[path] == "fake", place_of(path, "real").split) for path in taken}
        found = [
            {**folder.fetch(source, target, both=False, classes=parameters), "path": None}
            for source, target in ((root, packed), (zipped, copied))
        ]
        assert found[0] == found[1]
        assert found[0]["images"] == len(taken)
        assert found[0]["skipped"] == {"other files": len(kinds) - len(taken) + 1}  # the table is the last
        for target in (packed, copied):
            with archive.open_archive(target) as file:
                faces = archive.listing(file, both=False, classes=parameters).faces
            assert {face.name: (face.label, face.split) for face in faces} == expected
