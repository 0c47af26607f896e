"""Conv2, Conv4, Conv6, Conv8 (Frankle & Carbin 2019; Ramanujan et al. 2020)."""

import dataclasses
from typing import Literal

from rst_tf.models.architecture import ARCHITECTURES, Architecture, scaled


@ARCHITECTURES.register("conv")
@dataclasses.dataclass(frozen=True)
class Conv(Architecture):
    """Pairs of 3x3 convolutions (64, 128, 256, 512 channels) with 2x2 pooling, 256, 256, classes.

    Args:
        depth: Number of convolutions: 2, 4, 6 or 8.
        width: Factor of every number of channels and units, above 0.
        use_bias: Add biases; the scratch-ticket networks have none.
        normalization: Batch normalisation after every layer but the classifier: none, affine, or
            plain (without a scale and an offset that are learnt).
    """

    depth: Literal[2, 4, 6, 8] = 4
    width: float = 1.0
    use_bias: bool = True
    normalization: Literal["none", "affine", "plain"] = "none"

    def __post_init__(self):
        super().__post_init__()
        if self.normalization not in ("none", "affine", "plain"):
            raise ValueError(
                "normalization must be none, affine or plain; received "
                f"normalization={self.normalization!r}"
            )
        if self.depth not in (2, 4, 6, 8):
            raise ValueError(f"depth must be 2, 4, 6 or 8; received depth={self.depth!r}")

    def connect(self, images, classes, parts):
        """Convolution pairs, pooling, dense layers."""
        import keras

        if min(images.shape[1:3]) < 2 ** (self.depth // 2):
            raise ValueError(
                f"conv with depth={self.depth} halves the image {self.depth // 2} times; received "
                f"{images.shape[1:3]}"
            )
        x = images
        for block in range(self.depth // 2):
            channels = scaled(64 * 2**block, self.width)
            for i in (1, 2):
                name, made = f"conv_{2 * block + i}", parts if block or i > 1 else parts.first
                x = made.conv2d(channels, 3, padding="same", **self._ending(name))(x)
                x = self._normalized(x, parts, name)
            x = keras.layers.MaxPooling2D(name=f"pool_{block + 1}")(x)
        x = keras.layers.Flatten(name="flatten")(x)
        for i in (1, 2):
            units, name = scaled(256, self.width), f"hidden_{i}"
            x = self._normalized(parts.dense(units, **self._ending(name))(x), parts, name)
        return parts.last.dense(classes, use_bias=self.use_bias, name="output")(x)

    def _ending(self, name: str) -> dict:
        activation = "relu" if self.normalization == "none" else None
        return {"activation": activation, "use_bias": self.use_bias, "name": name}

    def _normalized(self, x, parts, name: str):
        if self.normalization == "none":
            return x
        affine = self.normalization == "affine"
        x = parts.normalization(affine=affine, name=f"{name}_norm")(x)
        return parts.activation(name=f"{name}_relu")(x)
