"""Shards: what goes in comes out, at the right size, and augmentation moves windows but never makes pixels."""

import io
import os
import random
from itertools import islice, product

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from stages.backend import keras, tf
from stages.errors import UserError
from stages.faces import shards
from stages.faces.image import ImageError, decode, encode_png, inspect
from tests.reliability import tally

SIDE, CROP = 20, 16


def written(folder, records, per_shard=5):
    """Write records as the shards of a folder; return their summary."""
    folder.mkdir(exist_ok=True)
    return shards.write(records, len(records), folder, per_shard)


def stored(folder):
    """The features of a folder's records, read by TensorFlow alone: image, label, member."""
    for path in sorted(folder.glob("*.tfrecord")):
        for raw in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(raw).features.feature
            yield (
                features["image"].bytes_list.value[0],
                features["label"].int64_list.value[0],
                features["member"].bytes_list.value[0].decode(),
            )


def images_of(folder, size, batch_size=4):
    return np.concatenate([images for images, _, _ in shards.faces([folder], size=size, batch_size=batch_size)])


@pytest.fixture
def faces(png, noise):
    """Twelve records of noise, 20 px, every third of them fake."""
    return [
        shards.Record(png(noise(seed, SIDE, SIDE)), int(seed % 3 == 0), f"fäce/{seed:02}.png") for seed in range(12)
    ]


@pytest.fixture
def decoded(faces):
    """The pixels of the records, as Pillow decodes them."""
    return np.array([Image.open(io.BytesIO(face.image)) for face in faces])


def test_records_come_out_as_they_went_in(tmp_path, faces):
    faces[3] = shards.Record(bytes(range(256)), 1, "not/an image at all")
    written(tmp_path, faces)
    assert list(stored(tmp_path)) == faces


def test_shards_hold_so_many_records_each_and_are_counted(tmp_path, faces):
    summary = written(tmp_path, faces, per_shard=5)
    assert sorted(path.name for path in tmp_path.glob("*.tfrecord")) == [
        f"0000{number}-of-00003.tfrecord" for number in range(3)
    ]
    counts = [sum(1 for _ in tf.data.TFRecordDataset(str(path))) for path in sorted(tmp_path.glob("*.tfrecord"))]
    assert counts == [5, 5, 2]
    assert summary | {"sha256": ""} == {"images": 12, "real": 8, "fake": 4, "shards": 3, "sha256": ""}
    assert shards.summary(tmp_path) == summary


def test_of_fewer_records_than_are_announced_the_last_files_have_fewer(tmp_path, faces):
    summary = shards.write(iter(faces[:6]), 12, tmp_path, 5)
    assert (summary["images"], summary["shards"]) == (6, 3)
    assert list(shards.stored(tmp_path)) == faces[:6]


def test_the_digest_is_of_the_records_alone(tmp_path, faces):
    digest = written(tmp_path / "a", faces)["sha256"]
    assert written(tmp_path / "b", faces, per_shard=12)["sha256"] == digest
    first, *others = faces
    for number, changed in enumerate(
        (
            [first._replace(image=first.image[:-1] + b"x"), *others],
            [first._replace(label=1 - first.label), *others],
            [first._replace(member="another"), *others],
            [*others, first],
            others,
        )
    ):
        assert written(tmp_path / f"changed-{number}", changed)["sha256"] != digest


def test_the_summary_of_shards_that_are_missing_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"shards.json is missing; make it with `dvc repro`"):
        shards.summary(tmp_path)


def test_images_of_the_asked_size_are_not_touched(tmp_path, faces, decoded):
    written(tmp_path, faces)
    images = images_of(tmp_path, SIDE)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, decoded)


def test_batches_hold_each_image_once_with_its_label_and_name(tmp_path, faces):
    written(tmp_path, faces)
    batches = shards.faces([tmp_path], size=SIDE, batch_size=5)
    assert [len(images) for images, _, _ in batches] == [5, 5, 2]
    assert [m.decode() for _, _, members in batches for m in members.numpy()] == [face.member for face in faces]
    assert [label for _, labels, _ in batches for label in labels.numpy()] == [face.label for face in faces]
    assert int(batches.cardinality()) == 3


def test_keras_gets_images_with_a_column_of_labels(tmp_path, faces, decoded):
    written(tmp_path, faces)
    images, labels = next(iter(shards.labelled([tmp_path], size=SIDE, batch_size=12)))
    np.testing.assert_array_equal(images, decoded)
    np.testing.assert_array_equal(labels, [[face.label] for face in faces])


