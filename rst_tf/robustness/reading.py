"""The file of a report, read strictly: what does not fit together is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rst_tf.attacks.outcome import Finding, Outcome
from rst_tf.robustness import record
from rst_tf.robustness.checked import LEVELS, Checked

_OBJECTS = ("threat", "summary", "alone", "more_seeds", "model", "data", "machine", "facts")
_LISTS = ("attacks", "correct", "broken_by", "labels", "checks", "findings", "points", "deviations")
_NAMES = {"schema_version", "name", "version", "seed", "largest", "curve", "fab_norm", "surface"}
_LATER = {"margins"}
"""Names that files of older versions lack."""
NAMES = _NAMES | _LATER | {"seconds", *_OBJECTS, *_LISTS}
_CLOSE = 1e-9


class _Wrong(Exception):
    """What is wrong with a file, without its name."""


def of_file(path: str | Path) -> "record.RobustnessReport":
    """Reads a report.

    Raises:
        ValueError: The file is not a report of this version, or its parts do not fit together.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    try:
        return of_dict(found)
    except _Wrong as error:
        raise ValueError(f"{path}: {error}") from error


def of_dict(found: Any) -> "record.RobustnessReport":
    """A report of what `to_dict` gave; raises `_Wrong`, whose text says what is amiss."""
    _names(found)
    count = len(found["broken_by"])
    number = len(found["attacks"])
    outcome = Outcome(
        attacks=tuple(_texts(found["attacks"], "attacks", "name")),
        described=tuple(_texts(found["attacks"], "attacks", "settings")),
        broken_by=_whole(found, "broken_by", count, -2, number - 1),
        labels=_whole(found, "labels", count, -1, None),
        images=None,
        seconds=tuple(float(_number(a.get("seconds"), "seconds")) for a in found["attacks"]),
        passes=tuple(
            tuple(int(_number(a.get(f"{k}_passes"), k)) for k in ("forward", "gradient"))
            for a in found["attacks"]
        ),
        findings=tuple(
            _checked(lambda f=f: Finding(**f), "findings", f, ("error", "warning", "note"))
            for f in found["findings"]
        ),
        largest=float(_number(found["largest"], "largest")),
        margins=_with_nulls(found.get("margins"), "margins", count, np.nan),
    )
    points = _whole(found, "points", None, 0, count - 1)
    made = record.RobustnessReport(
        name=_text(found["name"], "name"),
        norm=_one_of(found["threat"].get("norm"), "threat.norm", ("linf", "l2")),
        epsilon=_positive(found["threat"].get("epsilon"), "threat.epsilon"),
        version=_text(found["version"], "version"),
        seed=int(_number(found["seed"], "seed")),
        outcome=outcome,
        more_seeds={
            seed: float(_number(share, f"more_seeds.{seed}"))
            for seed, share in found["more_seeds"].items()
        },
        alone={k: _flags(v, f"alone.{k}", count) for k, v in found["alone"].items()},
        checks=tuple(
            _checked(lambda c=c: Checked(**c), "checks", c, LEVELS) for c in found["checks"]
        ),
        points=points,
        curve=_curve(found["curve"]),
        minimum_norms=_with_nulls(found["fab_norm"], "fab_norm", len(points), np.inf),
        surface=_surface(found["surface"]),
        model=found["model"],
        data=found["data"],
        machine=found["machine"],
        facts=found["facts"],
        deviations=tuple(found["deviations"]),
        seconds=float(_number(found["seconds"], "seconds")),
        configurations=_configurations(found["attacks"]),
    )
    _agrees(found, made)
    return made


def _names(found: Any) -> None:
    _expect(isinstance(found, dict), "a robustness report", type(found).__name__)
    version = found.get("schema_version")
    if version != record.SCHEMA:
        raise _Wrong(f"schema_version: expected {record.SCHEMA}; received {version!r}")
    missing, beyond = sorted(NAMES - _LATER - set(found)), sorted(set(found) - NAMES)
    _expect(not missing, f"{missing[0] if missing else ''!r}", "nothing under this name")
    if beyond:
        raise _Wrong(f"unknown name {beyond[0]!r}")
    for name, kind in [*((n, dict) for n in _OBJECTS), *((n, list) for n in _LISTS)]:
        word = "an object" if kind is dict else "a list"
        _expect(isinstance(found[name], kind), word, type(found[name]).__name__, name)
    _expect(bool(found["broken_by"]), "an example at least", "none", "broken_by")
    for entry in found["attacks"]:
        _expect(isinstance(entry, dict), "objects", repr(entry), "attacks")


