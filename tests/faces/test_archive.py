"""The archive: what counts as a face, and what a hostile zip cannot do."""

import stat
import struct
import zipfile

import pytest

from stages.errors import UserError
from stages.faces import archive

SOUND = {"real/a.jpg": b"real face", "fake/b.jpg": b"fake face"}


@pytest.fixture
def pack(tmp_path):
    """A function that writes a zip of {name or ZipInfo: bytes}, two sound faces among them, and gives its path."""

    def pack(members=(), *, sound=True, method=zipfile.ZIP_STORED):
        path = tmp_path / "faces.zip"
        with zipfile.ZipFile(path, "w", method) as file:
            for name, data in [*(SOUND.items() if sound else ()), *dict(members).items()]:
                file.writestr(name, data)
        return path

    return pack


def listing(path):
    with archive.open_archive(path) as file:
        return archive.listing(file)


def read(path, name):
    """The bytes of the member of this name, by way of its place."""
    with archive.open_archive(path) as file:
        place = next(place for place, info in file.members() if info.filename == name)
        return archive.read(file, name, place)


def problems(path):
    """{name: problem} of the faces that must not be read."""
    return {face.name: face.problem for face in listing(path).faces if face.problem}


def patch_directory(path, name, offset, layout, value):
    """Overwrite a field in the entry of ``name`` in the central directory."""
    data = bytearray(path.read_bytes())
    start = data.rindex(name.encode()) - 46
    assert data[start : start + 4] == b"PK\x01\x02"
    struct.pack_into(layout, data, start + offset, value)
    path.write_bytes(data)


def test_faces_have_label_split_and_size_and_the_rest_is_counted(pack):
    found = listing(
        pack({"x/train/fake/c.jpg": b"123", "x/TEST/Real/d.png": b"4", "train.csv": b"", "real/": b"", "fake/.e": b""})
    )
    assert [(face.name, face.label, face.split, face.size, face.problem) for face in found.faces] == [
        ("real/a.jpg", 0, None, 9, None),
        ("fake/b.jpg", 1, None, 9, None),
        ("x/train/fake/c.jpg", 1, "train", 3, None),
        ("x/TEST/Real/d.png", 0, "test", 1, None),
    ]
    assert found.other == 2


def test_members_are_read_in_place(pack, tmp_path):
    path = pack()
    assert read(path, "fake/b.jpg") == b"fake face"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name",
    [
        "../real/x.jpg",
        "real/../../x.jpg",
        "/real/x.jpg",
        "C:/real/x.jpg",
        "..\\real\\x.jpg",
        "real/\x1b[2J.jpg",
        "real/\x9b.jpg",
    ],
)
def test_names_that_point_elsewhere_or_at_the_terminal_are_quarantined(pack, name):
    assert problems(pack({name: b"x"})) == {name: "unsafe name"}


@pytest.mark.parametrize(
    "name",
    [
        "real/Screenshot 10.30.15\u202fAM.jpg",
        "real/no\xa0break.jpg",
        "real/full\u3000width.jpg",
        "real/می\u200cخواهم.jpg",
        "real/👨\u200d👩.jpg",
        "real/\u200fשלום.jpg",
        "real/soft\xadhyphen.jpg",
        "12:30/real/1:2.jpg",
    ],
)
def test_names_that_people_have_are_no_harm(pack, name):
    path = pack({name: b"x"})
    assert problems(path) == {}
    assert read(path, name) == b"x"


@pytest.mark.parametrize("name", ["", ".", "..", "fake/.."])
def test_members_that_name_nothing_are_no_faces_or_unsafe(pack, name):
    info = zipfile.ZipInfo("x")
    info.filename = name
    path = pack({info: b"x"})
    found = listing(path)
    assert len(found.faces) + found.other == 3
    assert {face.problem for face in found.faces[2:]} <= {"unsafe name"}
    assert archive.problem_of(info) == "unsafe name"


