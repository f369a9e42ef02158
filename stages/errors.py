"""How a stage refuses: one sentence for the person, exit code 1, no traceback."""

import errno
import io
import os
import re
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from stages import STARTED

UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # drives a terminal, breaks or turns a line
FULL = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)]


class UserError(Exception):
    """Something a person can mend. The message says what was wrong, where, and what to do, in one sentence."""


class DiskFullError(UserError):
    """No space is left for a file."""

    def __init__(self, path: object) -> None:
        super().__init__(f"the disk is full (while writing {path}); free some space and run again")


def disk_is_full(error: Exception) -> bool:
    """Whether a full disk is behind an error: TensorFlow and h5py have their own, with the system's words in them."""
    return isinstance(error, DiskFullError) or any(words in str(error) for words in FULL)


def run(main: Callable[[], None]) -> None:
    """Run a command; turn what a person can mend into one line on standard error and exit code 1.

    Anything else is a defect of ours and keeps its traceback. A stage that DVC runs says how long it took.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may not have every character, or a name none of Unicode's
    stage = os.environ.get("DVC_STAGE")
    try:
        main()
        if stage:
            print(f"{stage} took {time.monotonic() - STARTED:.0f} s")
        print(end="", flush=True)  # now, to learn whether anyone reads it; nothing where standard output is closed
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        if not reader_left():
            raise
        sys.exit(141)  # what a shell says of a command that a closed pipe ends, as `… | head` does
    except Exception as error:
        sentence = refusal(error)
        if not sentence:
            raise
        if disk_is_full(error):
            with suppress(OSError):
                sys.stdout.flush()
            print(f"error: {sentence}", file=sys.stderr, flush=True)
            os._exit(1)  # h5py would complain of the file that it cannot close, and crash
        sys.exit(f"error: {sentence}")


def refusal(error: Exception) -> str | None:
    """What a person is told of an error, and can do; None for a defect of ours."""
    if isinstance(error, UserError):
        return escaped(str(error))  # it may quote other people's names
    if isinstance(error, MemoryError):
        return "memory ran out; free some, or take a larger machine, and run again"
    name = getattr(error, "filename", None)
    if disk_is_full(error):
        return str(DiskFullError(name or "a file"))
    if not isinstance(error, OSError):
        return None
    name = name or " ".join(str(error).split())
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {name}; make it readable and writable for you and run again"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"a file is in the way where a folder belongs: {name}; move it away and run again"
    return None


def escaped(text: str) -> str:
    """A text in one line, as it may be printed: control characters become escapes."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def reader_left() -> bool:
    """Whether nobody reads standard output any more; if so, what is still to be written to it is dropped."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # that the other end is gone is told unasked
    left = bool(output.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
    return left
