"""What a network is trained on: frozen dataclasses that perturb a batch and make its loss."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple, get_args

from rst_tf.attacks.attack import Attack, Norm
from rst_tf.attacks.pgd import PGD
from rst_tf.registry import Registry, changed, choices, unknown
from rst_tf.schedules import Schedule

NormMode = Literal["eval", "batch", "update"]
Stored = Literal["float32", "float16", "int8"]


class Outcome(NamedTuple):
    """Loss of each example, [n], and the logits seen on the way (None where not computed)."""

    loss: Any
    clean: Any = None
    adversarial: Any = None


class Passes(NamedTuple):
    """Passes of an example through the network, each time its batch comes.

    Counted is what is computed, not what is needed: an attack goes on with examples that broke, and
    an `epsilon_schedule` at 0 saves nothing. Looks between an attack's tries are not counted.

    Attributes:
        forward: Forward alone.
        attack: Forward and back to the image. No gradient of the weights is formed, so such a pass
            takes 2 forward passes; the published tables count 3 (a backward pass as two forward).
        training: Forward and back to the weights (and, for `Free`, to the image with them): 3.
    """

    forward: int = 0
    attack: int = 0
    training: int = 1

    @property
    def pairs(self) -> int:
        """Passes forward and back: 1 for a standard training, k + 1 with PGD of k steps."""
        return self.attack + self.training

    @property
    def in_forward(self) -> int:
        """In units of a forward pass, a pass back counted as two: published tables' 3 (k + 1)."""
        return self.forward + 3 * self.pairs


@dataclasses.dataclass(frozen=True)
class Objective:
    """Base of all objectives.

    Args:
        label_smoothing: Mass spread evenly over all classes, in [0, 1).
        epsilon_schedule: Factor of the training attack's radius and steps, in [0, 1]; none is 1.
    """

    label_smoothing: float = dataclasses.field(default=0.0, kw_only=True)
    epsilon_schedule: Schedule | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                "label_smoothing must be in [0, 1); received "
                f"label_smoothing={self.label_smoothing!r}"
            )
        if self.epsilon_schedule is not None:
            if self.training_attack is None:
                raise ValueError(
                    "epsilon_schedule has no effect without a training attack; received "
                    f"epsilon_schedule={self.epsilon_schedule}"
                )
            self.scaled(1.0)  # an attack that cannot follow it raises now

    repeats = 1
    """Optimiser steps made with each batch."""

    carries_noise = False
    """Whether a perturbation is carried from step to step; then `perturb` gets it as `noise`."""

    keeps_noise = False
    """Whether every training example keeps one: `perturb` gets those of the batch as `noise`."""

    @property
    def training_attack(self) -> Attack | None:
        """The attack of the threat model trained for, or None."""
        return None

    def scaled(self, factor) -> "Objective":
        """This objective with a training attack `factor` times as large; see `Attack.scaled`."""
        return self

    def passes(self, classes: int) -> Passes:
        """What an example costs, each time its batch comes, in a network of so many classes."""
        raise NotImplementedError

    def perturb(self, network, x, y, seed, index):
        """Adversarial images for the batch, gradient stopped; None if the objective needs none."""
        del network, x, y, seed, index

    def loss(self, network, x, x_adv, y) -> Outcome:
        """Runs the network in training mode on what the objective trains on."""
        raise NotImplementedError

    def _cross_entropy(self, logits, y):
        import tensorflow as tf

        from rst_tf.attacks._losses import cross_entropy

        hard = cross_entropy(logits, y)
        if not self.label_smoothing:
            return hard
        uniform = -tf.reduce_mean(tf.nn.log_softmax(tf.cast(logits, tf.float32)), axis=-1)
        return (1 - self.label_smoothing) * hard + self.label_smoothing * uniform


OBJECTIVES = choices(Objective, Registry("objective"))


