"""Means and deviations of the channels of well-known sets, for `mean` and `std` of a network.

Those of Fu et al. (2021): what their images were normalised by before they reached the network.
"""

from typing import NamedTuple


class Channels(NamedTuple):
    """Of images in [0, 1], one number for each channel: `Architecture.mean` and `.std`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR = Channels((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
SVHN = Channels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Channels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MNIST = Channels((0.1307,), (0.3081,))

CHANNELS = {
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "svhn_cropped": SVHN,
    "imagenet2012": IMAGENET,
    "mnist": MNIST,
}
"""By source, as `Data.source` names it. Tiny-ImageNet, a folder, has those of ImageNet."""
