"""The presets of the binary subnetworks as tables: what Liu et al. (2022) published, row by row."""

from typing import NamedTuple

from rst_tf.models import ResNet


class Set(NamedTuple):
    """A data set: constants of its channels, radius and step of the attack in grey levels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    epsilon: int
    step: int


class Search(NamedTuple):
    """A row of the published searches; all have SGD .1, a cosine, and batches of 256."""

    source: str
    depth: int
    initializer: str = "binary"
    score_scale: float = 0.01
    score_fan: str = "none"
    trained: str = "adversarial"
    epochs: int = 400


class Dense(NamedTuple):
    """A row of the published dense baselines; all have 400 epochs of batches of 512."""

    source: str
    depth: int
    trained: str = "adversarial"
    epochs: int = 400


class Tuned(NamedTuple):
    """A row of the published trainings of a found subnetwork."""

    source: str
    weights: str
    initializer: str
    statistics: str


class Small(NamedTuple):
    """A small network as an overlay: channels by stage, learning rate and its milestones."""

    depth: int
    channels: tuple[int, int, int, int]
    rate: float = 0.1
    milestones: tuple[str, ...] = ("200ep", "300ep")


SETS = {
    "cifar10": Set((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 8, 2),
    "cifar100": Set((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 4, 1),
}
DEPTHS = (18, 34, 50)
_CORRECT = ("signed_constant_correct+fan=0.01", 1.0, "all")

SEARCHES = {
    **{f"binary_{s}_resnet{depth}": Search(s, depth) for s in SETS for depth in DEPTHS},
    **{f"binary_{s}_resnet34_uniform": Search(s, 34, "uniform_pm1") for s in SETS},
    "binary_cifar10_resnet34_signed_constant": Search("cifar10", 34, *_CORRECT),
    "binary_cifar10_resnet34_trades": Search("cifar10", 34, trained="trades"),
    **{
        f"binary_{s}_resnet{depth}_fast": Search(s, depth, trained="fast", epochs=100)
        for s in SETS
        for depth in DEPTHS
    },
}
DENSE = {
    **{f"binary_{s}_resnet{depth}_dense": Dense(s, depth) for s in SETS for depth in DEPTHS},
    **{
        f"binary_{s}_resnet34_dense_{trained}": Dense(s, 34, trained)
        for s in SETS
        for trained in ("trades", "fast")
    },
}
TUNED = {
    **{f"binary_{s}_finetune": Tuned(s, "inherited", "kaiming_normal", "kept") for s in SETS},
    **{f"binary_{s}_retrain": Tuned(s, "reinit", "lottery_binary", "reset") for s in SETS},
}
_SLOWLY = (0.01, ("100ep", "200ep", "300ep"))
SMALL = {
    "binary_small_resnet34_p1": Small(34, (6, 13, 26, 51)),
    "binary_small_resnet34_p05": Small(34, (14, 20, 29, 40)),
    "binary_small_resnet34_p01": Small(34, (23, 25, 27, 29)),
    "binary_small_resnet34_p0": Small(34, (26, 26, 26, 26)),
    "binary_small_resnet18_p01": Small(18, (23, 25, 27, 29), *_SLOWLY),
    "binary_small_resnet18_p1": Small(18, (6, 13, 26, 51), *_SLOWLY),
    "binary_small_resnet50_p01": Small(50, (23, 25, 27, 31), *_SLOWLY),
    "binary_small_resnet50_p1": Small(50, (7, 13, 26, 51), *_SLOWLY),
}
IMAGENET = {  # what the preset of the same network for CIFAR-10 is
    "binary_imagenet100_resnet34": "binary_cifar10_resnet34_fast",
    "binary_imagenet100_resnet50": "binary_cifar10_resnet50_fast",
    "binary_imagenet100_resnet34_dense": "binary_cifar10_resnet34_dense_fast",
}
COMPLETE = (*SEARCHES, *DENSE, *TUNED, *IMAGENET)
CONNECT = "binary_connect"
SMALL_IMAGENET = "binary_small_imagenet100_resnet34_p01"
OVERLAYS = (*SMALL, CONNECT, SMALL_IMAGENET)


def network_of(source: str, depth: int, affine: bool) -> ResNet:
    """The network of a row."""
    constants = {"mean": SETS[source].mean, "std": SETS[source].std}
    return ResNet(depth, affine=affine, normalized_logits=True, **constants)
