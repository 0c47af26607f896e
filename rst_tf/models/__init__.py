"""Networks: each a frozen dataclass whose `build` gives a Keras model of logits.

`ARCHITECTURES` maps names to classes; `build` takes the description that tickets hold.
"""

from rst_tf.models.architecture import (
    ARCHITECTURES,
    Architecture,
    Layers,
    build,
    describe,
    describe_model,
    masked_parts,
    plain_parts,
)
from rst_tf.models.conv import Conv
from rst_tf.models.lenet import LeNet5
from rst_tf.models.mlp import MLP

__all__ = [
    "ARCHITECTURES",
    "MLP",
    "Architecture",
    "Conv",
    "Layers",
    "LeNet5",
    "build",
    "describe",
    "describe_model",
    "masked_parts",
    "plain_parts",
]