def test_folders_in_a_zip_made_by_windows_are_no_images(pack):
    found = listing(pack({"train\\real\\": b"", "train\\real\\x.jpg": b"x"}))
    assert [(face.name, face.split, face.problem) for face in found.faces[2:]] == [
        ("train\\real\\x.jpg", "train", None)
    ]
    assert found.other == 0


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_symlinks_and_devices_are_quarantined(pack, kind):
    link = zipfile.ZipInfo("real/passwd.jpg")
    link.external_attr = (kind | 0o777) << 16
    assert problems(pack({link: b"/etc/passwd"})) == {"real/passwd.jpg": "not a regular file"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_every_member_of_a_name_used_twice_is_quarantined(pack):
    twice = pack({zipfile.ZipInfo("real/x.jpg"): b"1", zipfile.ZipInfo("real/x.jpg"): b"2"})
    assert [face.problem for face in listing(twice).faces] == [None, None, *["name used more than once"] * 2]


def test_encrypted_members_are_quarantined(pack):
    path = pack({"real/x.jpg": b"secret"})
    patch_directory(path, "real/x.jpg", 8, "<H", 0x1)
    assert problems(path) == {"real/x.jpg": "encrypted"}


def test_methods_that_python_cannot_unpack_are_quarantined(pack):
    path = pack({"real/x.jpg": b"x"})
    patch_directory(path, "real/x.jpg", 10, "<H", 99)
    assert problems(path) == {"real/x.jpg": "unsupported compression"}


def test_a_zip_bomb_by_ratio_is_quarantined(pack):
    path = pack({"real/bomb.jpg": bytes(3 * 2**20)}, method=zipfile.ZIP_DEFLATED)
    assert problems(path) == {"real/bomb.jpg": "compressed like a zip bomb"}


def test_a_member_that_is_too_large_is_quarantined(pack, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FACE_BYTES", 9)
    assert problems(pack({"real/x.jpg": bytes(10)})) == {"real/x.jpg": "too large"}


def test_a_member_larger_than_it_claims_is_not_read(pack):
    path = pack({"real/x.jpg": bytes(3 * 2**20)}, method=zipfile.ZIP_DEFLATED)
    patch_directory(path, "real/x.jpg", 24, "<I", 100)
    with pytest.raises(archive.MemberError, match="damaged in the archive"):
        read(path, "real/x.jpg")


def test_reading_stops_at_the_limit(pack, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FACE_BYTES", 8)
    with pytest.raises(archive.MemberError, match="too large"):
        read(pack(), "real/a.jpg")


def test_a_damaged_member_is_found_by_its_checksum(pack):
    path = pack()
    path.write_bytes(path.read_bytes().replace(b"real face", b"real fade"))
    with pytest.raises(archive.MemberError, match="damaged in the archive"):
        read(path, "real/a.jpg")


def test_a_member_that_moved_since_it_was_listed_is_not_taken_for_another(pack):
    with (
        archive.open_archive(pack()) as file,
        pytest.raises(archive.MemberError, match="not where the index found it"),
    ):
        archive.read(file, "real/another.jpg", listing(pack()).faces[0].place)


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MAX_MEMBERS", 1, "has more than 1 members"),
        ("MAX_TOTAL_BYTES", 17, "would unpack to"),
        ("MAX_TABLE_BYTES", 50, "table of contents"),
    ],
)
def test_a_zip_bomb_by_count_or_total_is_refused(pack, monkeypatch, limit, value, message):
    monkeypatch.setattr(archive, limit, value)
    with pytest.raises(UserError, match=message):
        listing(pack())


def test_names_in_an_unknown_encoding_are_survived(pack):
    path = pack({"real/AB.jpg": b"jis"})
    path.write_bytes(path.read_bytes().replace(b"AB.jpg", b"\x8a\xe7.jpg"))
    face = listing(path).faces[-1]
    assert face.problem is None
    assert read(path, face.name) == b"jis"


def test_names_that_are_not_the_utf8_they_claim_to_be_are_refused(pack):
    path = pack({"real/ä.jpg": b"x"})
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))
    with pytest.raises(UserError, match="claims to be UTF-8 and is not; pack the archive again"):
        listing(path)


@pytest.mark.parametrize("content", [b"", b"<html>Sign in</html>", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_zip_is_refused(tmp_path, content):
    path = tmp_path / "faces.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"faces\.zip is not a sound zip file"):
        archive.open_archive(path)


def test_a_truncated_zip_is_refused(pack):
    path = pack()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="is not a sound zip file"):
        archive.open_archive(path)


def test_a_missing_archive_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"is missing; run the download stage first"):
        archive.open_archive(tmp_path / "none.zip")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"readme.txt": b""}, "no faces; put images into folders named real and fake"),
        ({"real/a.jpg": b""}, "none of them is fake; put images into folders named fake"),
        ({"fake/a.jpg": b""}, "none of them is real; put images into folders named real"),
    ],
)
def test_an_archive_without_both_classes_is_refused(pack, members, message):
    with pytest.raises(UserError, match=message):
        listing(pack(members, sound=False))
