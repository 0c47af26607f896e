"""Tickets of runs that are finished, by the folder of the run or by the ticket's file."""

import re
from pathlib import Path
from typing import Literal

_TICKET = re.compile(r"round_(\d+)\.npz")


def ticket_file(
    source: str,
    argument: str = "source",
    *,
    round_number: int | None = None,
    which: Literal["best", "last"] = "best",
) -> Path:
    """The ticket file that the settings speak of.

    Args:
        source: Folder of a finished run, or a ticket file.
        argument: Name of that argument, for messages.
        round_number: Round of the run; None takes the last finished one.
        which: Weights of the round: best, those chosen by validation; or last.

    Raises:
        ValueError: There is none; says what there is. Or an argument would be ignored.
    """
    place = Path(source)
    if place.is_file():
        if round_number is not None or which != "best":
            raise ValueError(
                f"round and which have an effect only where {argument} is the folder of a run; "
                f"received {argument}={source!r}, a file"
            )
        return place
    found = [_TICKET.fullmatch(path.name) for path in place.glob("tickets/round_*.npz")]
    rounds = sorted(int(match[1]) for match in found if match)
    if not rounds:
        there = "has no finished round" if place.is_dir() else "does not exist"
        raise ValueError(f"{argument}={source!r} {there}; give the workdir of a finished run")
    number = rounds[-1] if round_number is None else round_number
    if number not in rounds:
        there = ", ".join(map(str, rounds))
        raise ValueError(f"round={number} is not finished in {source!r}; there: {there}")
    end = "_best" if which == "best" else ""
    path = place / "tickets" / f"round_{number:02d}{end}.npz"
    if not path.is_file():
        raise ValueError(f"which={which!r}: there is no {path}; which=last would be found")
    return path
