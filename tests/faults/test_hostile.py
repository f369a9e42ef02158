"""Zips, folders, params.yaml and tables as an enemy or a broken disk makes them: taken, or refused in a sentence.

MUTATIONS=20000 pytest tests/faults/test_hostile.py        # so many in all, instead of 400; or `make faults`
"""

import io
import os
import resource
import signal
import stat
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages import params
from stages.errors import UserError, refusal
from stages.faces import archive, classes, manifest
from stages.faces.layout import LABELS, Place
from stages.sources import folder
from tests.clones import ROOT
from tests.reliability import tally

KINDS = 4  # of tests here that share the examples
EXAMPLES = int(os.environ.get("MUTATIONS", "400")) // KINDS
FEW = EXAMPLES / 50  # of the examples must at least be taken, and refused, or they try nothing
LONGEST = 10  # s for one example, of some kilobytes
MOST = 300  # MB that a whole test may add
TABLE = params.Classes(labels=params.Labels(file="labels.csv", path="image", label="class"))

ENDS = Counter[str]()  # of the examples of a test

hostile = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@contextmanager
def bounded() -> Iterator[None]:
    """Fail what takes more than ``LONGEST``, or goes on for ever."""

    def late(*_: object) -> None:
        raise TimeoutError(f"it took more than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak() -> float:
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def try_all(fault: str, examples: st.SearchStrategy[Any], trial: Callable[[Any], None]) -> None:
    """Give a trial its examples, within bounds of time and memory, and count them."""
    grown = 0.0  # by the trials, not by hypothesis
    ENDS.clear()
    with tally(fault, "tests/faults/test_hostile.py") as counts:

        @hostile
        @given(examples)
        def one(example: Any) -> None:
            nonlocal grown
            counts["tried"] += 1
            before = peak()
            with bounded():
                trial(example)
            grown += peak() - before

        one()
        assert grown < MOST
    assert min(ENDS["taken"], ENDS["refused"]) > FEW, ENDS


@contextmanager
def refused_at_worst() -> Iterator[None]:
    """Suppress a refusal, which must be one line that a terminal can show; count how it ended."""
    said = "nothing"
    try:
        yield
        ENDS["taken"] += 1
    except UserError as error:
        said = refusal(error) or ""
        ENDS["refused"] += 1
    assert 0 < len(said) < 5000  # a name of 3,000 characters may be in it
    assert not set("\n\x1b\0") & set(said), said


@st.composite
def broken(draw: st.DrawFn, sound: bytes | st.SearchStrategy[bytes], tokens: tuple[bytes, ...]) -> bytes:
    """Bytes with some overwritten, put in, taken out or cut off; ``tokens`` are what means something there."""
    data = bytearray(sound if isinstance(sound, bytes) else draw(sound))
    for _ in range(draw(st.integers(0, 4))):
        place, length = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
        data[place : place + length] = draw(st.sampled_from(tokens) | st.binary(max_size=8))
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))])


