"""A zip read from its place, held against the standard library's reading of the same file."""

import io
import struct
import tracemalloc
import zipfile
from zipfile import BadZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.faces.zips import Zip


def zipped(members, *, comment=b"", before=b"", method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
        file.comment = comment
    return before + buffer.getvalue()


def misplaced(offset, extra):
    """A zip of one member, whose entry has this offset and this extra field."""
    data = bytearray(zipped([("real/a.jpg", b"x")]))
    entry, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    struct.pack_into("<H", data, entry + 30, len(extra))
    struct.pack_into("<L", data, entry + 42, offset)
    struct.pack_into("<L", data, end + 12, end - entry + len(extra))
    return data[:end] + extra + data[end:]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("zips") / "a.zip"


def facts(info):
    return (info.filename, info.file_size, info.compress_size, info.CRC, info.compress_type, info.external_attr)


def found(path):
    """What our reader finds: the facts and the content of every member."""
    with Zip(path) as archive:
        return [(facts(info), archive.open(place).read()) for place, info in archive.members()]


def expected(path):
    with zipfile.ZipFile(path) as archive:
        files = [info for info in archive.infolist() if not info.filename.endswith(("/", "\\"))]
        return [(facts(info), archive.read(info)) for info in files]


@settings(derandomize=True, deadline=None)
@given(
    members=st.dictionaries(st.text("ab/é漢 \\", min_size=1), st.binary(max_size=300), max_size=5),
    comment=st.binary(max_size=100).filter(lambda text: b"PK" not in text),
    before=st.binary(max_size=40),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_every_member_is_found_as_the_standard_library_finds_it(path, members, comment, before, method):
    path.write_bytes(zipped(members.items(), comment=comment, before=before, method=method))
    assert found(path) == expected(path)


@settings(derandomize=True, deadline=None)
@given(start=st.integers(0, 400), junk=st.binary(min_size=1, max_size=8), end=st.integers(1, 500))
def test_bytes_overwritten_and_cut_off_anywhere_give_members_or_an_error_of_few_kinds(path, start, junk, end):
    data = zipped([("real/a.jpg", b"x" * 90), ("fake/é.jpg", b"y" * 90)])
    path.write_bytes((data[:start] + junk + data[start + len(junk) :])[:end])
    try:
        found(path)
    except (BadZipFile, EOFError, ValueError):
        return


def test_sizes_and_places_of_64_bits_are_understood(path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)  # so that zipfile writes them for a small archive
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path.write_bytes(zipped([("real/a.jpg", b"x" * 90), ("fake/b.jpg", b"y" * 90)], comment=b"end", before=b"start"))
    assert b"PK\x06\x06" in path.read_bytes()
    assert found(path) == expected(path)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_member_without_a_proper_name_is_still_one(path, name):
    info = zipfile.ZipInfo("x")
    info.filename = name
    path.write_bytes(zipped([(info, b"1"), ("real/a.jpg", b"2")]))
    assert [content for _, content in found(path)] == [b"1", b"2"]
    assert found(path)[0][0][0] == name


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(path, method):
    path.write_bytes(zipped([("real/a.jpg", b"x")], method=method))
    with pytest.raises(
        BadZipFile, match=rf"'real/a\.jpg' is compressed by method {method}, and only deflate, the usual, is"
    ):
        found(path)


def test_a_member_that_is_not_where_the_table_says_is_refused(path):
    path.write_bytes(zipped([("real/a.jpg", b"x")]).replace(b"PK\x03\x04", b"PK\x03\x05"))
    with pytest.raises(BadZipFile, match=r"'real/a\.jpg' is not where the table of contents says"):
        found(path)


@pytest.mark.parametrize(
    ("offset", "extra"),
    [(0xFFFFFFFE, b""), (0xFFFFFFFF, b"\x01\x00\x08\x00" + b"\xff" * 8)],
    ids=["behind the end", "of 64 bits, beyond any file"],
)
def test_a_member_that_is_nowhere_is_refused(path, offset, extra):
    path.write_bytes(misplaced(offset, extra))
    with pytest.raises(BadZipFile, match=r"'real/a\.jpg' is not where the table of contents says"):
        found(path)


@pytest.mark.parametrize("extra", [b"", b"\x01\x00\x08\x00" + b"\xff" * 5], ids=["missing", "cut short"])
def test_a_number_of_64_bits_must_be_there(path, extra):
    path.write_bytes(misplaced(0xFFFFFFFF, extra))
    with pytest.raises(BadZipFile, match="a number of 64 bits is missing"):
        found(path)


def test_the_longest_comment_hides_nothing(path):
    path.write_bytes(zipped([("real/a.jpg", b"x")], comment=b"c" * 0xFFFF))
    assert found(path) == expected(path)


def test_memory_does_not_grow_with_the_members(path):
    peaks = []
    for count in (2_000, 20_000):  # in both, the comment could be as long as it may
        path.write_bytes(zipped((f"real/{number:06}.jpg", b"") for number in range(count)))
        tracemalloc.start()
        with Zip(path) as archive:
            assert sum(1 for _ in archive.members()) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 2**20
