"""What training faces go through beside crops and mirroring, so that a detector holds on pictures that went through it.

Each happens to a share of the faces, in this order, with a strength that is drawn evenly:

``colour``  brightness, contrast and saturation, each times 0.8 to 1.2: another light, another camera
``blur``    a Gaussian of σ 0 to 3 px (Wang et al. 2020, arXiv:1912.11035, who take half of the faces)
``resize``  to 0.25 to 1 of the side, and back: down to the smallest that ``stress`` of params.yaml tests
``jpeg``    saved as JPEG of quality 30 to 100 (Wang et al., half of the faces again)
"""

import math

from stages.backend import tf
from stages.faces import corruptions, shards

FACTORS = (0.8, 1.2)  # of brightness, contrast and saturation
SIGMA = 3.0  # px, the strongest blur
SCALES = (0.25, 1.0)  # of the side
QUALITY = (30, 100)  # of JPEG, both included
DRAWS = 10  # for blur, JPEG and resizing whether and how strongly, for colour whether and three factors


def spoiling(*, colour: float, blur: float, resize: float, jpeg: float) -> shards.Spoil | None:
    """What does this to these shares of the images; None if it would leave all as they are.

    It takes an image (side × side × 3, uint8) and two integers that decide what happens to it.
    """
    if not any((colour, blur, resize, jpeg)):
        return None

    def spoil(image: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
        drawn = tf.unstack(tf.random.stateless_uniform([DRAWS], _another(seed, 1)))
        blurs, sigma, saves, quality, resizes, scale, colours, *factors = drawn
        image = tf.cond(colours < colour, lambda: _coloured(image, factors), lambda: image)
        image = tf.cond(blurs < blur, lambda: _blurred(image, sigma), lambda: image)
        image = tf.cond(resizes < resize, lambda: _resized(image, scale), lambda: image)
        return tf.cond(saves < jpeg, lambda: _compressed(image, quality), lambda: image)

    return spoil


def _another(seed: "tf.Tensor", number: int) -> "tf.Tensor":
    """A seed of its own, so that what is drawn here tells nothing about crops and mirroring, which the seed decides."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def _between(ends: tuple[float, float], share: "tf.Tensor") -> "tf.Tensor":
    return ends[0] + share * (ends[1] - ends[0])


def _coloured(image: "tf.Tensor", shares: "list[tf.Tensor]") -> "tf.Tensor":
    brightness, contrast, saturation = (_between(FACTORS, share) for share in shares)
    bright = tf.cast(image, tf.float32) * brightness
    contrasted = tf.image.adjust_contrast(bright, contrast)
    saturated = tf.image.adjust_saturation(tf.clip_by_value(contrasted, 0, 255) / 255, saturation) * 255
    return tf.cast(corruptions.levels(saturated), tf.uint8)


def _blurred(image: "tf.Tensor", share: "tf.Tensor") -> "tf.Tensor":
    sigma = tf.maximum(SIGMA * share, 0.01)  # a hundredth of a pixel changes nothing, 0 has no Gaussian
    reach = math.ceil(corruptions.REACH * SIGMA)
    blurred = corruptions.blurred(tf.cast(image, tf.float32), sigma, reach)
    return tf.cast(corruptions.levels(blurred), tf.uint8)


def _resized(image: "tf.Tensor", share: "tf.Tensor") -> "tf.Tensor":
    resized = corruptions.resized(tf.cast(image, tf.float32), _between(SCALES, share))
    return tf.ensure_shape(tf.cast(resized, tf.uint8), image.shape)


def _compressed(image: "tf.Tensor", share: "tf.Tensor") -> "tf.Tensor":
    worst, best = QUALITY
    quality = worst + tf.cast(share * (best - worst + 1), tf.int32)
    return tf.ensure_shape(tf.image.adjust_jpeg_quality(image, quality, shards.DCT), image.shape)
