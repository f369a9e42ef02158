"""What a head sees of a backbone: the maps of its last block alone, or those of earlier blocks too.

Traces of generation are textures, and textures live in the earlier blocks; the last one knows objects. The maps of
earlier blocks are averaged down to the grid of the last one and laid beside its channels, so that all else stays as it
is: one map, pooled over positions, and a head that is linear in it.
"""

from dataclasses import dataclass
from typing import Any

from stages.backend import keras


@dataclass(frozen=True, slots=True)
class Levels:
    """A backbone module (:mod:`stages.detectors.densenet121`, …) whose backbone gives its blocks' maps from one on."""

    module: Any
    from_block: str

    def backbone(self, weights: str | None = None) -> "keras.Model":
        """The module's backbone under its own name; images to maps (n, height / 32, width / 32, channels)."""
        whole = self.module.backbone(weights)
        blocks = list(self.module.BLOCKS)
        maps = []
        for number, block in enumerate(blocks[blocks.index(self.from_block) :], blocks.index(self.from_block)):
            output = whole.get_layer(self.module.BLOCKS[block]).output
            side = 2 ** (len(blocks) - 1 - number)  # each block halves the grid
            if side > 1:
                output = keras.layers.AveragePooling2D(
                    side, padding=self.module.HALVING, dtype="float32", name=f"average_of_{block}"
                )(output)
            maps.append(output)
        return keras.Model(whole.input, keras.layers.Concatenate(dtype="float32", name="levels")(maps), name=whole.name)

    def preprocess(self, images: "keras.KerasTensor") -> "keras.KerasTensor":
        """The module's."""
        return self.module.preprocess(images)


def of(module: Any, from_block: str) -> Any:
    """The module itself where the last block is all that the head sees, else with its earlier blocks' maps."""
    return module if from_block == "conv5" else Levels(module, from_block)
