"""The presets of Flying Bird as tables: what Chen et al. (2022) published, and its controls."""

import dataclasses

from experiments.dense_training import DenseTraining
from experiments.sparse_training import SparseTraining
from rst_tf import PGD, Adversarial
from rst_tf.data import Data
from rst_tf.first_masks import SNIP, GraSP, RandomMasks, SynFlow
from rst_tf.flying_bird import FlyingBird, FlyingBirdPlus, Static
from rst_tf.models import PreActResNet
from rst_tf.optimizers import SGD
from rst_tf.schedules import Constant, Cosine, Steps

_CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
_CIFAR100 = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
_HELD_OUT = {"validation": 5000, "validation_from": "last"}
_UPDATES = {"update_every": 900, "update_every_late": 1200}
_COMMON = {
    "data": Data("cifar10", augment="crop_flip", **_HELD_OUT),
    "network": PreActResNet(18, use_bias=True, **_CIFAR10),
    "initializer": "torch_default",
    "objective": Adversarial(PGD(8 / 255, steps=10, step_size=2 / 255), norm_mode="update"),
    "evaluation_attack": PGD(8 / 255, steps=20, step_size=2 / 255),
    "optimizer": SGD(0.1, Steps(milestones=("100ep", "150ep"), each="epoch"), weight_decay=5e-4),
    "batch_size": 128,
    "train_steps": "200ep",
    "eval_every": "1ep",
}
COMPLETE = {
    "bird_dense": DenseTraining(**_COMMON),
    "bird_flying": SparseTraining(**_COMMON, topology=FlyingBird(**_UPDATES)),
    "bird_flying_plus": SparseTraining(
        **_COMMON, topology=FlyingBirdPlus(**_UPDATES, adaptive_from="100ep")
    ),
}
_SHARE = {"death_rate": 0.3}
_ERK = RandomMasks("erk")
OVERLAYS = {  # what each changes of bird_flying
    "bird_cifar100": {
        "data": Data("cifar100", augment="crop_flip_rotate", **_HELD_OUT),
        "network": PreActResNet(18, use_bias=True, **_CIFAR100),
    },
    "set": {
        "start": _ERK,
        "topology": FlyingBird(**_SHARE, death_schedule=Constant(), update_every="1ep"),
    },
    "rigl": {
        "start": _ERK,
        "topology": FlyingBird(
            **_SHARE, growth="gradient", death_schedule=Cosine(), update_every=100, stop_at=0.75
        ),
    },
    "static_random": {"topology": Static()},
    "snip": {"start": SNIP(), "topology": Static()},
    "grasp": {"start": GraSP(), "topology": Static()},
    "synflow": {"start": SynFlow(), "topology": Static()},
}
OVER = {
    f"bird_flying,{name}": dataclasses.replace(COMPLETE["bird_flying"], **changes)
    for name, changes in OVERLAYS.items()
}
