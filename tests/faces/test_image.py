"""One image: odd kinds come out as a person sees them, broken ones with a verdict."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.faces import image

ROOT = Path(__file__).parents[2]


def picture(width=40, height=24, seed=0):
    """Smooth random colours: uint8, height × width × 3."""
    colours = np.random.default_rng(seed).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BILINEAR)


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encoded(picture(), "JPEG", quality=90)
PROGRESSIVE = encoded(picture(), "JPEG", progressive=True)
PNG = encoded(picture(), "PNG")


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def in_png(*chunks):
    """A PNG with chunks after its header."""
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def in_jpeg(*segments):
    """A JPEG with segments, of a marker and content each, at its beginning."""
    made = (b"\xff" + marker + struct.pack(">H", len(content) + 2) + content for marker, content in segments)
    return JPEG[:2] + b"".join(made) + JPEG[2:]


def scans(number):
    """A JPEG whose last scan is repeated until there are so many."""
    last = PROGRESSIVE.rindex(b"\xff\xda")
    repeated = PROGRESSIVE[last:-2] * (number - PROGRESSIVE.count(b"\xff\xda"))
    return PROGRESSIVE[:-2] + repeated + PROGRESSIVE[-2:]


def test_an_rgb_jpeg_is_kept_as_it_is():
    facts = image.inspect(JPEG)
    assert (facts.format, facts.mode, facts.width, facts.height) == ("JPEG", "RGB", 40, 24)
    assert (facts.encoding, facts.jpeg_quality) == ("original", 90)
    np.testing.assert_array_equal(image.decode(JPEG), np.asarray(Image.open(io.BytesIO(JPEG))))


def test_a_greyscale_jpeg_is_kept_and_repeated_in_three_channels():
    data = encoded(picture().convert("L"), "JPEG")
    rgb = image.decode(data)
    assert image.inspect(data).encoding == "original"
    assert rgb.shape == (24, 40, 3)
    np.testing.assert_array_equal(rgb[..., 0], np.asarray(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(rgb[..., 0], rgb[..., 2])


def test_a_cmyk_jpeg_comes_out_in_rgb():
    data = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100)
    facts = image.inspect(data)
    assert (facts.mode, facts.encoding) == ("CMYK", "png")
    np.testing.assert_allclose(image.decode(data)[8, 8], [0, 255, 255], atol=3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind):
    wide = np.array([[0, 128, 32896, 65535]], np.uint16)
    data = encoded(Image.fromarray(wide), kind)
    assert image.inspect(data).encoding == "png"
    np.testing.assert_array_equal(image.decode(data)[0, :, 1], [0, 0, 128, 255])


def test_a_whole_progressive_jpeg_is_kept_and_so_is_one_in_which_others_lie():
    assert image.inspect(PROGRESSIVE).encoding == "original"
    several = encoded(picture(), "MPO", save_all=True, append_images=[picture(seed=1)])
    assert (image.inspect(several).format, image.inspect(several).encoding) == ("JPEG", "original")
    np.testing.assert_array_equal(image.decode(several), np.asarray(Image.open(io.BytesIO(several))))


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:-2] + bytes(500),
        JPEG.replace(b"\xff\xdb", b"junk\xff\xdb", 1),
        PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")] + PROGRESSIVE[-2:],
        PROGRESSIVE.replace(PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") :], b"\xff\xd9"),
    ],
    ids=["zeros for an end", "junk between segments", "a scan lacks", "the last scan lacks"],
)
def test_a_jpeg_with_a_flaw_that_pillow_forgives_is_stored_as_its_pixels(data):
    assert image.inspect(data).encoding == "png"
    assert image.decode(data).shape == (24, 40, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_exif_says(orientation, kind):
    colours = np.zeros((16, 32, 3), np.uint8)
    colours[:8, :8] = 255  # a white corner, top left in the file
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(colours), kind, quality=95, exif=exif)
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    facts, rgb = image.inspect(data), image.decode(data)
    assert rgb.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    assert (facts.height, facts.width) == rgb.shape[:2]
    assert facts.encoding == ("original" if (kind, orientation) == ("JPEG", 1) else "png")
    assert [at for at in {(0, 0), (0, -1), (-1, 0), (-1, -1)} if rgb[at].min() > 200] == [corner[orientation]]


EXIF = (  # orientation 6, and a resolution of -1/0
    b"MM\0*\0\0\0\x08\0\2"
    + struct.pack(">HHII", 0x112, 3, 1, 6 << 16)
    + struct.pack(">HHII", 0x11A, 10, 1, 38)
    + struct.pack(">Iii", 0, -1, 0)
)
LONG = zlib.compress(bytes(2_000_000))


@pytest.mark.parametrize(
    ("data", "turned"),
    [
        (in_png(chunk(b"zTXt", b"a\0\0" + LONG)), False),
        (in_png(chunk(b"iTXt", b"a\0\1\0\0\0" + LONG)), False),
        (in_png(chunk(b"iCCP", b"a\0\0" + LONG)), False),
        (in_png(chunk(b"tEXt", b"a\0b")[:-4] + bytes(4)), False),
        (in_png(chunk(b"pHYs", b"")), False),
        (in_png(chunk(b"eXIf", b"no EXIF")), False),
        (in_png(chunk(b"eXIf", EXIF)), True),
        (in_jpeg((b"\xe1", b"Exif\0\0no EXIF")), False),
        (in_jpeg((b"\xe1", b"Exif\0\0" + EXIF)), True),
        (in_jpeg((b"\xe2", b"ICC_PROFILE\0")), False),
        (in_jpeg((b"\xed", b"Photoshop 3.0\0008BIM\x03\xed")), False),
        (encoded(picture(), "WEBP", exif=b"no EXIF"), False),
        (encoded(picture(), "WEBP", exif=EXIF), True),
    ],
)
def test_of_metadata_only_the_orientation_counts_whatever_else_is_wrong_with_it(data, turned):
    facts, rgb = image.inspect(data), image.decode(data)
    assert rgb.shape == (facts.height, facts.width, 3) == ((40, 24, 3) if turned else (24, 40, 3))


def test_transparent_parts_of_a_palette_lie_on_white():
    drawn = Image.new("P", (2, 1))
    drawn.putpalette([255, 0, 0, 0, 0, 255])
    drawn.putpixel((1, 0), 1)
    data = encoded(drawn, "PNG", transparency=1)
    np.testing.assert_array_equal(image.decode(data), [[[255, 0, 0], [255, 255, 255]]])


def test_half_transparent_parts_are_mixed_with_white():
    data = encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 51)), "PNG")
    np.testing.assert_array_equal(image.decode(data), [[[204, 204, 204]]])


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(image.decode(data)[4, 4], [255, 0, 0])


@pytest.mark.parametrize("quality", [1, 30, 50, 75, 95, 100])
def test_the_jpeg_quality_is_read_from_the_tables(quality):
    assert image.inspect(encoded(picture(), "JPEG", quality=quality)).jpeg_quality == quality


def test_quantisation_names_the_tables_whatever_the_picture():
    names = [
        image.inspect(encoded(picture(seed=seed), "JPEG", quality=quality)).quantisation
        for seed, quality in ((0, 75), (1, 75), (0, 76))
    ]
    assert names[0] == names[1] != names[2]


def test_a_png_has_no_tables():
    facts = image.inspect(PNG)
    assert (facts.format, facts.encoding, facts.jpeg_quality, facts.quantisation) == ("PNG", "png", None, None)


def test_bytes_in_a_png_are_those_of_the_pixels():
    rgb = image.decode(JPEG)
    np.testing.assert_array_equal(image.decode(image.encode_png(rgb)), rgb)


@pytest.mark.parametrize("rgb", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8)])
def test_encode_png_takes_only_rgb_of_eight_bits(rgb):
    with pytest.raises(ValueError, match="expected uint8"):
        image.encode_png(rgb)


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "not an image"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:60] + bytes(20) + PNG[80:], "damaged"),
        (encoded(picture(), "PPM"), "not an image"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "32-bit F pixels"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, which is not read; save it as JPEG or PNG"),
        (encoded(picture(), "JPEG2000"), "JPEG 2000, which is not read; save it as JPEG or PNG"),
        (b"\xff\x0a" + bytes(20), "JPEG XL, which is not read; save it as JPEG or PNG"),
    ],
    ids=["empty", "html", "half a JPEG", "half a PNG", "zeros in a PNG", "PPM", "float TIFF", "HEIC", "J2K", "JXL"],
)
def test_what_cannot_be_used_gets_a_verdict(data, verdict):
    with pytest.raises(image.ImageError, match=f"^{verdict}$"):
        image.decode(data)


def png_of(width, height):
    """A PNG whose header claims a size, and that holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8_100, 20_000, 2**31 - 1])
