"""DenseNet121 (Huang et al. 2017, arXiv:1608.06993), without its classifier: 1,024 channels at 1/32 of the side."""

from stages.backend import keras

BLOCKS = {
    "conv2": "pool2_relu",
    "conv3": "pool3_relu",
    "conv4": "pool4_relu",
    "conv5": "relu",
}  # the last layer of each
HALVING = "valid"  # how an odd side is halved between blocks: down


def backbone(weights: str | None = None) -> "keras.Model":
    """The network for images of any size; ``weights`` is what Keras takes: None (random), "imagenet" or a file."""
    return keras.applications.DenseNet121(include_top=False, weights=weights, name="densenet121")


def preprocess(images: "keras.KerasTensor") -> "keras.KerasTensor":
    """RGB in 0–255 to what the ImageNet weights expect: scaled to 0–1, then standardised per channel ("torch")."""
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return keras.layers.Normalization(
        mean=[255 * m for m in mean], variance=[(255 * d) ** 2 for d in deviation], dtype="float32", name="preprocess"
    )(images)
