"""Make an archive of any size in the layout of the 140k corpus, of noise instead of faces, for tests of scale.

    python bench/make_archive.py OUT.zip --images 140000 --size 64

Each image is 17 × 16 random colours, enlarged: digests and perceptual hashes all differ. Real and fake do not.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SHARES = {"train": 10 / 14, "valid": 2 / 14, "test": 2 / 14}


def main() -> None:
    """Write the archive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--images", type=int, required=True, help="in all, half of them real; multiples of 14 are met exactly"
    )
    parser.add_argument("--size", type=int, default=64, help="px, the side of an image")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    number = 0
    with zipfile.ZipFile(args.out, "w") as archive:
        for split, share in SHARES.items():
            for label in ("real", "fake"):
                for _ in range(round(args.images * share / 2)):
                    name = f"real_vs_fake/real-vs-fake/{split}/{label}/{number:06d}.jpg"
                    archive.writestr(zipfile.ZipInfo(name), noise(random, args.size))  # no time of day: same bytes
                    number += 1
    print(f"{args.out}: {number:,} images, {args.out.stat().st_size / 1e6:,.0f} MB")


def noise(random: np.random.Generator, size: int) -> bytes:
    """One JPEG of ``size`` × ``size`` px."""
    colours = random.integers(0, 256, (16, 17, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((size, size), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
