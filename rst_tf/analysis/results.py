"""Reading results.csv, strictly: a damaged file is an error that names its line.

A report over half a file would look like a report over all of it, so nothing is skipped.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

SPLITS = ("train", "valid", "test", "unaugmented")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of results.csv; the fields are its columns, in order.

    Args:
        round: Train-prune cycle; 0 is the dense network.
        step: Optimiser steps done within the round.
        split: "train", "valid", "test" or "unaugmented" (training images without augmentation).
        density: Fraction of the masked weights that is kept, in (0, 1].
        kept: Number of weights kept.
        attack: The attack of the robust columns, in words, or None if there is none.
        loss: Mean loss, or None if not measured; not finite after a diverged training.
        accuracy: Fraction in [0, 1], or None if not measured (train only).
        robust_loss: Mean loss under the attack, or None if not measured.
        robust_accuracy: Fraction in [0, 1], or None if not measured.
    """

    round: int
    step: int
    split: str
    density: float
    kept: int
    attack: str | None
    loss: float | None
    accuracy: float | None
    robust_loss: float | None
    robust_accuracy: float | None

    @property
    def measure(self) -> float:
        """What networks are chosen by: robust accuracy, or accuracy if there is no attack.

        Every validation and test row has one.
        """
        return self.accuracy if self.robust_accuracy is None else self.robust_accuracy


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def read(path: Path) -> tuple[Row, ...]:
    """The rows of a results.csv, in the file's order.

    Raises:
        ValueError: It is missing, damaged, cut off or contradicts itself; names the line.
    """
    text = read_text(path)
    if not text.endswith("\n"):
        raise _damaged(path, text.count("\n") + 1, "no line end; is the file cut off?")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[int, Row] = {}
    try:
        header = next(reader)
        if tuple(header) != COLUMNS:
            expected = ",".join(COLUMNS)
            raise ValueError(f"expected the header {expected}; received {','.join(header)}")
        for cells in reader:
            rows[reader.line_num] = _row(cells)
    except (csv.Error, ValueError) as error:
        raise _damaged(path, reader.line_num, str(error)) from error
    if not rows:
        raise _damaged(path, 1, "a header and no rows")
    _check(path, rows)
    return tuple(rows.values())


def read_text(path: Path) -> str:
    """The text of a file that must exist.

    Raises:
        ValueError: It does not, or it is not UTF-8; names the line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _damaged(path, line, "not UTF-8 text") from error


def _damaged(path: Path, line: int, why: str) -> ValueError:
    return ValueError(f"{path} line {line}: {why}")


def _row(cells: Sequence[str]) -> Row:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"expected {len(COLUMNS)} cells; received {len(cells)}")
    cell = dict(zip(COLUMNS, cells, strict=True))
    if cell["split"] not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; received {cell['split']!r}")
    row = Row(
        round=_count(cell, "round", 0),
        step=_count(cell, "step", 0),
        split=cell["split"],
        density=_fraction(cell, "density"),
        kept=_count(cell, "kept", 1),
        attack=cell["attack"] or None,
        loss=_number(cell, "loss") if cell["loss"] else None,
        accuracy=_fraction(cell, "accuracy") if cell["accuracy"] else None,
        robust_loss=_number(cell, "robust_loss") if cell["robust_loss"] else None,
        robust_accuracy=_fraction(cell, "robust_accuracy") if cell["robust_accuracy"] else None,
    )
    if row.density == 0.0:
        raise ValueError("density must be in (0, 1]; received 0")
    if row.split != "train" and row.accuracy is None:
        raise ValueError("accuracy must not be empty")
    if row.split != "train" and (row.attack is None) != (row.robust_accuracy is None):
        raise ValueError("attack and robust_accuracy must be both given or both empty")
    return row


def _number(cell: dict[str, str], name: str) -> float:
    try:
        return float(cell[name])
    except ValueError as error:
        raise ValueError(f"{name} must be a number; received {cell[name]!r}") from error


def _fraction(cell: dict[str, str], name: str) -> float:
    value = _number(cell, name)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in [0, 1]; received {cell[name]!r}")
    return value


def _count(cell: dict[str, str], name: str, low: int) -> int:
    text = cell[name]
    if not (text.isascii() and text.isdecimal()) or int(text) < low:
        raise ValueError(f"{name} must be an integer of at least {low}; received {text!r}")
    return int(text)


def _check(path: Path, rows: dict[int, Row]) -> None:
    """Each step of a round once per split, on valid and test alike, under one attack a split.

    Rounds may be trained on attacks of their own, as those of Robust Bird are.
    """
    seen: dict[tuple[int, int, str], int] = {}
    attacks: dict[tuple[str, int | None], tuple[str | None, int]] = {}
    for line, row in rows.items():
        key = (row.round, row.step, row.split)
        if key in seen:
            where = f"round {row.round}, step {row.step}, {row.split}"
            raise _damaged(path, line, f"{where} is already on line {seen[key]}")
        seen[key] = line
        under = (row.split, row.round if row.split == "train" else None)
        attack, first = attacks.setdefault(under, (row.attack, line))
        if row.attack != attack:
            raise _damaged(
                path,
                line,
                f"attack is {row.attack} here and {attack} on line {first} ({row.split})",
            )
    for (round, step, split), line in seen.items():
        for other in ("valid", "test"):
            if (round, step, other) not in seen:
                where = f"round {round}, step {step}"
                raise _damaged(path, line, f"{where} has a {split} row but no {other} row")
            twin = rows[seen[round, step, other]]
            if (twin.density, twin.kept) != (rows[line].density, rows[line].kept):
                raise _damaged(
                    path, line, f"density or kept differs from line {seen[round, step, other]}"
                )
    if (attacks["valid", None][0] is None) != (attacks["test", None][0] is None):
        raise _damaged(path, attacks["test", None][1], "an attack on only one of valid and test")
