"""The Keras objects behind `optimizers`, and steps that leave pruned weights alone."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from rst_tf import masks
from rst_tf.traversal import masked_kernels, refresh_masks

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

    Weight decay enters the gradient and so the velocity.

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

    def build(self, variables):
        """One velocity per variable."""
        if not self.built:
            super().build(variables)
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        """One step of one variable."""
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        index = self._get_variable_index(variable)
        if self.coupled_decay:
            gradient = gradient + self.coupled_decay * variable
        velocity = self.velocities[index]
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:  # one pass over memory, not five
            tf.raw_ops.ResourceApplyMomentum(
                var=_tensorflow(variable).handle,
                accum=_tensorflow(velocity).handle,
                lr=rate,
                grad=gradient,
                momentum=ops.cast(self.momentum, variable.dtype),
                use_nesterov=self.nesterov,
            )
            return
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


@_package
class CoupledAdam(keras.optimizers.Adam):
    """Adam as PyTorch defines its weight decay: g + wd p stands where g stood, in both moments.

    Args:
        learning_rate: Number or Keras schedule.
        weight_decay: wd, at least 0.
        **kwargs: Those of `keras.optimizers.Adam`.
    """

    def __init__(self, learning_rate=1e-3, weight_decay=0.0, name="coupled_adam", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.coupled_decay = weight_decay

    def update_step(self, gradient, variable, learning_rate):
        """One step of one variable."""
        decay = ops.cast(self.coupled_decay * variable, gradient.dtype)
        super().update_step(gradient + decay, variable, learning_rate)

    def get_config(self):
        """Constructor arguments."""
        return {**super().get_config(), "weight_decay": self.coupled_decay}


def _tensorflow(variable) -> tf.Variable:
    return variable.value if isinstance(variable, keras.Variable) else variable


def step(optimizer, gradients, variables, masked) -> None:
    """One step of any Keras optimiser, after which pruned weights have the bits they had before.

    A pruned weight has no gradient, but weight decay, momentum from before it was pruned, a
    constraint or a rule for whole matrices (Muon) would move it: what they did to it is undone.
    Where the optimiser averages weights, the average of a pruned one is the weight. Call it in a
    replica context.

    Args:
        optimizer: A Keras optimiser, `LossScaleOptimizer` included.
        gradients: One per variable.
        variables: What the optimiser was built with.
        masked: The network's `MaskedVariable`s.
    """
    trained = {id(variable) for variable in variables}
    held = [m for m in masked if id(m.kernel) in trained]
    before = [tf.identity(m.kernel.value) for m in held]
    optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def put_back(strategy, before):
        for m, old in zip(held, before, strict=True):
            for target in (m.kernel, *_remembered(optimizer, m.kernel)[1]):
                strategy.extended.update(
                    target.value, _fill_pruned, args=(m.mask.value, old), group=False
                )

    tf.__internal__.distribute.interim.maybe_merge_call(  # as Keras' optimisers themselves
        put_back, tf.distribute.get_strategy(), before
    )


def forget(optimizer, masked) -> None:
    """Sets what an optimiser remembers of pruned weights to what it begins with, mostly 0.

    For masks that change within a training: prune, forget, then let weights grow; these start
    without a past.

    Args:
        optimizer: The Keras optimiser of the training.
        masked: The network's `MaskedVariable`s.
    """
    for m in masked:
        slots, averages = _remembered(optimizer, m.kernel)
        for slot in slots:
            _fill_pruned(slot, m.mask.value, tf.zeros_like(slot) + _beginning(optimizer, slot))
        for average in averages:
            _fill_pruned(average, m.mask.value, m.kernel.value)


def check_divides(optimizer) -> None:
    """Checks that an optimiser stays finite where gradients are exactly 0.

    Adafactor divides by the product of what it keeps of a row and of a column; where both are
    pruned that is `epsilon_1` squared, which is 0 in float32 for the default of Keras, 1e-30.

    Raises:
        ValueError: It would divide by 0.
    """
    for part in _parts(optimizer):
        epsilon = getattr(part, "epsilon_1", 1)  # of Adafactor alone
        if np.float32(epsilon) ** 2 == 0:
            raise ValueError(
                "optimizer: Adafactor divides by 0 where a row and a column of a kernel are "
                f"pruned; give it epsilon_1=1e-16; received epsilon_1={epsilon}"
            )


def discard_scores(network, optimizer, fraction: float) -> None:
    """Sets the lowest scores of each kernel to 0, for good (progressive search, Fu et al. 2021).

    A score of 0 has no gradient, for the straight-through estimate is proportional to its sign,
    and no decay; with its momentum cleared it stays 0.

    Args:
        network: A network that searches.
        optimizer: The Keras optimiser of the training.
        fraction: Of each kernel's scores, in [0, 1); those that were discarded before count.
    """
    kernels = masked_kernels(network)
    for m in kernels:
        if m.scores is not None:
            size = int(np.prod(m.scores.shape))
            kept = masks.select(m.scores.numpy(), size - int(fraction * size + 1e-9))
            for target in (m.scores, *_remembered(optimizer, m.scores)[0]):
                _fill_pruned(target, kept, tf.zeros_like(target))
    refresh_masks(kernels)


def _fill_pruned(variable, mask, value):
    return variable.assign(tf.where(mask == 0, value, variable))


def _remembered(optimizer, variable) -> tuple[list, list]:
    """What an optimiser keeps for each entry of a variable it trains: slots; averages of it."""
    slots, averages = [], []
    for part in _parts(optimizer):
        place = part._trainable_variables_indices.get(part._var_key(variable))
        own = {id(v) for v in part.variables}
        for name, values in vars(part).items():  # Keras has no public way from one to the other
            if place is None or name == "_variables" or not isinstance(values, list):
                continue
            found = values[place] if place < len(values) else None
            if id(found) in own and tuple(found.shape) == tuple(variable.shape):
                (averages if name == "_model_variables_moving_average" else slots).append(found)
    return slots, averages


def _beginning(optimizer, slot) -> float:
    """What a slot holds before the first step; Ftrl divides by it, so 0 would end in NaN."""
    for part in _parts(optimizer):
        if any(slot is each for each in getattr(part, "_accumulators", ())):
            return getattr(part, "initial_accumulator_value", 0.0)  # Adagrad, Ftrl
    return 0.0


def _parts(optimizer) -> list:
    """An optimiser and those inside it (`LossScaleOptimizer`, `MultiOptimizer`)."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return [optimizer, *getattr(optimizer, "optimizers", ()), *([] if inner is None else [inner])]
