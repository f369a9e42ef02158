"""A person's own faces, as a folder or as a zip."""

import os
import random
import zipfile
from pathlib import Path

import pytest

from stages.errors import UserError
from stages.faces.archive import listing, open_archive
from stages.params import Classes
from stages.sources import folder


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """A folder that can be filled: the working directory's ``faces``."""
    monkeypatch.chdir(tmp_path)

    def fill(*names):
        for name in names:
            path = Path("faces", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"content of {name}".encode())
        return Path("faces")

    return fill


def fetch(path, **settings):
    archive = Path("out.zip")
    archive.unlink(missing_ok=True)
    return folder.fetch(path, archive, **settings), archive


def names(archive):
    return zipfile.ZipFile(archive).namelist()


# --- Folders ----------------------------------------------------------------------------------------------------------


def test_packs_two_folders(faces):
    provenance, archive = fetch(faces("real/b.jpg", "fake/c.png", "real/a.jpg"))
    assert provenance == {
        "path": "faces",
        "images": 3,
        "counts": {"fake": 1, "real": 2},
        "skipped": {},
    }
    assert names(archive) == ["fake/c.png", "real/a.jpg", "real/b.jpg"]
    with zipfile.ZipFile(archive) as members:
        assert members.read("real/a.jpg") == b"content of real/a.jpg"
        assert {member.compress_type for member in members.infolist()} == {zipfile.ZIP_STORED}


def test_packs_splits(faces):
    provenance, archive = fetch(
        faces("train/real/1.jpg", "train/fake/1.jpg", "valid/real/1.jpg", "test/fake/deep/1.jpg")
    )
    assert provenance["counts"] == {"test/fake": 1, "train/fake": 1, "train/real": 1, "valid/real": 1}
    assert "test/fake/deep/1.jpg" in names(archive)


def test_what_is_no_face_is_left_out_and_counted(faces):
    path = faces("real/1.jpg", "fake/1.jpg", "train.csv", "other/1.jpg", "fake/Thumbs.db")
    provenance, archive = fetch(path)
    assert names(archive) == ["fake/1.jpg", "real/1.jpg"]
    assert provenance["skipped"] == {"other files": 3}


def test_clutter_is_no_image_in_a_folder_and_in_a_zip(faces):
    clutter = ("real/.2.jpg", "real/desktop.ini", "real/1.jpg:Zone.Identifier", "real/@eaDir/1.jpg/SMALL.jpg", ".git/x")
    path = faces("real/1.jpg", "fake/1.jpg", *clutter)
    with zipfile.ZipFile("faces.zip", "w") as archive:
        for name in ("real/1.jpg", "fake/1.jpg", *clutter, "real\\", "@eaDir/"):
            archive.writestr(name, b"")
    provenance, archive = fetch(path)
    assert names(archive) == ["fake/1.jpg", "real/1.jpg"]
    assert provenance["images"] == 2
    assert provenance["skipped"] == {"other files": 5}
    provenance, _ = fetch(Path("faces.zip"))
    assert provenance["images"] == 2
    assert provenance["skipped"] == {"other files": 5}


def test_links_are_followed_wherever_they_lead(faces):
    path = faces("all/1.jpg", "fake/1.jpg")
    Path("blobs/people").mkdir(parents=True)
    Path("blobs/people/3.jpg").write_bytes(b"of a linked folder")
    Path("blobs/2").write_bytes(b"of a linked file")
    (path / "real").mkdir()
    (path / "real/1.jpg").symlink_to("../all/1.jpg")
    (path / "real/2.jpg").symlink_to("../../blobs/2")
    (path / "test").mkdir()
    (path / "test/real").symlink_to(Path("blobs/people").absolute())
    provenance, archive = fetch(path)
    assert names(archive) == ["fake/1.jpg", "real/1.jpg", "real/2.jpg", "test/real/3.jpg"]
    assert [zipfile.ZipFile(archive).read(name) for name in names(archive)[1:]] == [
        b"content of all/1.jpg",
        b"of a linked file",
        b"of a linked folder",
    ]
    assert provenance["counts"] == {"fake": 1, "real": 2, "test/real": 1}


