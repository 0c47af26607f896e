"""One try of APGD: the loop of its steps, a window of them between two checkpoints at a time."""

from typing import Any, NamedTuple

import tensorflow as tf

from rst_tf.attacks import _losses as losses
from rst_tf.attacks import _step_size
from rst_tf.attacks._average import weights_of
from rst_tf.attacks._geometry import NORMS, like


class State(NamedTuple):
    """What a step needs and changes, per example: six images, and the numbers of its pace.

    Attributes:
        now: The image, float32 [n, ...].
        before: The image a step ago.
        gradient: At `now`.
        best: The image of highest loss.
        best_gradient: There.
        adversarial: The last misclassified image, else the clean one.
        withstood: No image was misclassified, bool [n].
        pace: Step sizes and losses.
    """

    now: Any
    before: Any
    gradient: Any
    best: Any
    best_gradient: Any
    adversarial: Any
    withstood: Any
    pace: _step_size.Pace


class Batch(NamedTuple):
    """What is attacked: clean images [n, ...], labels, targets, and places in the whole batch."""

    x: Any
    y: Any
    target: Any
    place: Any


class Ascent:
    """The climb of an `APGD` on some logits, towards the target of some rank."""

    def __init__(self, attack, logits, rank):
        self._attack, self._logits, self._rank = attack, logits, rank
        self._ball, self._weights = NORMS[attack.norm], weights_of(logits)

    def climb(self, x, y, noise, leave):
        """See `APGD.climb`."""
        ends = _step_size.checkpoints(self._attack.steps)
        ends = tf.constant(sorted({*ends, self._attack.steps}))
        batch = Batch(x, y, self._targets(x, y), tf.range(tf.shape(x)[0]))
        state = self._start(batch, noise)

        def window(number, step, state, batch, found):
            state = self._window(step, ends[number], state, batch)
            state = _at_checkpoint(state, ends[number] - step)
            if leave:
                state, batch, found = tf.cond(
                    tf.reduce_all(state.withstood),
                    lambda: (state, batch, found),
                    lambda: _without_the_broken(state, batch, found),
                )
            return number + 1, ends[number], state, batch, found

        def unfinished(number, step, state, batch, found):
            del step, state, found
            return (number < tf.size(ends)) & (tf.size(batch.y) > 0)

        start = (tf.constant(0), tf.constant(0), state, batch, x if leave else ())
        invariants = tf.nest.map_structure(_any_length, start) if leave else None
        _, _, state, _, found = tf.while_loop(unfinished, window, start, invariants)
        adversarial = found if leave else state.adversarial
        return state.best, state.pace.highest, adversarial, state.withstood

    def _targets(self, x, y):
        """Fixed by the clean logits; the labels where there are no targets."""
        count = self._attack.targets
        if not count:
            return y
        return losses.ranked(self._logits(x), self._rank + 1, count + 1, self._weights)

    def _start(self, batch, noise):
        now = self._ball.touching(batch.x, noise, self._attack.epsilon)
        values, gradient, withstood = self._look(now, batch)
        return State(
            now=now,
            before=now,
            gradient=gradient,
            best=now,
            best_gradient=gradient,
            adversarial=tf.where(like(withstood, now), batch.x, now),
            withstood=withstood,
            pace=_step_size.begin(values, self._attack.epsilon),
        )

    def _window(self, first, end, state, batch):
        """The steps from number `first` to before `end`."""

        def step(i, state):
            now = self._moved(i, state, batch.x)
            values, gradient, right = self._look(now, batch)
            pace, better = _step_size.observe(state.pace, values)
            better = like(better, now)
            new = State(
                now=now,
                before=state.now,
                gradient=gradient,
                best=tf.where(better, now, state.best),
                best_gradient=tf.where(better, gradient, state.best_gradient),
                adversarial=tf.where(like(right, now), state.adversarial, now),
                withstood=state.withstood & right,
                pace=pace,
            )
            return i + 1, new

        return tf.while_loop(lambda i, _: i < end, step, (first, state))[1]

    def _moved(self, i, state, x):
        """A step along the gradient, of which three quarters are taken, and a quarter of the last.

        The first step is taken whole. After a halving `before` is still the image that was left.
        """
        epsilon, ball = self._attack.epsilon, self._ball
        size = like(state.pace.size, x)
        taken = tf.where(i == 0, 1.0, 0.75)
        ahead = state.now + size * ball.direction(state.gradient)
        ahead = ball.project_box_last(ahead, x, epsilon)
        momentum = state.now - state.before
        moved = state.now + taken * (ahead - state.now) + (1 - taken) * momentum
        return ball.project_box_last(moved, x, epsilon)

    def _look(self, now, batch):
        """Losses, their gradient, and whether the network is right; of `eot` draws the mean
        gradient and the last of the others.
        """
        count = self._attack.eot

        def draw():
            values, gradient, z = losses.value_and_gradient(
                self._logits, lambda z: self._loss(z, batch), now
            )
            return values, gradient, ~losses.defeated(z, batch.y)

        if count == 1:
            return draw()

        def another(number, total, *_):
            values, gradient, right = draw()
            return number + 1, total + gradient, values, right

        nothing = tf.zeros(tf.shape(batch.y)[:1])
        start = (tf.constant(0), tf.zeros_like(now), nothing, nothing > 0)
        _, total, values, right = tf.while_loop(lambda i, *_: i < count, another, start)
        return values, total / count, right

    def _loss(self, z, batch):
        if self._attack.targets:
            return losses.targeted_difference_of_logits_ratio(
                z, batch.y, batch.target, self._weights
            )
        untargeted = {
            "ce": losses.cross_entropy,
            "dlr": losses.difference_of_logits_ratio,
            "margin": losses.margin,
        }
        return untargeted[self._attack.loss](z, batch.y, self._weights)


def _at_checkpoint(state, window):
    """Examples whose step is halved go on from their best image."""
    pace, halved = _step_size.control(state.pace, window)
    halved = like(halved, state.now)
    return state._replace(
        now=tf.where(halved, state.best, state.now),
        gradient=tf.where(halved, state.best_gradient, state.gradient),
        pace=pace,
    )


def _without_the_broken(state, batch, found):
    """Writes down what was found of those that leave; `found` is of the whole batch."""
    broken = ~state.withstood
    found = tf.tensor_scatter_nd_update(
        found, batch.place[broken][:, tf.newaxis], state.adversarial[broken]
    )
    stay = tf.where(state.withstood)[:, 0]
    state, batch = tf.nest.map_structure(lambda t: tf.gather(t, stay), (state, batch))
    return state, batch, found


def _any_length(tensor):
    return tf.TensorShape([None, *tensor.shape[1:]]) if len(tensor.shape) else tensor.shape
