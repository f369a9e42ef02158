"""Stage `audit`: what the sets hold, alone and together."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from stages import audit, index
from stages.files import read_json
from stages.sources import folder
from tests.pictures import archive, encoded, faces, picture

REAL_FACES = Path(__file__).parents[1] / ".." / "shared" / "faces" / "140k"
ONE = {"source": "folder", "use": "train", "path": "there"}


@pytest.fixture
def run(tmp_path, monkeypatch, write_params, command):
    """A function that indexes and audits sets, {name: {member: bytes}}; those of ``tested`` are for the test alone."""
    monkeypatch.chdir(tmp_path)

    def run(tested=(), **sets):
        uses = {name: ONE | {"use": "test" if name in tested else "train"} for name in sets}
        write_params({"sets": uses, "weights.source": "random", "data.max_quarantined": 0.5})
        for name, members in sets.items():
            if members is not None:
                archive(name, members)
            command(index.main, name)
        audit.main()

    return run


def groups(name):
    """{member: group} of the sound images of a set."""
    table = pd.read_parquet(f"data/index/{name}.parquet")
    sound = table.loc[table["verdict"] == "ok", "member"]
    return dict(zip(sound, pd.read_parquet(f"data/groups/{name}.parquet")["group"], strict=True))


def test_duplicates_are_found_and_what_is_no_image_is_counted(run):
    sound = faces(6)
    near = encoded(picture(1000), quality=80)  # fake/000.jpg at another quality
    run(
        faces=sound | {"fake/again.jpg": sound["fake/000.jpg"], "real/near.jpg": near, "real/x.jpg": b"?", "a.csv": b""}
    )
    group = groups("faces")
    assert group["fake/000.jpg"] == group["fake/again.jpg"] == group["real/near.jpg"]
    assert len(set(group.values())) == 12
    figures = read_json("metrics/data.json")
    assert len(figures) <= 20
    counted = ("images", "real", "fake", "quarantined", "other_files", "exact_duplicates")
    assert [figures[name] for name in counted] == [14, 7, 7, 1, 1, 1]
    assert (figures["near_duplicates"], figures["near_duplicates_across_classes"]) == (2, 2)


def test_duplicates_across_sets_are_found_and_bind_no_groups_within_one(run):
    ours, others = faces(6), {f"real/{n}.jpg": encoded(picture(500 + n)) for n in range(5)}
    others["real/same.jpg"] = ours["real/000.jpg"]
    others["real/near.jpg"] = encoded(picture(1003), quality=70)  # fake/003.jpg at another quality
    run(["other"], faces=ours, other=others)
    first, second = groups("faces"), groups("other")
    assert len(set(first.values())) == 12
    assert not set(first.values()) & set(second.values())
    across = pd.read_parquet("data/across.parquet")
    assert set(across.itertuples(index=False, name=None)) == {
        (second["real/same.jpg"], first["real/000.jpg"]),
        (second["real/near.jpg"], first["fake/003.jpg"]),
    }
    table = pd.read_csv("plots/data/sets.csv").set_index("set")
    assert table.loc["faces", ["use", "real", "fake"]].tolist() == ["train", 6, 6]
    assert table.loc["other", ["use", "real", "fake"]].tolist() == ["test", 7, 0]
    assert read_json("metrics/data.json")["images"] == 12  # of the set to learn from
    assert pd.read_csv("plots/data/counts.csv")["images"].sum() == 12


def test_sets_of_one_class_each_are_audited_together(run, capsys):
    real = {f"real/{n}.jpg": encoded(picture(n), quality=75) for n in range(40)}
    run(real=real, fake={f"fake/{n}.jpg": encoded(picture(100 + n), quality=90) for n in range(40)})
    figures = read_json("metrics/data.json")
    assert (figures["real"], figures["fake"]) == (40, 40)
    assert figures["shortcut_auc"] >= 0.95
    assert pd.read_csv("plots/data/sets.csv")["shortcut_auc"].isna().all()
    assert "all sets that train" in capsys.readouterr().out


def test_duplicates_across_official_splits_are_counted(run):
    sound = {
        f"{split}/{name}": data
        for split, (name, data) in zip(["train"] * 4 + ["test"] * 4, faces(4).items(), strict=True)
    }
    name = next(iter(sound))
    run(faces=sound | {"test/real/copy.jpg": sound[name], "test/real/near.jpg": encoded(picture(0), quality=70)})
    figures = read_json("metrics/data.json")
    assert (figures["exact_duplicates"], figures["exact_duplicates_across_splits"]) == (1, 1)
    assert (figures["near_duplicates"], figures["near_duplicates_across_splits"]) == (2, 1)
    assert pd.read_csv("plots/data/counts.csv")["images"].sum() == 10


def test_a_class_saved_at_another_quality_is_announced_loudly(run, capsys):
    quality = {"real": 75, "fake": 90}
    run(
        faces={name: encoded(picture(seed), quality=quality[name.split("/")[0]]) for seed, name in enumerate(faces(40))}
    )
    assert read_json("metrics/data.json")["shortcut_auc"] >= 0.95
    properties = pd.read_csv("plots/data/properties.csv").set_index(["property", "label", "value"])["images"]
    assert properties["JPEG quality"].to_dict() == {("real", "75"): 40, ("fake", "90"): 40}
    assert "WARNING: file size, format and average colour alone tell real from fake" in capsys.readouterr().out


real_faces = pytest.mark.skipif(
    not REAL_FACES.is_dir(), reason="needs 1,800 faces of the 140k corpus in ../shared/faces/140k"
)


@real_faces
def test_on_real_faces_exactly_the_known_pairs_are_near_and_there_is_no_shortcut(run, capsys):
    archive("faces", {})
    Path("data/raw/faces.zip").unlink()
    folder.fetch(REAL_FACES, Path("data/raw/faces.zip"))
    run(faces=None)
    found = pd.Series(groups("faces"))
    alike = found[found.duplicated(keep=False)]
    known = pd.read_csv(REAL_FACES / "NEAR_DUPLICATES.csv")[["file_a", "file_b"]]
    assert {frozenset(pair) for pair in alike.groupby(alike).apply(lambda group: list(group.index))} == {
        frozenset(pair) for pair in known.to_numpy()
    }
    figures = read_json("metrics/data.json")
    assert (figures["images"], figures["near_duplicates"], figures["quarantined"]) == (1800, 5, 0)
    assert 0.55 <= figures["shortcut_auc"] <= 0.61
    assert pd.read_parquet("data/index/faces.parquet")["quantisation"].nunique() == 1
    assert "WARNING" not in capsys.readouterr().out


@real_faces
def test_real_faces_of_which_one_class_was_saved_anew_give_themselves_away(run, capsys):
    real, fake = (sorted((REAL_FACES / kind).iterdir())[:300] for kind in ("real", "fake"))
    saved_anew = {f"fake/{path.name}": encoded(Image.open(path), quality=92) for path in fake}
    run(faces={f"real/{path.name}": path.read_bytes() for path in real} | saved_anew)
    assert read_json("metrics/data.json")["shortcut_auc"] >= 0.95
    assert "WARNING" in capsys.readouterr().out
