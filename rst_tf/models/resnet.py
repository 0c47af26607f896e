"""Residual networks (He et al. 2015): normalisation and ReLU after each convolution."""

import dataclasses
from typing import ClassVar, Literal

from rst_tf.models._normalized import Normalized, check_depth, conv, max_pool_of_relu
from rst_tf.models.architecture import ARCHITECTURES

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks in each stage; from depth 50 on they are bottlenecks."""


@ARCHITECTURES.register("resnet")
@dataclasses.dataclass(frozen=True)
class ResNet(Normalized):
    """A ResNet for 32x32 images: a 3x3 stem at full size, four stages of 64 to 512 channels.

    The network that Fu et al. (2021) call PreActResNet18 is this one at depth 18.

    Args:
        depth: Layers on the longest way: 18, 34, 50, 101 or 152.
        bottleneck_width: Factor of the channels inside bottlenecks, from depth 50 on; 2 gives the
            wide ResNets of Zagoruyko & Komodakis (2016) for ImageNet, wide_resnet50_2.
        stage_channels: Channels of the four stages (a quarter of what leaves a bottleneck); the
            stem has as many as the first.
    """

    depth: Literal[18, 34, 50, 101, 152] = 18
    bottleneck_width: float = 1.0
    stage_channels: tuple[int, ...] = (64, 128, 256, 512)

    halvings: ClassVar[int] = 3

    def __post_init__(self):
        super().__post_init__()
        check_depth(self.depth, list(BLOCKS))
        if not self.bottleneck_width > 0:
            raise ValueError(
                "bottleneck_width must be above 0; received "
                f"bottleneck_width={self.bottleneck_width!r}"
            )
        if self.bottleneck_width != 1 and self.depth < 50:
            raise ValueError(
                f"bottleneck_width has no effect at depth {self.depth}, which has no bottlenecks; "
                f"received bottleneck_width={self.bottleneck_width!r}"
            )

        if len(self.stage_channels) != 4 or min(self.stage_channels) < 1:
            raise ValueError(
                "stage_channels must be four numbers above 0; received "
                f"stage_channels={self.stage_channels!r}"
            )

    def features(self, images, parts):
        """Stem and stages."""
        x = self.stem(images, parts)
        block = self._basic if self.depth < 50 else self._bottleneck
        stages = zip(BLOCKS[self.depth], self.stage_channels, strict=True)
        for stage, (blocks, channels) in enumerate(stages, 1):
            for number in range(1, blocks + 1):
                stride = 2 if stage > 1 and number == 1 else 1
                name = f"stage_{stage}_block_{number}"
                x = block(x, parts, channels, stride, name)
        return x

    def stem(self, images, parts):
        """A 3x3 convolution."""
        x = conv(images, parts.first, self.scaled(self.stage_channels[0]), 3, "stem")
        return self.normalize(x, parts, "stem")

    def _basic(self, x, parts, channels, stride, name):
        channels = self.scaled(channels)
        y = conv(x, parts, channels, 3, f"{name}_conv_1", stride)
        y = self.normalize(y, parts, f"{name}_conv_1")
        y = conv(y, parts, channels, 3, f"{name}_conv_2")
        y = self.normalize(y, parts, f"{name}_conv_2", relu=False)
        return self._joined(x, y, parts, stride, name)

    def _bottleneck(self, x, parts, channels, stride, name):
        inside, outside = self.scaled(channels * self.bottleneck_width), self.scaled(4 * channels)
        y = conv(x, parts, inside, 1, f"{name}_conv_1")
        y = self.normalize(y, parts, f"{name}_conv_1")
        y = conv(y, parts, inside, 3, f"{name}_conv_2", stride)
        y = self.normalize(y, parts, f"{name}_conv_2")
        y = conv(y, parts, outside, 1, f"{name}_conv_3")
        y = self.normalize(y, parts, f"{name}_conv_3", relu=False)
        return self._joined(x, y, parts, stride, name)

    def _joined(self, x, y, parts, stride, name):
        import keras

        if stride != 1 or x.shape[-1] != y.shape[-1]:
            x = conv(x, parts, y.shape[-1], 1, f"{name}_shortcut", stride)
            x = self.normalize(x, parts, f"{name}_shortcut", relu=False)
        x = keras.layers.Add(name=f"{name}_sum")([x, y])
        return parts.activation(name=f"{name}_relu")(x)


@ARCHITECTURES.register("imagenet_resnet")
@dataclasses.dataclass(frozen=True)
class ImageNetResNet(ResNet):
    """A ResNet for 224x224 images: a 7x7 stem at stride 2, 3x3 pooling at stride 2, the stages.

    Bottlenecks stride in their 3x3 convolution.

    Args:
        depth: Layers on the longest way: 18, 34, 50, 101 or 152.
        bottleneck_width: Factor of the channels inside bottlenecks, from depth 50 on; 2 gives
            wide_resnet50_2 and wide_resnet101_2 of Zagoruyko & Komodakis (2016).
        stage_channels: Channels of the four stages (a quarter of what leaves a bottleneck); the
            stem has as many as the first.
    """

    halvings: ClassVar[int] = 5

    def stem(self, images, parts):
        """A 7x7 convolution and pooling."""
        x = conv(images, parts.first, self.scaled(self.stage_channels[0]), 7, "stem", stride=2)
        return max_pool_of_relu(self.normalize(x, parts, "stem"), "stem_pool")