# Zips -----------------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        *("real/a.jpg", "fake/b.jpg", "train/real/c.jpg", "labels.csv", "real/a.jpg", "../real/e.jpg", "/real/e.jpg"),
        *("C:\\real\\e.jpg", "\\\\host\\real\\e.jpg", "real/../../e.jpg", "real/.", "real/..", ".", "..", "", "/"),
        *("real/", "fake\\", "real/\0.jpg", "real/a\0b.jpg", "real/\x1b[2J.jpg", "real/\n.jpg", "fake/é写.jpg"),
        *("real//a.jpg", "./real/a.jpg", f"real/{'x' * 3000}.jpg", "real/" * 200 + "a.jpg", "real/fake/a.jpg"),
    ]
).map(str.encode) | st.binary(max_size=12).map(lambda name: b"fake/" + name)
SIZES = st.none() | st.sampled_from([0, 1, 2**20 + 1, 2**26 + 1, 2**31, 2**32 - 2, 2**32 - 1])
MODES = st.sampled_from([0, 0, 0, 0, *(kind | 0o644 for kind in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR))])
CONTENTS = st.sampled_from(
    [b"image,class\nreal/a.jpg,real\nfake/b.jpg,fake\n", b"/etc/passwd", b"face", bytes(2**20 + 2**17)]
) | st.binary(max_size=40)
EXTRAS = st.sampled_from(
    [b"", b"\1\0\4\0face", b"\1\0\x09\0123456789", b"\1\0\xff\xff", b"\1\0\x18\0" + b"\xff" * 24, b"\1", b"\0\0\0\0"]
)


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """A zip whose entries may lie about everything: names, kinds, methods, sizes, checksums and places."""
    data, table = bytearray(), bytearray()
    count = draw(st.integers(0, 6))
    for _ in range(count):
        name, content, extra = draw(NAMES), draw(CONTENTS), draw(EXTRAS)
        method = draw(st.sampled_from([0, 0, 0, 8, 8, 8, 12, 14, 99]))
        flags = draw(st.sampled_from([0, 0, 0, 0x800, 0x8, 0x1, 0x801, 0xFFFF]))
        packed = zlib.compress(content, wbits=-15) if method == 8 else content
        sizes = [
            real if lie is None else lie
            for real, lie in zip((len(packed), len(content), len(data)), (draw(SIZES) for _ in range(3)), strict=True)
        ]
        crc = draw(st.sampled_from([zlib.crc32(content)] * 5 + [0]))
        head = (20, flags, method, 0, 33, crc)
        data += struct.pack("<4s5HLLLHH", b"PK\3\4", *head, *sizes[:2], len(name), 0) + name + packed
        lengths = (len(name), len(extra), 0, 0, 0)
        table += struct.pack("<4s6HLLL5HLL", b"PK\1\2", 20, *head, *sizes[:2], *lengths, draw(MODES) << 16, sizes[2])
        table += name + extra
    end = struct.pack("<4s4HLLH", b"PK\5\6", 0, 0, count, count, len(table), len(data), 0)
    return bytes(data + table + end)


def test_whatever_a_zip_holds_nothing_gets_out_of_it(tmp_path: Path) -> None:
    path, copied = tmp_path / "faces.zip", tmp_path / "copied.zip"

    def trial(content: bytes) -> None:
        path.write_bytes(content)
        for rule in (None, TABLE, params.Classes(real="real", fake="fake")):
            with refused_at_worst(), archive.open_archive(path) as faces:
                for face in archive.listing(faces, both=False, classes=rule).faces:
                    with suppress(archive.MemberError):
                        assert len(archive.read(faces, face.name, face.place)) <= archive.MAX_FACE_BYTES
            with refused_at_worst():
                assert folder.fetch(path, copied, both=False, classes=rule)["images"] > 0
        assert {file.name for file in tmp_path.iterdir()} <= {path.name, copied.name}

    tokens = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\0\0\0\0", b"\xff\xff\xff\xff", b"/", b"")
    try_all("hostile zips", zips() | broken(zips(), tokens), trial)


def test_members_that_share_their_bytes_are_not_read_for_ever(tmp_path: Path) -> None:
    """100,000 entries that claim the same 20 MB, and no size of their own, would be 2 TB to read."""
    path, packed = tmp_path / "faces.zip", zlib.compress(os.urandom(20 * 2**20), wbits=-15)
    head = (20, 0, 8, 0, 33, 0, len(packed), 0)
    data = struct.pack("<4s5HLLLHH", b"PK\3\4", *head, 10, 0) + b"real/a.jpg" + packed
    entry = struct.pack("<4s6HLLL5HLL", b"PK\1\2", 20, *head, 10, 0, 0, 0, 0, 0, 0) + b"real/a.jpg"
    end = struct.pack("<4s4HLLH", b"PK\5\6", 0, 0, 0, 0, 100_000 * len(entry), len(data), 0)
    path.write_bytes(data + 100_000 * entry + end)
    with bounded(), pytest.raises(UserError, match="it would unpack to more than"):
        folder.fetch(path, tmp_path / "copied.zip", both=False)