def test_a_jpeg_is_decoded_to_the_pixels_that_pillow_sees(tmp_path, noise):
    buffer = io.BytesIO()
    Image.fromarray(noise(0, SIDE, SIDE)).save(buffer, "JPEG", quality=75)
    written(tmp_path, [shards.Record(buffer.getvalue(), 0, "face.jpg")])
    np.testing.assert_array_equal(images_of(tmp_path, SIDE)[0], Image.open(buffer))


def test_a_grey_jpeg_gets_three_channels(tmp_path):
    buffer = io.BytesIO()
    grey = Image.fromarray(np.linspace(0, 255, SIDE * SIDE).astype(np.uint8).reshape(SIDE, SIDE))
    grey.save(buffer, "JPEG", quality=95)
    written(tmp_path, [shards.Record(buffer.getvalue(), 0, "grey.jpg")])
    (image,) = images_of(tmp_path, SIDE)
    np.testing.assert_allclose(image, np.repeat(np.asarray(grey)[..., np.newaxis], 3, axis=2), atol=8)
    np.testing.assert_array_equal(image, np.repeat(image[..., :1], 3, axis=2))


@pytest.mark.parametrize("upright", [True, False])
def test_of_a_longer_image_the_centre_is_taken(tmp_path, png, upright):
    pixels = np.full((40, 60, 3), 255, np.uint8)
    pixels[:, 10:50] = (30, 60, 90)
    written(tmp_path, [shards.Record(png(pixels.swapaxes(0, 1) if upright else pixels), 0, "long.png")])
    (image,) = images_of(tmp_path, SIDE)
    np.testing.assert_array_equal(image, np.broadcast_to([30, 60, 90], (SIDE, SIDE, 3)))


def test_a_larger_image_is_shrunk_with_antialiasing(tmp_path, png):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, 3::4] = 255  # plain bilinear sampling at a quarter of the size would step over every stripe
    written(tmp_path, [shards.Record(png(stripes), 0, "stripes.png")])
    (image,) = images_of(tmp_path, 16)
    np.testing.assert_array_equal(image[:, 2:-2], 64)


def test_a_shrunk_image_is_the_one_that_pillow_shrinks(tmp_path, png, noise):
    pixels = noise(0, 40, 40)
    written(tmp_path, [shards.Record(png(pixels), 0, "noise.png")])
    (image,) = images_of(tmp_path, SIDE)
    expected = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)  # which has the antialiasing
    np.testing.assert_allclose(image, expected, atol=1)
    np.testing.assert_array_equal(image, np.round(image))


def test_a_smaller_image_is_enlarged(tmp_path, png):
    written(tmp_path, [shards.Record(png(np.full((7, 9, 3), 200, np.uint8)), 0, "small.png")])
    np.testing.assert_array_equal(images_of(tmp_path, SIDE), np.full((1, SIDE, SIDE, 3), 200))


def drawn(folder, batches, seed=1, batch_size=4, **keys):
    """The first augmented batches: crops and labels, one row an image."""
    data = shards.augmented([folder], size=SIDE, crop=CROP, batch_size=batch_size, seed=seed, **keys)
    crops, labels = zip(*islice(data.as_numpy_iterator(), batches), strict=True)
    return np.concatenate(crops), np.concatenate(labels)