@pytest.mark.parametrize("door", [image.inspect, image.decode])
def test_a_decompression_bomb_is_refused_by_its_header(door, side):
    with pytest.raises(image.ImageError, match=r"^larger than 65,000,000 pixels$"):
        door(png_of(side, side))


def test_a_photo_of_64_megapixels_is_none():
    assert image.inspect(png_of(9_248, 6_936)).width == 9_248


@pytest.mark.parametrize("door", [image.inspect, image.decode])
def test_a_jpeg_of_so_many_scans_that_it_would_take_minutes_is_refused(door):
    door(scans(100))
    hidden = scans(101).replace(b"\xff\xdb", b"\0\xff\xdb", 1)
    for data in (scans(101), hidden):
        with pytest.raises(image.ImageError, match=r"^a JPEG of more than 100 scans$"):
            door(data)


def decoding(data, folder, limit=None):
    """What decoding takes at its peak (kB) in a process that may take ``limit`` (kB) more, or the name of its error."""
    (folder / "image").write_bytes(data)
    lines = [
        "import re, resource, sys",
        "from pathlib import Path",
        "from stages.faces import image",
        "def now(key):",
        "    return int(re.search(rf'{key}:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])",
        "data, before = Path(sys.argv[1]).read_bytes(), now('VmHWM')",
        f"if limit := {limit}:",
        "    resource.setrlimit(resource.RLIMIT_AS, ((now('VmSize') + limit) * 1024,) * 2)",
        "try:",
        "    image.decode(data)",
        "    print(now('VmHWM') - before)",
        "except Exception as error:",
        "    print(type(error).__name__)",
    ]
    command = [sys.executable, "-c", "\n".join(lines), folder / "image"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is counted and limited otherwise")


@on_linux
@pytest.mark.parametrize(
    ("mode", "kind", "most"), [("RGBA", "PNG", 9), ("RGB", "JPEG", 9), ("P", "GIF", 9), ("RGB", "WEBP", 17)]
)
def test_decoding_takes_no_more_memory_than_it_must(mode, kind, most, tmp_path):
    """Bytes a pixel: four in Pillow and three as they come out; copies are of a few rows at a time."""
    data = encoded(Image.new(mode, (5_000, 4_000)), kind)
    assert 3 <= int(decoding(data, tmp_path)) * 2**10 / 20e6 <= most


@on_linux
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_lack_of_memory_is_not_called_damage(kind, tmp_path):
    data = encoded(Image.new("RGB", (3_000, 2_000)), kind)
    assert decoding(data, tmp_path, limit=20 * 2**10).endswith("MemoryError")


@settings(derandomize=True, deadline=None)
@given(
    data=st.sampled_from([JPEG, PNG, *(encoded(picture(), kind) for kind in ("WEBP", "AVIF", "GIF", "TIFF", "BMP"))]),
    start=st.integers(0, 3000),
    junk=st.binary(min_size=1, max_size=16),
    end=st.integers(1, 3000),
)
def test_bytes_overwritten_and_cut_off_anywhere_give_an_image_or_a_verdict(data, start, junk, end):
    data = (data[:start] + junk + data[start + len(junk) :])[:end]
    try:
        facts, rgb = image.inspect(data), image.decode(data)
    except image.ImageError:
        return
    assert rgb.dtype == np.uint8
    assert rgb.shape == (facts.height, facts.width, 3)
