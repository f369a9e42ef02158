"""Images out of the archive, as they go into shards."""

from collections.abc import Iterator

import pandas as pd

from stages.errors import UserError
from stages.faces import archive, image
from stages.faces.shards import Record
from stages.faces.zips import Zip


def read(name: str, faces: Zip, images: pd.DataFrame) -> Iterator[Record]:
    """The images (columns member, place, label, encoding) out of the open archive of the set ``name``, in their order.

    Those whose encoding is ``original`` come as they are, the others as lossless PNG. Raises :class:`UserError` where
    one that was sound when it was looked at is not any more.
    """
    for member, place, label, encoding in images[["member", "place", "label", "encoding"]].itertuples(index=False):
        try:
            data = archive.read(faces, member, place)
            stored = data if encoding == "original" else image.encode_png(image.decode(data))
        except (archive.MemberError, image.ImageError) as error:
            raise UserError(
                f"{faces.path}: {member} is {error}, though it was found sound before; run `dvc repro` again"
            ) from None
        yield Record(stored, label, f"{name}/{member}")
