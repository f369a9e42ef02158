"""The command `predict`, on photos of all kinds and what is none, with detectors whose answers are known beforehand."""

import contextlib
import csv
import html
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

from stages import demo, predict
from stages.errors import UserError
from stages.photos.exported import Detector
from stages.scoring import calibration
from stages.scoring.calibration import Calibration

ROOT = Path(__file__).parents[1]
BRIGHT, GREY, DARK = 255, 127, 0
CHAMPION, OTHER = "densenet121-baseline", "densenet121-finetune"


@pytest.fixture
def ask(bright, tmp_path, monkeypatch, command, capsys):
    """A function that runs predict in the project, from a folder of photos, and returns its exit code and output."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(bright / "data")
    Path("photos").mkdir()

    def ask(*arguments):
        code = 0
        try:
            command(predict.main, *arguments)
        except SystemExit as leaving:
            code = leaving.code
        return code, capsys.readouterr().out

    return ask


def face(name, level, size=64):
    """A picture that a detector of 64 px takes for an aligned face."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (level,) * 3).save(name)
    return name


def rows(output):
    return list(csv.DictReader(io.StringIO(output)))


def test_each_face_gets_its_calibrated_probability_and_verdict(ask):
    names = [face(f"photos/{level}.png", level) for level in (BRIGHT, GREY, DARK)]
    code, output = ask(*names, "--format", "csv")
    assert code == 0
    assert [row["verdict"] for row in rows(output)] == ["fake", "uncertain", "real"]
    assert float(rows(output)[0]["probability"]) == pytest.approx(expit(3), abs=1e-5)
    assert (float(rows(output)[0]["real_below"]), float(rows(output)[0]["fake_from"])) == pytest.approx((0.3, 0.7))
    assert rows(output)[0]["detector"] == CHAMPION
    assert len(rows(output)[0]["model"]) == 64


def test_what_cannot_be_read_is_a_row_and_the_exit_code_says_so(ask):
    face("photos/a.jpg", BRIGHT)
    Path("photos/corrupt.jpg").write_bytes(Path("photos/a.jpg").read_bytes()[:400])
    Path("photos/notes.txt").write_text("no picture")
    Path("photos/.hidden").write_text("nobody asked for it")
    code, output = ask("photos", "missing.jpg", "*.nothing", "--format", "json")
    found = {row["file"]: row["error"] for row in json.loads(output)}
    assert code == predict.UNREAD
    assert found == {
        "photos/a.jpg": None,
        "photos/corrupt.jpg": "truncated",
        "photos/notes.txt": "not an image",
        "missing.jpg": "no such file",
        "*.nothing": "matches no file",
    }


def test_a_zip_is_read_in_place_and_not_trusted(ask):
    face("a.png", DARK)
    with zipfile.ZipFile("photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write("a.png", "album/a.png")
        archive.writestr("../evil.png", Path("a.png").read_bytes())
        archive.writestr("bomb.png", bytes(4 * 2**20))
    Path("broken.zip").write_bytes(b"PK no zip")
    before = sorted(Path().rglob("*"))
    code, output = ask("photos.zip", "broken.zip", "--format", "jsonl")
    found = [json.loads(line) for line in output.splitlines()]
    assert code == predict.UNREAD
    assert {row["file"]: row["error"] or row["verdict"] for row in found[:3]} == {
        "photos.zip/../evil.png": "unsafe name",
        "photos.zip/album/a.png": "real",
        "photos.zip/bomb.png": "compressed like a zip bomb",
    }
    assert "broken.zip is not a sound zip" in found[3]["error"]
    assert sorted(Path().rglob("*")) == before


def test_paths_come_from_standard_input_and_globs(ask, monkeypatch):
    face("photos/a.png", DARK)
    face("photos/b.png", BRIGHT)
    face("photos/caf\udce9.png", BRIGHT)
    listed = b"photos/b.png\n\nphotos/[ab].png\nphotos/caf\xe9.png\nphotos/a.png\0photos/b.png"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed)))
    assert [(row["file"], row["error"]) for row in rows(ask("-", "--format", "csv")[1])] == [
        ("photos/b.png", ""),
        ("photos/a.png", ""),
        ("photos/b.png", ""),
        (r"photos/caf\xe9.png", ""),
        (r"photos/a.png\x00photos/b.png", "not a path"),
    ]


