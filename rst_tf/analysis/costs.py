"""`costs.json`: what each round of a run cost, in multiply-adds; written and read here.

Counted by `rst_tf.multiply_adds` from the network at work, not estimated as in
`rst_tf.analysis.operations`. The unit of a training is the published tables': a pass forward and
back counts as three forward, in attacks too, so PGD of k steps costs 3 (k + 1) forward passes an
example (Chen et al. 2022). Evaluations are not counted, nor is what scores first masks.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rst_tf.analysis.results import read_text

FILE = "costs.json"


@dataclasses.dataclass(frozen=True)
class Cost:
    """Multiply-adds of one round.

    Args:
        round: The round; a search before a training is a round of its own.
        steps: Batches that it was trained on: fewer than planned where it was ended early.
        examples: Images in them, an image counting every time it comes.
        forward_passes: Of an example each time, passes forward alone.
        attack_passes: Passes forward and back for an attack.
        training_passes: Passes forward and back that the weights are trained by.
        training: Of the whole round, with the weights kept at each step; gradients of pruned
            weights, which a search and a regrowth need, in full.
        training_dense: The same with all weights.
        inference_last: Of one image through the network of the last step, pruned weights skipped.
        inference_best: Likewise of the ticket chosen on validation; None before there is one.
        inference_dense: With all weights.
        earlier: `training` of the rounds before it; None where one of them does not tell.
    """

    round: int
    steps: int
    examples: int
    forward_passes: int
    attack_passes: int
    training_passes: int
    training: int
    training_dense: int
    inference_last: int
    inference_best: int | None
    inference_dense: int
    earlier: int | None = dataclasses.field(default=0, kw_only=True)

    @property
    def spent(self) -> int | None:
        """Of this round and all before it, searches too; None where that is not known."""
        return None if self.earlier is None else self.earlier + self.training

    @property
    def spent_fraction(self) -> float | None:
        """`spent` over a dense training of this round alone; above 1 after many rounds."""
        return _fraction(self.spent, self.training_dense)

    @property
    def training_fraction(self) -> float | None:
        """`training` over `training_dense`; None before the first step."""
        return _fraction(self.training, self.training_dense)

    @property
    def last_fraction(self) -> float | None:
        """`inference_last` over `inference_dense`."""
        return _fraction(self.inference_last, self.inference_dense)

    @property
    def best_fraction(self) -> float | None:
        """`inference_best` over `inference_dense`; None before there is a best ticket."""
        return _fraction(self.inference_best, self.inference_dense)


_STORED = tuple(f.name for f in dataclasses.fields(Cost) if f.name != "earlier")


def read(workdir: str | Path) -> dict[int, Cost] | None:
    """What the rounds of a run cost, by round; None if the run does not tell.

    Raises:
        ValueError: costs.json is damaged.
    """
    file = Path(workdir) / FILE
    if not file.exists():
        return None
    try:
        content = json.loads(read_text(file))
        rounds = [_cost(each) for each in content["rounds"]]
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    found: dict[int, Cost] = {}
    for cost in sorted(rounds, key=lambda cost: cost.round):
        known = len(found) == cost.round  # a run that began without costs.json lacks rounds
        spent = sum(each.training for each in found.values())
        found[cost.round] = dataclasses.replace(cost, earlier=spent if known else None)
    return found


def text(costs: Mapping[int, Cost]) -> str:
    """The content of costs.json."""
    rounds = [{name: getattr(costs[n], name) for name in _STORED} for n in sorted(costs)]
    return json.dumps({"unit": "multiply-adds", "rounds": rounds}, indent=2) + "\n"


def _cost(values: Mapping[str, Any]) -> Cost:
    if set(values) != set(_STORED):
        raise ValueError(f"a round must have {', '.join(_STORED)}; received {', '.join(values)}")
    for name, value in values.items():
        missing = value is None and name == "inference_best"
        if not missing and (type(value) is not int or value < 0):
            raise ValueError(f"{name} must be a count; received {value!r}")
    return Cost(**values)


def _fraction(part: int | None, whole: int) -> float | None:
    return None if part is None or not whole else part / whole
