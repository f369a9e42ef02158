"""Images that are the same, or nearly: perceptual hashes, the pairs among them, and groups that belong together.

The hash is dHash with 256 bits (Pillow's luma, Lanczos to 17 × 16, one bit per horizontal difference). On 1,800 faces
of the 140k corpus the five known near-duplicates lie at 14 to 31 bits, and the next pair at 41.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.errors import UserError
from stages.faces.image import Pixels
from stages.progress import progress

HASH_SIDE = 16  # 16 × 16 differences
HASH_BYTES = HASH_SIDE**2 // 8
BLOCK = 4096  # hashes compared with all earlier ones at a time
MAX_PAIRS = 20_000_000  # 320 MB; only thousands of images that are all alike, but not equal, give so many

Hashes = NDArray[np.uint8]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Likeness:
    """Which images are alike. Images of equal hash share a code, so a thousand equal ones cost no million pairs.

    ``code`` (int64, n): which distinct hash an image has. ``links`` (int64, m × 2): the pairs of distinct hashes, the
    smaller code first, that are near. ``group`` (int64, n): the connected component of an image; components are
    numbered from 0 by their first image. Identical files have one hash, and so one group.
    """

    code: Integers
    links: Integers
    group: Integers


def dhash(rgb: Pixels) -> str:
    """The dHash-256 of an image (uint8, height × width × 3) as 64 hexadecimal digits."""
    import imagehash

    return str(imagehash.dhash(Image.fromarray(rgb), HASH_SIDE))


def hash_bytes(hashes: Iterable[str]) -> Hashes:
    """Hexadecimal hashes, as :func:`dhash` gives them, as uint8, n × 32."""
    packed = bytearray()
    for text in hashes:  # one by one: as strings of Python they would take five times the room
        packed += bytes.fromhex(text)
    return np.frombuffer(packed, np.uint8).reshape(-1, HASH_BYTES)


def alike(hashes: Hashes, bits: int) -> Likeness:
    """Group images whose hashes (uint8, n × 32) differ in at most ``bits`` bits, directly or through others."""
    distinct, code = np.unique(hashes, axis=0, return_inverse=True)
    code = code.ravel().astype(np.int64)
    links = near_pairs(distinct, bits)
    return Likeness(code, links, _components(code, links))


def among(code: Integers, links: Integers, chosen: NDArray[np.bool_]) -> Likeness:
    """The likeness of some images (``chosen``: bool, n) alone: no other image joins them.

    ``code`` (n) and ``links`` (m × 2) as in :class:`Likeness`.
    """
    code = code[chosen]
    links = links[np.isin(links, code).all(axis=1)]
    return Likeness(code, links, _components(code, links))


def apart(code: Integers, links: Integers, part: Integers) -> tuple[Integers, Integers]:
    """The groups within each part alone, and the pairs of groups that are alike across parts.

    ``code`` (n) and ``links`` (m × 2) as in :class:`Likeness`; ``part`` (n), from 0: the set of each image. ``group``
    (int64, n) is numbered from 0, those of a part after those of earlier ones, by first image. ``pairs`` (int64, k × 2,
    sorted): a group, and one of an earlier part that has an equal or linked image.
    """
    codes = np.arange(code.max(initial=-1) + 1)
    group, groups, pairs = np.empty_like(code), 0, [np.empty((0, 2), np.int64)]
    known = np.full((part.max(initial=-1) + 1, len(codes)), -1)  # the group of each code in each part
    for number, of in enumerate(known):
        chosen = part == number
        group[chosen] = groups + among(code, links, chosen).group
        groups = group[chosen].max(initial=groups - 1) + 1
        of[code[chosen]] = group[chosen]
        for earlier in known[:number]:
            for one, other in ((codes, codes), links.T, links.T[::-1]):
                found = np.column_stack([of[one], earlier[other]])
                pairs.append(found[(found >= 0).all(axis=1)])
    return group, np.unique(np.concatenate(pairs), axis=0)


def _components(code: Integers, links: Integers) -> Integers:
    """The connected component of each image, numbered from 0 by their first image."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = code.max(initial=-1) + 1
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(size, size))
    component = connected_components(graph, directed=False)[1][code]
    _, first, group = np.unique(component, return_index=True, return_inverse=True)
    return first.argsort().argsort()[group].astype(np.int64)


def near_pairs(hashes: Hashes, bits: int) -> Integers:
    """All pairs i < j of rows (uint8, n × 32) at Hamming distance ≤ ``bits``: int64, m × 2, sorted.

    Every pair is compared, by faiss, against an index that grows block by block: exact for any ``bits``, memory flat,
    14 s for 140,000 hashes on two cores. Multi-index hashing (arXiv:1307.2982) was measured and is no faster: faces
    resemble each other, so its buckets fill up and it is quadratic too. Raises :class:`UserError` above ``MAX_PAIRS``.
    """
    import faiss

    index = faiss.IndexBinaryFlat(8 * HASH_BYTES)
    found, total = [np.empty((0, 2), np.int64)], 0
    for start in progress(range(0, len(hashes), BLOCK), desc="near-duplicates", unit="block", leave=False):
        block = np.ascontiguousarray(hashes[start : start + BLOCK])
        index.add(block)
        limits, _, earlier = index.range_search(block, bits + 1)  # strictly below the radius
        later = np.repeat(np.arange(start, start + len(block)), np.diff(limits.astype(np.int64)))
        pairs = np.column_stack([earlier, later])[earlier < later]
        total += len(pairs)
        if total > MAX_PAIRS:
            raise UserError(
                f"more than {MAX_PAIRS:,} pairs of images are within {bits} bits of each other: either most images are "
                "alike, or data.near_duplicate_bits is too large; lower it"
            )
        found.append(pairs)
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def count_pairs(code: Integers, links: Integers, part: Integers) -> int:
    """The pairs of images that are equal or linked and lie in the same part.

    ``code`` (n) and ``links`` (m × 2) as in :class:`Likeness`; ``part`` (n), from 0: the split or class of each image.
    """
    members = np.zeros((code.max(initial=-1) + 1, part.max(initial=-1) + 1), np.int64)
    np.add.at(members, (code, part), 1)
    equal = (members * (members - 1) // 2).sum()
    linked = (members[links[:, 0]] * members[links[:, 1]]).sum()
    return int(equal + linked)
