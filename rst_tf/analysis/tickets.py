"""What a run's tickets hold that is worth a picture: masks of the first layer, and weights."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rst_tf.analysis.runs import Run
from rst_tf.ticket import Ticket


@dataclasses.dataclass(frozen=True, eq=False)
class FirstLayer:
    """The mask of the layer nearest to the input, in one round.

    Args:
        round: Train-prune cycle.
        density: Of the whole network, fraction of weights kept.
        name: The layer's name, for people.
        mask: Bool array of the kernel's shape, `(inputs, units)` or `(height, width, in, out)`;
            True is kept.
        image: (height, width, channels) if the layer reads flattened images, else None.
    """

    round: int
    density: float
    name: str
    mask: np.ndarray
    image: tuple[int, int, int] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """The weights that survive in one round, layer by layer.

    Args:
        round: Train-prune cycle.
        density: Of the whole network, fraction of weights kept.
        names: The layers' names, for people.
        start: Values before the round's training, one float array per layer; None where the run
            does not store them.
        end: Values after it.
    """

    round: int
    density: float
    names: tuple[str, ...]
    start: tuple[np.ndarray, ...] | None
    end: tuple[np.ndarray, ...]


def first_layers(run: Run) -> tuple[FirstLayer, ...]:
    """The first layer's mask of every round that has a ticket file.

    Raises:
        ValueError: A ticket file is damaged; names it.
    """
    found = []
    for round in run.rounds():
        if _path(run, round).is_file():
            ticket = Ticket.load(_path(run, round))
            entry = ticket.entries[0]
            mask = np.broadcast_to(entry.mask, entry.shape)
            found.append(
                FirstLayer(round, ticket.density, entry.name, mask, _image(run, entry.shape))
            )
    return tuple(found)


def weights(run: Run, rounds: Sequence[int]) -> tuple[Weights, ...]:
    """The surviving weights before and after the training of some rounds.

    Before is what the round was rewound to: the initial weights, those of the rewind step, or the
    end of the round before. Weights that a round drew anew are in no ticket.

    Args:
        run: A round without a ticket file, or whose ticket holds no weights, is left out.
        rounds: To look at.

    Raises:
        ValueError: A ticket file is damaged; names it.
    """
    found = []
    for round in rounds:
        ticket = _with_weights(_path(run, round))
        if ticket is not None:
            before = _with_weights(_start(run, round))
            names = tuple(entry.name.removesuffix("/kernel") for entry in ticket.entries)
            start = before and _surviving(before, ticket)
            found.append(Weights(round, ticket.density, names, start, _surviving(ticket, ticket)))
    return tuple(found)


def _surviving(values: Ticket, masks: Ticket) -> tuple[np.ndarray, ...]:
    return tuple(
        value.kernel[np.broadcast_to(mask.mask, mask.shape)]
        for value, mask in zip(values.entries, masks.entries, strict=True)
    )


def _with_weights(path: Path | None) -> Ticket | None:
    if path is None or not path.is_file():
        return None
    ticket = Ticket.load(path)
    return None if any(entry.kernel is None for entry in ticket.entries) else ticket


def _path(run: Run, name: int | str) -> Path:
    name = name if isinstance(name, str) else f"round_{name:02d}"
    return run.workdir / "tickets" / f"{name}.npz"


def _start(run: Run, round: int) -> Path | None:
    """The ticket with the weights that a round's training starts from."""
    experiment = run.config["experiment"]
    rewind, step = experiment.get("rewind"), experiment.get("rewind_step", 0)
    if round == 0 or (rewind == "reset" and step in (0, "0")):
        return _path(run, "initial")
    if rewind == "reset" and step is not None:
        return _path(run, 0 if step == "end" else "rewind")
    return _path(run, round - 1) if rewind == "continued" else None


def _image(run: Run, kernel: tuple[int, ...]) -> tuple[int, ...] | None:
    """The images' shape, if a kernel of this shape reads them flattened."""
    shape = tuple(run.config.get("dataset", {}).get("shape", ()))
    flat = len(kernel) == 2 and len(shape) == 3 and math.prod(shape) == kernel[0]
    return shape if flat else None