@OBJECTIVES.register("natural")
@dataclasses.dataclass(frozen=True)
class Natural(Objective):
    """Cross-entropy of the clean images.

    Args:
        label_smoothing: Mass spread evenly over all classes, in [0, 1).
        epsilon_schedule: Factor of the training attack's radius and steps, in [0, 1]; none is 1.
    """

    def passes(self, classes):
        """One pass, of the clean images."""
        del classes
        return Passes()

    def loss(self, network, x, x_adv, y):
        """CE(f(x), y)."""
        del x_adv
        clean = network(x, training=True)
        return Outcome(self._cross_entropy(clean, y), clean=clean)


@OBJECTIVES.register("adversarial")
@dataclasses.dataclass(frozen=True)
class Adversarial(Objective):
    """Cross-entropy of adversarial images (Madry et al. 2018).

    Args:
        attack: Makes the adversarial images.
        norm_mode: Normalisation statistics while the attack runs: eval (running ones), batch, or
            update (the batch's, and every attack step moves the running ones, as the published
            codes do).
        label_smoothing: Mass spread evenly over all classes, in [0, 1).
        epsilon_schedule: Factor of the training attack's radius and steps, in [0, 1]; none is 1.
    """

    attack: Attack
    norm_mode: NormMode = dataclasses.field(default="eval", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if self.norm_mode not in ("eval", "batch", "update"):
            raise ValueError(unknown("norm_mode", self.norm_mode, ["eval", "batch", "update"]))

    @property
    def training_attack(self):
        """`attack`."""
        return self.attack

    def scaled(self, factor):
        """See `Objective.scaled`."""
        return changed(self, attack=self.training_attack.scaled(factor))

    def passes(self, classes):
        """Those of the attack, and one pass of what it gives: k + 1 pairs with PGD of k steps."""
        forward, attack = self.training_attack.passes(classes)
        tries = self.training_attack.trials
        return Passes(tries * forward, tries * attack)

    def perturb(self, network, x, y, seed, index):
        """`attack` on the network, its statistics as `norm_mode` says, its masks formed once."""
        from rst_tf.traversal import kernels_formed_once

        with kernels_formed_once(network):
            return self.training_attack(
                _forward(network, self.norm_mode), x, y, seed=seed, index=index
            )

    def loss(self, network, x, x_adv, y):
        """CE(f(x_adv), y)."""
        del x
        logits = network(x_adv, training=True)
        return Outcome(self._cross_entropy(logits, y), adversarial=logits)


@OBJECTIVES.register("mixed")
@dataclasses.dataclass(frozen=True)
class Mixed(Adversarial):
    """A weighted sum of clean and adversarial cross-entropy (Goodfellow et al. 2015).

    Args:
        attack: Makes the adversarial images.
        clean_weight: Weight of the clean images, in [0, 1]; the rest is adversarial.
        norm_mode: Normalisation statistics while the attack runs: eval, batch or update.
        label_smoothing: Mass spread evenly over all classes, in [0, 1).
        epsilon_schedule: Factor of the training attack's radius and steps, in [0, 1]; none is 1.
    """

    clean_weight: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.clean_weight <= 1:
            raise ValueError(
                f"clean_weight must be in [0, 1]; received clean_weight={self.clean_weight!r}"
            )

    def passes(self, classes):
        """One pair more than `Adversarial`: clean images are trained on too, at any weight."""
        return super().passes(classes)._replace(training=2)

    def loss(self, network, x, x_adv, y):
        """Loss w CE(f(x), y) + (1 - w) CE(f(x_adv), y)."""
        clean, adversarial = network(x, training=True), network(x_adv, training=True)
        w = self.clean_weight
        loss = w * self._cross_entropy(clean, y) + (1 - w) * self._cross_entropy(adversarial, y)
        return Outcome(loss, clean, adversarial)


@OBJECTIVES.register("trades")
@dataclasses.dataclass(frozen=True)
class Trades(Adversarial):
    """TRADES: clean cross-entropy plus divergence under attack (Zhang et al. 2019, eq. 5).

    Args:
        attack: Makes the adversarial images; its loss is kl unless it names one.
        beta: Weight of the divergence (1/lambda in the paper), at least 0.
        norm_mode: Normalisation statistics while the attack runs: eval, batch or update.
        label_smoothing: Mass spread evenly over all classes, in [0, 1).
        epsilon_schedule: Factor of the training attack's radius and steps, in [0, 1]; none is 1.
    """

    beta: float = 6.0

    def __post_init__(self):
        super().__post_init__()
        if self.beta < 0:
            raise ValueError(f"beta must be at least 0; received beta={self.beta!r}")
        _ = self.training_attack  # an attack that cannot climb the divergence raises now

    @property
    def training_attack(self):
        """`attack`, climbing the divergence."""
        return self.attack if self.attack.loss else dataclasses.replace(self.attack, loss="kl")

    def passes(self, classes):
        """One pair more than `Adversarial`, and the clean logits that the attack diverges from."""
        return super().passes(classes)._replace(training=2)

    def loss(self, network, x, x_adv, y):
        """CE(f(x), y) + beta KL(f(x) || f(x_adv))."""
        from rst_tf.attacks._losses import divergence

        clean, adversarial = network(x, training=True), network(x_adv, training=True)
        loss = self._cross_entropy(clean, y) + self.beta * divergence(clean, adversarial)
        return Outcome(loss, clean, adversarial)


@OBJECTIVES.register("free")
@dataclasses.dataclass(frozen=True)
class Free(Objective):
    """Free adversarial training (Shafahi et al. 2019): one gradient moves weights and images.

    Every batch is trained on `repeats` times, and each time the gradient that moves the weights
    also moves a perturbation, which is carried on to the next batch. A step of `fit` is a batch,
    so `repeats` optimiser steps: divide the number of epochs by `repeats` for equal cost.

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        repeats: Optimiser steps with each batch, at least 1.
        step_size: Step of the perturbation in [0, 1] units; none means epsilon, as published.
        label_smoothing: Mass spread evenly over all classes, in [0, 1).
        epsilon_schedule: Factor of the training attack's radius and steps, in [0, 1]; none is 1.
    """

    epsilon: float
    norm: Norm = "linf"
    repeats: int = 4
    step_size: float | None = None

    carries_noise = True

    def __post_init__(self):
        super().__post_init__()
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1; received repeats={self.repeats!r}")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be above 0; received step_size={self.step_size!r}")
        _ = self.training_attack  # a wrong epsilon or norm raises now

    @property
    def training_attack(self):
        """PGD of 10 steps in the same ball, for training has no attack of its own."""
        return PGD(self.epsilon, self.norm)

    def scaled(self, factor):
        """See `Objective.scaled`."""
        size = None if self.step_size is None else factor * self.step_size
        return changed(self, epsilon=factor * self.epsilon, step_size=size)

    def passes(self, classes):
        """A pass for each of the repeats: its gradient moves weights and images, no attack does."""
        del classes
        return Passes(training=self.repeats)

    def perturb(self, network, x, y, seed, index, noise=None):
        """The images under the carried perturbation, inside the ball and the box."""
        import tensorflow as tf

        from rst_tf.attacks._geometry import NORMS

        inside = NORMS[self.norm].clip(noise[: tf.shape(x)[0]], self.epsilon)
        return tf.clip_by_value(x + inside, 0.0, 1.0)

    def moved(self, noise, gradient):
        """The perturbation after a step along the gradient of the images, inside the ball.

        Where a batch is smaller than the perturbation, the rest of it stays.
        """
        import tensorflow as tf

        from rst_tf.attacks._geometry import NORMS

        ball, n = NORMS[self.norm], tf.shape(gradient)[0]
        size = self.epsilon if self.step_size is None else self.step_size
        climbed = ball.clip(noise[:n] + size * ball.direction(gradient), self.epsilon)
        return tf.concat([climbed, noise[n:]], axis=0)

    def loss(self, network, x, x_adv, y):
        """CE(f(x_adv), y)."""
        del x
        logits = network(x_adv, training=True)
        return Outcome(self._cross_entropy(logits, y), adversarial=logits)


