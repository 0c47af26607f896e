"""From what a source holds to training, validation and test splits."""

from dataclasses import dataclass

import numpy as np

from rst_tf.data.sampling import stratified
from rst_tf.data.splits import Split, Splits

TEST_FRACTION = 0.1
VALIDATION = 0.1


@dataclass(frozen=True, eq=False)
class Parts:
    """What a source holds, `None` for a part that it lacks, and what was left out of it."""

    train: Split
    valid: Split | None
    test: Split | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def divide(
    parts: Parts,
    *,
    validation: float = VALIDATION,
    validation_from: str = "stratified",
    split_seed: int = 0,
    train_limit: int | None = None,
) -> Splits:
    """Takes the parts that a source lacks from its training part; see `Data` for the arguments."""
    train, valid, test, notes = parts.train, parts.valid, parts.test, parts.notes
    whole = len(train)
    if test is None:
        count = max(1, round(TEST_FRACTION * whole))
        train, test = _take(train, stratified(train.labels, count, split_seed, "data/test"))
        drawn = f"no test part in the source: {count} of its {whole} examples were drawn for it"
        notes = (*notes, drawn)
    if valid is not None:
        if validation != VALIDATION or validation_from != "stratified":
            raise ValueError(
                "the source has a validation part of its own, so validation and validation_from "
                f"have no effect; received {validation} and {validation_from!r}"
            )
    else:
        count = _validation_count(validation, whole, len(train))
        rows = _validation_rows(train.labels, count, validation_from, split_seed)
        train, valid = _take(train, rows)
    if train_limit is not None:
        if train_limit > len(train):
            raise ValueError(
                f"train_limit must be at most {len(train)}; received train_limit={train_limit}"
            )
        train = train.limited(train_limit, split_seed)
    _every_class_is_trained(train, parts)
    return Splits(train, valid, test, parts.class_names, notes + _unseen(parts))


def _take(split: Split, rows: np.ndarray) -> tuple[Split, Split]:
    """What is left of a split, and the rows taken out of it."""
    left = np.ones(len(split), bool)
    left[rows] = False
    return split.select(np.flatnonzero(left)), split.select(rows)


def _validation_count(validation: float, whole: int, available: int) -> int:
    count = round(validation * whole) if 0 < validation < 1 else validation
    if count != int(count) or not 0 < count < available:
        raise ValueError(
            f"validation must be in (0, 1) or a count below {available}, and leave both parts "
            f"an example; received validation={validation}"
        )
    return int(count)


def _validation_rows(labels: np.ndarray, count: int, origin: str, seed: int) -> np.ndarray:
    if origin == "stratified":
        return stratified(labels, count, seed, "data/validation")
    rows = np.arange(len(labels))
    return rows[:count] if origin == "first" else rows[-count:]


def _unseen(parts: Parts) -> tuple[str, ...]:
    """A note on classes that the source speaks of and has no training example of."""
    lost = np.setdiff1d(np.arange(len(parts.class_names)), parts.train.labels)
    names = ", ".join(repr(parts.class_names[label]) for label in lost[:3])
    more = ", ..." if len(lost) > 3 else ""
    return (f"no training example of class {names}{more}",) if lost.size else ()


def _every_class_is_trained(train: Split, parts: Parts) -> None:
    """The first and last rows of a source sorted by class are whole classes."""
    lost = np.setdiff1d(parts.train.labels, train.labels)
    if lost.size:
        raise ValueError(
            f"class {parts.class_names[lost[0]]!r} has no training example left "
            f"({len(train)} of {len(parts.train)} examples are left): change validation_from, "
            "validation or train_limit"
        )