def places(crops, decoded):
    """Where each crop comes from: its image's number, row, column and whether it is mirrored."""
    windows = sliding_window_view(decoded, (CROP, CROP), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    found = []
    for crop in crops:
        for mirrored, view in ((False, crop), (True, crop[:, ::-1])):
            for image, row, column in np.argwhere((windows == view).all(axis=(3, 4, 5))):
                found.append((int(image), int(row), int(column), mirrored))
    assert len(found) == len(crops)  # each is a window of exactly one image, or a window's mirror image
    return found


def test_crops_are_windows_of_the_images_in_native_pixels(tmp_path, faces, decoded):
    written(tmp_path, faces)
    crops, labels = drawn(tmp_path, 18)
    assert crops.shape == (72, CROP, CROP, 3)
    assert crops.dtype == np.uint8
    where = places(crops, decoded)
    np.testing.assert_array_equal(labels, [[faces[image].label] for image, *_ in where])
    assert {row for _, row, _, _ in where} == {column for _, _, column, _ in where} == set(range(SIDE - CROP + 1))
    assert 20 <= sum(mirrored for *_, mirrored in where) <= 52  # about half of 72


def test_batches_are_balanced_over_sets_and_classes_and_each_turn_is_complete(tmp_path, faces, decoded):
    real, fake = ([face for face in faces if face.label == label] for label in (0, 1))
    folders = [tmp_path / "one", tmp_path / "other"]
    written(folders[0], real[:3] + fake[:2])
    written(folders[1], real[3:])
    data = shards.augmented(folders, size=SIDE, crop=CROP, batch_size=3, seed=1)
    crops = np.concatenate([crops for crops, _ in islice(data.as_numpy_iterator(), 30)])
    names = [faces[image].member for image, *_ in places(crops, decoded)]
    for first, step, group in ((0, 4, real[:3]), (1, 2, fake[:2]), (2, 4, real[3:])):  # half of all are fake
        drawn, known = names[first::step], sorted(face.member for face in group)
        for start in range(0, len(drawn) - len(known) + 1, len(known)):
            assert sorted(drawn[start : start + len(known)]) == known
    for start in (3, 12, 30, 51):
        rest = shards.augmented(folders, size=SIDE, crop=CROP, batch_size=3, seed=1, start=start)
        resumed = np.concatenate([crops for crops, _ in islice(rest.as_numpy_iterator(), 3)])
        np.testing.assert_array_equal(resumed, crops[start : start + 9])


def test_an_image_gets_another_crop_in_each_pass(tmp_path, faces, decoded):
    written(tmp_path, faces[:1], per_shard=1)
    assert len(set(places(drawn(tmp_path, 12, batch_size=1)[0], decoded))) > 6


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(tmp_path, faces):
    written(tmp_path, faces)
    (crops, labels), (rest, rest_labels) = drawn(tmp_path, 9), drawn(tmp_path, 5, start=16)
    np.testing.assert_array_equal(rest, crops[16:])
    np.testing.assert_array_equal(rest_labels, labels[16:])


def test_windows_are_augmented_as_asked_each_with_a_seed_of_its_own(tmp_path, faces):
    def augment(image, seed):
        assert (image.shape, image.dtype) == ((CROP, CROP, 3), np.uint8)
        return image // 2 + tf.cast(seed[1] % 64, tf.uint8)

    written(tmp_path, faces)
    plain, _ = drawn(tmp_path, 9)
    corrupted, _ = drawn(tmp_path, 9, augment=augment)
    added = corrupted - plain // 2
    assert (added == added[:, :1, :1, :1]).all()
    assert len(np.unique(added[:, 0, 0, 0])) > 20


def test_the_seed_decides_everything(tmp_path, faces):
    written(tmp_path, faces)
    keras.utils.set_random_seed(5)
    crops, labels = drawn(tmp_path, 9)
    keras.utils.set_random_seed(5)
    again, labels_again = drawn(tmp_path, 9)
    np.testing.assert_array_equal(crops, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert not np.array_equal(crops, drawn(tmp_path, 9, seed=2)[0])


def test_a_crop_of_the_whole_image_is_the_image_or_its_mirror(tmp_path, faces, decoded):
    written(tmp_path, faces)
    data = shards.augmented([tmp_path], size=SIDE, crop=SIDE, batch_size=12, seed=1)
    crops, *_ = next(data.as_numpy_iterator())
    known = {image.tobytes() for image in decoded}
    mirrored = {np.ascontiguousarray(image[:, ::-1]).tobytes() for image in decoded}
    assert all(crop.tobytes() in known | mirrored for crop in crops)


def test_crop_and_flip_is_decided_by_its_seed(png, decoded):
    data = tf.constant(png(decoded[0]))
    one, again, other = (
        shards.decode_crop_and_flip(data, SIDE, CROP, tf.constant(seed)) for seed in ([1, 2], [1, 2], [1, 4])
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(pixels, **options):
    return saved(Image.fromarray(pixels), "JPEG", **options)


def cut(image, crop, seed):
    """A window of a decoded image, as TensorFlow itself draws and mirrors it."""
    window = tf.image.stateless_random_crop(image, [crop, crop, 3], seed)
    return tf.image.stateless_random_flip_left_right(window, seed + 1)


@pytest.mark.parametrize("side", [64, 77])  # whole coding units, and not
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:2:0"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:0", "progressive": True},
        {"subsampling": "4:2:0", "restart_marker_blocks": 3},
        {"grey": True},
    ],
    ids=str,
)
def test_a_window_decoded_alone_has_the_pixels_of_the_whole(noise, side, options):
    """Noise has colours that change from pixel to pixel: what is wrong at the edge of a window shows in it."""
    options = dict(options)
    grey = options.pop("grey", False)

    @tf.function(reduce_retracing=True)
    def both(data, seed, crop):
        whole = cut(shards.decode(data, side), crop, seed)
        return shards.decode_crop_and_flip(data, side, crop, seed), whole

    for number in range(25):
        pixels = noise(number, side, side)
        data = jpeg(pixels[..., 0] if grey else pixels, quality=50 + 2 * number, **options)
        for crop in (16, 33, side):
            window, whole = both(tf.constant(data), tf.constant([number, crop], tf.int64), crop)
            assert window.dtype == tf.uint8
            np.testing.assert_array_equal(window, whole)


