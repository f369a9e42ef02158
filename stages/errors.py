"""How a stage refuses: one sentence for the person, exit code 1, no traceback."""

import errno
import os
import select
import sys
import time
from collections.abc import Callable

from stages import STARTED


class UserError(Exception):
    """Something a person can mend. The message says what was wrong, where, and what to do, in one sentence."""


def run(main: Callable[[], None]) -> None:
    """Run a command; turn what a person can mend into one line on standard error and exit code 1.

    Anything else is a defect of ours and keeps its traceback. A stage that DVC runs says how long it took.
    """
    try:
        main()
        if stage := os.environ.get("DVC_STAGE"):
            print(f"{stage} took {time.monotonic() - STARTED:.0f} s")
        print(end="", flush=True)  # now, to learn whether anyone reads it; nothing where standard output is closed
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        if not reader_left():
            raise
        sys.exit(141)  # what a shell says of a command that a closed pipe ends, as `… | head` does
    except MemoryError:
        sys.exit("error: memory ran out; free some, or take a larger machine, and run again")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            sys.exit(
                f"error: the disk is full (while writing {error.filename or 'a file'}); free some space and run again"
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            sys.exit(f"error: no permission for {error.filename}; make it readable and writable for you and run again")
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            sys.exit(
                f"error: a file is in the way where a folder belongs: {error.filename}; move it away and run again"
            )
        raise


def reader_left() -> bool:
    """Whether nobody reads standard output any more; if so, what is still to be written to it is dropped."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # that the other end is gone is told unasked
    left = bool(output.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
    return left
