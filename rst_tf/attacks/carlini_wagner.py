"""The attacks of Carlini & Wagner (2017): in L-inf as robustness papers use it, in L2 as theirs."""

import dataclasses

from rst_tf.attacks._average import weights_of
from rst_tf.attacks.attack import ATTACKS, Attack

_INSIDE = 0.999  # of the box is reached by the first tanh: pixels at its edge can move


@ATTACKS.register("cw")
@dataclasses.dataclass(frozen=True)
class CarliniWagner(Attack):
    """Makes another class's logit exceed the label's, whatever the softmax says.

    In linf, projected ascent by sign steps on min(margin, confidence), the margin being the
    highest logit of another class minus the label's, from a uniform start; its last image (Madry
    et al. 2018, appendix, and the papers after it). In l2, the search for the smallest
    perturbation: Adam on a variable whose tanh is the image minimises squared length + constant *
    max(confidence - margin, 0), and the constant is searched for by bisection (Carlini & Wagner
    2017, section VI); found perturbations longer than epsilon do not count, and then the clean
    image is returned.

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        steps: Gradient steps, of each constant in l2, at least 1.
        step_size: In linf length of a step in [0, 1] units, none means 2.5 epsilon / steps; in l2
            Adam's rate, none means 0.05 (the paper: 0.01 and 10,000 steps).
        confidence: Margin beyond which nothing is gained; none means 50 in linf, 0 in l2.
        searches: Constants tried in l2; none means 9.
        constant: The first of them; none means 0.01.
    """

    steps: int = 100
    step_size: float | None = None
    confidence: float | None = None
    searches: int | None = None
    constant: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name, limit in (("steps", 1), ("searches", 1), ("confidence", 0)):
            value = getattr(self, name)
            if value is not None and not value >= limit:
                raise ValueError(f"{name} must be at least {limit}; received {name}={value!r}")
        for name in ("step_size", "constant"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0; received {name}={value!r}")
        for name in ("searches", "constant"):
            if self.norm == "linf" and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} has an effect only in norm='l2'; received "
                    f"{name}={getattr(self, name)!r}"
                )

    def passes(self, classes):
        """A gradient per step; in l2 for each constant, and one look at the clean image."""
        if self.norm == "linf":
            return 0, self.steps
        return 1, self.steps * _given(self.searches, 9)

    def run(self, logits, x, y, seed, index):
        """See `Attack.run`."""
        if self.norm == "linf":
            return self._ascend(logits, x, y, seed, index)
        return self._smallest(logits, x, y)

    def _ascend(self, logits, x, y, seed, index):
        import tensorflow as tf

        from rst_tf.attacks._geometry import NORMS
        from rst_tf.attacks._losses import margin, value_and_gradient

        ball, weights = NORMS[self.norm], weights_of(logits)
        length = _given(self.step_size, 2.5 * self.epsilon / self.steps)
        highest = _given(self.confidence, 50.0)

        def loss(z):
            return tf.minimum(margin(z, y, weights), highest)

        def step(i, now):
            gradient = value_and_gradient(logits, loss, now)[1]
            return i + 1, ball.project(now + length * ball.direction(gradient), x, self.epsilon)

        start = (tf.constant(0), ball.start(x, self.epsilon, seed, index))
        return tf.while_loop(
            lambda i, _: i < self.steps, step, start, maximum_iterations=self.steps
        )[1]

    def _smallest(self, logits, x, y):
        import tensorflow as tf

        from rst_tf.attacks._geometry import like
        from rst_tf.attacks._losses import defeated

        zeros = tf.zeros(tf.shape(y))
        searches = _given(self.searches, 9)

        def search(number, constant, below, above, found, length):
            found, length, success = self._descend(logits, x, y, constant, found, length)
            above = tf.where(success, tf.minimum(above, constant), above)
            below = tf.where(success, below, tf.maximum(below, constant))
            constant = tf.where(tf.math.is_inf(above), 10 * constant, (below + above) / 2)
            return number + 1, constant, below, above, found, length

        first, infinite = zeros + _given(self.constant, 0.01), zeros + float("inf")
        length = tf.where(defeated(logits(x), y), zeros, infinite)
        found, length = tf.while_loop(
            lambda number, *_: number < searches,
            search,
            (tf.constant(0), first, zeros, infinite, x, length),
            maximum_iterations=searches,
        )[4:]
        return tf.where(like(length <= self.epsilon, x), found, x)

    def _descend(self, logits, x, y, constant, found, length):
        """Adam with one constant; the shortest found so far, and whether this one fooled."""
        import tensorflow as tf

        from rst_tf.attacks._geometry import NORMS, like
        from rst_tf.attacks._losses import defeated, margin, value_and_gradient

        rate, weights = _given(self.step_size, 0.05), weights_of(logits)
        wanted = _given(self.confidence, 0.0)

        def step(i, w, mean, square, found, length, success):
            now = (tf.tanh(w) + 1) / 2
            lacking, gradient, z = value_and_gradient(
                logits, lambda z: tf.nn.relu(wanted - margin(z, y, weights)), now
            )
            fooled, size = defeated(z, y) & (lacking <= 0), NORMS["l2"].size(now - x)
            shorter = fooled & (size < length)
            found = tf.where(like(shorter, x), now, found)
            length = tf.where(shorter, size, length)
            gradient = (2 * (now - x) + like(constant, x) * gradient) * 2 * now * (1 - now)
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            t = tf.cast(i + 1, tf.float32)
            step = mean / (1 - 0.9**t) / (tf.sqrt(square / (1 - 0.999**t)) + 1e-8)
            return i + 1, w - rate * step, mean, square, found, length, success | fooled

        w = tf.atanh(_INSIDE * (2 * x - 1))
        start = (tf.constant(0), w, 0 * x, 0 * x, found, length, tf.zeros_like(y, tf.bool))
        return tf.while_loop(
            lambda i, *_: i < self.steps, step, start, maximum_iterations=self.steps
        )[4:]


def _given(value, default):
    return default if value is None else value
