"""Reading a table of scores, and refusing those that no figure can be made of."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.errors import UserError
from stages.scoring.scores import conditions, read, read_set


@pytest.fixture
def table() -> pd.DataFrame:
    """Four clean test images of a set out of order, a corrupted copy, an unseen fake and a validation image."""
    rows = [
        ("faces", "test", "clean", "b.jpg", 1, 0.25),
        ("faces", "test", "clean", "a.jpg", 0, -1.0),
        ("faces", "test", "clean", "d.jpg", 1, 3.0),
        ("faces", "test", "clean", "c.jpg", 0, 0.5),
        ("faces", "test", "jpeg 50", "a.jpg", 0, 9.0),
        ("other", "unseen", "clean", "f.jpg", 1, 2.0),
        ("faces", "valid", "clean", "e.jpg", 1, 9.0),
    ]
    frame = pd.DataFrame(rows, columns=["set", "split", "condition", "member", "label", "logit"])
    frame = frame.astype({"label": np.int8, "logit": np.float32})
    score, distance = 1 / (1 + np.exp(-frame["logit"])), 1 + frame["logit"].abs()
    return frame.assign(score=score.astype(np.float32), distance=distance)


def test_it_reads_the_clean_images_of_one_split_in_the_order_of_their_members(
    tmp_path: Path, table: pd.DataFrame
) -> None:
    table.to_parquet(tmp_path / "scores.parquet")
    scores = read(tmp_path / "scores.parquet", "test")
    assert scores.member.tolist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert scores.label.tolist() == [0, 1, 0, 1]
    assert scores.logit.tolist() == [-1.0, 0.25, 0.5, 3.0]
    assert scores.score == pytest.approx(1 / (1 + np.exp(-scores.logit)), abs=1e-7)
    assert scores.distance.tolist() == [2.0, 1.25, 1.5, 4.0]
    assert (scores.label.dtype, scores.logit.dtype, scores.score.dtype) == (np.int8, np.float64, np.float64)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scores\.parquet is missing; make it with `dvc repro`"):
        read(tmp_path / "scores.parquet", "test")


def test_a_truncated_table_is_refused(tmp_path: Path, table: pd.DataFrame) -> None:
    path = tmp_path / "scores.parquet"
    table.to_parquet(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"scores\.parquet is not a table of scores"):
        read(path, "test")


@pytest.mark.parametrize("column", ["logit", "distance"])
def test_a_table_without_a_column_is_refused(tmp_path: Path, table: pd.DataFrame, column: str) -> None:
    table.drop(columns=column).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=r"scores\.parquet is not a table of scores"):
        read(tmp_path / "scores.parquet", "test")


@pytest.mark.parametrize("column", ["logit", "score"])
def test_a_score_that_is_no_number_is_refused_with_its_image(tmp_path: Path, table: pd.DataFrame, column: str) -> None:
    table.loc[3, column] = np.nan
    table.to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=r"the score of c\.jpg is not a finite number \(1 of 4 are not\)"):
        read(tmp_path / "scores.parquet", "test")


@pytest.mark.parametrize(("label", "name"), [(0, "real"), (1, "fake")])
def test_a_split_of_one_class_is_refused(tmp_path: Path, table: pd.DataFrame, label: int, name: str) -> None:
    table[table["label"] != label].to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=f"test split has no {name} image among 2"):
        read(tmp_path / "scores.parquet", "test")


def test_a_split_without_images_is_refused(tmp_path: Path, table: pd.DataFrame) -> None:
    table[table["split"] != "test"].to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match="test split has no fake image among 0"):
        read(tmp_path / "scores.parquet", "test")


def test_conditions_are_listed_in_their_order(tmp_path: Path, table: pd.DataFrame) -> None:
    table.to_parquet(tmp_path / "scores.parquet")
    assert conditions(tmp_path / "scores.parquet") == [
        ("test", "clean"),
        ("test", "jpeg 50"),
        ("unseen", "clean"),
        ("valid", "clean"),
    ]


def test_it_reads_one_condition(tmp_path: Path, table: pd.DataFrame) -> None:
    corrupted = table[table["split"] == "test"].assign(condition="jpeg 50", logit=9.0, score=1.0)
    pd.concat([table[table["condition"] == "clean"], corrupted]).to_parquet(tmp_path / "scores.parquet")
    assert set(read(tmp_path / "scores.parquet", "test", "jpeg 50").logit) == {9.0}


def test_of_a_set_it_reads_the_clean_test_images_seen_or_not(tmp_path: Path, table: pd.DataFrame) -> None:
    table.loc[table["member"] == "b.jpg", "split"] = "unseen"
    table.to_parquet(tmp_path / "scores.parquet")
    assert read_set(tmp_path / "scores.parquet", "faces").logit.tolist() == [-1.0, 0.25, 0.5, 3.0]
    assert read_set(tmp_path / "scores.parquet", "other").label.tolist() == [1]  # of one class
    assert len(read_set(tmp_path / "scores.parquet", "nowhere").label) == 0


def test_some_images_of_all(tmp_path: Path, table: pd.DataFrame) -> None:
    table.to_parquet(tmp_path / "scores.parquet")
    some = read(tmp_path / "scores.parquet", "test").of(np.array(["c.jpg", "a.jpg", "z.jpg"]))
    assert some.member.tolist() == ["a.jpg", "c.jpg"]
    assert some.logit.tolist() == [-1.0, 0.5]
