"""The Keras objects behind `optimizers`: coupled SGD, a learning rate read from a table."""

import keras
import numpy as np
from keras import ops

_package = keras.saving.register_keras_serializable(package="rst_tf")


@_package
class StepTable(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for each step, looked up; the last one holds after the end.

    Args:
        values: Learning rates, one per step.
    """

    def __init__(self, values):
        super().__init__()
        self.values = [float(value) for value in values]

    def __call__(self, step):
        """The learning rate of `step`."""
        table = ops.convert_to_tensor(np.asarray(self.values, np.float32))
        return ops.take(table, ops.minimum(ops.cast(step, "int32"), len(self.values) - 1))

    def get_config(self):
        """The table."""
        return {"values": self.values}


@_package
class CoupledSGD(keras.optimizers.Optimizer):
    """SGD as PyTorch defines it: v = m v + g + wd p; p -= lr v (nesterov: p -= lr (g' + m v)).

    Weight decay enters the gradient and so the velocity. `spare_pruned` keeps it off weights
    whose mask is 0.

    Args:
        learning_rate: Number or Keras schedule.
        momentum: m, in [0, 1).
        weight_decay: wd, at least 0.
        nesterov: Look ahead along the velocity.
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.0,
        nesterov=False,
        name="coupled_sgd",
        **kwargs,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1); received momentum={momentum!r}")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.coupled_decay = weight_decay
        self.nesterov = nesterov
        self._pairs, self._mask_at = [], {}

    def build(self, variables):
        """One velocity per variable."""
        if not self.built:
            super().build(variables)
            self.velocities = self.add_optimizer_variables(variables, "velocity")
            self._place_masks()

    def spare_pruned(self, pairs) -> None:
        """Keeps weight decay off pruned weights; `pairs` are (kernel, mask) variables."""
        self._pairs = [(kernel, mask) for kernel, mask in pairs if kernel.trainable]
        if self.built:
            self._place_masks()

    def _place_masks(self):
        index = self._get_variable_index
        self._mask_at = {index(kernel): mask for kernel, mask in self._pairs}

    def update_step(self, gradient, variable, learning_rate):
        """One step of one variable."""
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        index = self._get_variable_index(variable)
        if self.coupled_decay:
            pull = self.coupled_decay * variable
            mask = self._mask_at.get(index)
            gradient = gradient + (pull if mask is None else pull * mask)
        velocity = self.velocities[index]
        moved = self.momentum * velocity + gradient
        self.assign(velocity, moved)
        if self.nesterov:
            moved = gradient + self.momentum * moved
        self.assign_sub(variable, rate * moved)

    def get_config(self):
        """Constructor arguments."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "weight_decay": self.coupled_decay,
            "nesterov": self.nesterov,
        }


def spare_pruned(optimizer, masked) -> None:
    """Makes any optimiser's weight decay leave pruned weights where they are.

    Must come before a Keras optimiser is built: its own decay of masked kernels is switched off,
    and `decay_kept`, called before each step, takes its place.

    Args:
        optimizer: A Keras optimiser.
        masked: The network's `MaskedVariable`s.
    """
    if isinstance(optimizer, CoupledSGD):
        optimizer.spare_pruned([(m.kernel, m.mask) for m in masked])
    elif optimizer.weight_decay:
        optimizer.exclude_from_weight_decay(var_list=[m.kernel for m in masked])


def decay_kept(optimizer, masked) -> None:
    """The decoupled decay that `spare_pruned` took off a Keras optimiser, on kept weights only."""
    if not isinstance(optimizer, CoupledSGD) and optimizer.weight_decay:
        rate = ops.cast(optimizer.learning_rate, "float32") * optimizer.weight_decay
        for m in masked:
            if m.kernel.trainable:
                m.kernel.assign_sub(m.kernel * m.mask * rate)
