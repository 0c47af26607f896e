"""VGG (Simonyan & Zisserman 2015) with batch normalisation and one dense layer."""

import dataclasses
from typing import ClassVar, Literal

from rst_tf.models._normalized import Normalized, check_depth, conv
from rst_tf.models.architecture import ARCHITECTURES

_CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


@ARCHITECTURES.register("vgg")
@dataclasses.dataclass(frozen=True)
class VGG(Normalized):
    """3x3 convolutions of 64, 128, 256, 512, 512 channels with 2x2 pooling after each group.

    Args:
        depth: Layers of the original network: 11, 13, 16 or 19. Its three dense layers are one
            classifier here, of the means over all places: any image of 32 pixels or more.
    """

    depth: Literal[11, 13, 16, 19] = 16

    halvings: ClassVar[int] = 5

    def __post_init__(self):
        super().__post_init__()
        check_depth(self.depth, list(_CONVS))

    def features(self, images, parts):
        """Groups of convolutions, each pooled."""
        import keras

        x = images
        for group, convs in enumerate(_CONVS[self.depth], 1):
            channels = self.scaled(min(512, 64 * 2 ** (group - 1)))
            for i in range(1, convs + 1):
                name = f"group_{group}_conv_{i}"
                own = parts.first if x is images else parts
                x = conv(x, own, channels, 3, name, use_bias=self.use_bias)
                x = self.normalize(x, parts, name)
            x = keras.layers.MaxPooling2D(name=f"group_{group}_pool")(x)
        return x
