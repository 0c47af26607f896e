"""The presets of the scratch tickets as tables: what Fu et al. (2021) published, row by row."""

from typing import NamedTuple

from rst_tf.data.channels import CIFAR, IMAGENET
from rst_tf.models import VGG, Architecture, Conv, ImageNetResNet, MobileNetV2, ResNet, WideResNet


class Row(NamedTuple):
    """A row of the table of the published configuration files."""

    network: Architecture
    initializer: str
    rate: float
    policy: str
    epochs: int
    batch: int
    decay: float
    momentum: float
    smoothing: float
    warmup: int


_CHANNELS = CIFAR._asdict()
_PLAIN = {"affine": False, **_CHANNELS}
_BY_STEPS = (0.1, "piecewise", 160, 256, 5e-4, 0.9, 0.0, 0)
_BY_COSINE = (0.1, "cosine", 100, 128, 1e-4, 0.9, 0.0, 0)
_AT_FIRST = (0.256, "cosine", 100, 256, 2**-15, 0.875)
_RESNET18 = ResNet(18, **_PLAIN)
_WIDE = WideResNet(34, 10, **_PLAIN)


def _imagenet(depth: int) -> ImageNetResNet:
    return ImageNetResNet(depth, affine=False, **IMAGENET._asdict())


SEARCHES = {
    "rst_cifar10_resnet18": Row(_RESNET18, "signed_constant", *_BY_STEPS),
    "rst_cifar10_resnet18_kaiming_normal": Row(_RESNET18, "kaiming_normal", *_BY_STEPS),
    "rst_cifar10_resnet18_kaiming_uniform": Row(_RESNET18, "kaiming_uniform", *_BY_STEPS),
    "rst_cifar10_resnet18_xavier_normal": Row(_RESNET18, "xavier_normal", *_BY_STEPS),
    "rst_cifar10_wide_resnet": Row(_WIDE, "signed_constant", *_BY_STEPS),
    "rst_cifar10_vgg16": Row(VGG(16, **_PLAIN), "signed_constant", *_BY_STEPS),
    "rst_cifar10_mobilenet_v2": Row(MobileNetV2(**_PLAIN), "signed_constant", *_BY_STEPS),
    **{
        f"rst_cifar10_conv{depth}": Row(
            Conv(depth, use_bias=False, **_CHANNELS), "signed_constant", *_BY_COSINE
        )
        for depth in (2, 4, 6)
    },
    **{
        f"rst_imagenet_resnet{depth}": Row(_imagenet(depth), "signed_constant", *_AT_FIRST, 0.0, 5)
        for depth in (18, 34, 50, 101)
    },
    **{
        f"rst_imagenet_resnet{depth}_kaiming_normal": Row(
            _imagenet(depth), "kaiming_normal", *_AT_FIRST, 0.1, 5
        )
        for depth in (18, 34, 50)
    },
}
DENSE = {
    "rst_cifar10_resnet18_dense": Row(_RESNET18, "signed_constant", *_BY_STEPS),
    "rst_cifar10_wide_resnet_dense": Row(_WIDE, "signed_constant", *_BY_STEPS),
}
TUNED = {"rst_cifar10_inherited": "inherited", "rst_cifar10_reinit": "reinit"}
TRANSFER = "rst_cifar10_transfer"
COMPLETE = (*SEARCHES, *DENSE, *TUNED, TRANSFER)
OVERLAYS = (
    "cifar100",
    "fgsm",
    "fgsm_rs",
    "free",
    "free_imagenet",
    "imagenet_90_epochs",
    "svhn",
    "tiny_imagenet",
)
