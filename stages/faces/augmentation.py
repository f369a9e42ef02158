"""What training faces go through beside crops and mirroring, so that a detector holds on pictures that went through it.

Each happens to a share of the faces, in this order, with a strength that is drawn evenly:

``blur``  a Gaussian of σ 0 to 3 px (Wang et al. 2020, arXiv:1912.11035, who take half of the faces)
``jpeg``  saved as JPEG of quality 30 to 100 (Wang et al., half of the faces again)
"""

import math

from stages.backend import tf
from stages.faces import corruptions, shards

SIGMA = 3.0  # px, the strongest blur
QUALITY = (30, 100)  # of JPEG, both included
DRAWS = 4  # whether and how strongly, for each


def augmenter(*, blur: float, jpeg: float) -> shards.Augment | None:
    """A function that does this to these shares of the images; None if it would leave all as they are.

    It takes an image (side × side × 3, uint8) and two integers that decide what happens to it.
    """
    if not any((blur, jpeg)):
        return None

    def augment(image: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
        # a seed of its own, so that what is drawn here tells nothing about crops and mirroring, which the seed decides
        own = tf.random.experimental.stateless_fold_in(seed, 1)
        blurs, sigma, saves, quality = tf.unstack(tf.random.stateless_uniform([DRAWS], own))
        image = tf.cond(blurs < blur, lambda: _blurred(image, sigma), lambda: image)
        return tf.cond(saves < jpeg, lambda: _compressed(image, quality), lambda: image)

    return augment


def _blurred(image: "tf.Tensor", share: "tf.Tensor") -> "tf.Tensor":
    sigma = tf.maximum(SIGMA * share, 0.01)  # a hundredth of a pixel changes nothing, 0 has no Gaussian
    reach = math.ceil(corruptions.REACH * SIGMA)
    blurred = corruptions.blurred(tf.cast(image, tf.float32), sigma, reach)
    return tf.cast(corruptions.levels(blurred), tf.uint8)


def _compressed(image: "tf.Tensor", share: "tf.Tensor") -> "tf.Tensor":
    worst, best = QUALITY
    quality = worst + tf.cast(share * (best - worst + 1), tf.int32)
    return tf.ensure_shape(tf.image.adjust_jpeg_quality(image, quality, shards.DCT), image.shape)
