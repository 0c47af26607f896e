"""What networks with batch normalisation share: convolutions without bias, and their classifier."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from rst_tf.models.architecture import ARCHITECTURES, Architecture, scaled


@dataclasses.dataclass(frozen=True)
class Normalized(Architecture):
    """Convolutions with batch normalisation, then a classifier of the means; no biases by default.

    A subclass defines `features`.

    Args:
        width: Factor of every number of channels, above 0.
        affine: Whether normalisation layers learn a scale and an offset per channel; in the
            published search they do not.
        normalized_logits: One more normalisation, of the logits: without it the frozen +1 and -1
            of Liu et al. (2022) give logits too large to train on.
        use_bias: Whether the classifier has biases, and in a `vgg` the convolutions too, as in the
            published networks of Chen et al. (2022).
    """

    width: float = dataclasses.field(default=1.0, kw_only=True)
    affine: bool = dataclasses.field(default=True, kw_only=True)
    normalized_logits: bool = dataclasses.field(default=False, kw_only=True)
    use_bias: bool = dataclasses.field(default=False, kw_only=True)

    halvings: ClassVar[int]
    """How often the image is halved on the way."""

    def connect(self, images, classes, parts):
        """Features, their mean over all places, logits."""
        import keras

        if min(images.shape[1:3]) < 2**self.halvings:
            raise ValueError(
                f"{ARCHITECTURES.name_of(type(self))} halves the image {self.halvings} times; "
                f"received {tuple(images.shape[1:3])}"
            )
        x = self.features(images, parts)
        x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
        x = parts.last.dense(classes, use_bias=self.use_bias, name="output")(x)
        return self.normalize(x, parts, "output", relu=False) if self.normalized_logits else x

    def features(self, images, parts):
        """Feature maps [B, H, W, C] of the images; what a new architecture defines."""
        raise NotImplementedError

    def scaled(self, channels: float) -> int:
        """This number of channels at the network's width."""
        return scaled(channels, self.width)

    def normalize(self, x, parts, name: str, relu: bool = True):
        """Normalisation, and a ReLU (or what stands for it) unless told otherwise."""
        x = parts.normalization(affine=self.affine, name=f"{name}_norm")(x)
        return parts.activation(name=f"{name}_relu")(x) if relu else x


def conv(x, parts, channels: int, size: int, name: str, stride: int = 1, use_bias: bool = False):
    """A convolution of odd size, padded by size // 2 on every side, as PyTorch's."""
    x, padding = _padded(x, size, stride, name)
    options = {"strides": stride, "padding": padding, "use_bias": use_bias, "name": name}
    return parts.conv2d(channels, size, **options)(x)


def depthwise_conv(x, parts, size: int, name: str, stride: int = 1):
    """As `conv` without biases, each channel by itself."""
    x, padding = _padded(x, size, stride, name)
    layer = parts.depthwise_conv2d(size, strides=stride, padding=padding, use_bias=False, name=name)
    return layer(x)


def max_pool_of_relu(x, name: str):
    """Maximum of 3x3 at stride 2, padded as PyTorch's: no value of a ReLU is below a zero."""
    import keras

    x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(3, 2, name=name)(x)


def check_depth(depth: int, known: Sequence[int]) -> None:
    """Raises ValueError unless a depth is one of these."""
    if depth not in known:
        *others, last = known
        names = f"{', '.join(map(str, others))} or {last}"
        raise ValueError(f"depth must be {names}; received depth={depth!r}")


def _padded(x, size: int, stride: int, name: str):
    """Keras' `same` pads an even image on the far side only when it strides."""
    import keras

    if stride == 1:
        return x, "same"
    if size > 1:
        x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    return x, "valid"
