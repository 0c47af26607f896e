"""Fully connected networks; the default is the dense-300-100 of LeCun et al. (1998)."""

import dataclasses

from rst_tf.models.architecture import ARCHITECTURES, Architecture


@ARCHITECTURES.register("mlp")
@dataclasses.dataclass(frozen=True)
class MLP(Architecture):
    """Hidden layers of ReLU units on the flattened image: LeNet-300-100 by default.

    Args:
        hidden: Units of each hidden layer.
        use_bias: Add a bias to each layer; the published 2019 code has none.
    """

    hidden: tuple[int, ...] = (300, 100)
    use_bias: bool = False

    def connect(self, images, classes, parts):
        """Flatten, hidden layers, logits."""
        import keras

        x = keras.layers.Flatten(name="flatten")(images)
        for i, units in enumerate(self.hidden, 1):
            dense = (parts.first if i == 1 else parts).dense
            x = dense(units, activation="relu", use_bias=self.use_bias, name=f"hidden_{i}")(x)
        return parts.last.dense(classes, use_bias=self.use_bias, name="output")(x)