@OBJECTIVES.register("fast")
@dataclasses.dataclass(frozen=True)
class Fast(Objective):
    """FGSM from perturbations that every example keeps (Zheng et al. 2020; Liu et al. 2022).

    One gradient step a visit: from epoch to epoch it becomes an attack of many steps. What is kept
    follows the crop and the flip of its image, which the batches have to tell:
    `batches(..., places=True)`. The gradient is taken at the image plus perturbation, not cut to
    the box, as published; what is trained on, and kept, is.

    The published code pads with grey, never crops at the last offset and trains without
    `label_smoothing`; here crops are those of the data, zero-padded, and smoothing is honoured.

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        step_size: Length of the step in [0, 1] units; none means epsilon / 2, as published.
        beta: Train on the loss of TRADES with this weight of the divergence; none trains on the
            cross-entropy of the adversarial images.
        norm_mode: Normalisation statistics while the gradient is taken: eval, batch or update.
        stored: Numbers of the perturbations: float32, float16 or int8 (steps of epsilon / 127).
        block: Side in pixels of the squares that share one stored number, at least 1.
        memory_limit: What the perturbations may take, in gibibytes.
        label_smoothing: Mass spread evenly over all classes, in [0, 1).
        epsilon_schedule: Factor of the radius and the step, in [0, 1]; none is 1.
    """

    epsilon: float
    norm: Norm = "linf"
    step_size: float | None = None
    beta: float | None = None
    norm_mode: NormMode = "eval"
    stored: Stored = "float32"
    block: int = 1
    memory_limit: float = 2.0

    carries_noise = True
    keeps_noise = True

    def __post_init__(self):
        super().__post_init__()
        for name, known in (("norm_mode", NormMode), ("stored", Stored)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(unknown(name, getattr(self, name), list(get_args(known))))
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be above 0; received step_size={self.step_size!r}")
        if self.beta is not None and self.beta < 0:
            raise ValueError(f"beta must be at least 0; received beta={self.beta!r}")
        if self.block < 1:
            raise ValueError(f"block must be at least 1; received block={self.block!r}")
        if not 0 < self.memory_limit < math.inf:
            raise ValueError(
                f"memory_limit must be above 0; received memory_limit={self.memory_limit!r}"
            )
        _ = self.training_attack  # a wrong epsilon or norm raises now

    @property
    def training_attack(self):
        """PGD of 10 steps in the same ball, for training has no attack of its own."""
        return PGD(self.epsilon, self.norm)

    def scaled(self, factor):
        """See `Objective.scaled`."""
        size = None if self.step_size is None else factor * self.step_size
        return changed(self, epsilon=factor * self.epsilon, step_size=size)

    def passes(self, classes):
        """One gradient of the images, then one pass, or with `beta` two: 2 or 3 pairs."""
        del classes
        return Passes(attack=1, training=1 if self.beta is None else 2)

    def perturb(self, network, x, y, seed, index, noise=None):
        """The images after one step from their perturbations, inside the ball and the box."""
        import tensorflow as tf

        from rst_tf.attacks._geometry import NORMS
        from rst_tf.attacks._losses import cross_entropy, value_and_gradient
        from rst_tf.attacks.attack import logits_of
        from rst_tf.traversal import kernels_formed_once

        ball = NORMS[self.norm]
        size = self.epsilon / 2 if self.step_size is None else self.step_size
        start = ball.clip(noise, self.epsilon)
        with kernels_formed_once(network):
            logits = logits_of(_forward(network, self.norm_mode))
            _, gradient, _ = value_and_gradient(logits, lambda z: cross_entropy(z, y), x + start)
        climbed = ball.clip(start + size * ball.direction(gradient), self.epsilon)
        return tf.stop_gradient(tf.clip_by_value(x + climbed, 0.0, 1.0))

    def loss(self, network, x, x_adv, y):
        """CE(f(x_adv), y), or with `beta` CE(f(x), y) + beta KL(f(x) || f(x_adv))."""
        if self.beta is None:
            return Adversarial.loss(self, network, x, x_adv, y)
        return Trades.loss(self, network, x, x_adv, y)


def _forward(network, norm_mode: NormMode):
    from rst_tf.normalization import statistics_held

    if norm_mode == "batch":

        def forward(x):
            with statistics_held():
                return network(x, training=True)

        return forward
    return network if norm_mode == "eval" else lambda x: network(x, training=True)
