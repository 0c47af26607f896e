"""The presets of the birds as tables: what Chen et al. (2022) published, row by row."""

import dataclasses

from experiments.robust_bird import RobustBird
from rst_tf import FGSM, PGD, Adversarial
from rst_tf.data import Data
from rst_tf.early_bird import EarlyBird
from rst_tf.models import PreActResNet
from rst_tf.optimizers import SGD
from rst_tf.schedules import Linear, Steps

_BY_STEPS = SGD(0.1, Steps(milestones=("50ep", "150ep"), each="epoch"), weight_decay=5e-4)
_ROBUST = RobustBird(
    data=Data("cifar10", validation=5000, validation_from="last", augment="crop_flip"),
    network=PreActResNet(
        18, use_bias=True, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
    ),
    initializer="torch_default",
    first_optimizer=_BY_STEPS,
    objective=Adversarial(PGD(8 / 255, steps=10, step_size=2 / 255), norm_mode="update"),
    evaluation_attack=PGD(8 / 255, steps=20, step_size=2 / 255),
    optimizer=_BY_STEPS,
    batch_size=128,
    train_steps="200ep",
    eval_every="1ep",
    early_bird=EarlyBird("unstructured", window=5, threshold=0.08),
)
ROBUST = {
    "bird_robust": _ROBUST,
    "bird_robust_fast": dataclasses.replace(
        _ROBUST,
        first_objective=Adversarial(FGSM(8 / 255, start="uniform")),
        first_optimizer=SGD(0.2, Linear(warmup="80ep"), weight_decay=5e-4),
    ),
    "bird_robust_channel": dataclasses.replace(
        _ROBUST, pruning="channel", early_bird=EarlyBird("channel", window=5, threshold=0.1)
    ),
    "bird_oneshot": dataclasses.replace(_ROBUST, early_bird=None),
}
COMPLETE = (*ROBUST,)
