"""Images out of the archive, as they go into shards."""

import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import pandas as pd

from stages.errors import UserError
from stages.faces import archive, image, processing
from stages.faces.layout import LABELS
from stages.faces.zips import Zip

THREADS = min(os.cpu_count() or 1, 16)  # Pillow leaves Python's lock to others while it decodes, resizes and encodes
AHEAD = 2 * THREADS  # images that are read before they are wanted


def read(
    name: str, faces: Zip, images: pd.DataFrame, *, size: int, jpeg: int | None, align: bool
) -> Iterator[tuple[bytes, int, str]]:
    """The images (columns member, place, label, encoding) out of the open archive of the set ``name``, in their order.

    Of each its bytes, its label, and the set and its name in the archive: a :class:`stages.faces.shards.Record`.
    Without ``jpeg`` and ``align`` those whose encoding is ``original`` come as they are. All others come as
    :func:`stages.faces.processing.stored` makes them, and those in which it finds no face are left out. Raises
    :class:`UserError` where one that was sound when it was looked at is not any more, or where no face is found in all
    of a class.
    """
    as_they_are = not jpeg and not align
    kept, without_face = Counter[int](), Counter[int]()
    with ThreadPoolExecutor(THREADS) as pool:

        def begun() -> Iterator[tuple[str, int, bytes | Future[bytes | None]]]:
            columns = images[["member", "place", "label", "encoding"]]
            for member, place, label, encoding in columns.itertuples(index=False):
                with _sound(faces, member):
                    data = archive.read(faces, member, place)
                if as_they_are and encoding == "original":
                    yield member, label, data
                else:
                    yield member, label, pool.submit(processing.stored, data, size=size, jpeg=jpeg, align=align)

        coming = begun()
        waiting = deque(islice(coming, AHEAD))
        while waiting:
            member, label, found = waiting.popleft()
            with _sound(faces, member):
                stored = found.result() if isinstance(found, Future) else found
            waiting.extend(islice(coming, 1))
            if stored is None:
                without_face[label] += 1
            else:
                kept[label] += 1
                yield stored, label, f"{name}/{member}"
    for kind, label in LABELS.items():
        if without_face[label] and not kept[label]:
            raise UserError(
                f"{faces.path}: no face is found in any of {without_face[label]:,} {kind} images, which image.align "
                "leaves out; set it to false"
            )


@contextmanager
def _sound(faces: Zip, member: str) -> Iterator[None]:
    """Refuse what goes wrong with an image in a sentence."""
    try:
        yield
    except (archive.MemberError, image.ImageError) as error:
        raise UserError(
            f"{faces.path}: {member} is {error}, though it was found sound before; run `dvc repro` again"
        ) from None
