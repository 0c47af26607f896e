"""Claims in a YAML file, to be tried on runs.

The file is a list; an item of it is one claim:

    - claim: A ticket at 51 % is at least as robust as the dense network  # in words
      source: Cosentino 2019, Table 1          # where it is made; optional
      runs: ../runs/mnist_pgd_reset/seed_*     # glob of workdirs, from this file's folder
      round: 3                                 # default: the last that all of them finished
      at: 25021                                # best (default), last, lowest_loss, or a step
      minus: ../runs/mnist_pgd_dense/seed_*    # optional: the value is `runs` minus these
      minus_round: 0                           # default: as `round`
      minus_at: 25021                          # default: as `at`
      split: test                              # test (default) or valid
      metric: robust_accuracy                  # default; or accuracy, step, gap, overfitting
      expect: {at_least: 0}                    # or {at_most: X} or {within: [LOW, HIGH]}

`runs` must be one configuration with different seeds, and so must `minus`; they are paired by seed.
Accuracies are percent, in and out; their differences are points. The metric `step` is the step of
`at`, in updates, so that claims about early stopping can be tried. `gap` is robust accuracy on
training images without augmentation minus that of `split`; `overfitting` is that of the best step
minus that of the last.

The value is the mean over the seeds. Its 95 % interval is Student's t over at least two seeds; with
one seed it is Wilson's by the number of examples, or Newcombe's for a difference, and a step, a gap
or overfitting has none. The verdict is "holds" if the whole interval is within what is expected,
"does not hold" if all of it is outside, "undecided" otherwise, and "no data" where runs, rounds,
steps or robust accuracies are missing; the note says which.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from rst_tf.analysis.estimates import Interval
from rst_tf.analysis.results import read_text
from rst_tf.registry import unknown

METRICS = ("accuracy", "robust_accuracy", "step", "gap", "overfitting")
SPLITS = ("test", "valid")
NAMED_STEPS = ("best", "last", "lowest_loss")


@dataclasses.dataclass(frozen=True)
class Claim:
    """One item of the list; the fields are its keys.

    Args:
        claim: In words.
        runs: Glob of workdirs.
        expect: Lowest and highest value, infinite where there is no bound.
        expected: The same in words.
        source: Where the claim is made.
        metric: One of METRICS.
        split: One of SPLITS.
        round: None for the last common one.
        at: One of NAMED_STEPS, or a step.
        minus: Glob of the workdirs whose value is subtracted, or None.
        minus_round: As `round`.
        minus_at: As `at`.
    """

    claim: str
    runs: str
    expect: Interval
    expected: str
    source: str = ""
    metric: str = "robust_accuracy"
    split: str = "test"
    round: int | None = None
    at: str | int = "best"
    minus: str | None = None
    minus_round: int | None = None
    minus_at: str | int = "best"


def read(path: str | Path) -> tuple[Claim, ...]:
    """The claims of a file.

    Raises:
        ValueError: It is missing or is not what this module's docstring says; names claim and key.
    """
    import yaml

    path = Path(path)
    try:
        items = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        line = (
            f" line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        )
        raise ValueError(f"{path}{line}: not YAML") from error
    if not isinstance(items, list) or not items:
        raise ValueError(f"{path}: expected a list of claims; received {type(items).__name__}")
    return tuple(_claim(item, f"{path}: claim {place}") for place, item in enumerate(items, 1))


def _claim(item: Any, where: str) -> Claim:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: expected a mapping; received {item!r}")
    names = [field.name for field in dataclasses.fields(Claim) if field.name != "expected"]
    for name in item:
        if name not in names:
            raise ValueError(f"{where}: {unknown('key', name, names)}")
    for name in ("claim", "runs", "expect"):
        if name not in item:
            raise ValueError(f"{where}: {name} is missing")
    for name in ("claim", "runs", "source", "minus"):
        if not isinstance(item.get(name, ""), str):
            raise ValueError(f"{where}: {name} must be text; received {item[name]!r}")
    for name, known in (("metric", METRICS), ("split", SPLITS)):
        if name in item and item[name] not in known:
            raise ValueError(f"{where}: {unknown(name, item[name], list(known))}")
    for name in ("round", "minus_round"):
        if not _is_count(item.get(name, 0)):
            raise ValueError(f"{where}: {name} must be a round's number; received {item[name]!r}")
    for name in ("at", "minus_at"):
        if item.get(name, "best") not in NAMED_STEPS and not _is_count(item[name]):
            named = ", ".join(NAMED_STEPS)
            raise ValueError(f"{where}: {name} must be {named} or a step; received {item[name]!r}")
    if "minus" not in item and (unused := sorted({"minus_round", "minus_at"} & set(item))):
        raise ValueError(f"{where}: {unused[0]} has no effect without minus")
    if item.get("metric") == "overfitting" and (unused := {"at", "minus_at"} & set(item)):
        raise ValueError(f"{where}: {min(unused)} has no effect on overfitting")
    bounds, words = _expected(item["expect"], where)
    twin = {f"minus_{name}": item[name] for name in ("round", "at") if name in item}
    return Claim(**{**twin, **item, "expect": bounds, "expected": words})


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _expected(value: Any, where: str) -> tuple[Interval, str]:
    """Bounds, and the bounds in words."""
    error = ValueError(
        f"{where}: expect must be {{at_least: X}}, {{at_most: X}} or {{within: [LOW, HIGH]}}; "
        f"received {value!r}"
    )
    if not isinstance(value, dict) or len(value) != 1:
        raise error
    ((kind, bound),) = value.items()
    bounds = bound if isinstance(bound, list) else [bound]
    wanted = {"at_least": 1, "at_most": 1, "within": 2}.get(kind)
    if wanted != len(bounds) or any(type(each) not in (int, float) for each in bounds):
        raise error
    if kind == "at_least":
        return (float(bound), math.inf), f"at least {bound}"
    if kind == "at_most":
        return (-math.inf, float(bound)), f"at most {bound}"
    if not bounds[0] <= bounds[1]:
        raise error
    return (float(bounds[0]), float(bounds[1])), f"within {bounds[0]} to {bounds[1]}"