# Folders --------------------------------------------------------------------------------------------------------------

FILES = st.sampled_from(
    [b"a.jpg", b"labels.csv", b"..jpg", b"x\\..\\..\\e.jpg", b"\xe9.jpg", b"\x1b[2J", b"a\nb", b"\\"]
)
HERE = st.sampled_from([b"", b"real", b"fake", b"train/real", b"real/.hidden", b"C:\\fake", b"fake/__MACOSX"])
WHAT = st.sampled_from(
    ["file", "empty", "table", "to itself", "to nothing", "to the root", "outside", "pipe", "folder"]
)


def test_whatever_a_folder_holds_only_its_files_are_packed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.jpg"
    outside.write_text("somebody's own")

    def make(kind: str, path: Path, root: Path) -> None:
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "to itself" | "to nothing" | "to the root" | "outside":
                path.symlink_to({"to itself": path, "to nothing": "nowhere", "to the root": root}.get(kind, outside))
            case _:
                path.write_bytes({"file": b"face", "table": b"image,class\nreal/a.jpg,real\n"}.get(kind, b""))

    def trial(entries: dict[tuple[bytes, bytes], str]) -> None:
        work = tmp_path / f"{time.monotonic_ns()}"
        root = work / "set"
        root.mkdir(parents=True)
        for (below, name), kind in entries.items():
            home = root / os.fsdecode(below)
            home.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError, IsADirectoryError):
                make(kind, home / os.fsdecode(name), root)
        for rule in (None, TABLE):
            with refused_at_worst():
                folder.fetch(root, work / "packed.zip", both=False, classes=rule)
                with archive.open_archive(work / "packed.zip") as faces:
                    archive.listing(faces, both=False, classes=rule)
        assert {file.name for file in work.iterdir()} <= {"set", "packed.zip"}
        assert outside.read_text() == "somebody's own"

    try_all("hostile folders", st.dictionaries(st.tuples(HERE, FILES), WHAT, max_size=6), trial)


# params.yaml ----------------------------------------------------------------------------------------------------------

LINES = [
    line.partition(" #")[0].rstrip()
    for line in (ROOT / "params.yaml").read_text().splitlines()
    if line and not line.startswith("#")
]
VALUES = [
    *("", "~", "{}", "[]", "[[[[", "}", "-1", "0", "1e999", ".nan", ".inf", "0x", "0b2", "1_0", "1:2:3", "9" * 5000),
    *("&a [*a]", "&a {a: *a}", "*b", "&b 1", "{<<: *b}", "{<<: {a: 1}}", "{<<: [1]}", "{? [a]: 1}", "{? {a: 1}: 1}"),
    *("{? &c [*c]: 1}", "2024-13-45", "2024-02-30T99:99:99Z", "0000-00-00", "!!int x", "!!float x", "!!bool x"),
    *("!!null x", "!!binary é", "!!binary [a]", "!!timestamp x", "!!timestamp [a]", "!!set {a}", "!!set [a]"),
    *("!!omap [a]", "!!omap {a: 1}", "!!pairs [a]", "!!map [a]", "!!seq {a: 1}", "!!str {a: 1}", "!!merge x"),
    *("!!python/object/apply:os.system [touch evil]", "!a b", "!", "!!", "!<x", "%YAML 1.1", "%YAML 9.9", "%TAG ! !"),
    *("---", "...", "|", ">", "|9", "'", '"', '"\\x"', '"\\UFFFFFFFF"', '"\\uD800"', '"\\0"', "\t", "@", "`", "?", ":"),
    *(
        "- -",
        "true",
        "x" * 5000,
        "[" * 300,
        "(",
        "(?P<",
        "a{1,999999999999}",
        "((((a*)*)*)*)*",
        "\x1b[2J",
        "\0",
        "\ufeff",
    ),
]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """The file of the project with some lines changed, doubled, moved, taken out, and bytes broken at times."""
    lines = LINES.copy()
    for _ in range(draw(st.integers(1, 3))):
        place, value = draw(st.integers(0, len(lines) - 1)), draw(st.sampled_from(VALUES))
        key, colon, old = lines[place].partition(":")
        match draw(st.sampled_from(["value", "value", "value", "key", "line", "double", "indent", "out", "begin"])):
            case "value":
                lines[place] = f"{key}{colon} {value}"
            case "key":
                lines[place] = f"{key[: len(key) - len(key.lstrip())]}{value}:{old}"
            case "line":
                lines[place] = value
            case "double":
                lines.insert(draw(st.integers(0, len(lines))), lines[place])
            case "indent":
                lines[place] = " " + lines[place]
            case "out":
                del lines[place]
            case "begin":
                lines.insert(0, value)
    content = "\n".join(lines).encode(errors="replace")
    tokens = (b"\xff", b"\xfe\xff", b"\0", b"\r", b"\t", b"- ", b": ", b"*a", b"&a ", b"<<: ", b"? ", b"!!", b"#", b"")
    return draw(broken(content, tokens)) if draw(st.integers(0, 3)) == 0 else content


