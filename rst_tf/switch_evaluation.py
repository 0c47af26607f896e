"""How robust a random switch is, under four attackers that know more and more, or try again."""

import dataclasses

import numpy as np
import tensorflow as tf

from rst_tf import random
from rst_tf.analysis.estimates import Interval, student
from rst_tf.attacks.attack import Attack, Inference
from rst_tf.evaluation import check_finite, judged
from rst_tf.switch import Switch
from rst_tf.transfer import Transfer, TransferMatrix, filled_batches


@dataclasses.dataclass(frozen=True, eq=False)
class SwitchRobustness:
    """What a switch withstands; all numbers are robust accuracies in [0, 1].

    Attributes:
        matrix: Every ticket against every ticket.
        probabilities: Of the tickets, [tickets].
        averaged: Image crafted on all tickets at once classified right, bool [tickets, n].
        repeated: Image of one attack on a drawn ticket classified right by the switch, bool
            [repetitions, n].
    """

    matrix: TransferMatrix
    probabilities: np.ndarray
    averaged: np.ndarray
    repeated: np.ndarray

    @property
    def accuracy(self) -> float:
        """Expected share of clean images classified right."""
        return float(self.probabilities @ self.matrix.accuracy)

    @property
    def attacker_draws(self) -> float:
        """The attacker draws a ticket too: the expectation, exactly (Fu et al. 2021)."""
        return self.matrix.expected(self.probabilities)

    @property
    def attacker_knows(self) -> float:
        """The attacker knows the ticket that was drawn."""
        return self.matrix.expected_if_known(self.probabilities)

    @property
    def adaptive(self) -> float:
        """The attacker climbs the mean loss of all tickets; expectation over the tickets."""
        return float(self.probabilities @ self.averaged.mean(1))

    @property
    def by_repetition(self) -> np.ndarray:
        """The attacker draws a ticket too: what was seen in each repetition, [repetitions]."""
        return self.repeated.mean(1)

    @property
    def interval(self) -> Interval | None:
        """The 95 % t-interval of the mean over repetitions; None for a single one."""
        values = self.by_repetition.tolist()
        return student(values) if len(values) > 1 else None

    @property
    def worst(self) -> float:
        """The attacker tries every repetition: share of images that withstood all of them."""
        return float(self.repeated.all(0).mean())


class SwitchAttacker:
    """Attacks a switch where a matrix does not tell the outcome; compiled once.

    Args:
        switch: What is attacked. Its own draws go on from where they are.
        attack: Makes the adversarial images.
        seed: Keys the attacker's draws and the attack's random starts.
        batch_size: Images at a time, of which a switch per batch answers all by one ticket.
    """

    def __init__(self, switch: Switch, attack: Attack, *, seed: int = 0, batch_size=500):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; received batch_size={batch_size!r}")
        self.batch_size, self.seed = batch_size, seed
        self._message = f"{attack} gave images or logits that are not finite for {{}} images"
        tickets, measured = switch.tickets, (tf.float32, tf.bool)
        self._classes = tickets.classes

        @tf.function(reduce_retracing=True)
        def averaged(x, y, index):
            x_adv = attack(switch.average, x, y, seed=seed, index=index)
            return tickets.map(lambda logits: judged(logits(x_adv), y, x_adv), measured)

        @tf.function(reduce_retracing=True)
        def once(x, y, index, key):
            if switch.per == "batch":
                logits = Inference(tickets.one(switch.draw(key, index[:1])[0]))
            else:
                logits = tickets.each(switch.draw(key, index))
            x_adv = attack(logits, x, y, seed=random.fold(key, 0), index=index)
            return judged(switch(x_adv), y, x_adv)

        self._averaged, self._once = averaged, once

    def averaged(self, x, y=None, index=None) -> np.ndarray:
        """Images crafted on the mean loss of all tickets: right or not, bool [tickets, n]."""
        return self._measured(self._averaged, x, y, index)

    def once(self, repetition: int, x, y=None, index=None) -> np.ndarray:
        """Images crafted on tickets the attacker draws, answered by the switch: bool [n].

        Args:
            repetition: Number of the repetition; each has draws and starts of its own.
            x: Images [n, ...] in [0, 1]; or a `Split`, which brings labels and identities along.
            y: Integer labels [n].
            index: Identities of the examples, [n]; 0..n-1 if not given.
        """
        key = random.fold(random.fold(self.seed, 1), repetition)
        return self._measured(self._once, x, y, index, key)

    def _measured(self, measure, x, y, index, *more) -> np.ndarray:
        parts = []
        for batch, n in filled_batches(x, y, index, self.batch_size, self._classes):
            loss, right = (t.numpy()[..., :n] for t in measure(*batch, *more))
            check_finite(loss.reshape(-1, n).max(0), self._message)
            parts.append(right)
        return np.concatenate(parts, axis=-1)


def switch_robustness(
    switch: Switch, x, y, attack: Attack, *, repetitions: int = 10, seed: int = 0, batch_size=500
) -> SwitchRobustness:
    """Robust accuracy of a switch under four attackers.

    One draws a ticket as the defender does (the expectation over both, from the transfer matrix);
    one knows the defender's draw; one climbs the mean loss of all tickets at every step; and one
    draws a ticket, tries the switch itself, and repeats that. The first number alone, the paper's,
    says little about an attacker who adapts (Athalye et al. 2018; Tramèr et al. 2020).

    Args:
        switch: The network that draws; its draws go on from where they are.
        x: Images [n, ...] in [0, 1].
        y: Integer labels [n].
        attack: Makes the adversarial images.
        repetitions: How often the switch itself is attacked, at least 1.
        seed: Keys the attack's random starts and the attacker's draws.
        batch_size: Images at a time, of which a switch per batch answers all by one ticket.

    Raises:
        ValueError: x or y are not images and their labels; images or logits are not finite;
            repetitions below 1.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions must be at least 1; received repetitions={repetitions!r}")
    transfer = Transfer(switch.tickets, attack, seed=seed, batch_size=batch_size)
    attacker = SwitchAttacker(switch, attack, seed=seed, batch_size=batch_size)
    return SwitchRobustness(
        matrix=transfer.matrix(x, y),
        probabilities=switch.probabilities,
        averaged=attacker.averaged(x, y),
        repeated=np.stack([attacker.once(r, x, y) for r in range(repetitions)]),
    )