@pytest.mark.parametrize("pattern", ["photos/**/*.png", "photos/**", "{here}/photos/*", "photos/../p*", "phot[o]s"])
def test_a_glob_names_each_photo_once_and_what_systems_leave_behind_never(ask, pattern):
    for name in ("photos/a.png", "photos/album/b.png", "photos/.thumbnails/c.png"):
        face(name, BRIGHT)
    Path("photos/Thumbs.db").write_text("no photo")
    Path("photos/album/loop").symlink_to(".")
    code, output = ask(pattern.format(here=Path.cwd()), "--format", "csv")
    assert code == 0
    assert [Path(row["file"]).name for row in rows(output)] == ["a.png", "b.png"]


@pytest.mark.parametrize("format", ["table", "csv", "json", "jsonl"])
def test_no_name_stops_it_drives_the_terminal_or_is_run_by_a_spreadsheet(ask, monkeypatch, format):
    for name in ("caf\udce9.png", "\x1b[31mred\n\x9b.png", "turned\u202egnp.png", "é\u202f漢.png", "=1+1.png"):
        face(name, BRIGHT)
    Path("\x1b.zip").write_bytes(b"no zip")
    monkeypatch.setenv("COLUMNS", "200")
    code, output = ask("*.png", "=1+1.png", "+x", "@x", "\x1b.zip", "--format", format)
    assert code == predict.UNREAD
    listed = {
        "table": lambda: [line.split("  ")[0].strip() for line in output.splitlines()[3:]],
        "csv": lambda: [row["file"] for row in rows(output)],
        "json": lambda: [row["file"] for row in json.loads(output)],
        "jsonl": lambda: [json.loads(line)["file"] for line in output.splitlines()],
    }[format]()
    assert listed[:9] == [
        r"\x1b[31mred\n\x9b.png",
        "./=1+1.png",
        r"caf\xe9.png",
        r"turned\u202egnp.png",
        "é\u202f漢.png",
        "./=1+1.png",
        "./+x",
        "./@x",
        r"\x1b.zip",
    ]
    assert not set("\x1b\x9b\u202e") & set(output)


def test_a_terminal_of_another_encoding_gets_escapes(ask, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", terminal)
    assert ask(face("é漢.png", BRIGHT))[0] == 0
    assert rb"\u6f22.png" in terminal.buffer.getvalue()


def test_what_cannot_be_opened_is_a_row_and_the_rest_is_judged(ask, monkeypatch):
    for name in ("photos/a.png", "photos/locked/b.png", "photos/z.png", "elsewhere/c.png"):
        face(name, BRIGHT)
    for name, target in (("loop", "loop"), ("gone", "nowhere"), ("linked", "../elsewhere"), ("again", ".")):
        Path("photos", name).symlink_to(target)
    os.mkfifo("photos/pipe")
    with zipfile.ZipFile("photos/locked.zip", "w") as archive:
        archive.write("photos/a.png")
    listed, opened = Path.iterdir, Path.open

    def iterdir(path):  # as chmod 000 does, but for root as well
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    def open_(path, *settings, **more):
        if path.name == "locked.zip":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *settings, **more)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(Path, "open", open_)
    code, output = ask("", "photos", "x" * 5000, "photos/loop/a.png", "elsewhere", "--format", "json")
    assert code == predict.UNREAD
    assert [(row["file"], row["error"] or row["verdict"]) for row in json.loads(output)] == [
        ("", "not a path"),
        ("photos/a.png", "fake"),
        ("photos/gone", "no such file"),
        ("photos/linked/c.png", "fake"),
        ("photos/locked", "permission denied"),
        ("photos/locked.zip", "permission denied"),
        ("photos/loop", "too many levels of symbolic links"),
        ("photos/pipe", "not a regular file"),
        ("photos/z.png", "fake"),
        ("x" * 5000, "file name too long"),
        ("photos/loop/a.png", "too many levels of symbolic links"),
        ("elsewhere/c.png", "fake"),
    ]


def test_a_tree_deeper_than_a_path_may_be_long_is_a_row(ask):
    face("deep/a.png", BRIGHT)
    with contextlib.chdir("deep"):
        for _ in range(30):
            Path("x" * 200).mkdir()
            os.chdir("x" * 200)
    found = rows(ask("deep", "--format", "csv")[1])
    assert [row["error"] for row in found] == ["", "file name too long"]


