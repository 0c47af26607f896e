"""`Ticket`: masks and what is needed to rebuild the network, as a value and as a file.

Entries are keyed by traversal position and shape; names are for people, since Keras' automatic
names differ between two builds in one process.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rst_tf import masks, ticket_file
from rst_tf.initializers import Seed


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One kernel of a ticket.

    Args:
        name: For people.
        shape: Kernel shape.
        mask: Bool array of the group's shape (broadcasts to `shape`); True is kept.
        kernel: Float32 array of `shape`, or None where the ticket stores no weights.

    Raises:
        ValueError: An array has another shape.
    """

    name: str
    shape: tuple[int, ...]
    mask: np.ndarray
    kernel: np.ndarray | None = None

    def __post_init__(self):
        kernel = self.shape if self.kernel is None else self.kernel.shape
        fits = len(self.mask.shape) == len(self.shape)
        fits &= all(m in (1, n) for m, n in zip(self.mask.shape, self.shape, strict=False))
        if not fits or tuple(kernel) != tuple(self.shape):
            raise ValueError(
                f"entry {self.name!r} of shape {self.shape} cannot have a mask of shape "
                f"{self.mask.shape} and a kernel of shape {kernel}"
            )

    def __repr__(self) -> str:
        """Name, shape and how much is kept."""
        return f"Entry({self.name}, {self.shape}, kept {int(self.mask.sum())} of {self.mask.size})"

    @property
    def group(self) -> int:
        """Weights per mask entry."""
        return int(np.prod(self.shape)) // self.mask.size


