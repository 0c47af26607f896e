"""The random switch: a network that answers by a ticket drawn anew at every call."""

from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

from rst_tf import random
from rst_tf.attacks._average import Average
from rst_tf.attacks.attack import Inference
from rst_tf.ticket import Ticket
from rst_tf.ticket_set import TicketSet
from rst_tf.transfer import probabilities_of


class Switch(keras.Model):
    """Logits of a ticket drawn at random, for each batch or each example (R2S, Fu et al. 2021).

    Tickets of one initialisation share its weights: a ticket takes one bit per weight and its own
    normalisation statistics. A draw is a function of the seed, the number of the call and, per
    example, the position in the batch. It runs in inference mode whatever `training` says.

    ```python
    switch = rst.Switch(network, tickets, seed=0)
    rst.accuracy(switch, x, y)
    ```

    Args:
        network: Keras model with masked layers, holding the weights of the tickets.
        tickets: Of one initialisation.
        per: batch draws one ticket for all images of a call, example one for each.
        probabilities: Of the tickets; uniform if not given.
        seed: Of the draws.

    Raises:
        ValueError: A ticket does not fit the network, or is of other weights (the message says
            which); the probabilities are not one per ticket, or do not sum to 1.
    """

    def __init__(
        self,
        network,
        tickets: Sequence[Ticket],
        *,
        per: Literal["batch", "example"] = "batch",
        probabilities: Sequence[float] | None = None,
        seed: int = 0,
    ):
        if per not in ("batch", "example"):
            raise ValueError(f"per must be batch or example; received per={per!r}")
        held = TicketSet(network, tickets)
        super().__init__(name="switch")
        self.network, self.tickets, self.per = network, held, per
        self.probabilities = probabilities_of(probabilities, len(tickets))
        self.supports_jit = per == "batch"  # how many examples a ticket gets is not known before
        whole = {"initializer": "zeros", "dtype": "int64", "trainable": False, "autocast": False}
        self.seed = self.add_weight(name="seed", shape=(), **whole)
        self.calls = self.add_weight(name="calls", shape=(), **whole)
        self.built = True
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Begins anew with a seed: the same draws follow."""
        self.seed.assign(seed)
        self.calls.assign(0)

    def call(self, images, training=False):
        """Logits of images, each by the ticket drawn for it."""
        del training
        key = random.fold(random.fold(self.seed.value, 0), self.calls.value)
        self.calls.assign(self.calls + 1)
        if self.per == "batch":
            return self.tickets.one(self.draw(key, tf.zeros(1, tf.int32))[0])(images)
        return self.tickets.each(self.draw(key, tf.range(tf.shape(images)[0])))(images)

    def draw(self, key, index):
        """Numbers of tickets drawn with the switch's probabilities, int32 like `index`.

        Args:
            key: Integer key of the draw, as `rst.random.fold` gives.
            index: Integers [n]; each has a draw of its own.
        """
        limits = np.cumsum(self.probabilities)[:-1] / self.probabilities.sum()
        chance = random.example_uniform(key, index, ())
        return tf.searchsorted(tf.constant(limits, tf.float32), chance, side="right")

    def ticket_logits(self, ticket: int) -> Inference:
        """The network of one ticket, for an attacker who knows the draw."""
        self.tickets.check(ticket)
        return Inference(self.tickets.one(ticket))

    @property
    def average(self) -> Average:
        """All tickets at once, for an attacker who climbs their mean loss at every step (EOT).

        A callable from images to logits [tickets, n, classes]; attacks average the losses with
        the switch's probabilities.
        """
        return Average(self.tickets.all, tf.constant(self.probabilities, tf.float32))