def test_what_systems_leave_behind_is_skipped_and_counted(ask, capsys):
    face("photos/a.png", BRIGHT)
    face("photos/.thumbnails/a.png", BRIGHT)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        Path("photos", name).write_text("no photo")
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for name in ("a.png", "__MACOSX/._a.png", ".DS_Store", "album/Thumbs.db"):
            archive.write("photos/a.png", name)
    with pytest.MonkeyPatch.context() as patch:
        said = io.StringIO()
        patch.setattr("sys.stderr", said)
        code, output = ask("photos", "photos.zip", "--format", "csv")
    assert code == 0
    assert [row["file"] for row in rows(output)] == ["photos/a.png", "photos.zip/a.png"]
    assert said.getvalue().endswith("\n7 skipped: hidden, or left by an operating system\n")


def test_a_member_of_a_zip_without_a_name_is_a_row(ask):
    face("a.png", BRIGHT)
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for name in (".", "?", "a.png"):
            archive.write("a.png", name)
    data = Path("photos.zip").read_bytes()
    entry = data.index(
        b"PK\x01\x02", data.index(b"PK\x01\x02") + 1
    )  # of the second member; zipfile writes no empty name
    end = data.index(b"PK\x05\x06")
    length = int.from_bytes(data[end + 12 : end + 16], "little") - 1
    cut = data[: entry + 28] + b"\0\0" + data[entry + 30 : entry + 46] + data[entry + 47 : end + 12]
    Path("photos.zip").write_bytes(cut + length.to_bytes(4, "little") + data[end + 16 :])
    code, output = ask("photos.zip", "--format", "csv")
    assert code == predict.UNREAD
    assert [(row["file"], row["error"] or row["verdict"]) for row in rows(output)] == [
        ("photos.zip/", "unsafe name"),
        ("photos.zip/.", "unsafe name"),
        ("photos.zip/a.png", "fake"),
    ]


