"""A topology at work: masks that change during a training, and what the optimiser remembers."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from rst_tf.callbacks import MaskGuard, trained_network
from rst_tf.evaluation import Evaluator
from rst_tf.flying_bird import Decision, Layer, Topology, check_topology
from rst_tf.keras_optimizers import forget
from rst_tf.masks import grouped
from rst_tf.topology import promise, rewired
from rst_tf.traversal import masked_kernels

_EVALUATED_AT_ONCE = 500


class Rewiring:
    """Changes the masks of a network at the steps of a topology.

    From the beginning pruned weights are 0, and so is all that the optimiser remembers of them; a
    connection that grows begins so. What grows at random is a function of (seed, layer, step).

    Args:
        topology: When, how much and which.
        trainer: A compiled `RobustTrainer`, whose masks are set.
        total: Length of the training in steps.
        steps_per_epoch: Of them, those of an epoch.
        seed: Of random growth.

    Attributes:
        rates: The steps after which masks change, with the share that is pruned.
        variables: Keras variables that belong to a checkpoint: per kernel, which weights were ever
            live, and the running mean of gradients where growth needs it.
        gaps: What evaluations found of the generalisation gap, in their order.
        losses: What they found of the loss on validation images.

    Raises:
        ValueError: No update would come, a masked layer is not trained, or masks are not such that
            growth by gradients is possible.
    """

    def __init__(
        self, topology: Topology, trainer, total: int, steps_per_epoch: int = 1, seed: int = 0
    ):
        self.topology, self.trainer = topology, trainer
        self.total, self.steps_per_epoch, self.seed = total, steps_per_epoch, seed
        self.rates = topology.rates(total, steps_per_epoch)
        self.gaps: list[float] = []
        self.losses: list[float] = []
        self._kernels = masked_kernels(trainer.network)
        if self.rates:
            _check_trained(self._kernels)
        beta = topology.memory
        self._memories = [None] * len(self._kernels)
        if beta is not None:
            self._memories = trainer.watch_growth(beta)
        self._ever = [_bits(masked.mask.numpy() > 0) for masked in self._kernels]
        self.variables = [*self._ever, *(self._memories if beta else [])]
        self.clear()

    def clear(self) -> None:
        """Sets to 0 what is pruned, and what the trainer's optimiser remembers of it."""
        for masked in self._kernels:
            _zero(masked, masked.mask.numpy() > 0)
        forget(self.trainer.optimizer, self._kernels)

    def heard(self, gap: float, loss: float) -> None:
        """Takes down what an evaluation found.

        Args:
            gap: Robust accuracy in training minus that on validation images.
            loss: Robust loss on validation images.
        """
        self.gaps.append(float(gap))
        self.losses.append(float(loss))

    def update(self, step: int) -> dict[str, Any]:
        """Changes the masks as they are to change after this step.

        Args:
            step: One of `rates`.

        Returns:
            Step, death_rate, the decision (shares, prune_more, grow_more), the density before and
            after, and which fraction of the weights was ever live: plain values.
        """
        rate = self.rates[step]
        before = [masked.mask.numpy() > 0 for masked in self._kernels]
        decision = self._decision(step)
        layers = [
            Layer(mask.size, int(np.count_nonzero(mask)), _units(masked))
            for masked, mask in zip(self._kernels, before, strict=True)
        ]
        changes = self.topology.changes(layers, rate, decision)
        grown = {}
        for place, change in enumerate(changes):
            if change.pruned or change.grown:
                grown[place] = self._rewire(place, before[place], change, step)
        forget(self.trainer.optimizer, [self._kernels[place] for place in grown])
        for place, mask in grown.items():  # only now, for what is new must be forgotten too
            self._kernels[place].mask.assign(mask.astype(np.float32))
            self._ever[place].assign(self._ever[place].numpy() | mask)
        after = [grown.get(place, mask) for place, mask in enumerate(before)]
        return {
            "step": step,
            "death_rate": rate,
            **decision._asdict(),
            "density_before": self._density(before),
            "density_after": self._density(after),
            "ever_active": self._density([variable.numpy() for variable in self._ever]),
        }

    def _decision(self, step: int) -> Decision:
        if not self.topology.listens_at(step, self.total, self.steps_per_epoch):
            return Decision()
        return self.topology.decision(self.gaps, self.losses)

    def _rewire(self, place: int, mask: np.ndarray, change, step: int) -> np.ndarray:
        """Sets to 0 what goes and what begins anew; leaves a mask without either."""
        masked, memory = self._kernels[place], self._memories[place]
        found = rewired(
            _importance(masked),
            mask,
            promise(
                self.topology.growth,
                mask.shape,
                None if memory is None else memory.numpy(),
                self.seed,
                place,
                step,
            ),
            change.pruned,
            change.grown,
            self.topology.regrown,
        )
        old = found.mask & ~found.fresh
        _zero(masked, old)
        masked.mask.assign(old.astype(np.float32))
        return found.mask

    def _density(self, chosen: Sequence[np.ndarray]) -> float:
        groups = [math.prod(m.shape) // m.size for m in self._kernels]
        kept = sum(int(np.count_nonzero(mask)) * n for mask, n in zip(chosen, groups, strict=True))
        return kept / sum(math.prod(m.shape) for m in self._kernels)


class DynamicSparsity(keras.callbacks.Callback):
    """Changes masks during `RobustTrainer.fit`, and guards them in between as `MaskGuard` does.

    The network's masks are set before: `rst.RandomMasks().apply(network, .2, seed=0)`. Steps count
    from the first `fit` with this callback on. `rst.sparsely` puts all of it together.

    Args:
        topology: When masks change, how much and which.
        total: Length of the training in steps of `fit`.
        steps_per_epoch: Of them, those of an epoch.
        seed: Of random growth.
        validation: Validation images that Flying Bird+ listens to, attacked by the trainer's
            `evaluation_attack` after each epoch: arrays (images, labels) or a `Split`.

    Attributes:
        updates: What every update did, see `Rewiring.update`.

    Raises:
        ValueError: `topology` is none, or `validation` is missing or has no effect; at the
            beginning of a training, the model is no `RobustTrainer` or another than before.
    """

    def __init__(
        self,
        topology: Topology,
        total: int,
        steps_per_epoch: int = 1,
        *,
        seed: int = 0,
        validation=None,
    ):
        super().__init__()
        check_topology(topology)
        if topology.listens and validation is None:
            raise ValueError(f"validation must be given, for {type(topology).__name__} listens")
        if validation is not None and not topology.listens:
            raise ValueError(f"validation has no effect with {type(topology).__name__}")
        self.topology, self.total, self.steps_per_epoch = topology, total, steps_per_epoch
        self.seed, self.validation = seed, validation
        self.updates: list[dict[str, Any]] = []
        self._step, self._rewiring, self._guard = 0, None, MaskGuard()

    def on_train_begin(self, logs=None):
        """Zeros what is pruned, unless it goes on."""
        trained_network(self)
        if self.model.steps_per_execution != 1:
            raise ValueError(
                "masks change at exact steps, so steps_per_execution must be 1; received "
                f"steps_per_execution={self.model.steps_per_execution}"
            )
        if self._rewiring is None:
            self._rewiring = Rewiring(
                self.topology, self.model, self.total, self.steps_per_epoch, self.seed
            )
            if self.topology.listens:
                self._evaluate = self._evaluator()
        elif self._rewiring.trainer is not self.model:
            raise ValueError("DynamicSparsity goes with one trainer; make another for this one")
        else:
            self._rewiring.clear()  # the optimiser may be another
        self._guard.set_model(self.model)
        self._guard.on_train_begin()

    def on_train_batch_end(self, batch, logs=None):
        """Changes the masks, where it is time."""
        self._step += 1
        if self._step in self._rewiring.rates:
            self._guard.check()
            self.updates.append(self._rewiring.update(self._step))
            self._guard.remember()

    def on_epoch_end(self, epoch, logs=None):
        """Listens, and looks at the pruned weights."""
        self._guard.check()
        if self.topology.listens:
            valid = _measures(self._evaluate(*self._parts))
            self._rewiring.heard(*gap_and_loss(logs, valid))

    @property
    def _parts(self):
        return self.validation if isinstance(self.validation, tuple) else (self.validation,)

    def _evaluator(self) -> Evaluator:
        attack, size = self.model.evaluation_attack, min(len(self._parts[0]), _EVALUATED_AT_ONCE)
        return Evaluator(self.model.network, attack, seed=self.seed, batch_size=size)


def gap_and_loss(train, valid) -> tuple[float, float]:
    """What Flying Bird+ listens to.

    Args:
        train: Means over the training since the last evaluation: `accuracy`, `robust_accuracy`.
        valid: What an evaluation found: these and `loss`, `robust_loss`; the robust ones are
            missing or None without an attack, and then the clean ones are taken.

    Returns:
        Accuracy in training minus that on validation images, and the loss on these.
    """
    attacked = train.get("robust_accuracy") is not None
    attacked &= valid.get("robust_accuracy") is not None
    prefix = "robust_" if attacked else ""
    gap = train[f"{prefix}accuracy"] - valid[f"{prefix}accuracy"]
    return float(gap), float(valid[f"{prefix}loss"])


def _measures(found) -> dict[str, float | None]:
    attacked = found.robust is not None
    return {
        "accuracy": found.accuracy,
        "loss": float(found.loss.mean()),
        "robust_accuracy": found.robust_accuracy,
        "robust_loss": float(found.robust_loss.mean()) if attacked else None,
    }


def _importance(masked) -> np.ndarray:
    return grouped(np.abs(masked.kernel.numpy()), masked.mask.shape)


def _units(masked) -> int:
    return math.prod(masked.mask.shape[axis] for axis in masked.output_axes)


def _zero(masked, live: np.ndarray) -> None:
    kernel = masked.kernel.numpy()
    masked.kernel.assign(np.where(live, kernel, np.zeros((), kernel.dtype)))


def _bits(mask: np.ndarray):
    return keras.Variable(mask, dtype="bool", trainable=False, name="ever_active")


def _check_trained(kernels) -> None:
    for masked in kernels:
        if not masked.kernel.trainable:
            raise ValueError(
                f"layer {masked.layer.name!r} is not trained, so what grows there would stay 0: "
                "name it in dense=(...) of rst.masked or rst.sparsely"
            )
