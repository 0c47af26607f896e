"""`mask_overlap(a, b)`: how far two networks keep the same weights."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from rst_tf.ticket import Entry, Ticket


@dataclasses.dataclass(frozen=True)
class KernelOverlap:
    """Two masks of one kernel.

    Args:
        name: Layer and kernel in the first network, for people.
        weights: Number of weights.
        differing: Weights that one of the masks keeps and the other does not.
        intersection_over_union: Kept by both over kept by either, in [0, 1]; 1 if neither keeps
            any.
    """

    name: str
    weights: int
    differing: int
    intersection_over_union: float

    @property
    def distance(self) -> float:
        """Normalised Hamming distance, in [0, 1]: the fraction of weights that differ."""
        return self.differing / self.weights


@dataclasses.dataclass(frozen=True)
class MaskOverlap:
    """Two networks' masks, kernel by kernel; print it for a table.

    Args:
        kernels: One per masked kernel, in traversal order.
        intersection_over_union: Of all masks together, as `Ticket.overlap`.
    """

    kernels: tuple[KernelOverlap, ...]
    intersection_over_union: float

    @property
    def distance(self) -> float:
        """Normalised Hamming distance of all masks together, in [0, 1], as of an early bird."""
        return sum(k.differing for k in self.kernels) / sum(k.weights for k in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, distances with them, as JSON takes them."""
        return {
            "kernels": [{**dataclasses.asdict(k), "distance": k.distance} for k in self.kernels],
            "intersection_over_union": self.intersection_over_union,
            "distance": self.distance,
        }

    def __str__(self) -> str:
        width = max(len("total"), *(len(kernel.name) for kernel in self.kernels))
        line = f"{{:<{width}}}{{:>25}}{{:>10}}".format
        lines = [line("kernel", "intersection over union", "distance")]
        for name, own in [*((kernel.name, kernel) for kernel in self.kernels), ("total", self)]:
            lines.append(line(name, f"{own.intersection_over_union:.4f}", f"{own.distance:.4f}"))
        return "\n".join(lines)


def mask_overlap(a, b) -> MaskOverlap:
    """How far two networks of one architecture keep the same weights; symmetric.

    Args:
        a: A `Ticket`, a Keras model with masked layers, or the path of a ticket's file.
        b: The same.

    Raises:
        ValueError: Kernels or masks have other shapes, a model has no masks, or a file is no
            ticket's.
    """
    first, second = _ticket(a), _ticket(b)
    together = first.overlap(second) if first.kept or second.kept else 1.0
    pairs = zip(first.entries, second.entries, strict=True)
    return MaskOverlap(tuple(_compared(x, y) for x, y in pairs), together)


def _compared(a: Entry, b: Entry) -> KernelOverlap:
    some = a.mask.any() or b.mask.any()
    shared = Ticket((a,)).overlap(Ticket((b,))) if some else 1.0
    return KernelOverlap(a.name, math.prod(a.shape), int((a.mask ^ b.mask).sum()) * a.group, shared)


def _ticket(source) -> Ticket:
    if isinstance(source, Ticket):
        return source
    if isinstance(source, str | Path):
        return Ticket.load(source)
    return Ticket.of(source, weights="none")
