"""Reading topology.jsonl: what each update of a dynamic mask did, a JSON object a line."""

import dataclasses
import json
from pathlib import Path

from rst_tf.analysis.results import read_text


@dataclasses.dataclass(frozen=True)
class Update:
    """One update of the masks.

    Args:
        step: Optimiser steps done within the round.
        prune_more: Whether more was pruned than was grown again.
        grow_more: Whether more was grown than had been pruned.
        density_before: Fraction of the masked weights kept, in (0, 1].
        density_after: The same after it.
        round: Train-prune cycle.
    """

    step: int
    prune_more: bool
    grow_more: bool
    density_before: float
    density_after: float
    round: int = 0


def read(workdir: Path) -> tuple[Update, ...]:
    """The updates of a run, in the file's order; none where it has no such file.

    Raises:
        ValueError: The file is damaged; names the line.
    """
    path = Path(workdir) / "topology.jsonl"
    if not path.exists():
        return ()
    names = [field.name for field in dataclasses.fields(Update)]
    found = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            record = json.loads(line)
            found.append(Update(**{name: record[name] for name in names if name in record}))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} line {number}: not an update ({error})") from error
    return tuple(found)
