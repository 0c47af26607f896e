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
from rst_tf.models.mobilenet import MobileNetV2
from rst_tf.models.resnet import ImageNetResNet, ResNet
from rst_tf.models.vgg import VGG
from rst_tf.models.wide_resnet import PreActResNet, WideResNet

__all__ = [
    "ARCHITECTURES",
    "MLP",
    "VGG",
    "Architecture",
    "Conv",
    "ImageNetResNet",
    "Layers",
    "LeNet5",
    "MobileNetV2",
    "PreActResNet",
    "ResNet",
    "WideResNet",
    "build",
    "describe",
    "describe_model",
    "masked_parts",
    "plain_parts",
]