def test_loops_of_links_end(faces):
    path = faces("real/1.jpg", "fake/2.jpg")
    (path / "real/itself").symlink_to(".")
    (path / "real/parent").symlink_to("..")
    (path / "test").mkdir()
    (path / "test/a").mkdir()
    (path / "test/b").mkdir()
    (path / "test/a/to-b").symlink_to("../b")
    (path / "test/b/to-a").symlink_to("../a")
    provenance, archive = fetch(path)
    assert names(archive) == ["fake/2.jpg", "real/1.jpg"]
    assert provenance["skipped"] == {}


def test_links_that_lead_nowhere_are_skipped_and_counted(faces):
    path = faces("real/1.jpg", "fake/1.jpg")
    (path / "real/dangling.jpg").symlink_to("gone.jpg")
    (path / "real/loop.jpg").symlink_to("loop.jpg")
    (path / "test").symlink_to("gone")
    provenance, archive = fetch(path)
    assert names(archive) == ["fake/1.jpg", "real/1.jpg"]
    assert provenance["skipped"] == {"links that lead nowhere": 3}


def test_the_folder_itself_may_be_a_link(faces):
    faces("real/1.jpg", "fake/1.jpg")
    Path("link").symlink_to("faces")
    provenance, archive = fetch(Path("link"))
    assert names(archive) == ["fake/1.jpg", "real/1.jpg"]
    assert provenance["path"] == "link"


def test_a_pipe_in_a_class_folder_does_not_block(faces):
    path = faces("real/1.jpg", "fake/1.jpg")
    os.mkfifo(path / "real/pipe.jpg")
    provenance, archive = fetch(path)
    assert names(archive) == ["fake/1.jpg", "real/1.jpg"]
    assert provenance["skipped"] == {"other files": 1}


def test_the_same_files_give_the_same_bytes(faces):
    path = faces("real/1.jpg", "real/2.jpg", "fake/1.jpg")
    first = fetch(path)[1].read_bytes()
    (path / "real/2.jpg").rename(path / "moved")
    (path / "moved").rename(path / "real/2.jpg")
    os.utime(path / "real/1.jpg", (1, 1))
    (path / "fake/1.jpg").chmod(0o600)
    assert fetch(path)[1].read_bytes() == first
    faces("real/3.jpg")
    assert fetch(path)[1].read_bytes() != first


def test_an_unreadable_file_is_named(faces, monkeypatch):
    path = faces("real/1.jpg", "fake/1.jpg")
    read = Path.open

    def refused(self, mode="r", *settings):  # as chmod 000 does, but for root as well
        if self.name == "1.jpg" and self.parent.name == "real":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, mode, *settings)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"cannot read .*/faces/real/1\.jpg \(Permission denied\); make it readable"):
        fetch(path)


