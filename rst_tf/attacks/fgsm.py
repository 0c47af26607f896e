"""The fast gradient sign method (Goodfellow et al. 2015), with random start (Wong et al. 2020)."""

import dataclasses
from typing import Literal

from rst_tf.attacks.attack import ATTACKS, Attack
from rst_tf.attacks.pgd import PGD


@ATTACKS.register("fgsm")
@dataclasses.dataclass(frozen=True)
class FGSM(Attack):
    """One gradient step: x + step_size * sign(gradient), back into the ball.

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        start: clean, or uniform in the ball (FGSM-RS; there step_size is 1.25 epsilon by default).
        step_size: Length of the step in [0, 1] units; none means epsilon, or 1.25 epsilon from a
            uniform start.
        label: Climb the loss of the true label, or of the predicted one.
        loss: ce or kl (which needs the uniform start); none lets the objective choose.
    """

    start: Literal["clean", "uniform", "gaussian"] = "clean"
    step_size: float | None = None
    label: Literal["true", "predicted"] = "true"
    loss: Literal["ce", "kl"] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.as_pgd()

    def judging(self) -> "FGSM":
        """With true labels, and cross-entropy unless an objective chooses."""
        return dataclasses.replace(self, label="true", loss=None)

    def as_pgd(self) -> PGD:
        """The same attack as a PGD of one step."""
        longer = 1.25 if self.start == "uniform" else 1.0
        return PGD(
            epsilon=self.epsilon,
            norm=self.norm,
            steps=1,
            step_size=longer * self.epsilon if self.step_size is None else self.step_size,
            start=self.start,
            label=self.label,
            loss=self.loss,
        )

    def scaled(self, factor):
        """See `Attack.scaled`."""
        return self.as_pgd().scaled(factor)

    def passes(self, classes):
        """As a PGD of one step."""
        return self.as_pgd().passes(classes)

    def run(self, logits, x, y, seed, index):
        """See `Attack.run`."""
        return self.as_pgd().run(logits, x, y, seed, index)