@pytest.mark.parametrize(
    ("images", "given"),
    [
        ("my album", ["--", "my album"]),
        ("it's (1).jpg", ["--", "it's (1).jpg"]),
        ("-x.jpg", ["--", "-x.jpg"]),
        ("a.jpg b.jpg", ["a.jpg", "b.jpg"]),
        ("'my album' *.jpg --format csv", ["my album", "-x.jpg", "it's (1).jpg", "--format", "csv"]),
        ("'**/*.png' -", ["**/*.png", "-"]),
    ],
)
def test_make_passes_paths_with_blanks_options_and_globs_on(tmp_path, monkeypatch, images, given):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "Makefile", ".")
    python = Path(".venv/bin/python")
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 3\n")
    python.chmod(0o755)
    for name in ("my album", "it's (1).jpg", "-x.jpg"):
        Path(name).write_text("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | {"LC_ALL": "C"}
    result = subprocess.run(
        ["make", "-o", ".venv/.runtime", "predict", f"IMAGES={images}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.splitlines() == ["-m", "stages.predict", *given]
    assert (result.returncode, "Error 3" in result.stderr) == (2, True)


def test_no_face_is_an_answer_and_not_an_error(ask, noise):
    Image.fromarray(noise(0, 300, 400)).save("landscape.png")
    code, output = ask("landscape.png", "--format", "csv")
    assert code == 0
    assert [(row["verdict"], row["probability"], row["error"]) for row in rows(output)] == [("no face", "", "")]


def test_every_face_of_a_photo_gets_a_row_with_its_place(ask, portrait):
    crowd = Image.new("RGB", (3 * 512, 2 * 600))
    for number in range(6):
        crowd.paste(portrait, (number % 3 * 512, number // 3 * 600 + (-40, 30, -10)[number % 3]))
    crowd.save("crowd.jpg")
    found = rows(ask("crowd.jpg", "--format", "csv")[1])
    assert [int(row["face"]) for row in found] == [1, 2, 3, 4, 5, 6]
    cells = [((int(row["top"]) + int(row["bottom"])) // 1200, int(row["left"]) // 512) for row in found]
    assert cells == [(line, column) for line in range(2) for column in range(3)]  # as one reads


def test_a_face_of_fewer_pixels_than_the_detector_takes_is_marked(ask, portrait):
    portrait.save("large.png")
    portrait.resize((62, 72), Image.Resampling.LANCZOS).save("small.png")
    code, output = ask("large.png", "small.png", "--format", "csv")
    assert code == 0
    assert [(row["file"], row["enlarged"]) for row in rows(output)] == [("large.png", "False"), ("small.png", "True")]
    face("icon.png", BRIGHT, 32)
    assert rows(ask("icon.png", "--faces", "whole", "--format", "csv")[1])[0]["enlarged"] == "True"
    table = ask("large.png", "small.png")[1]
    assert table.count(" *") == 1
    assert "* enlarged: the photo shows the face in fewer pixels" in table
    assert "enlarged" not in ask("large.png")[1]


@pytest.fixture
def coloured():
    """Three faces, by how far they lie from the training faces: 0, 2 and 4."""
    for number, green in enumerate((0, 100, 200)):
        Image.new("RGB", (64, 64), (0, green, 0)).save(f"photos/{number}.png")


@pytest.mark.parametrize("format", ["csv", "json", "jsonl"])
def test_a_face_that_is_unlike_the_training_faces_is_marked_for_programs(ask, coloured, format):
    Path("photos/notes.txt").write_text("no picture")
    output = ask("photos", "--format", format)[1]
    read = {"csv": rows, "json": json.loads, "jsonl": lambda lines: [json.loads(line) for line in lines.splitlines()]}
    nothing = "" if format == "csv" else None
    assert [row["unlike"] for row in read[format](output)] in (
        [False, True, True, nothing],
        ["False", "True", "True", nothing],
    )


def test_a_face_that_is_unlike_the_training_faces_is_marked_for_people(ask, coloured, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    output = ask("photos")[1]
    answers = [" ".join(line.split()[4:]) for line in output.splitlines() if "photos/" in line]
    assert answers == ["real", "real, unlike the training faces", "real, unlike the training faces"]


def test_of_several_detectors_any_may_mark(ask, coloured):
    together = [option for name in (CHAMPION, OTHER) for option in ("--detector", name)]
    asked = [["--detector", OTHER], together]
    marks = [[row["unlike"] for row in rows(ask("photos", *names, "--format", "csv")[1])] for names in asked]
    assert marks == [["False", "False", "True"], ["False", "True", "True"]]


def test_faces_whole_takes_any_picture_for_a_face(ask):
    face("photos/large.png", BRIGHT, 200)
    assert rows(ask("photos/large.png", "--format", "csv")[1])[0]["verdict"] == "no face"
    [row] = rows(ask("photos/large.png", "--faces", "whole", "--format", "csv")[1])
    assert (row["verdict"], row["right"], row["bottom"]) == ("fake", "200", "200")


def test_several_detectors_average_logits_and_must_agree(ask):
    names = [face(f"photos/{level}.png", level) for level in (BRIGHT, 180, DARK)]
    together = [option for name in (CHAMPION, OTHER) for option in ("--detector", name)]
    alone = [rows(ask(*names, "--detector", name, "--format", "csv")[1]) for name in (CHAMPION, OTHER)]
    found = rows(ask(*names, *together, "--format", "csv")[1])
    assert [row["verdict"] for row in alone[0]] == ["fake", "fake", "real"]
    assert [row["verdict"] for row in alone[1]] == ["fake", "uncertain", "real"]
    assert [row["verdict"] for row in found] == ["fake", "uncertain", "real"]
    assert float(found[0]["probability"]) == pytest.approx(expit((3 + 1) / 2), abs=1e-5)
    assert found[0]["detector"] == f"{CHAMPION}+{OTHER}"


def test_heat_maps_show_where_the_answer_comes_from(ask):
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 255
    Image.fromarray(picture).save("photos/half.png")
    ask("photos/half.png", "--heatmaps", "heat")
    [path] = Path("heat").iterdir()
    assert re.fullmatch(r"photos_half\.png-[0-9a-f]{16}-1\.png", path.name)
    dark, bright = (np.asarray(Image.open(path), int)[32, column] for column in (8, 56))
    assert dark[2] > dark[0] + 50  # blue speaks for real
    assert bright[0] > bright[2] + 50  # orange for fake


def test_every_face_has_a_heat_map_of_its_own_whatever_its_name(ask):
    names = ["a/b.png", "a_b.png", "../a_b.png", "é" * 125 + ".png", "caf\udce9.png", f"{'x' * 99}/{'x' * 250}.png"]
    for name in names:
        face(name, BRIGHT)
    with zipfile.ZipFile("photos.zip", "w") as archive:
        archive.write("a_b.png")
    assert ask(*names, "photos.zip", "--heatmaps", "heat")[0] == 0
    assert len(list(Path("heat").iterdir())) == len(names) + 1


def test_a_person_reads_a_table_and_what_it_is_worth(ask):
    code, output = ask(face("photos/a.png", DARK))
    assert code == 0
    assert "photos/a.png" in output
    assert "real below 0.300, fake from 0.700" in output
    assert "an answer is no proof about any one picture" in output


@pytest.mark.parametrize(
    ("facts", "why", "worthless"),
    [
        ({"source": "sample"}, "Worth nothing for photographs: it was trained only on drawn faces.", "true"),
        ({"weights": "random"}, "Do not rely on it yet: its backbone started from random weights", "false"),
    ],
)
def test_what_must_be_known_of_a_detector_comes_before_its_answers(
    bright, tmp_path, monkeypatch, command, capsys, facts, why, worthless
):
    shutil.copytree(bright, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    file = Path(f"data/exported/{CHAMPION}/detector.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))
    command(predict.main, face("photos/a.png", DARK))
    said = capsys.readouterr()
    assert said.err.startswith(f"{CHAMPION} answers: it is the champion here\nwarning: {CHAMPION}: {why}")
    assert "photos/a.png" in said.out  # the answer is given all the same

    page = demo.page(predict.open_detectors(None), only_loopback=True).test_client().get("/").get_data(as_text=True)
    assert page.index(html.escape(why)) < page.index("Drop a photo here")
    assert f"WORTHLESS = {worthless}" in page


@pytest.fixture
def project(bright, pretrained, tmp_path, monkeypatch):
    """Inside a project with a champion, and with the detector that came with the repository; one picture, all white."""
    shutil.copytree(bright, tmp_path / "project")
    shutil.copytree(pretrained, tmp_path / "project/pretrained")
    monkeypatch.chdir(tmp_path / "project")
    face("white.png", BRIGHT)


def drawn():
    file = Path(f"data/exported/{CHAMPION}/detector.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"source": "sample"}))


@pytest.mark.parametrize(
    ("change", "options", "answers", "why"),
    [
        (lambda: None, [], CHAMPION, "it is the champion here"),
        (drawn, [], "pretrained", f"it came with the repository, and the champion here, {CHAMPION}, is worth nothing"),
        (
            lambda: shutil.rmtree(f"data/exported/{CHAMPION}"),
            [],
            "pretrained",
            f"it came with the repository, and the champion here, {CHAMPION}, is not evaluated yet",
        ),
        (lambda: shutil.rmtree("data"), [], "pretrained", "it came with the repository, and there is no champion here"),
        (lambda: shutil.rmtree("pretrained"), [], CHAMPION, "it is the champion here"),
        (lambda: None, ["pretrained"], "pretrained", "--detector asks for it"),
        (drawn, [CHAMPION], CHAMPION, "--detector asks for it"),
        (lambda: None, [OTHER, "pretrained"], f"{OTHER} with pretrained", "--detector asks for it"),
    ],
    ids=["champion", "drawn", "not exported", "nothing trained", "no other", "named", "drawn but named", "two named"],
)
def test_the_best_detector_that_is_here_answers_and_is_named(project, command, capsys, change, options, answers, why):
    change()
    asked = [word for name in options for word in ("--detector", name)]
    command(predict.main, "white.png", "--format", "csv", *asked)
    said = capsys.readouterr()
    [row] = rows(said.out)
    assert (row["detector"], row["verdict"]) == (answers.replace(" with ", "+"), "fake")
    assert said.err.startswith(f"{answers} answers: {why}")
    command(predict.main, "white.png", *asked)
    assert f"\n{answers.split()[0]}, model " in capsys.readouterr().out
    page = demo.page(predict.open_detectors(options), only_loopback=True).test_client().get("/").get_data(as_text=True)
    assert all(f"<p>{name}: " in page for name in answers.split(" with "))


def test_right_after_a_clone_it_answers_without_tensorflow(pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "pretrained")
    face(tmp_path / "white.png", BRIGHT)
    code = "import runpy, sys; runpy.run_module('stages.predict', run_name='__main__'); print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code, "white.png", "--format", "csv"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ",fake,0.3" in result.stdout
    assert "stages.photos.exported" in result.stdout
    assert not {"tensorflow", "keras"} & set(result.stdout.split())
    assert result.stderr == "pretrained answers: it came with the repository, and there is no champion here\n"


def test_without_any_detector_it_says_how_to_make_one(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"leaderboard.json is missing; make it with `dvc repro`"):
        command(predict.main, "white.png")
    with pytest.raises(UserError, match=r"no exported detector 'pretrained'; there are: none; make them with `dvc"):
        command(predict.main, "white.png", "--detector", "pretrained")


def test_detectors_of_different_sizes_are_not_asked_together(project, command):
    file = Path("pretrained/detector.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": 256}))
    with pytest.raises(UserError, match=rf"\({CHAMPION} 64 px; pretrained 256 px\); ask each of them alone"):
        command(predict.main, "white.png", "--detector", CHAMPION, "--detector", "pretrained")


@pytest.mark.parametrize("name", ["network.tflite", "calibration.json", "detector.json"])
def test_a_part_that_is_missing_is_named_with_what_brings_it_back(project, command, name):
    Path("pretrained", name).unlink()
    with pytest.raises(UserError, match=rf"pretrained/{name} is missing; bring it back with `git restore pretrained`"):
        command(predict.main, "white.png", "--detector", "pretrained")
    Path("data/exported", CHAMPION, name).unlink()
    with pytest.raises(UserError, match=rf"{CHAMPION}/{name} is missing; make it again with `dvc repro evaluate@"):
        command(predict.main, "white.png", "--detector", CHAMPION)


def test_a_network_cut_short_is_refused_in_a_sentence(project, command):
    network = Path("pretrained/network.tflite")
    network.write_bytes(network.read_bytes()[:100])
    with pytest.raises(UserError, match=r"network.tflite is damaged \(.*\); bring it back with `git restore"):
        command(predict.main, "white.png", "--detector", "pretrained")


def test_a_calibration_of_another_network_is_refused_in_a_sentence(bright, tmp_path, monkeypatch, command):
    """As a run leaves it that brought an earlier network back, and was stopped before its calibration."""
    shutil.copytree(bright, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    folder = Path(f"data/exported/{CHAMPION}")
    reading = calibration.read(folder / "calibration.json")
    for model in (None, json.loads((folder / "detector.json").read_text())["sha256"]):
        calibration.write(folder / "calibration.json", replace(reading, model=model))
        command(predict.main, face("photos/a.png", DARK))
    calibration.write(folder / "calibration.json", replace(reading, model="0" * 64))
    with pytest.raises(UserError, match=rf"{CHAMPION}/calibration.json is of another network than the one beside it"):
        command(predict.main, face("photos/a.png", DARK))


def test_an_export_of_an_older_version_is_refused_in_a_sentence(bright, tmp_path, monkeypatch, command):
    shutil.copytree(bright, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    file = Path(f"data/exported/{CHAMPION}/detector.json")
    file.write_text(json.dumps({"detector": CHAMPION, "size": 64, "source": "folder", "sha256": "0" * 64}))
    with pytest.raises(UserError, match=rf"{file} is of an older version: it lacks weights; make it again with `dvc "):
        command(predict.main, face("photos/a.png", DARK))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["vgg16-finetune"], f"there is no exported detector 'vgg16-finetune'; there are: {CHAMPION}, {OTHER}$"),
        ([CHAMPION, CHAMPION], f"--detector names {CHAMPION} twice"),
    ],
)
def test_a_wrong_detector_is_refused_in_a_sentence(ask, names, sentence):
    with pytest.raises(UserError, match=sentence):
        ask("photos", *(option for name in names for option in ("--detector", name)))


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ((), "; on new faces more may be."),
        ((250, 0, math.nan, math.nan, math.nan), "; on new faces more may be."),
        ((250, 225, 0.031, 0.015, 0.062), "; of 225 answers on 250 test faces, 3.1% (1.5–6.2 %) were."),
    ],
)
def test_it_says_what_the_limits_were_chosen_for_and_what_was_measured(measured, said):
    limits = "real below 0.300, fake from 0.700"
    chosen = "chosen to be wrong for at most 5% of either class of 150 validation faces"
    assert promised(*measured).startswith(f"{limits}: {chosen}{said}")


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, "No face is marked as unlike the training faces: 150 validation faces are too few to choose by."),
        ({"unlike_from": 1.2}, "5% of the validation faces by choice; of new faces like them it may be more."),
        (
            {"unlike_from": 1.2, "marked": 0.042, "marked_low": 0.026, "marked_high": 0.068},
            "unlike the training faces: 5% of the validation faces by choice, 4.2% (2.6–6.8 %) of the test faces.",
        ),
    ],
)
def test_it_says_how_many_faces_it_marks_falsely(known, said):
    assert promised(**known).endswith(said)


def promised(*measured, **known):
    """What is said of a detector with a calibration."""
    reading = Calibration(1.0, 0.0, 0.5, 0.3, 0.7, 0.05, 0.5, 150, *measured, **known)
    return predict.promise(Detector("resnet50-baseline", 64, "sample", "imagenet", "0" * 64, reading, network=None))