def test_an_unreadable_folder_is_named(faces, monkeypatch):
    path = faces("real/1.jpg", "fake/1.jpg")
    iterate = Path.iterdir

    def refused(self):
        if self.name == "fake":
            raise PermissionError(13, "Permission denied", str(self))
        return iterate(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(UserError, match=r"cannot read .*/faces/fake \(Permission denied\); make it readable"):
        fetch(path)


def test_a_name_that_is_not_utf8_is_named(faces):
    path = faces("real/1.jpg", "fake/1.jpg")
    with open(os.fsencode(path) + b"/real/\xff.jpg", "wb"):  # noqa: PTH123
        pass
    with pytest.raises(UserError, match=r"xff\.jpg' is not valid UTF-8; rename the file"):
        fetch(path)


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_one_class_is_not_enough(faces, kind):
    other = {"real": "fake", "fake": "real"}[kind]
    with pytest.raises(UserError, match=f"faces has no file in a folder named {other}; it needs both classes"):
        fetch(faces(f"train/{kind}/1.jpg"))


def test_a_missing_folder(faces):
    with pytest.raises(UserError, match=r"nowhere does not exist; set path to a folder or \.zip"):
        fetch(Path("nowhere"))


# --- Zips -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def zip_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(compression=zipfile.ZIP_STORED, **members):
        with zipfile.ZipFile("faces.zip", "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(f"{name}/1.jpg", content)
        return Path("faces.zip")

    return make


def test_a_zip_is_taken_as_it_is(zip_of):
    path = zip_of(real="r", fake="f", other="o")
    provenance, archive = fetch(path)
    assert provenance == {
        "path": "faces.zip",
        "images": 2,
        "counts": {"fake": 1, "real": 1},
        "skipped": {"other files": 1},
    }
    assert archive.read_bytes() == path.read_bytes()


def test_a_zip_is_copied_so_that_its_owner_may_write_into_it(zip_of):
    path = zip_of(real="r", fake="f")
    _, archive = fetch(path)
    with path.open("r+b") as file:
        file.write(b"over")
    assert zipfile.ZipFile(archive).testzip() is None


def test_a_zip_with_one_class(zip_of):
    with pytest.raises(UserError, match=r"faces\.zip has no file in a folder named real; it needs both classes"):
        fetch(zip_of(fake="f"))


def test_a_file_that_is_no_zip(zip_of):
    Path("faces.zip").write_text("faces")
    with pytest.raises(UserError, match=r"faces\.zip is not a sound zip \(File is not a zip file\); make it again"):
        fetch(Path("faces.zip"))


def test_an_empty_file_is_no_zip(zip_of):
    Path("faces.zip").touch()
    with pytest.raises(UserError, match=r"faces\.zip is not a sound zip"):
        fetch(Path("faces.zip"))


def test_a_damaged_zip(zip_of):
    path = zip_of(real="r" * 100, fake="f" * 100)
    path.write_bytes(path.read_bytes().replace(b"rrr", b"rxr", 1))
    with pytest.raises(UserError, match=r"faces\.zip is not a sound zip \(Bad CRC-32 for file 'real/1\.jpg'\)"):
        fetch(path)


def test_an_encrypted_zip(zip_of):
    path = zip_of(real="r", fake="f")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the table of contents; writing needs no cipher
    content[6] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"faces\.zip is not a sound zip \(.*encrypted"):
        fetch(path)


def test_a_zip_bomb_is_not_unpacked(zip_of):
    path = zip_of(zipfile.ZIP_DEFLATED, real=bytes(10_000_000), fake="f")
    with pytest.raises(UserError, match=r"not a sound zip \(it would unpack to more than 100 times its size"):
        fetch(path)


def test_damage_is_found_in_what_is_compressed(zip_of):
    path = zip_of(zipfile.ZIP_DEFLATED, real=random.Random(1).randbytes(1000), fake="f")
    content = bytearray(path.read_bytes())
    content[60:200] = bytes(140)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"faces\.zip is not a sound zip"):
        fetch(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_no_later_stage_reads_is_refused(zip_of, compression):
    path = zip_of(compression, real="r" * 99, fake="f" * 99)
    with pytest.raises(
        UserError, match=r"sound zip \('real/1\.jpg' is compressed by method 1\d, and only deflate, the "
    ):
        fetch(path)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_member_without_a_proper_name_is_skipped(zip_of, name):
    path = zip_of(real="r", fake="f")
    info = zipfile.ZipInfo("x")
    info.filename = name
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, b"x")
    assert fetch(path)[0]["skipped"] == {"other files": 1}


# --- Classes that folders do not say ----------------------------------------------------------------------------------

BY_PATH = Classes(real="^people/", fake=r"^flux/.*\.png$")
BY_TABLE = Classes(labels={"file": "lists/data.csv", "path": "image", "label": "class"})


@pytest.fixture(params=["folder", "zip"])
def source(request, faces):
    """A function that fills a folder or a zip with files of these names and, with rows, a table; gives its path."""

    def source(*names, rows=None):
        path = faces(*names)
        if rows:
            table = faces("lists/data.csv") / "lists/data.csv"
            table.write_text("\n".join(["image,class", *rows]))
        if request.param == "folder":
            return path
        with zipfile.ZipFile("faces.zip", "w") as archive:
            for file in sorted(path.rglob("*")):
                archive.write(file, file.relative_to(path))
        return Path("faces.zip")

    return source


def listed(archive, classes):
    with open_archive(archive) as file:
        return {face.name: (face.label, face.split) for face in listing(file, both=False, classes=classes).faces}


