"""Projected gradient ascent (Madry et al. 2018)."""

import dataclasses
from typing import Literal

from rst_tf.attacks._average import weights_of
from rst_tf.attacks.attack import ATTACKS, Attack
from rst_tf.registry import changed


@ATTACKS.register("pgd")
@dataclasses.dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent on the loss, `steps` times from a start in the ball.

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        steps: Gradient steps, at least 1.
        step_size: Length of a step in [0, 1] units; none means 2.5 epsilon / steps.
        start: uniform in the ball, gaussian (0.001 N(0, 1), as TRADES), or clean.
        restarts: Independent runs; per example the one with the highest final loss counts.
        iterate: Return the last iterate; the best, the visited one with the highest loss; or
            scored, the best of those whose loss is known without another pass. That leaves out the
            last, as the code of Liu et al. (2022) does, which also looks at cross-entropy alone
            and takes no visited point for the worst where its loss is exactly 0.
        label: Climb the loss of the true label, or of the predicted one (Kurakin et al. 2017).
        loss: ce (cross-entropy) or kl (divergence from the clean output); none lets the objective
            choose, and is ce otherwise.
        early_stop: Leave an image where it is in a step that finds it misclassified (Fu et al.
            2021): a weaker attack on any network but the one it climbs.
    """

    steps: int = 10
    step_size: float | None = None
    start: Literal["uniform", "gaussian", "clean"] = "uniform"
    restarts: int = 1
    iterate: Literal["last", "best", "scored"] = "last"
    label: Literal["true", "predicted"] = "true"
    loss: Literal["ce", "kl"] | None = None
    early_stop: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; received {getattr(self, name)!r}")
        if self.step_size is not None and self.step_size <= 0:
            raise ValueError(f"step_size must be above 0; received {self.step_size!r}")
        allowed = {
            "start": ("uniform", "gaussian", "clean"),
            "iterate": ("last", "best", "scored"),
            "label": ("true", "predicted"),
            "loss": ("ce", "kl", None),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name} must be one of {values}; received {getattr(self, name)!r}"
                )
        if self.loss == "kl" and self.start == "clean":
            raise ValueError("loss='kl' has no gradient at start='clean'; use uniform or gaussian")
        if self.restarts > 1 and self.start == "clean":
            raise ValueError(f"restarts={self.restarts} from start='clean' would all be the same")

    def scaled(self, factor):
        """See `Attack.scaled`."""
        size = None if self.step_size is None else factor * self.step_size
        return changed(self, epsilon=factor * self.epsilon, step_size=size)

    @property
    def _compares(self) -> bool:
        return self.iterate != "last" or self.restarts > 1

    def judging(self) -> "PGD":
        """With true labels, and cross-entropy unless an objective chooses."""
        return dataclasses.replace(self, label="true", loss=None)

    def passes(self, classes):
        """A gradient per step and restart; what is compared is looked at once more."""
        looks = (self.label == "predicted") + (self.loss == "kl")
        compared = self.restarts * (self._compares and self.iterate != "scored")
        return looks + compared, self.steps * self.restarts

    def run(self, logits, x, y, seed, index):
        """See `Attack.run`."""
        from rst_tf import random
        from rst_tf.attacks import _losses as losses

        weights = weights_of(logits)
        if self.label == "predicted":
            y = losses.answer(logits(x), weights)
        loss = self._loss(logits, x, y, weights)
        found, value = self._ascend(logits, loss, x, y, seed, index)
        for restart in range(1, self.restarts):
            other, other_value = self._ascend(logits, loss, x, y, random.fold(seed, restart), index)
            found, value = _better(other, other_value, found, value)
        return found

    def _loss(self, logits, x, y, weights):
        import tensorflow as tf

        from rst_tf.attacks import _losses as losses

        if self.loss == "kl":
            clean = tf.stop_gradient(logits(x))
            return lambda z, part: losses.divergence(clean[..., part, :], z, weights)
        return lambda z, part: losses.cross_entropy(z, y[part], weights)

    def _ascend(self, logits, loss, x, y, key, index):
        """One run; gives the images and, where restarts or iterate ask for it, their loss."""
        import tensorflow as tf

        from rst_tf import random
        from rst_tf.attacks._geometry import NORMS
        from rst_tf.attacks._lanes import WHOLE, lanes
        from rst_tf.attacks._losses import defeated, value_and_gradient

        ball = NORMS[self.norm]
        step_size = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        if self.start == "uniform":
            start = ball.start(x, self.epsilon, key, index)
        elif self.start == "gaussian":
            noise = 0.001 * random.example_normal(key, index, x.shape[1:])
            start = ball.project(x + noise, x, self.epsilon)
        else:
            start = x
        lowest = tf.fill([tf.shape(x)[0]], -float("inf"))
        parts = lanes(logits, x)

        def climb(part, now, best, highest):
            value, gradient, z = value_and_gradient(logits, lambda z: loss(z, part), now)
            if self.iterate != "last":
                best, highest = _better(now, value, best, highest)
            moved = ball.project(now + step_size * ball.direction(gradient), x[part], self.epsilon)
            if self.early_stop:
                moved = tf.where(_like(defeated(z, y[part]), now), now, moved)
            return moved, best, highest

        def step(i, states):
            return i + 1, [climb(part, *s) for part, s in zip(parts, states, strict=True)]

        _, climbed = tf.while_loop(
            lambda i, _: i < self.steps,
            step,
            (tf.constant(0), [(start[part], start[part], lowest[part]) for part in parts]),
            maximum_iterations=self.steps,
        )
        last, best, highest = (tf.concat(pieces, 0) for pieces in zip(*climbed, strict=True))
        if self.iterate == "scored":
            return _better(last, _nan_where_broken(last, lowest), best, highest)
        if not self._compares:
            return last, highest
        value = _nan_where_broken(last, loss(logits(last), WHOLE))
        if self.iterate == "last":
            return last, value
        return _better(last, value, best, highest)


def _better(now, value, best, highest):
    """Of two points the one with the higher loss; NaN is above all numbers, so none is hidden."""
    import tensorflow as tf

    higher = ~(value <= highest) & ~tf.math.is_nan(highest)
    return tf.where(_like(higher, now), now, best), tf.where(higher, value, highest)


def _nan_where_broken(x, value):
    """NaN for images with a NaN, which some networks pass over; [n]."""
    import tensorflow as tf

    from rst_tf.attacks._geometry import flat

    broken = tf.reduce_any(tf.math.is_nan(flat(x)), axis=1)
    return tf.where(broken, float("nan"), value)


def _like(flags, x):
    import tensorflow as tf

    return tf.reshape(flags, [-1] + [1] * (len(x.shape) - 1))
