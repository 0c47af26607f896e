"""APGD: projected gradient ascent that sets its own step size (Croce & Hein 2020)."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

from rst_tf.attacks.attack import ATTACKS, Tries

_STREAM = 0x41504744


class Climbed(NamedTuple):
    """What one try found, per example.

    Attributes:
        best: The image of highest loss, float32 [n, ...].
        loss: Its loss, float32 [n].
        adversarial: The last misclassified image, else the clean one, float32 [n, ...].
        withstood: No image was misclassified, bool [n].
    """

    best: object
    loss: object
    adversarial: object
    withstood: object


@ATTACKS.register("apgd")
@dataclasses.dataclass(frozen=True)
class APGD(Tries):
    """Gradient ascent with momentum whose steps are halved where the loss does not rise enough.

    Follows the published code of AutoAttack to its rounding. With fewer classes than a loss needs,
    another stands in: against three classes the untargeted loss dlr for the targeted one, against
    two the loss margin for dlr.

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        steps: Gradient steps, at least 1.
        loss: ce (cross-entropy), dlr (difference of logits ratio), or margin (highest logit of
            another class minus the label's).
        targets: 0 for an untargeted attack; else the number of classes that are tried as targets,
            the likeliest first, each in a try of its own; needs loss dlr.
        restarts: Independent tries (of each target).
        eot: Gradients averaged per step, for networks that answer at random (Athalye et al. 2018).
        returns: adversarial, the last misclassified image or else the clean one; or best, the
            image of highest loss, as training wants it.
    """

    steps: int = 100
    loss: Literal["ce", "dlr", "margin"] = "ce"
    targets: int = 0
    restarts: int = 1
    eot: int = 1
    returns: Literal["adversarial", "best"] = "adversarial"

    def __post_init__(self):
        super().__post_init__()
        for name, least in (("steps", 1), ("targets", 0), ("restarts", 1), ("eot", 1)):
            if getattr(self, name) < least:
                received = getattr(self, name)
                raise ValueError(f"{name} must be at least {least}; received {name}={received!r}")
        allowed = {"loss": ("ce", "dlr", "margin"), "returns": ("adversarial", "best")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                received = getattr(self, name)
                raise ValueError(f"{name} must be one of {values}; received {name}={received!r}")
        if self.targets and self.loss != "dlr":
            raise ValueError(
                f"targets need loss='dlr'; received targets={self.targets} with loss={self.loss!r}"
            )

    def judging(self) -> "APGD":
        """Whose images are misclassified wherever it can."""
        return dataclasses.replace(self, returns="adversarial")

    def fitted(self, classes: int) -> "APGD":
        """This attack against so many classes, its loss and number of targets as they allow.

        Raises:
            ValueError: There is only one class.
        """
        if classes < 2:
            raise ValueError(f"classes must be at least 2 for an attack; received {classes}")
        if self.loss == "dlr" and classes == 2:
            return dataclasses.replace(self, loss="margin", targets=0)
        if classes == 3:
            return dataclasses.replace(self, targets=0)
        return dataclasses.replace(self, targets=min(self.targets, classes - 1))

    @property
    def trials(self) -> int:
        """Restarts times targets."""
        return self.restarts * max(self.targets, 1)

    def passes(self, classes):
        """A gradient at the start and after every step; the clean logits rank the targets."""
        return int(self.targets > 0), (self.steps + 1) * self.eot

    def run(self, logits, x, y, seed, index):
        """See `Attack.run`; with `returns="best"`, the highest loss of all tries."""
        import tensorflow as tf

        from rst_tf.attacks._geometry import like

        if self.returns == "adversarial":
            return super().run(logits, x, y, seed, index)
        attack = self.fitted(logits(x).shape[-1])

        def go(trial, found, highest):
            tried = attack._climb(logits, x, y, seed, index, trial)
            better = tried.loss > highest
            highest = tf.where(better, tried.loss, highest)
            return trial + 1, tf.where(like(better, x), tried.best, found), highest

        count, lowest = attack.trials, tf.fill([tf.shape(x)[0]], -float("inf"))
        start = (tf.constant(0), x, lowest)
        return tf.while_loop(lambda t, *_: t < count, go, start, maximum_iterations=count)[1]

    def attempt(self, logits, x, y, seed, index, trial):
        """See `Attack.attempt`; try `restart * targets + rank` has the class after `rank` others
        as its target.
        """
        # Not where one draw of a random network does not settle an image, nor where a batch's size
        # is fixed, as XLA likes it.
        leave = self.returns == "adversarial" and self.eot == 1 and x.shape[0] is None
        tried = self._climb(logits, x, y, seed, index, trial, leave)
        return tried.best if self.returns == "best" else tried.adversarial

    def _climb(self, logits, x, y, seed, index, trial, leave=False) -> Climbed:
        from rst_tf import random
        from rst_tf.attacks._geometry import NORMS

        key = random.fold(random.fold(seed, _STREAM), trial)
        noise = NORMS[self.norm].noise(key, index, x.shape[1:])
        rank = trial % max(self.targets, 1)
        return self.climb(logits, x, y, noise, rank, leave=leave)

    def climb(self, logits: Callable, x, y, noise, rank=0, *, leave: bool = False) -> Climbed:
        """One try from given noise.

        Args:
            logits: What is climbed.
            x: Clean images, float32 [n, ...].
            y: Labels, int32 [n].
            noise: What the start is made of, float32 like x.
            rank: Among the targets, integer or int32 scalar tensor.
            leave: Misclassified images go at the next checkpoint, which changes nothing for those
                that stay; only `adversarial` and `withstood` are then found.
        """
        from rst_tf.attacks._ascent import Ascent

        return Climbed(*Ascent(self, logits, rank).climb(x, y, noise, leave))
