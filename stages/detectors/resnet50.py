"""ResNet50 (He et al. 2016, arXiv:1512.03385), without its classifier: 2,048 channels at 1/32 of the input's side."""

from stages.backend import keras

WIDTH = 2048  # channels of the last block, and so of the pooled features


def backbone(weights: str | None = None) -> "keras.Model":
    """The network for images of any size; ``weights`` is what Keras takes: None (random), "imagenet" or a file."""
    return keras.applications.ResNet50(include_top=False, weights=weights, name="resnet50")


def preprocess(images: "keras.KerasTensor") -> "keras.KerasTensor":
    """RGB in 0–255 to what the ImageNet weights expect: BGR, the data set's mean subtracted, not scaled ("caffe")."""
    bgr = keras.ops.flip(images, axis=-1)
    return keras.layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68], dtype="float32", name="preprocess")(bgr)
