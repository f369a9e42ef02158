"""What happens to a picture between the generator and the detector: saved again, blurred, resized, passed on.

Each kind is one published protocol, with a strength in its own unit:

``jpeg``    saved as JPEG of this quality, chroma halved (Wang et al. 2020, arXiv:1912.11035, who train with 30 to 100)
``blur``    Gaussian blur of this σ in px (the same, who train with up to 3)
``resize``  brought to this fraction of its side, bicubic, and back (Gragnaniello et al. 2021, arXiv:2104.02617)
``noise``   Gaussian noise of this σ in grey levels of 255 (Hendrycks & Dietterich 2019, arXiv:1903.12261)
``social``  what a social network does: 200/256 of the side, then JPEG of this quality (after the IEEE Video and Image
            Processing Cup 2022, arXiv:2309.12428: 200 px, qualities from 65), and back to the side

Every result is what would be saved as a file: whole grey levels from 0 to 255.
"""

import math

from stages.backend import tf

KINDS = ("jpeg", "blur", "resize", "noise", "social")
SOCIAL_SIDE = 200 / 256
REACH = 4  # the blur's kernel ends at this many σ


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]  # AutoGraph cannot read `match`
def corrupt(image: "tf.Tensor", kind: str, strength: float, seed: "tf.Tensor") -> "tf.Tensor":
    """``image`` (side × side × 3, float32, whole numbers in 0–255) after one corruption, of the same shape and dtype.

    ``seed`` (two integers) decides the noise; the other kinds have no chance in them.
    """
    match kind:
        case "jpeg":
            return _jpeg(image, round(strength))
        case "blur":
            return levels(blurred(image, strength, math.ceil(REACH * strength)))
        case "resize":
            return resized(image, strength)
        case "noise":
            return levels(image + tf.random.stateless_normal(tf.shape(image), seed, stddev=strength))
        case "social":
            return _resize(_jpeg(_resize(image, _scaled(image, SOCIAL_SIDE)), round(strength)), tf.shape(image)[0])
        case _:
            raise ValueError(f"no corruption is called {kind!r}; there are {', '.join(KINDS)}")


def levels(image: "tf.Tensor") -> "tf.Tensor":
    """What a file would hold of the image: whole numbers in 0–255, float32."""
    return tf.round(tf.clip_by_value(image, 0, 255))


def _scaled(image: "tf.Tensor", factor: "float | tf.Tensor") -> "tf.Tensor":
    return tf.cast(tf.round(tf.cast(tf.shape(image)[0], tf.float32) * factor), tf.int32)


def _jpeg(image: "tf.Tensor", quality: int) -> "tf.Tensor":
    encoded = tf.io.encode_jpeg(tf.cast(image, tf.uint8), quality=quality, chroma_downsampling=True)
    decoded = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(tf.cast(decoded, tf.float32), image.shape)


def _resize(image: "tf.Tensor", side: "tf.Tensor") -> "tf.Tensor":
    return levels(tf.image.resize(image, tf.stack([side, side]), "bicubic", antialias=True))


def resized(image: "tf.Tensor", factor: "float | tf.Tensor") -> "tf.Tensor":
    """The image, brought to this fraction of its side, and back: whole grey levels, bicubic."""
    return _resize(_resize(image, _scaled(image, factor)), tf.shape(image)[0])


def blurred(image: "tf.Tensor", sigma: "float | tf.Tensor", reach: int) -> "tf.Tensor":
    """The image, mirrored at its edges, under a Gaussian that ends at ``reach`` px: columns first, then rows."""
    offsets = tf.range(-reach, reach + 1, dtype=tf.float32)
    kernel = tf.exp(-(offsets**2) / (2 * sigma**2))
    kernel = tf.tile((kernel / tf.reduce_sum(kernel))[:, tf.newaxis, tf.newaxis, tf.newaxis], [1, 1, 3, 1])
    result = tf.pad(image, [[reach, reach], [reach, reach], [0, 0]], "REFLECT")[tf.newaxis]
    for along in (kernel, tf.transpose(kernel, [1, 0, 2, 3])):
        result = tf.nn.depthwise_conv2d(result, along, [1, 1, 1, 1], "VALID")
    return result[0]
