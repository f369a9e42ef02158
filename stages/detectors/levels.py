"""What a head sees of a backbone: how large the face is, and which blocks' maps.

Traces of generation are textures, and textures live in the earlier blocks; the last one knows objects. The maps of
earlier blocks are averaged down to the grid of the last one and laid beside its channels, so that all else stays as it
is: one map, pooled over positions, and a head that is linear in it. Beside the average of each square of a map its
spread can lie, which says how rough the texture is there (mean and deviation are what textures are told apart by in
Huang & Belongie 2017, arXiv:1703.06868). A face that is magnified first shows the backbone its finest traces, which
the strides of the first layers would average away.
"""

from dataclasses import dataclass
from typing import Any

from stages.backend import keras

EPSILON = 1e-6  # added to a variance, so that the slope of its root stays finite where a map is flat


@dataclass(frozen=True, slots=True)
class Levels:
    """A backbone module (:mod:`stages.detectors.densenet121`, …) whose backbone gives its blocks' maps from one on.

    The parameters are those of the same names in ``features``.
    """

    module: Any
    from_block: str
    spread: bool
    magnify: int

    def backbone(self, weights: str | None = None) -> "keras.Model":
        """The module's backbone under its own name; images to maps (n, height / 32, width / 32, channels).

        The channels are, block by block, the averages and then, with ``spread``, the standard deviations within the
        square of a map that makes one position; of the last block, whose squares are single, the map as it is.
        """
        whole = self.module.backbone(weights)
        if self.from_block == "conv5":
            return whole
        blocks = list(self.module.BLOCKS)
        maps = []
        for number, block in enumerate(blocks[blocks.index(self.from_block) :], blocks.index(self.from_block)):
            output = whole.get_layer(self.module.BLOCKS[block]).output
            side = 2 ** (len(blocks) - 1 - number)  # each block halves the grid
            if side == 1:
                maps.append(output)
                continue
            average = self._average(output, side, f"average_of_{block}")
            maps.append(average)
            if self.spread:
                square = self._average(_product(output, f"square_of_{block}"), side, f"average_square_of_{block}")
                squared = _product(average, f"squared_average_of_{block}")
                variance = keras.layers.Subtract(dtype="float32", name=f"variance_of_{block}")([square, squared])
                positive = keras.layers.ReLU(dtype="float32", name=f"positive_variance_of_{block}")(variance)
                maps.append(keras.ops.sqrt(positive + EPSILON))
        return keras.Model(whole.input, keras.layers.Concatenate(dtype="float32", name="levels")(maps), name=whole.name)

    def preprocess(self, images: "keras.KerasTensor") -> "keras.KerasTensor":
        """The module's, of the magnified images."""
        if self.magnify > 1:
            images = keras.layers.UpSampling2D(self.magnify, interpolation="bilinear", dtype="float32", name="magnify")(
                images
            )
        return self.module.preprocess(images)

    def _average(self, maps: "keras.KerasTensor", side: int, name: str) -> "keras.KerasTensor":
        return keras.layers.AveragePooling2D(side, padding=self.module.HALVING, dtype="float32", name=name)(maps)


def _product(maps: "keras.KerasTensor", name: str) -> "keras.KerasTensor":
    return keras.layers.Multiply(dtype="float32", name=name)([maps, maps])
