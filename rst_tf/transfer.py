"""Adversarial images made on one ticket of a network and tried on the others."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from rst_tf.attacks.attack import Attack, Inference
from rst_tf.evaluation import batches_of, check_finite, filled, judged
from rst_tf.ticket import Ticket
from rst_tf.ticket_set import TicketSet


@dataclasses.dataclass(frozen=True, eq=False)
class TransferMatrix:
    """Which examples were right, for every pair of tickets.

    Attributes:
        robust: Adversarial image classified right, bool [crafted on, tested on, n].
        correct: Clean image classified right, bool [tested on, n].
    """

    robust: np.ndarray
    correct: np.ndarray

    @property
    def robust_accuracy(self) -> np.ndarray:
        """Share of adversarial images classified right, float64 [crafted on, tested on]."""
        return self.robust.mean(-1)

    @property
    def accuracy(self) -> np.ndarray:
        """Share of clean images classified right, float64 [tested on]."""
        return self.correct.mean(-1)

    def expected(self, probabilities: Sequence[float] | None = None) -> float:
        """Robust accuracy where attacker and defender draw a ticket each, independently.

        Args:
            probabilities: Of the tickets; uniform if not given.
        """
        p = probabilities_of(probabilities, len(self.robust))
        return float(p @ self.robust_accuracy @ p)

    def expected_if_known(self, probabilities: Sequence[float] | None = None) -> float:
        """Robust accuracy where the attacker uses the ticket that the defender drew."""
        p = probabilities_of(probabilities, len(self.robust))
        return float(p @ np.diag(self.robust_accuracy))

    def __array__(self, dtype=None, copy=None):
        """`robust_accuracy`."""
        del copy
        return self.robust_accuracy.astype(dtype or np.float64)

    def round(self, decimals: int = 0) -> np.ndarray:
        """`robust_accuracy`, rounded."""
        return self.robust_accuracy.round(decimals)

    def __str__(self) -> str:
        """`robust_accuracy` to three decimals, crafted on in rows, tested on in columns."""
        return str(self.round(3))


class Transfer:
    """Evaluates tickets of one network on each other's adversarial images; compiled once.

    Args:
        tickets: The tickets in their network.
        attack: Makes the adversarial images.
        seed: Keys the attack's random starts, with each example's index.
        batch_size: Images at a time; it does not change the result beyond rounding.
    """

    def __init__(self, tickets: TicketSet, attack: Attack, *, seed: int = 0, batch_size=500):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; received batch_size={batch_size!r}")
        self.tickets, self.attack, self.batch_size = tickets, attack, batch_size
        measured = (tf.float32, tf.bool)

        @tf.function(reduce_retracing=True)
        def clean(x, y, index):
            del index
            return self.tickets.map(lambda logits: judged(logits(x), y, x), measured)

        @tf.function(reduce_retracing=True)
        def attacked(x, y, index, ticket):
            x_adv = attack(Inference(self.tickets.one(ticket)), x, y, seed=seed, index=index)
            return self.tickets.map(lambda logits: judged(logits(x_adv), y, x_adv), measured)

        self._clean, self._attacked = clean, attacked

    def correct(self, x, y=None) -> np.ndarray:
        """Which clean images every ticket classifies right, bool [tickets, n]."""
        return self._measured(self._clean, x, y, None, "logits are not finite for {} images")

    def row(self, ticket: int, x, y=None, index=None) -> np.ndarray:
        """Which images crafted on a ticket every ticket classifies right, bool [tickets, n].

        Args:
            ticket: Number of the one that the attack climbs.
            x: Images [n, ...] in [0, 1]; or a `Split`, which brings labels and identities along.
            y: Integer labels [n].
            index: Identities of the examples, [n]; 0..n-1 if not given.

        Raises:
            ValueError: There is no such ticket; x or y are not images and their labels; images or
                logits are not finite.
        """
        self.tickets.check(ticket)
        message = f"{self.attack} gave images or logits that are not finite for {{}} images"
        return self._measured(self._attacked, x, y, index, message, tf.constant(ticket))

    def matrix(self, x, y=None) -> TransferMatrix:
        """Every ticket against every ticket."""
        rows = [self.row(ticket, x, y) for ticket in range(len(self.tickets))]
        return TransferMatrix(np.stack(rows), self.correct(x, y))

    def _measured(self, measure, x, y, index, message, *more) -> np.ndarray:
        parts = []
        for batch, n in filled_batches(x, y, index, self.batch_size, self.tickets.classes):
            loss, right = (t.numpy()[:, :n] for t in measure(*batch, *more))
            check_finite(loss.max(0), message)
            parts.append(right)
        return np.concatenate(parts, axis=1)


def transfer_matrix(
    network, tickets: Sequence[Ticket], x, y, attack: Attack, *, seed: int = 0, batch_size=500
) -> TransferMatrix:
    """Robust accuracy of every ticket on the images crafted on every ticket.

    Images are crafted once per ticket and tried on all; the diagonal is each ticket's own robust
    accuracy. With `PGD(early_stop=True)` it is the published attack, which stops as soon as the
    ticket it climbs is fooled, and so is weak on the others (Fu et al. 2021).

    Args:
        network: Keras model with masked layers, holding the weights of the tickets.
        tickets: Of one initialisation.
        x: Images [n, ...] in [0, 1].
        y: Integer labels [n].
        attack: Makes the adversarial images.
        seed: Keys the attack's random starts, with each example's position.
        batch_size: Images at a time; it does not change the result beyond rounding.

    Raises:
        ValueError: A ticket does not fit the network or is of other weights; x or y are not images
            and their labels; images or logits are not finite.
    """
    held = TicketSet(network, tickets)
    return Transfer(held, attack, seed=seed, batch_size=batch_size).matrix(x, y)


def filled_batches(x, y, index, size: int, classes: int):
    """Images, labels and identities in batches of one size, and how many of each are real."""
    for batch in batches_of(x, y, index, size):
        highest = batch[1].max()
        if highest >= classes:
            raise ValueError(
                f"y must be labels below {classes}, the number of logits; received {highest}"
            )
        yield [tf.constant(filled(part, size)) for part in batch], len(batch[1])


def probabilities_of(probabilities: Sequence[float] | None, tickets: int) -> np.ndarray:
    """Probabilities of tickets, float64, summing to one; uniform for None.

    Raises:
        ValueError: Not one for each ticket, negative, or their sum is not 1.
    """
    if probabilities is None:
        return np.full(tickets, 1 / tickets)
    p = np.asarray(probabilities, np.float64)
    if p.shape != (tickets,) or not (p >= 0).all() or not abs(p.sum() - 1) < 1e-6:
        raise ValueError(
            f"probabilities must be {tickets} numbers from 0 that sum to 1, one per ticket; "
            f"received {probabilities!r}"
        )
    return p / p.sum()
