"""The manifest as a file."""

import pandas as pd
import pytest

from stages.errors import UserError
from stages.faces import manifest

ROWS = pd.DataFrame(
    {
        "member": ["real/b, c.jpg", "NA", 'fake/"ä".jpg', "real/a.jpg"],
        "label": [0, 1, 1, 0],
        "split": ["valid", "train", "test", "test"],
        "group": [3, 1, 2, 0],
        "verdict": ["ok"] * 4,
    }
)


def test_what_is_written_is_read_back_sorted_by_split_then_member(tmp_path):
    path = tmp_path / "manifest.csv"
    manifest.write(ROWS, path)
    read = manifest.read(path)
    assert list(read.itertuples(index=False, name=None)) == [
        ('fake/"ä".jpg', 1, "test", 2),
        ("real/a.jpg", 0, "test", 0),
        ("NA", 1, "train", 1),
        ("real/b, c.jpg", 0, "valid", 3),
    ]
    assert (read["label"].dtype, read["group"].dtype) == ("int8", "int64")
    assert path.read_text(encoding="utf-8").startswith("member,label,split,group\n")


def test_the_order_of_the_rows_does_not_matter(tmp_path):
    manifest.write(ROWS, tmp_path / "one.csv")
    manifest.write(ROWS[::-1], tmp_path / "other.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()


def test_a_missing_manifest_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.csv is missing; run the split stage first"):
        manifest.read(tmp_path / "manifest.csv")


@pytest.mark.parametrize(
    "text",
    ["", "member,label\nreal/a.jpg,0\n", "member,label,split,group\nreal/a.jpg,real,train,0\n"]
    + [f"member,label,split,group\nreal/a.jpg,{row}\n" for row in ("10,train,0", "0,tra,0", "0,train,9" + 30 * "9")],
    ids=["empty", "columns missing", "label in words", "unknown label", "unknown split", "number too long"],
)
def test_what_is_no_manifest_is_refused(tmp_path, text):
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"manifest\.csv .*dvc repro -f split"):
        manifest.read(path)
