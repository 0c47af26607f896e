"""Residual networks with normalisation and ReLU before each convolution (He et al. 2016)."""

import dataclasses
from typing import ClassVar, Literal

from rst_tf.models._normalized import Normalized, check_depth, conv
from rst_tf.models.architecture import ARCHITECTURES
from rst_tf.models.resnet import BLOCKS


@dataclasses.dataclass(frozen=True)
class PreActivation(Normalized):
    """Stages of blocks of two 3x3 convolutions; each stage but the first halves the image."""

    def stages(self, images, parts, stem: float, channels: list[float], blocks: tuple[int, ...]):
        """A 3x3 stem, stages of so many channels and blocks, normalisation, ReLU."""
        x = conv(images, parts.first, self.scaled(stem), 3, "stem")
        for stage, (width, number) in enumerate(zip(channels, blocks, strict=True), 1):
            for block in range(1, number + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                x = self._block(
                    x, parts, self.scaled(width), stride, f"stage_{stage}_block_{block}"
                )
        return self.normalize(x, parts, "last")

    def _block(self, x, parts, channels, stride, name):
        import keras

        a = self.normalize(x, parts, f"{name}_conv_1")
        y = conv(a, parts, channels, 3, f"{name}_conv_1", stride)
        y = self.normalize(y, parts, f"{name}_conv_2")
        y = conv(y, parts, channels, 3, f"{name}_conv_2")
        if stride != 1 or x.shape[-1] != channels:
            x = conv(a, parts, channels, 1, f"{name}_shortcut", stride)
        return keras.layers.Add(name=f"{name}_sum")([x, y])


@ARCHITECTURES.register("preact_resnet")
@dataclasses.dataclass(frozen=True)
class PreActResNet(PreActivation):
    """A true pre-activation ResNet for 32x32 images, with four stages of 64 to 512 channels.

    What Fu et al. (2021) call PreActResNet18 is the network `resnet`.

    Args:
        depth: Layers on the longest way: 18 or 34.
    """

    depth: Literal[18, 34] = 18

    halvings: ClassVar[int] = 3

    def __post_init__(self):
        super().__post_init__()
        check_depth(self.depth, (18, 34))

    def features(self, images, parts):
        """Stem and four stages."""
        return self.stages(images, parts, 64, [64, 128, 256, 512], BLOCKS[self.depth])


@ARCHITECTURES.register("wide_resnet")
@dataclasses.dataclass(frozen=True)
class WideResNet(PreActivation):
    """WRN-depth-widen of Zagoruyko & Komodakis (2016) for 32x32 images, without dropout.

    The default is WRN-34-10, which Fu et al. (2021) call WideResNet32.

    Args:
        depth: Layers on the longest way, 6n + 4 for n blocks in each of three stages: 10, 16, ...
        widen: Factor of the 16, 32 and 64 channels of the stages, above 0; the stem keeps its 16.
    """

    depth: int = 34
    widen: float = 10.0

    halvings: ClassVar[int] = 2

    def __post_init__(self):
        super().__post_init__()
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(
                f"depth must be 6n + 4: 10, 16, 22, 28, 34, ...; received depth={self.depth!r}"
            )
        if not self.widen > 0:
            raise ValueError(f"widen must be above 0; received widen={self.widen!r}")

    def features(self, images, parts):
        """Stem and three stages."""
        channels = [16 * self.widen, 32 * self.widen, 64 * self.widen]
        return self.stages(images, parts, 16, channels, ((self.depth - 4) // 6,) * 3)