@pytest.mark.parametrize("kind", ["png", "jpeg of another size"])
def test_a_window_of_what_cannot_be_decoded_in_part_is_the_same_too(png, noise, kind):
    data = tf.constant(png(noise(0, SIDE, SIDE)) if kind == "png" else jpeg(noise(0, 50, 40), quality=90))
    for number in range(10):
        seed = tf.constant([number, 0], tf.int64)
        np.testing.assert_array_equal(
            shards.decode_crop_and_flip(data, SIDE, CROP, seed),
            cut(shards.decode(data, SIDE), CROP, seed),
        )


def test_the_first_of_each_class_are_the_first_on_disk_and_no_other_is_decoded(tmp_path, faces):
    broken = shards.Record(b"no picture", 0, "broken.png")
    records = [*faces, *[broken] * 3]
    summary = written(tmp_path, records)
    assert summary["real"] > 2 < summary["fake"]
    data = shards.faces([tmp_path], size=SIDE, batch_size=4, per_class=2)
    found = [
        (int(label), member.decode())
        for _, labels, names in data.as_numpy_iterator()
        for label, member in zip(labels, names, strict=True)
    ]
    expected = [(record.label, record.member) for record in faces]
    first = [pair for pair in expected if pair in [p for p in expected if p[0] == pair[0]][:2]]
    assert found == first


def mutated(data, draw):
    """The bytes with one to three faults: a bit flipped, the end cut off, zeros, bytes put in, or ranges swapped."""
    for _ in range(draw.randint(1, 3)):
        last, length = len(data) - 1, draw.choice((1, 2, 8, 64, 500))
        place = draw.choice(
            (draw.randint(0, last), draw.randint(0, min(last, 700)), draw.randint(max(last - 12, 0), last))
        )
        far = draw.randint(place, last) + length
        swapped = data[far : far + length] + data[place + length : far] + data[place : place + length]
        data = draw.choice(
            (
                data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :],
                data[: place + 1],
                data[:place] + bytes(length) + data[place + length :],
                data[:place] + draw.randbytes(length) + data[place:],
                data[:place] + b"\xff" + draw.randbytes(1) + data[place:],
                data[:place] + swapped + data[far + length :],
            )
        )
    return data


def test_tensorflow_decodes_what_the_index_takes_to_the_pixels_that_it_saw(noise):
    """``MUTATIONS=20000`` in the environment tries so many instead of 500."""
    picture = Image.fromarray(noise(0, 8, 8)).resize((64, 64), Image.Resampling.BICUBIC)
    sound = [
        saved(picture, "JPEG", subsampling=colours, progressive=progressive, restart_marker_blocks=blocks)
        for colours, progressive, blocks in product(("4:2:0", "4:2:2", "4:4:4"), (False, True), (0, 3))
    ]
    sound += [saved(picture.convert(mode), "JPEG") for mode in ("L", "CMYK")]
    sound += [saved(picture, kind) for kind in ("PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")]
    draw, taken = random.Random(20), {"original": 0, "png": 0}
    mutations = int(os.environ.get("MUTATIONS", "500"))
    with tally("damaged images", "tests/faces/test_shards.py") as counts:
        for number in range(mutations):
            counts["tried"] += 1
            data = mutated(sound[number % len(sound)], draw)
            try:
                facts, pixels = inspect(data), decode(data)
            except ImageError:
                continue
            taken[facts.encoding] += 1
            stored = tf.constant(data if facts.encoding == "original" else encode_png(pixels))
            assert pixels.shape == (facts.height, facts.width, 3)
            np.testing.assert_array_equal(tf.io.decode_jpeg(stored, channels=3, dct_method=shards.DCT), pixels)
            assert shards.decode_crop_and_flip(stored, 64, 40, tf.constant([number, 0])).shape == (40, 40, 3)
    assert min(taken.values()) > mutations / 20
