"""What training faces go through beside crops and mirroring, so that a detector holds on pictures that went through it.

As Wang et al. 2020 (arXiv:1912.11035) train: a share of the faces is blurred, with a σ drawn from 0 to 3 px, then a
share is saved as JPEG, of a quality drawn from 30 to 100. They take half of the faces for each.
"""

import math

from stages.backend import tf
from stages.faces import corruptions, shards

SIGMA = 3.0  # px, the strongest blur
QUALITY = (30, 100)  # of JPEG, both included


def spoiling(*, blur: float, jpeg: float) -> shards.Spoil | None:
    """What blurs and compresses these shares of the images; None if it would leave all as they are.

    It takes an image (side × side × 3, uint8) and two integers that decide what happens to it.
    """
    if not blur and not jpeg:
        return None

    def spoil(image: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
        strength = tf.random.stateless_uniform([4], _another(seed, 1))
        image = tf.cond(strength[0] < blur, lambda: _blurred(image, strength[1]), lambda: image)
        return tf.cond(strength[2] < jpeg, lambda: _compressed(image, strength[3]), lambda: image)

    return spoil


def _another(seed: "tf.Tensor", number: int) -> "tf.Tensor":
    """A seed of its own, so that what is drawn here tells nothing about crops and mirroring, which the seed decides."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def _blurred(image: "tf.Tensor", share: "tf.Tensor") -> "tf.Tensor":
    sigma = tf.maximum(SIGMA * share, 0.01)  # a hundredth of a pixel changes nothing, 0 has no Gaussian
    reach = math.ceil(corruptions.REACH * SIGMA)
    blurred = corruptions.blurred(tf.cast(image, tf.float32), sigma, reach)
    return tf.cast(tf.round(tf.clip_by_value(blurred, 0, 255)), tf.uint8)


def _compressed(image: "tf.Tensor", share: "tf.Tensor") -> "tf.Tensor":
    worst, best = QUALITY
    quality = worst + tf.cast(share * (best - worst + 1), tf.int32)
    return tf.ensure_shape(tf.image.adjust_jpeg_quality(image, quality, shards.DCT), image.shape)
