"""LeNet-5 (LeCun et al. 1998), with ReLU and max pooling as it is used today."""

import dataclasses

from rst_tf.models.architecture import ARCHITECTURES, Architecture, scaled


@ARCHITECTURES.register("lenet5")
@dataclasses.dataclass(frozen=True)
class LeNet5(Architecture):
    """Two 5x5 convolutions (6, 16 channels), each with 2x2 pooling, then 120, 84, classes units.

    Args:
        width: Factor of every number of channels and units, above 0.
    """

    width: float = 1.0

    def connect(self, images, classes, parts):
        """Convolutions, pooling, dense layers; 61,706 parameters for 28x28x1 and 10 classes."""
        import keras

        if min(images.shape[1:3]) < 12:
            raise ValueError(f"lenet5 needs images of at least 12x12; received {images.shape[1:3]}")
        x = images
        for i, (channels, padding) in enumerate(((6, "same"), (16, "valid")), 1):
            x = (parts.first if i == 1 else parts).conv2d(
                scaled(channels, self.width),
                5,
                padding=padding,
                activation="relu",
                name=f"conv_{i}",
            )(x)
            x = keras.layers.MaxPooling2D(name=f"pool_{i}")(x)
        x = keras.layers.Flatten(name="flatten")(x)
        for i, units in enumerate((120, 84), 1):
            x = parts.dense(scaled(units, self.width), activation="relu", name=f"hidden_{i}")(x)
        return parts.last.dense(classes, name="output")(x)
