"""Images out of the archive, as they go into shards."""

import zipfile
from collections.abc import Iterator

import pandas as pd

from stages.errors import UserError
from stages.faces import archive, image
from stages.faces.shards import Record


def read(faces: zipfile.ZipFile, images: pd.DataFrame) -> Iterator[Record]:
    """The images (columns member, label, encoding) out of an open archive, in their order.

    Those whose encoding is ``original`` come as they are, the others as lossless PNG. Raises :class:`UserError` where
    one that was sound when it was looked at is not any more.
    """
    for member, label, encoding in zip(images["member"], images["label"], images["encoding"], strict=True):
        try:
            data = archive.read(faces, member)
            stored = data if encoding == "original" else image.encode_png(image.decode(data))
        except (archive.MemberError, image.ImageError) as error:
            raise UserError(
                f"{faces.filename}: {member} is {error}, though it was found sound before; run `dvc repro` again"
            ) from None
        yield Record(stored, label, member)
