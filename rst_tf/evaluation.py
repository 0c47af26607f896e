"""How right a network is, clean and under attack, with measures of its own."""

import dataclasses

import numpy as np

from rst_tf.attacks.attack import Attack, check_examples, logits_of
from rst_tf.data import Split, evaluation_batches
from rst_tf.data.images import in_words


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found, per example.

    Attributes:
        loss: Cross-entropy of the clean images, [n].
        correct: Clean image classified right, bool [n].
        robust_loss: Cross-entropy of the adversarial images, [n]; None without an attack.
        robust: Adversarial image classified right, bool [n]; None without an attack.
    """

    loss: np.ndarray
    correct: np.ndarray
    robust_loss: np.ndarray | None = None
    robust: np.ndarray | None = None

    @property
    def accuracy(self) -> float:
        """Share of clean images classified right."""
        return float(self.correct.mean())

    @property
    def robust_accuracy(self) -> float | None:
        """Share of adversarial images classified right; None without an attack."""
        return None if self.robust is None else float(self.robust.mean())


class Evaluator:
    """Evaluates one model under one attack; compiled once, whatever the number of images.

    Args:
        model: Keras model or callable from images to logits.
        attack: Attack to evaluate under, or None for clean accuracy alone.
        seed: Keys the attack's random starts, with each example's index.
        batch_size: Images at a time; it does not change the result beyond rounding.
    """

    def __init__(self, model, attack: Attack | None = None, *, seed: int = 0, batch_size=500):
        import tensorflow as tf

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; received batch_size={batch_size!r}")
        self.attack, self.seed, self.batch_size = attack, seed, batch_size
        logits = logits_of(model)

        @tf.function(reduce_retracing=True)
        def measure(x, y, index):
            clean = logits(x)
            self._classes = clean.shape[-1]
            y = tf.minimum(y, self._classes - 1)  # those beyond are refused below, in words
            if attack is None:
                return *judged(clean, y, x), *judged(clean, y, x)
            x_adv = attack(logits, x, y, seed=seed, index=index)
            return *judged(clean, y, x), *judged(logits(x_adv), y, x_adv)

        self._measure = measure

    def __call__(self, x, y=None, index=None) -> Evaluation:
        """Evaluates.

        Args:
            x: Images [n, ...] in [0, 1]; or a `Split`, which brings labels and identities along
                and is read batch by batch.
            y: Integer labels [n].
            index: Identities of the examples, [n]; 0..n-1 if not given.

        Raises:
            ValueError: Images outside [0, 1], labels out of range or not integers, lengths that
                differ, no images, or logits or adversarial images that are not finite; or labels
                beside a split.
        """
        size = self.batch_size
        parts, highest = [], -1
        for batch in batches_of(x, y, index, size):
            found = self._measure(*(filled(a, size) for a in batch))
            parts.append([np.asarray(t)[: len(batch[1])] for t in found])
            highest = max(highest, batch[1].max())
        loss, correct, robust_loss, robust = (np.concatenate(p) for p in zip(*parts, strict=True))
        if highest >= self._classes:
            raise ValueError(
                f"y must be labels below {self._classes}, the number of logits; received {highest}"
            )
        check_finite(loss, "logits are not finite for {} images")
        if self.attack is None:
            return Evaluation(loss, correct)
        check_finite(
            robust_loss,
            f"{self.attack} gave images or logits that are not finite for {{}} images; the model's "
            "gradients are NaN or infinite there",
        )
        return Evaluation(loss, correct, robust_loss, robust)


def evaluate(model, x, y, attack: Attack | None = None, *, seed=0, batch_size=500) -> Evaluation:
    """Clean and, with an attack, robust accuracy of a model; see `Evaluator`."""
    return Evaluator(model, attack, seed=seed, batch_size=batch_size)(x, y)


def accuracy(model, x, y, *, batch_size=500) -> float:
    """Share of images [n, ...] in [0, 1] classified right."""
    return evaluate(model, x, y, batch_size=batch_size).accuracy


def robust_accuracy(model, x, y, attack: Attack, *, seed=0, batch_size=500) -> float:
    """Share of images still classified right under an attack."""
    return evaluate(model, x, y, attack, seed=seed, batch_size=batch_size).robust_accuracy


def judged(logits, y, images):
    """Loss, NaN where the images are (a maximum over pixels may pass NaN over), and correctness."""
    import tensorflow as tf

    from rst_tf.attacks._losses import cross_entropy

    finite = tf.reduce_all(tf.math.is_finite(images), range(1, len(images.shape)))
    loss = tf.where(finite, cross_entropy(logits, y), float("nan"))
    return loss, tf.argmax(logits, -1, output_type=tf.int32) == y


def check_finite(losses: np.ndarray, message: str) -> None:
    """Raises ValueError with the number of losses that are not finite put into the message."""
    wrong = int((~np.isfinite(losses)).sum())
    if wrong:
        raise ValueError(message.format(wrong))


def batches_of(x, y, index, size: int):
    """Batches of (images, labels, identities) of arrays, or of a `Split`, which has all three.

    Raises:
        ValueError: What they hold is not images and labels; or labels beside a split.
    """
    if not isinstance(x, Split):
        return _slices(x, y, index, size)
    if y is not None or index is not None:
        raise ValueError("y and index are the split's own; received them beside a split")
    return _read(x, size)


def _slices(x, y, index, size: int):
    """Batches of (images, labels, identities) of arrays."""
    x, y = np.asarray(x, np.float32), np.asarray(y)
    check_examples(x, y)
    index = np.arange(len(x)) if index is None else np.asarray(index)
    for first in range(0, len(x), size):
        yield [a[first : first + size] for a in (x, y.astype(np.int32), index)]


def _read(split: Split, size: int):
    """Batches of (images, labels, identities) of a split."""
    import tensorflow as tf

    try:
        for images, labels in evaluation_batches(split, size).as_numpy_iterator():
            check_examples(images["image"], labels)
            yield [images["image"], labels, images["index"]]
    except tf.errors.InvalidArgumentError as error:  # a damaged image, for one
        raise in_words(error) or error from error


def filled(batch: np.ndarray, size: int) -> np.ndarray:
    """The batch padded with its first row to a fixed size, so that nothing is traced twice."""
    missing = size - len(batch)
    return np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)]) if missing else batch
