"""How a command ends: one sentence and exit code 1 for what a person can mend, a traceback for what only we can."""

import errno
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from stages.errors import UserError, run


def raising(error):
    """A command that fails."""

    def main():
        raise error

    return main


def ending(error):
    """What a command that fails so hands to sys.exit: a sentence for standard error (exit code 1), or a code."""
    with pytest.raises(SystemExit) as exit_:
        run(raising(error))
    return exit_.value.code


def test_a_command_that_succeeds_just_ends(capsys, monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    run(lambda: print("done"))
    assert capsys.readouterr().out == "done\n"


def test_a_stage_that_dvc_runs_says_how_long_it_took():
    command = "from stages import errors; errors.STARTED -= 74; errors.run(lambda: print('done'))"
    ended = subprocess.run(
        [sys.executable, "-c", command],
        env=os.environ | {"DVC_STAGE": "finetune@resnet50"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"done\nfinetune@resnet50 took 7[4-9] s\n", ended.stdout)


def test_a_user_error_is_one_sentence():
    assert ending(UserError("faces is missing; make it")) == "error: faces is missing; make it"


def test_a_name_in_a_sentence_cannot_drive_the_terminal():
    assert ending(UserError("the column \x1b[2J\n is unknown")) == r"error: the column \x1b[2J\n is unknown"


def test_ctrl_c_ends_with_the_shells_code():
    assert ending(KeyboardInterrupt()) == 130


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_ends_the_command_without_a_word(lines, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    command = f"from stages.errors import run; run(lambda: print('line\\n' * {lines}))"
    ended = subprocess.run([sys.executable, "-c", command], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_command_needs_no_standard_output():
    command = "from stages.errors import run; run(lambda: print('line'))"
    ended = subprocess.run(["sh", "-c", '"$0" -c "$1" >&-', sys.executable, command], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_terminal_without_a_character_shows_a_question_mark():
    command = "from stages.errors import run; run(lambda: print('0.96–0.98, \\udcff'))"
    for encoding, shown in (("ascii", b"0.96?0.98, ?\n"), ("utf-8", "0.96–0.98, ?\n".encode())):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        ended = subprocess.run([sys.executable, "-c", command], capture_output=True, env=environment, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, shown, b"")


def test_another_broken_pipe_is_ours():
    with pytest.raises(BrokenPipeError):
        run(raising(BrokenPipeError(errno.EPIPE, "a server hung up")))


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EACCES, "error: no permission for data/x; make it readable and writable for you and run again"),
        (errno.EPERM, "error: no permission for data/x; make it readable and writable for you and run again"),
        (errno.EROFS, "error: no permission for data/x; make it readable and writable for you and run again"),
        (errno.EEXIST, "error: a file is in the way where a folder belongs: data/x; move it away and run again"),
        (errno.ENOTDIR, "error: a file is in the way where a folder belongs: data/x; move it away and run again"),
    ],
)
def test_what_the_disk_refuses_is_said_in_one_sentence(number, sentence):
    assert ending(OSError(number, "refused", "data/x")) == sentence


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'data/x')", "data/x"),
        ("OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))", "a file"),
        ("OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), 'data/x')", "data/x"),
        ("RuntimeError('x.tfrecord; No space left on device')", "a file"),  # as TensorFlow says it
    ],
)
def test_a_full_disk_is_said_and_the_process_ends_at_once(error, name):
    """h5py's destructors would complain and crash: here one stands for them."""
    command = f"""
import errno, os, stages.errors
class Destructor:
    def __del__(self): print("complaint")
left = Destructor()
def main(): raise {error}
stages.errors.run(main)"""
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    sentence = f"error: the disk is full (while writing {name}); free some space and run again\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", sentence)


def test_no_permission_names_what_is_known():
    error = PermissionError(errno.EACCES, "Unable to open file (name = 'x.h5')")
    assert ending(error).startswith("error: no permission for [Errno 13] Unable to open file (name = 'x.h5'); make it")


def test_ctrl_c_while_libraries_are_imported_is_no_traceback():
    usual = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # in the background, too
    command = f"{usual}; import stages; os.kill(os.getpid(), signal.SIGINT)"
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("shell", ["exec", ""])  # some give their place to the command, others stay
def test_a_stage_ends_with_dvc(shell):
    """A process that starts a stage in a shell, and is killed, stands for DVC."""
    stage = "print('at work', flush=True); import time; time.sleep(60)"
    command = f"from stages.errors import run; run(lambda: exec({stage!r}))"
    start = "import subprocess, sys; subprocess.run(['sh', '-c', *sys.argv[1:]])"
    line = f'{shell} "$0" -c "$1"; exit $?'
    dvc = subprocess.Popen(
        [sys.executable, "-c", start, line, sys.executable, command],
        env=os.environ | {"DVC_STAGE": "finetune"},
        stdout=subprocess.PIPE,
    )
    assert dvc.stdout.readline() == b"at work\n"
    dvc.kill()
    begun = time.monotonic()
    assert dvc.stdout.read() == b""  # until the stage, which has it too, has ended
    assert time.monotonic() - begun < 30
    dvc.wait()


def test_a_lack_of_memory_is_said():
    assert ending(MemoryError()) == "error: memory ran out; free some, or take a larger machine, and run again"


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.ENOENT, "missing", "data/x"), ZeroDivisionError()])
def test_our_own_defects_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run(raising(error))


def test_a_file_where_a_folder_belongs_is_named(tmp_path, monkeypatch):
    from stages.files import write_json

    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics").write_text("in the way")
    with pytest.raises(SystemExit) as exit_:
        run(lambda: write_json("metrics/data.json", {}))
    assert exit_.value.code == (
        "error: a file is in the way where a folder belongs: metrics; move it away and run again"
    )
