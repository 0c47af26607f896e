"""Several tickets of one network in memory: its weights once, a few bits per ticket and weight."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from rst_tf.initializers import Seed, hash_of
from rst_tf.ticket import Ticket, check_same, key_of, leftovers_of
from rst_tf.traversal import masked_kernels, walk


class TicketSet:
    """Tickets that share the weights of one network: each a packed mask and its own leftovers.

    The network is never changed: masks and leftovers (normalisation statistics, biases) take the
    place of its variables while it is called. Leftovers that all tickets share with the network
    are not held again. While a set is in use, the network's weights must stay as they are.

    Args:
        network: Keras model with masked layers, holding the weights of the tickets.
        tickets: At least one; those of masks alone use the network's own leftovers.

    Raises:
        ValueError: A ticket does not fit the network, or is of other weights (the message says
            which); the network's masks come from scores.
    """

    def __init__(self, network, tickets: Sequence[Ticket]):
        if not tickets:
            raise ValueError("tickets must be at least one; received none")
        self.network = network
        kernels, leftovers = masked_kernels(network), leftovers_of(network)
        for masked in kernels:
            if masked.scores is not None:
                raise ValueError(
                    f"layer {masked.name!r} takes its mask from scores; build the network with "
                    "search=False to fix tickets' masks"
                )
        for number, ticket in enumerate(tickets):
            try:
                _check_fits(ticket, kernels, leftovers)
            except ValueError as error:
                raise ValueError(f"tickets[{number}] does not fit: {error}") from error
        self.densities = tuple(ticket.density for ticket in tickets)
        self._masks = [
            (m.mask, tf.constant(np.stack([np.packbits(t.entries[i].mask) for t in tickets])))
            for i, m in enumerate(kernels)
        ]
        self._leftovers = list(_differing(network, leftovers, tickets))

    def __len__(self) -> int:
        return len(self.densities)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.network.output_shape[-1]

    @property
    def bytes_per_ticket(self) -> int:
        """Memory that a further ticket takes."""
        held = [values for _, values in (*self._masks, *self._leftovers)]
        return sum(values.dtype.size * values.shape[1:].num_elements() for values in held)

    def check(self, ticket: int) -> None:
        """Raises ValueError unless there is a ticket of this number."""
        if not 0 <= ticket < len(self):
            raise ValueError(f"ticket must be in 0..{len(self) - 1}; received ticket={ticket!r}")

    def one(self, ticket) -> "OneTicket":
        """The network of one ticket; its number may be a scalar tensor. Masks are unpacked here."""
        values = [
            (variable, _unpacked(tf.gather(packed, ticket), variable.shape))
            for variable, packed in self._masks
        ]
        values += [(variable, tf.gather(rows, ticket)) for variable, rows in self._leftovers]
        return OneTicket(self.network, values)

    def each(self, drawn) -> Callable:
        """The callable that answers every example by a ticket of its own.

        Args:
            drawn: Numbers of the tickets, int32 [n].
        """

        def logits(x):
            def answer(ticket, found):
                rows = tf.where(drawn == ticket)
                part = tf.gather_nd(x, rows)
                answers = tf.cond(
                    tf.size(rows) > 0,
                    lambda: self.one(ticket)(part),
                    lambda: tf.zeros((0, self.classes), self._dtype),
                )
                return ticket + 1, tf.tensor_scatter_nd_update(found, rows, answers)

            _, found = tf.while_loop(
                lambda ticket, _: ticket < len(self),
                answer,
                (tf.constant(0), tf.zeros((tf.shape(x)[0], self.classes), self._dtype)),
                shape_invariants=(tf.TensorShape(()), tf.TensorShape((None, self.classes))),
                maximum_iterations=len(self),
            )
            return found

        return logits

    def all(self, x):
        """Logits of every ticket, [tickets, n, classes]."""
        return self.map(lambda logits: logits(x), self._dtype)

    def map(self, measure: Callable, types):
        """What a function of a ticket's network gives, for every ticket, one after the other.

        Args:
            measure: From a callable of logits to tensors.
            types: Their types, nested as they are.
        """
        return tf.map_fn(
            lambda ticket: measure(self.one(ticket)),
            tf.range(len(self)),
            fn_output_signature=types,
            parallel_iterations=1,
        )

    @property
    def _dtype(self) -> str:
        return self.network.outputs[0].dtype


class OneTicket:
    """The network as one ticket has it, called as a Keras model is; always in inference mode.

    Args:
        network: Keras model.
        values: Pairs of its variables and the tensors that stand for them.
    """

    def __init__(self, network, values: Sequence[tuple]):
        self._network, self._values = network, values

    def __call__(self, x, training=False):
        """Logits of x."""
        del training
        with keras.StatelessScope(state_mapping=self._values):
            return self._network(x, training=False)

    @property
    def variables(self) -> list:
        """The network's."""
        return self._network.variables


def _check_fits(ticket: Ticket, kernels: Sequence, leftovers: Sequence) -> None:
    check_same([key_of(m.name, m) for m in kernels], [key_of(e.name, e) for e in ticket.entries])
    if ticket.leftovers:
        check_same(
            [(v.path, tuple(v.shape), ()) for v in leftovers],
            [("a variable", value.shape, ()) for value in ticket.leftovers],
        )
    for masked, entry in zip(kernels, ticket.entries, strict=True):
        if entry.kernel is not None and not np.array_equal(entry.kernel, masked.kernel.numpy()):
            raise ValueError(
                f"its weights differ from the network's in {masked.name!r}; tickets of one set "
                "share one initialisation, which apply(network, weights=True) puts into a network"
            )
    if ticket.seed is not None and all(entry.kernel is None for entry in ticket.entries):
        _check_drawn(ticket.seed, [masked.kernel.numpy() for masked in kernels])


def _check_drawn(seed: Seed, kernels: Sequence[np.ndarray]) -> None:
    if hash_of(kernels) != seed.hash:
        raise ValueError(
            f"seed {seed.seed} with {seed.initializer!r} did not draw the network's weights; "
            "tickets of one set share one initialisation, which apply(network, weights=True) puts "
            "into a network"
        )


def _differing(network, leftovers: Sequence, tickets: Sequence[Ticket]):
    """(variable, values of all tickets) wherever a ticket's value is not the network's."""
    adapted = {
        id(variable)
        for layer in walk(network)
        if isinstance(layer, keras.layers.Normalization)
        for variable in layer.variables
    }
    for position, variable in enumerate(leftovers):
        own = variable.numpy()
        rows = [t.leftovers[position] if t.leftovers else own for t in tickets]
        if all(np.array_equal(row, own) for row in rows):
            continue
        if id(variable) in adapted:
            raise ValueError(
                f"tickets differ from the network in {variable.path!r}, statistics adapted to "
                "data, which cannot be switched"
            )
        yield variable, tf.constant(np.stack(rows))


def _unpacked(row, shape: Sequence[int]):
    """Bits, highest first, as the float32 mask of a shape."""
    highest_first = tf.constant([7, 6, 5, 4, 3, 2, 1, 0], tf.uint8)
    bits = tf.bitwise.right_shift(row[:, tf.newaxis], highest_first)
    bits = tf.bitwise.bitwise_and(bits, tf.constant(1, tf.uint8))
    return tf.reshape(tf.cast(tf.reshape(bits, [-1])[: int(np.prod(shape))], tf.float32), shape)
