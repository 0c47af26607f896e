"""Attacks made on another model, as whoever cannot see the attacked one makes them."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from rst_tf.attacks.attack import ATTACKS, Attack, check_logits, logits_of
from rst_tf.attacks.pgd import PGD


@ATTACKS.register("transferred")
@dataclasses.dataclass(frozen=True)
class Transferred(Attack):
    """An attack on another model; nothing of the attacked one is used (Papernot et al. 2016).

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        source: The other model: path of a .keras file or of a SavedModel's folder; in Python also
            a Keras model, or a callable from images to logits.
        attack: Made on it, with the same epsilon and norm; none means PGD of 20 steps.
    """

    source: str = dataclasses.field(kw_only=True)
    attack: Attack | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.source:
            raise ValueError(f"source must be a model or its path; received {self.source!r}")
        for name in ("epsilon", "norm"):
            own = getattr(self, name)
            other = own if self.attack is None else getattr(self.attack, name)
            if own != other:
                raise ValueError(
                    f"attack must have the same {name}; received {name}={own!r} with an attack of "
                    f"{name}={other!r}"
                )

    @property
    def made(self) -> Attack:
        """The attack on the source."""
        return self.attack or PGD(self.epsilon, self.norm, steps=20)

    def fitted(self, classes: int) -> "Transferred":
        """With its attack fitted."""
        return dataclasses.replace(self, attack=self.made.fitted(classes))

    def check_shape(self, shape):
        """As its attack."""
        self.made.check_shape(shape)

    @property
    def trials(self) -> int:
        """Those of its attack."""
        return self.made.trials

    def passes(self, classes):
        """None: it asks the source alone."""
        return 0, 0

    def run(self, logits, x, y, seed, index):
        """See `Attack.run`."""
        del logits
        return self.made.run(_logits(self.source), x, y, seed, index)

    def attempt(self, logits, x, y, seed, index, trial):
        """See `Attack.attempt`."""
        del logits
        return self.made.attempt(_logits(self.source), x, y, seed, index, trial)


def _logits(source) -> Callable:
    """What is climbed: a model that is there as it is now, or one from a file."""
    import keras

    from rst_tf.attacks.attacked import attacked

    if isinstance(source, str | Path):
        return _of_file(str(source))
    if isinstance(source, keras.Model):
        check_logits(source)
        return logits_of(source)
    return attacked(source).climbed


@functools.lru_cache(maxsize=4)
def _of_file(path: str) -> Callable:
    """Read once in a process, and outside of any graph that is being traced."""
    import tensorflow as tf

    from rst_tf.attacks.attacked import attacked

    with tf.init_scope():
        return attacked(path).climbed
