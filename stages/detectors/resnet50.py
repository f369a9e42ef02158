"""ResNet50 (He et al. 2016, arXiv:1512.03385), without its classifier: 2,048 channels at 1/32 of the input's side."""

from stages.backend import keras

BLOCKS = {  # the last layer of each
    "conv2": "conv2_block3_out",
    "conv3": "conv3_block4_out",
    "conv4": "conv4_block6_out",
    "conv5": "conv5_block3_out",
}
HALVING = "same"  # how an odd side is halved between blocks: up


def backbone(weights: str | None = None) -> "keras.Model":
    """The network for images of any size; ``weights`` is what Keras takes: None (random), "imagenet" or a file."""
    return keras.applications.ResNet50(include_top=False, weights=weights, name="resnet50")


def preprocess(images: "keras.KerasTensor") -> "keras.KerasTensor":
    """RGB in 0–255 to what the ImageNet weights expect: BGR, the data set's mean subtracted, not scaled ("caffe")."""
    bgr = keras.ops.flip(images, axis=-1)
    return keras.layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68], dtype="float32", name="preprocess")(bgr)
