"""A model and the attacks of a list, traced once for any number of runs."""

import numpy as np
import tensorflow as tf

from rst_tf.attacks import _checks
from rst_tf.attacks._losses import answer, margin, seen_as_one
from rst_tf.attacks.attacked import attacked, logarithms
from rst_tf.attacks.outcome import DRAWS, Finding

_ROUNDING = 1e-3  # of the largest logit


class Attacker:
    """What `AutoAttack.against` gives.

    Args:
        auto: The list.
        model: What `AutoAttack.run` takes.
        images: A first batch [n, ...], on which the model is looked at.

    Attributes:
        attacks: Those of the list, as they fit the number of classes.
        logits: From images to logits.
        climbed: The same up to rounding, which the attacks ask; see `Attacked`.
        classes: Number of logits.
        flat: Tells of images and labels where there is no gradient.
        findings: What was changed of the model or of the list, and what is wrong with the model.
    """

    def __init__(self, auto, model, images: np.ndarray):
        self.auto, self.random = auto, auto.version == "rand"
        self.shape = images.shape[1:]
        self.logits, self.climbed, self.findings = attacked(model)
        first = tf.constant(images)
        outputs = self.logits(first)
        apart = np.abs(np.subtract(self.climbed(first), outputs)).max()
        if not apart <= _ROUNDING * np.abs(outputs).max():
            self.climbed = self.logits
        self.classes = int(outputs.shape[-1])
        if _checks.are_probabilities(np.asarray(outputs)):
            self.logits, self.climbed = logarithms(self.logits), logarithms(self.climbed)
            self.findings.append(_checks.PROBABILITIES)
        self.findings += _checks.model(self.logits, first, self.random)
        self.attacks = [self._fitted(attack) for attack in auto.listed()]
        self._tries = [self._traced(attack) for attack in self.attacks]
        self._judge = _graph(self._judged, [self._images()])
        labels = tf.TensorSpec([None], tf.int32)
        self._margin = _graph(self._margins, [self._images(), labels])
        self.flat = _checks.without_gradient(self.logits, self._images(), self.classes)

    def attempt(self, number: int, key, trial: int, x, y, index):
        """One try of an attack of the list on a batch of any size.

        Args:
            number: Of the attack.
            key: Of its randomness, a scalar tensor.
            trial: Of the try.
            x: Images [n, ...].
            y: Labels [n].
            index: Identities [n].

        Returns:
            NumPy arrays: images, their labels, and whether their logits are finite.
        """
        found = self._tries[number](x, y, index.astype(np.int64), key, np.int32(trial))
        return tuple(part.numpy() for part in found)

    def judge(self, x, size: int):
        """Labels [n], whether logits are finite, and labels of a single call; `size` at a time."""
        parts = [self._judge(x[i : i + size]) for i in range(0, len(x), size)]
        return tuple(np.concatenate(p) for p in zip(*parts, strict=True))

    def margins(self, x, y, size: int) -> np.ndarray:
        """Logits of the labels minus the highest others, [n]; `size` at a time."""
        parts = [self._margin(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]
        return np.concatenate(parts)

    def passes(self):
        """Each attack with what one try of it costs an image; see `Attack.passes`."""
        return [(attack, attack.passes(self.classes)) for attack in self.attacks]

    def _fitted(self, attack):
        attack.check_shape(self.shape)
        found = attack.fitted(self.classes)
        if found != attack:
            text = f"{found} stands in for {attack}: the model has {self.classes} classes"
            self.findings.append(Finding("classes", "note", text))
        return found

    def _images(self):
        return tf.TensorSpec([None, *self.shape], tf.float32)

    def _traced(self, attack):
        def attempt(x, y, index, key, trial):
            x_adv = attack.attempt(self.climbed, x, y, key, index, trial)
            return (x_adv, *self._judged(x_adv)[:2])

        labels, index = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)
        key, trial = tf.TensorSpec([], tf.uint32), tf.TensorSpec([], tf.int32)
        signature = [self._images(), labels, index, key, trial]
        return _graph(attempt, signature)

    def _judged(self, x):
        """Label, -1 where logits are not finite; whether they are; and the label of one call."""
        if not self.random:
            z = tf.cast(self.logits(x), tf.float32)
            return (*_labelled(z), _labelled(z)[0])
        once, mean = self._drawn(x)
        return (*_labelled(mean), _labelled(once)[0])

    def _margins(self, x, y):
        z = self._drawn(x)[1] if self.random else tf.cast(self.logits(x), tf.float32)
        seen = tf.math.log(seen_as_one(z, None)) if len(z.shape) == 3 else z
        return tf.where(_labelled(z)[1], -margin(seen, y), np.nan)

    def _drawn(self, x):
        """Logits of one call, and their mean over many."""
        once = tf.cast(self.logits(x), tf.float32)
        total = tf.while_loop(
            lambda i, _: i < DRAWS,
            lambda i, z: (i + 1, z + tf.cast(self.logits(x), tf.float32)),
            (tf.constant(1), once),
        )[1]
        return once, total / DRAWS


def _graph(function, signature):
    """A graph of code that has no Python loops over tensors, which saves half of the tracing."""
    return tf.function(function, input_signature=signature, autograph=False)


def _labelled(z):
    """Labels of logits, -1 where they are not finite, and where they are."""
    finite = tf.reduce_all(tf.math.is_finite(z), axis=-1)
    if len(z.shape) == 3:  # of several networks
        finite = tf.reduce_all(finite, axis=0)
    return tf.where(finite, answer(z), -1), finite