@dataclasses.dataclass(frozen=True, eq=False)
class Ticket:
    """Masks of a network, with its weights or a seed to draw them again, or neither.

    Args:
        entries: One per masked kernel, in traversal order.
        leftovers: Values of every other variable (biases, normalisation, dense layers), in order.
        network: How to build the network: `{"builder": ..., ...}`, Keras JSON, or None. What a
            search was asked for is under "search"; its "kept" has the masks' sizes.
        seed: What the kernels are drawn from where none are stored, or None.

    Raises:
        ValueError: A mask keeps another number than its search was asked for.
    """

    entries: tuple[Entry, ...]
    leftovers: tuple[np.ndarray, ...] = ()
    network: Mapping[str, Any] | None = None
    seed: Seed | None = None

    def __post_init__(self):
        asked = (self.network or {}).get("search", {}).get("kept")
        found = [int(entry.mask.sum()) for entry in self.entries]
        if asked is not None and asked != found:
            raise ValueError(
                f"the masks keep {found}, and the search was asked for {asked}: {self._search_text}"
            )

    @property
    def _search_text(self) -> str:
        search = self.network["search"].items()
        return ", ".join(f"{name}={value}" for name, value in search if name != "kept")

    @classmethod
    def of(
        cls,
        network,
        *,
        weights: Literal["stored", "none"] | Seed = "stored",
        description: Mapping[str, Any] | None = None,
    ) -> "Ticket":
        """The masks of a network as they are now.

        Args:
            network: Keras model with masked layers.
            weights: `stored` holds the kernels; a `Seed` holds the seed they were drawn from, if
                they still are what it gives (as after a search); `none` holds masks only.
                All but `none` hold every other variable (biases, normalisation) too.
            description: How to build the network, as `models.build` takes it; `describe(model)`
                gives one for any functional model.

        Raises:
            ValueError: The network has no masks, or its kernels are not the seed's.
            RuntimeError: A mask is not what its scores ask for.
        """
        from rst_tf.traversal import masked_kernels

        entries = []
        for masked in masked_kernels(network):
            masked.check()
            kernel = masked.kernel.numpy() if weights == "stored" else None
            mask = np.asarray(masked.mask.numpy() > 0)
            entries.append(Entry(masked.name, masked.shape, mask, kernel))
        leftovers = [] if weights == "none" else [v.numpy() for v in leftovers_of(network)]
        seed = weights if isinstance(weights, Seed) else None
        if seed is not None:
            seed = seed.of(network)
        return cls(tuple(entries), tuple(leftovers), description, seed)

    def __repr__(self) -> str:
        """One line: density, kept weights, layers."""
        total = sum(int(np.prod(e.shape)) for e in self.entries)
        layers = f"{len(self.entries)} kernels"
        return f"Ticket(density={self.density:.4g}, kept {self.kept:,} of {total:,}, {layers})"

    @property
    def density(self) -> float:
        """Kept weights over all masked weights."""
        return self.kept / sum(int(np.prod(e.shape)) for e in self.entries)

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        return sum(self.kept_by_layer().values())

    def kept_by_layer(self) -> dict[str, int]:
        """Number of kept weights of each kernel, by `position:name`."""
        return {f"{i}:{e.name}": int(e.mask.sum()) * e.group for i, e in enumerate(self.entries)}

    @property
    def mask_hash(self) -> str:
        """SHA-256 over the masks."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(repr(entry.mask.shape).encode() + np.packbits(entry.mask).tobytes())
        return digest.hexdigest()

    def prune(
        self,
        density: float | None = None,
        *,
        rate: float | Sequence[float] | None = None,
        criterion: str = "magnitude",
        allocation: str = "layerwise",
        count: masks.Count = "nearest",
        seed: int = 0,
    ) -> "Ticket":
        """A ticket that keeps fewer weights; what was pruned stays pruned.

        Args:
            density: Fraction of all weights kept afterwards, in (0, 1]; or give
            rate: the fraction of the *surviving* weights removed, in [0, 1): one number, or one
                per layer for `allocation="layerwise"`.
            criterion: Registered name: magnitude, random.
            allocation: Registered name: layerwise, global, global_floor.
            count: How a fraction becomes a number of weights.
            seed: For criteria that draw.

        Raises:
            ValueError: Neither or both of density and rate, out of range, the ticket holds no
                weights to rank, more is to be kept than survives, or a layer would be emptied.
        """
        fractions, bases = self._targets(density, rate)
        rank = masks.CRITERIA[criterion]
        importances = []
        for position, entry in enumerate(self.entries):
            if entry.kernel is None:
                raise ValueError(f"criterion={criterion!r} needs weights; this ticket holds none")
            importance = rank(entry.kernel, seed=seed, layer=position)
            importances.append(masks.grouped(importance, entry.mask.shape))
        alive = [entry.mask for entry in self.entries]
        allocate = masks.ALLOCATIONS[allocation]
        kept = allocate(importances, alive, bases, fractions, count)
        for entry, number in zip(self.entries, kept, strict=True):
            survivors = int(entry.mask.sum())
            if not 0 < number <= survivors:
                raise ValueError(
                    f"pruning would leave {number} of {survivors} kept entries in layer "
                    f"{entry.name!r}; choose another density, rate or allocation"
                )
        chosen = [masks.select(*item) for item in zip(importances, kept, alive, strict=True)]
        return dataclasses.replace(
            self,
            entries=tuple(
                dataclasses.replace(e, mask=m) for e, m in zip(self.entries, chosen, strict=True)
            ),
            network=self.network and {k: v for k, v in self.network.items() if k != "search"},
        )

    def _targets(self, density, rate) -> tuple[list[float], list[int]]:
        if (density is None) == (rate is None):
            raise ValueError(
                f"give either density or rate; received density={density!r}, rate={rate!r}"
            )
        n = len(self.entries)
        if density is not None:
            masks.check_density(density)
            return [density] * n, [e.mask.size for e in self.entries]
        rates = [rate] * n if isinstance(rate, int | float) else list(rate)
        if len(rates) != n:
            raise ValueError(f"rate needs one number or {n} (one per layer); received {rate!r}")
        for r in rates:
            if not 0 <= r < 1:
                raise ValueError(f"rate must be in [0, 1); received rate={rate!r}")
        return [1 - r for r in rates], [int(e.mask.sum()) for e in self.entries]

    def apply(self, network, *, masks: bool = True, weights: bool = False) -> None:
        """Sets the masks of a network, its weights, or both.

        Args:
            network: Keras model with the masked kernels of this ticket.
            masks: Set the masks; they may not come from scores. With `False`, the granularity
                of the network is its own.
            weights: Set the kernels and every other variable.

        Raises:
            ValueError: The network's masked kernels or other variables differ (the message names
                the first), its masks come from scores, or the ticket holds no weights, or a seed
                that does not give them. The network is then as it was.
        """
        from rst_tf.traversal import finalize_statistics, masked_kernels

        kernels = masked_kernels(network)
        key = key_of if masks else shape_key
        check_same([key(m.name, m) for m in kernels], [key(e.name, e) for e in self.entries])
        for masked in kernels if masks else ():
            if masked.scores is not None:
                raise ValueError(
                    f"layer {masked.name!r} takes its mask from scores; build the network with "
                    "search=False to fix a ticket's masks"
                )
        values = self._weights(network, kernels) if weights else []
        for variable, value in values:
            variable.assign(value)
        for masked, entry in zip(kernels, self.entries, strict=True):
            if masks:
                masked.mask.assign(entry.mask.astype(np.float32))
        if weights:
            finalize_statistics(network)

    def _weights(self, network, kernels) -> list[tuple]:
        """(variable, value) of every weight and leftover, or ValueError."""
        others = leftovers_of(network)
        check_same(
            [(v.path, tuple(v.shape), ()) for v in others],
            [("a variable", value.shape, ()) for value in self.leftovers],
        )
        stored = [entry.kernel for entry in self.entries]
        if any(kernel is None for kernel in stored):
            if self.seed is None:
                raise ValueError("weights=True: this ticket holds masks only")
            drawn = self.seed.kernels(network)
            stored = [d if k is None else k for k, d in zip(stored, drawn, strict=True)]
        variables = [*(m.kernel for m in kernels), *others]
        return list(zip(variables, [*stored, *self.leftovers], strict=True))

    def build(self):
        """The network of this ticket, rebuilt with its weights and masks.

        Raises:
            ValueError: The ticket does not say how to build it, or holds no weights.
        """
        from rst_tf import models

        if self.network is None:
            raise ValueError(
                "this ticket does not describe its network; build it yourself and use apply()"
            )
        network = models.build(self.network)
        self.apply(network, weights=True)
        return network

    def overlap(self, other: "Ticket") -> float:
        """Kept by both over kept by either (Jaccard), in [0, 1]."""
        check_same(
            [key_of(e.name, e) for e in self.entries],
            [key_of(e.name, e) for e in other.entries],
            ("the first ticket", "the second"),
        )
        pairs = zip(self.entries, other.entries, strict=True)
        both = either = 0
        for a, b in pairs:
            both += int((a.mask & b.mask).sum()) * a.group
            either += int((a.mask | b.mask).sum()) * a.group
        return both / either

    def save(self, path: str | Path) -> None:
        """Writes the ticket to a file, whole or not at all."""
        ticket_file.save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> "Ticket":
        """Reads a ticket file; ValueError if it is not one or is damaged."""
        return ticket_file.load(path)


def leftovers_of(network) -> list:
    """Every variable of a network that is neither a masked kernel nor its mask nor scores."""
    from rst_tf.traversal import masked_kernels

    own = {id(v) for m in masked_kernels(network) for v in (m.kernel, m.mask, m.scores)}
    return [v for v in network.variables if id(v) not in own]


def key_of(name: str, item) -> tuple:
    """Name, kernel shape and mask shape of an entry or a masked kernel, for `check_same`."""
    return name, tuple(item.shape), tuple(item.mask.shape)


def shape_key(name: str, item) -> tuple:
    """As `key_of`, whatever the shape of the mask."""
    return name, tuple(item.shape), ()


def check_same(
    found: list[tuple],
    wanted: list[tuple],
    sides: tuple[str, str] = ("the network", "the ticket"),
) -> None:
    """Raises ValueError at the first position where a network's keys differ from a ticket's."""
    ours, theirs = sides
    if len(found) != len(wanted):
        raise ValueError(
            f"{ours} has {len(found)} kernels or variables where {theirs} has {len(wanted)}"
        )
    for i, ((name, *have), (other, *want)) in enumerate(zip(found, wanted, strict=True)):
        if have != want:
            raise ValueError(
                f"position {i} differs: {ours} has {name} of shape {have[0]} (mask {have[1]}),"
                f" {theirs} {other} of shape {want[0]} (mask {want[1]})"
            )
