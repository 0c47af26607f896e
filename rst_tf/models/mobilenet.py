"""MobileNetV2 (Sandler et al. 2018) for 32x32 images."""

import dataclasses
from typing import ClassVar

from rst_tf.models._normalized import Normalized, conv, depthwise_conv
from rst_tf.models.architecture import ARCHITECTURES

# factor of the channels inside, channels, blocks, stride of the first
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@ARCHITECTURES.register("mobilenet_v2")
@dataclasses.dataclass(frozen=True)
class MobileNetV2(Normalized):
    """Inverted residuals with ReLU; 32x32 images go down to 4x4.

    The published code never strides, and so gives as many logits for each of 64 places
    (Fu et al. 2021, `mbv2`); the weights are the same.
    """

    halvings: ClassVar[int] = 3

    def features(self, images, parts):
        """Stem, inverted residuals, a last 1x1 convolution."""
        x = conv(images, parts.first, self.scaled(32), 3, "stem")
        x = self.normalize(x, parts, "stem")
        for stage, (expansion, channels, blocks, first_stride) in enumerate(_STAGES, 1):
            for block in range(1, blocks + 1):
                stride = first_stride if block == 1 else 1
                name = f"stage_{stage}_block_{block}"
                x = self._block(x, parts, expansion, self.scaled(channels), stride, name)
        x = conv(x, parts, self.scaled(1280), 1, "last")
        return self.normalize(x, parts, "last")

    def _block(self, x, parts, expansion, channels, stride, name):
        """A sum with the input wherever the size stays, as published; not only at equal widths."""
        import keras

        y = conv(x, parts, expansion * x.shape[-1], 1, f"{name}_expand")
        y = self.normalize(y, parts, f"{name}_expand")
        y = depthwise_conv(y, parts, 3, f"{name}_depthwise", stride)
        y = self.normalize(y, parts, f"{name}_depthwise")
        y = conv(y, parts, channels, 1, f"{name}_project")
        y = self.normalize(y, parts, f"{name}_project", relu=False)
        if stride != 1:
            return y
        if x.shape[-1] != channels:
            x = conv(x, parts, channels, 1, f"{name}_shortcut")
            x = self.normalize(x, parts, f"{name}_shortcut", relu=False)
        return keras.layers.Add(name=f"{name}_sum")([x, y])
