"""Optimisers as configurations, and weight decay that leaves pruned weights alone."""

import dataclasses
from typing import Literal

from rst_tf.registry import Registry, choices
from rst_tf.schedules import Constant, Schedule


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How gradients become steps; `build(total, steps_per_epoch)` gives a Keras one.

    Args:
        learning_rate: Peak learning rate, above 0.
        schedule: Factor of the learning rate over the training.
        weight_decay: Strength of the L2 pull on every trained variable; pruned weights are spared.
    """

    learning_rate: float = 0.1
    schedule: Schedule = Constant()
    weight_decay: float = 0.0

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise ValueError(
                f"learning_rate must be above 0; received learning_rate={self.learning_rate!r}"
            )
        if self.weight_decay < 0:
            raise ValueError(
                f"weight_decay must be at least 0; received weight_decay={self.weight_decay!r}"
            )

    def build(self, total: int, steps_per_epoch: int = 1):
        """A Keras optimiser whose schedule spans `total` steps."""
        raise NotImplementedError

    def _rate(self, total: int, steps_per_epoch: int):
        if self.schedule == Constant():
            return self.learning_rate
        from rst_tf.keras_optimizers import StepTable

        factors = self.schedule.factors(total, steps_per_epoch)
        return StepTable([self.learning_rate * factor for factor in factors])


OPTIMIZERS = choices(Optimizer, Registry("optimizer"))


@OPTIMIZERS.register("sgd")
@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """v = momentum v + g + decay p; p -= rate v (the coupled form of the published codes).

    Args:
        learning_rate: Peak learning rate, above 0.
        schedule: Factor of the learning rate over the training.
        weight_decay: Coupled weight decay of every trained variable; pruned weights are spared.
        momentum: In [0, 1).
        nesterov: Look ahead along the velocity.
    """

    momentum: float = 0.9
    nesterov: bool = False

    def build(self, total, steps_per_epoch=1):
        """See `keras_optimizers.CoupledSGD`."""
        from rst_tf.keras_optimizers import CoupledSGD

        rate = self._rate(total, steps_per_epoch)
        return CoupledSGD(rate, self.momentum, self.weight_decay, self.nesterov)


@OPTIMIZERS.register("adam")
@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015) with Keras' constants.

    Args:
        learning_rate: Peak learning rate, above 0.
        schedule: Factor of the learning rate over the training.
        weight_decay: Weight decay of every trained variable; pruned weights are spared.
        decay: decoupled takes rate times decay off each weight (AdamW); coupled adds decay times
            the weight to its gradient, as PyTorch's Adam and the published codes do.
    """

    learning_rate: float = 1e-3
    decay: Literal["decoupled", "coupled"] = "decoupled"

    def __post_init__(self):
        super().__post_init__()
        if self.decay not in ("decoupled", "coupled"):
            raise ValueError(f"decay must be decoupled or coupled; received decay={self.decay!r}")
        if self.decay != "decoupled" and not self.weight_decay:
            raise ValueError(
                f"decay has an effect only with a weight_decay; received decay={self.decay!r}"
            )

    def build(self, total, steps_per_epoch=1):
        """`keras.optimizers.Adam`, or `keras_optimizers.CoupledAdam`."""
        import keras

        rate = self._rate(total, steps_per_epoch)
        if self.decay == "coupled":
            from rst_tf.keras_optimizers import CoupledAdam

            return CoupledAdam(rate, self.weight_decay)
        return keras.optimizers.Adam(rate, weight_decay=self.weight_decay or None)