def _agrees(found: dict, made) -> None:
    """What is said twice is the same."""
    clean = _flags(found["correct"], "correct", len(made))
    _expect(
        (clean == made.outcome.correct).all(), "what broken_by says", "something else", "correct"
    )
    for name in ("accuracy", "robust_accuracy"):
        told, known = _number(found["summary"].get(name), f"summary.{name}"), getattr(made, name)
        _expect(abs(told - known) < _CLOSE, f"{known!r}, as of broken_by", repr(told), name)
    told = found["data"].get("count")
    _expect(told == len(made), f"{len(made)}, as of broken_by", repr(told), "data.count")


def _expect(holds: bool, wanted: str, received: str, name: str = "") -> None:
    if not holds:
        raise _Wrong(f"{name + ': ' if name else ''}expected {wanted}; received {received}")


def _number(value: Any, name: str) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    _expect(good, "a number", repr(value), name)
    return value


def _positive(value: Any, name: str) -> float:
    _expect(_number(value, name) > 0, "a number above 0", repr(value), name)
    return float(value)


def _text(value: Any, name: str) -> str:
    _expect(isinstance(value, str), "text", repr(value), name)
    return value


def _texts(entries: list[dict], name: str, key: str) -> list[str]:
    return [_text(entry.get(key), f"{name}.{key}") for entry in entries]


def _configurations(attacks: list[dict]) -> tuple[dict, ...]:
    """Of all attacks, or of none as in files of older versions."""
    told = [entry["configuration"] for entry in attacks if "configuration" in entry]
    good = len(told) in (0, len(attacks)) and all(isinstance(t, dict) and t for t in told)
    _expect(good, "objects, of all attacks or of none", "others", "attacks.configuration")
    return tuple(told)


def _one_of(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    _expect(value in allowed, f"one of {allowed}", repr(value), name)
    return value


def _whole(found: dict, name: str, count: int | None, low: int, high: int | None) -> np.ndarray:
    values = found[name]
    good = all(isinstance(v, int) and v >= low and (high is None or v <= high) for v in values)
    limits = f"whole numbers from {low}" + ("" if high is None else f" to {high}")
    _expect(good, limits, "others", name)
    _expect(count in (None, len(values)), f"{count} of them", str(len(values)), name)
    return np.asarray(values, int)


def _flags(values: Any, name: str, count: int) -> np.ndarray:
    good = isinstance(values, list) and len(values) == count and set(values) <= {0, 1}
    _expect(good, f"{count} times 0 or 1", "something else", name)
    return np.asarray(values, bool)


def _checked(make: Callable, name: str, given: Any, levels: tuple[str, ...]):
    try:
        made = make()
    except TypeError:
        raise _Wrong(f"{name}: expected the parts of one; received {given!r}") from None
    _one_of(made.level, f"{name}.level", levels)
    return made


def _curve(given: Any) -> tuple[list[float], list[float]] | None:
    if given is None:
        return None
    radii, accuracy = _numbers(given, "curve", ("epsilon", "accuracy"))
    _expect(radii.shape == accuracy.shape and radii.ndim == 1, "two equal lists", "others", "curve")
    return radii.tolist(), accuracy.tolist()


def _with_nulls(given: Any, name: str, count: int, null: float) -> np.ndarray | None:
    if given is None:
        return None
    _expect(isinstance(given, list) and len(given) == count, f"{count} numbers", "others", name)
    return np.asarray([null if v is None else _number(v, name) for v in given], float)


def _surface(given: Any) -> "record.Surface | None":
    if given is None:
        return None
    offsets, losses = _numbers(given, "surface", ("offsets", "losses"))
    grid = (len(offsets), len(offsets))
    _expect(losses.shape[1:] == grid, f"grids of {grid}", str(losses.shape[1:]), "surface.losses")
    return record.Surface(offsets, losses)


def _numbers(given: Any, name: str, keys: tuple[str, ...]) -> list[np.ndarray]:
    good = isinstance(given, dict) and set(given) == set(keys)
    _expect(good, f"an object of {keys}", "something else", name)
    try:
        return [np.asarray(given[key], float) for key in keys]
    except (TypeError, ValueError):
        raise _Wrong(f"{name}: expected numbers; received something else") from None