def test_whatever_params_yaml_holds_it_is_sound_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"

    def trial(content: bytes) -> None:
        path.write_bytes(content)
        with refused_at_worst():
            params.load(path)
        assert list(tmp_path.iterdir()) == [path]

    try_all("hostile params.yaml", files(), trial)


@pytest.mark.parametrize("link", ["[{}]", "{{? [{}]: 1}}", "{{a: [{}]}}"])
@pytest.mark.parametrize("first", ["[x]", "{k: x}"])
@pytest.mark.parametrize("where", ["bomb", "sets", "models", "image: {size"])
def test_aliases_that_stand_for_a_billion_values_are_refused_at_once(
    tmp_path: Path, link: str, first: str, where: str
) -> None:
    levels = [f"l0: &l0 {first}"]
    levels += [f"l{n}: &l{n} " + link.format(", ".join([f"*l{n - 1}"] * 9)) for n in range(1, 10)]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join([*levels, f"{where}: *l9{' }' * ('{' in where)}", ""]))
    before = peak()
    with bounded(), pytest.raises(UserError) as caught:
        params.load(path)
    assert len(str(caught.value)) < 5000
    assert peak() - before < MOST


# Tables ---------------------------------------------------------------------------------------------------------------

PATHS = ["real/a.jpg", "fake/b.jpg", "train/real/c.jpg", "labels.csv"]
LABELLED = b'image,class\nreal/a.jpg,real\nfake/b.jpg,fake\n"c.jpg",real\n'
LISTED = b"member,label,split,group\nreal/a.jpg,0,train,0\nfake/b.jpg,1,valid,1\nNA,0,test,2\n"
CELLS = (b",", b'"', b"\n", b"\r", b"\0", b"\xef\xbb\xbf", b"\xff", b"real", b"../", b"/", b"C:", b"=1+1", b"NA", b"")
NUMBERS = (b"", b"-1", b"300", b"9" * 30, b"9" * 5000, b"1e999", b"nan", b"inf", b"0x1", b"1.5", b"\x1b[2J", b"True")


def test_whatever_a_table_holds_it_tells_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"

    def trial(example: tuple[bytes, bytes]) -> None:
        labels, rows = example
        for rule in (TABLE, params.Classes(labels=TABLE.labels, real="re", fake="[fk]")):
            with refused_at_worst():
                places = map(classes.rule_of(rule, zip(PATHS, PATHS), lambda _: io.BytesIO(labels)), PATHS)  # noqa: B905
                assert {place.kind for place in places if isinstance(place, Place)} <= set(LABELS)
        path.write_bytes(rows)
        with refused_at_worst():
            found = manifest.read(path)
            assert {name: str(kind) for name, kind in found.dtypes.items()} == manifest.COLUMNS
            assert set(found["label"]) <= {0, 1}
            assert set(found["split"]) <= {"train", "valid", "test"}

    tables = st.tuples(broken(LABELLED, CELLS), broken(LISTED, CELLS + NUMBERS))
    try_all("hostile tables", tables, trial)
