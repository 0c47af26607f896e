"""How many bytes a sparse network takes: every weight as a number, or only what has to be told."""

import dataclasses
import math

from rst_tf.entropy_coding import entropy

_GAIN = 4  # bytes of one float32 per kernel


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What the sizes of a network follow from.

    Args:
        weights: Weights in masked kernels.
        kept: How many of them are kept.
        kernels: Number of masked kernels.
        others: Bytes of every other variable: biases, normalisation, layers without masks.
        mask_bits: Entropy of the masks, each of which is known by its length and number kept.
    """

    weights: int
    kept: int
    kernels: int
    others: int
    mask_bits: float

    @classmethod
    def of(cls, network) -> "Footprint":
        """Of a network as it is now; ValueError if it has no masks."""
        from rst_tf.ticket import Ticket, leftovers_of

        ticket = Ticket.of(network, weights="none")
        return cls(
            weights=sum(math.prod(entry.shape) for entry in ticket.entries),
            kept=ticket.kept,
            kernels=len(ticket.entries),
            others=sum(variable.numpy().nbytes for variable in leftovers_of(network)),
            mask_bits=sum(entropy(e.mask.size, int(e.mask.sum())) for e in ticket.entries),
        )

    @property
    def float32(self) -> int:
        """Bytes with every weight as float32."""
        return 4 * self.weights + self.others

    @property
    def int8(self) -> int:
        """Bytes with every weight as int8 and a float32 scale per kernel."""
        return self.weights + _GAIN * self.kernels + self.others

    @property
    def bound(self) -> int:
        """Bytes that masks by their entropy, a sign per kept weight and a gain per kernel take."""
        return math.ceil((self.mask_bits + self.kept) / 8) + _GAIN * self.kernels + self.others

    @property
    def bound_of_seed(self) -> int:
        """The same where a seed gives signs and gains."""
        return math.ceil(self.mask_bits / 8) + self.others