def test_paths_may_say_the_class(source):
    path = source("people/1.jpg", "flux/1.png", "flux/1.txt", "real/1.jpg", "people/test/1.jpg", "people/.1.jpg")
    provenance, archive = fetch(path, classes=BY_PATH)
    assert provenance["counts"] == {"fake": 1, "real": 1, "test/real": 1}
    assert provenance["skipped"] == {"other files": 3}
    assert listed(archive, BY_PATH) == {
        "people/1.jpg": (0, None),
        "flux/1.png": (1, None),
        "people/test/1.jpg": (0, "test"),
    }


def test_a_table_may_say_the_class_and_comes_along(source):
    path = source("real/1.jpg", "train/2.jpg", "3.jpg", rows=["real/1.jpg,fake", "2.jpg,real"])
    provenance, archive = fetch(path, classes=BY_TABLE)
    assert provenance["counts"] == {"fake": 1, "train/real": 1}
    assert provenance["skipped"] == {"other files": 2}
    assert listed(archive, BY_TABLE) == {"real/1.jpg": (1, None), "train/2.jpg": (0, "train")}


def test_what_a_look_at_a_folder_sees_has_the_table_in_it(faces):
    path = faces("b.jpg", "a.jpg", "c.jpg", "lists/data.csv")
    (path / "lists/data.csv").write_text("image,class\na.jpg,real\nb.jpg,real")
    assert list(folder.images(path, BY_TABLE)[0]) == ["a.jpg", "b.jpg", "lists/data.csv"]


def test_one_class_is_enough_where_both_are_not_needed(source):
    only = Classes(fake="^flux/")
    provenance, archive = fetch(source("flux/1.png", "people/1.jpg"), both=False, classes=only)
    assert provenance["counts"] == {"fake": 1}
    assert listed(archive, only) == {"flux/1.png": (1, None)}


@pytest.mark.parametrize(
    ("classes", "both", "said"),
    [
        (Classes(real="^people/"), True, "has no fake images: set classes.fake"),
        (Classes(real="^people/", fake="^x"), True, "has no fake images: no path matches classes.fake = '^x'"),
        (Classes(fake="^x"), False, "has no real and no fake images: no path matches classes.fake = '^x'"),
        (BY_TABLE, True, "has no fake images: no label in lists/data.csv says fake"),
        (
            Classes(fake="FLUX", labels=BY_TABLE.labels),
            False,
            "has no real and no fake images: no label in lists/data.csv matches classes.fake = 'FLUX'",
        ),
    ],
)
def test_a_class_that_is_missing_is_missed_by_the_rule_in_use(source, classes, both, said):
    path = source("people/1.jpg", rows=["people/1.jpg,real"])
    with pytest.raises(UserError) as caught:
        fetch(path, both=both, classes=classes)
    assert str(caught.value) == f"{path} {said}"


def test_an_image_of_both_classes_and_a_table_that_is_missing_are_refused(source):
    path = source("real/fake/1.jpg")
    with pytest.raises(
        UserError, match=r"^'real/fake/1\.jpg' matches both classes\.real = 'real' and classes\.fake = 'f'"
    ):
        fetch(path, classes=Classes(real="real", fake="f"))
    with pytest.raises(UserError, match=r"labels\.file is 'lists/data\.csv', and no such file is in the folder or zip"):
        fetch(path, classes=BY_TABLE)


def test_a_table_that_is_a_pipe_does_not_block(faces):
    path = faces("1.jpg", "lists/2.jpg")
    os.mkfifo(path / "lists/data.csv")
    with pytest.raises(UserError, match="no such file is in the folder"):
        fetch(path, classes=BY_TABLE)


def test_a_table_may_be_a_link_out_of_the_folder(faces):
    path = faces("1.jpg", "lists/2.jpg")
    Path("elsewhere.csv").write_text("image,class\n1.jpg,real\n2.jpg,fake")
    (path / "lists/data.csv").symlink_to("../../elsewhere.csv")
    _, archive = fetch(path, classes=BY_TABLE)
    assert listed(archive, BY_TABLE) == {"1.jpg": (0, None), "lists/2.jpg": (1, None)}
