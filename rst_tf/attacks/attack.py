"""What every attack is: a frozen dataclass, callable, pure in (model, x, y, seed)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from rst_tf.registry import Registry, choices

Norm = Literal["linf", "l2"]


@dataclasses.dataclass(frozen=True)
class Attack:
    """Makes adversarial examples; images live in [0, 1].

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
    """

    epsilon: float
    norm: Norm = "linf"

    def __post_init__(self):
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be above 0; received epsilon={self.epsilon!r}")
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"norm must be linf or l2; received norm={self.norm!r}")
        if self.norm == "linf" and self.epsilon > 1:
            raise ValueError(
                "epsilon must be at most 1, for images live in [0, 1] (8/255, not 8); "
                f"received epsilon={self.epsilon!r}"
            )

    def __call__(self, model, x, y, *, seed=0, index=None):
        """Adversarial examples for a batch.

        Args:
            model: Keras model, or callable from images to logits. A Keras model is called with
                `training=False`.
            x: Images [n, ...] in [0, 1].
            y: Integer labels [n].
            seed: Integer or scalar tensor. All randomness is a function of (seed, index).
            index: Identities of the examples, integers [n]; 0..n-1 if not given. With them the
                result does not depend on batch size or order.

        Returns:
            Float32 tensor like x, inside the ball and the box; its gradient is stopped.

        Raises:
            ValueError: Images, labels and index disagree in length, or labels are not integers;
                for values that are known (not symbolic), images outside [0, 1].
        """
        import tensorflow as tf

        check_logits(model)
        x, y = checked_batch(x, y)
        index = tf.range(tf.shape(x)[0]) if index is None else tf.convert_to_tensor(index)
        return tf.stop_gradient(self.run(logits_of(model), x, y, seed, index))

    def run(self, logits: Callable, x, y, seed, index):
        """The attack itself, on checked float32 images and a callable that returns logits."""
        raise NotImplementedError

    def scaled(self, factor) -> "Attack":
        """This attack in a ball `factor` times as large, with steps as much longer.

        Args:
            factor: A number or a float32 scalar tensor, in [0, 1]. At 0 images stay as they are.

        Raises:
            ValueError: This attack takes no tensor for its epsilon.
        """
        raise ValueError(f"an epsilon schedule needs the attack pgd or fgsm; received {self}")

    def judging(self) -> "Attack":
        """The attack that judges a network which was trained with this one."""
        return self

    def fitted(self, classes: int) -> "Attack":
        """This attack against so many classes: itself, unless it has no meaning there."""
        del classes
        return self

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError where it has no meaning for images of this shape, without n."""

    @property
    def trials(self) -> int:
        """Number of tries (restarts times targets); an example withstands the attack by all."""
        return 1

    def attempt(self, logits: Callable, x, y, seed, index, trial):
        """One try, as `run`; `trial` is its number, an int32 scalar tensor below `trials`."""
        del trial
        return self.run(logits, x, y, seed, index)

    def passes(self, classes: int) -> tuple[int, int]:
        """What one try costs an example, at most, against a network of so many classes.

        Returns:
            Passes forward alone, and passes forward and back.
        """
        raise NotImplementedError

    def __str__(self):
        """Name, epsilon, steps and what differs from its default, for tables."""
        parts = [
            f"{field.name}={_short(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if field.name in ("epsilon", "steps") or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(parts)})"


class Tries(Attack):
    """An attack of several tries: a subclass gives `trials` and `attempt`.

    Run on its own it makes all tries on all examples. `AutoAttack` makes each try only on those
    that withstood the ones before.
    """

    def run(self, logits, x, y, seed, index):
        """Images of the first try that succeeded; the clean image where none did."""
        import tensorflow as tf

        from rst_tf.attacks._losses import defeated

        clean = logits(x)
        attack = self.fitted(clean.shape[-1])

        def go(trial, found, fooled):
            x_adv = attack.attempt(logits, x, y, seed, index, trial)
            won = defeated(logits(x_adv), y) & ~fooled
            flags = tf.reshape(won, [-1] + [1] * (len(x.shape) - 1))
            return trial + 1, tf.where(flags, x_adv, found), fooled | won

        count = attack.trials
        start = (tf.constant(0), x, defeated(clean, y))
        return tf.while_loop(lambda t, *_: t < count, go, start, maximum_iterations=count)[1]


ATTACKS = choices(Attack, Registry("attack", "rst_tf.attacks"))


def check_logits(model) -> None:
    """Raises ValueError for a Keras model whose last layer shows that it gives probabilities."""
    import keras

    from rst_tf.surgery import ends_in_softmax

    if isinstance(model, keras.Model) and ends_in_softmax(model):
        raise ValueError(
            f"network {model.name!r} returns probabilities; attacks and objectives need logits: "
            "pass rst_tf.with_logits(network)"
        )


class Inference:
    """A Keras model in inference mode, where an example's logits depend on no other example.

    Args:
        model: Returns logits.
    """

    def __init__(self, model):
        self._model = model

    def __call__(self, x):
        """Logits of x."""
        return self._model(x, training=False)

    @property
    def has_convolutions(self) -> bool:
        """True if any layer has a kernel of rank 3 or more."""
        return any(len(v.shape) > 2 for v in self._model.variables)


def logits_of(model) -> Callable:
    """The callable an attack differentiates: a Keras model in inference mode, or a callable."""
    import keras

    if isinstance(model, keras.Model):
        return Inference(model)
    if not callable(model):
        raise ValueError(f"model must be a Keras model or a callable; received {model!r}")
    return model


def checked_batch(x, y):
    """Images as float32 and labels as int32, or a ValueError that says what is wrong with them."""
    import tensorflow as tf

    x = tf.cast(tf.convert_to_tensor(x), tf.float32)
    y = tf.convert_to_tensor(y)
    if not y.dtype.is_integer or len(y.shape) != 1:
        raise ValueError(
            f"y must be integer labels of shape [n]; received {y.dtype.name} of shape {y.shape}"
        )
    if tf.executing_eagerly():
        if len(x) != len(y):
            raise ValueError(f"x and y must be of one length; received {len(x)} and {len(y)}")
        low, high = float(tf.reduce_min(x)), float(tf.reduce_max(x))
        if not (low >= 0 and high <= 1):
            raise ValueError(f"x must be images in [0, 1]; received values from {low} to {high}")
    return x, tf.cast(y, tf.int32)


def check_examples(x: np.ndarray, y: np.ndarray) -> None:
    """Raises ValueError unless x are images in [0, 1] and y their labels."""
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"x and y must be of one length above 0; received {len(x)} and {len(y)}")
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"y must be integer labels [n]; received {y.dtype} of shape {y.shape}")
    if not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"x must be images in [0, 1]; received {x.min()} to {x.max()}")
    if y.min() < 0:
        raise ValueError(f"y must be labels from 0; received {y.min()}")


def _short(value) -> str:
    """Numbers as people write them: 0.1 as it is, 0.0313725490... as 8/255."""
    if isinstance(value, float):
        decimal = f"{value:.4g}"
        levels = round(value * 255)
        if float(decimal) != value and math.isclose(levels, value * 255, rel_tol=1e-9):
            return f"{levels}/255"
        return decimal
    return str(value)
