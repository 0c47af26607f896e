"""Optimisers as configurations, and weight decay that leaves pruned weights alone."""

import dataclasses

from rst_tf.registry import Registry, choices
from rst_tf.schedules import Constant, Schedule, per_step


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How gradients become steps; `build(total)` gives the Keras optimiser.

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

    def build(self, total: int):
        """A Keras optimiser whose schedule spans `total` steps."""
        raise NotImplementedError

    def _rate(self, total: int):
        if self.schedule == Constant():
            return self.learning_rate
        from rst_tf.keras_optimizers import StepTable

        value = per_step(self.schedule, total, self.learning_rate)
        return StepTable([value(step) for step in range(total)])


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

    def build(self, total):
        """See `keras_optimizers.CoupledSGD`."""
        from rst_tf.keras_optimizers import CoupledSGD

        return CoupledSGD(self._rate(total), self.momentum, self.weight_decay, self.nesterov)


@OPTIMIZERS.register("adam")
@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015) with Keras' constants; decay is decoupled (AdamW).

    Args:
        learning_rate: Peak learning rate, above 0.
        schedule: Factor of the learning rate over the training.
        weight_decay: Decoupled weight decay; pruned weights are spared.
    """

    learning_rate: float = 1e-3

    def build(self, total):
        """`keras.optimizers.Adam`."""
        import keras

        return keras.optimizers.Adam(self._rate(total), weight_decay=self.weight_decay or None)
