"""Answers of teachers beside labels: Hinton et al. 2015; against overfitting, Chen et al. 2021."""

import dataclasses
from collections.abc import Callable, Sequence

from rst_tf.objectives import Outcome


@dataclasses.dataclass(frozen=True, eq=False)
class Teachers:
    """Networks whose answers a student is held to on the images that it is trained on.

    With weight w and temperature T an objective's loss becomes, where t are the teachers' logits,
    s the student's and the mean is over the teachers,

        (1 - w) loss + w T^2 mean KL(softmax(t / T) || softmax(s / T))

    on the adversarial images, or on the clean ones where an objective makes no others. Teachers
    answer in inference mode; no gradient reaches them, nor the images through them.

    Args:
        networks: Keras models, or callables from images to logits; at least one.
        weight: w, in (0, 1].
        temperature: T, above 0.
    """

    networks: Sequence[Callable]
    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self):
        if not self.networks:
            raise ValueError("networks must be at least one teacher; received none")
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight must be in (0, 1]; received weight={self.weight!r}")
        if not self.temperature > 0:
            raise ValueError(
                f"temperature must be above 0; received temperature={self.temperature!r}"
            )

    def taught(self, outcome: Outcome, images, x_adv) -> Outcome:
        """What an objective came to, its loss softened.

        Args:
            outcome: Loss of each example, and the student's logits.
            images: [n, H, W, C].
            x_adv: Adversarial ones; None if there are none.
        """
        import tensorflow as tf

        from rst_tf.attacks._losses import divergence
        from rst_tf.attacks.attack import logits_of

        seen, student = images, outcome.clean
        if outcome.adversarial is not None:
            seen, student = x_adv, outcome.adversarial
        t = self.temperature
        soft = [
            divergence(tf.stop_gradient(logits_of(teacher)(seen)) / t, student / t)
            for teacher in self.networks
        ]
        loss = (1 - self.weight) * outcome.loss + self.weight * t**2 * tf.add_n(soft) / len(soft)
        return outcome._replace(loss=loss)
