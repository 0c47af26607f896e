"""Attacks by name, as lists of them are written: `apgd-ce`, `apgd-t`, `pgd:steps=20`."""

import dataclasses
import typing

from rst_tf.attacks.attack import ATTACKS, Attack
from rst_tf.registry import unknown

_FAMOUS = {
    "apgd-ce": "apgd:loss=ce",
    "apgd-dlr": "apgd:loss=dlr",
    "apgd-t": "apgd:loss=dlr:targets=9",
    "fab-t": "fab:targets=9",
    "pgd-20": "pgd:steps=20:step_size=epsilon/4",
}
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": (
        "apgd-ce:restarts=5",
        "apgd-dlr:restarts=5",
        "fab:restarts=5",
        "square",
        "apgd-t",
        "fab-t",
    ),
    "rand": ("apgd-ce:eot=20", "apgd-dlr:eot=20"),
}
"""AutoAttack's lists (Croce and Hein 2020, and the reference code's `rand`)."""


def named(text: str, epsilon: float, norm: str = "linf") -> Attack:
    """The attack that a text describes.

    Args:
        text: A registered attack, or apgd-ce, apgd-dlr, apgd-t, fab-t, pgd-20 (steps of
            epsilon / 4, as Madry et al. 2018 at 8/255), and what it shall set:
            `pgd:steps=100:restarts=5`. `epsilon/4` is a number too.
        epsilon: Of the attack.
        norm: Of the attack.

    Raises:
        ValueError: No such attack or setting, or a value that does not fit.
    """
    name, *settings = text.split(":")
    whole = ":".join([_FAMOUS.get(name, name), *settings])
    name, *settings = whole.split(":")
    if name not in ATTACKS:
        raise ValueError(unknown("attack", name, [*ATTACKS, *_FAMOUS]))
    cls = ATTACKS[name]
    kinds = typing.get_type_hints(cls)
    values = {"epsilon": epsilon, "norm": norm}
    for setting in settings:
        field, equals, value = setting.partition("=")
        if not equals or field not in kinds or field in ("epsilon", "norm"):
            fields = [f.name for f in dataclasses.fields(cls)]
            raise ValueError(f"in attack {text!r}: " + unknown("setting", field, fields[2:]))
        values[field] = _value(text, field, value, kinds[field], epsilon)
    return cls(**values)


def name_of(attack: Attack) -> str:
    """What tables call an attack: its famous name if it has one, else the registered one."""
    name = ATTACKS.name_of(type(attack))
    if name == "apgd":
        return "apgd-t" if attack.targets else f"apgd-{attack.loss}"
    if name == "fab":
        return "fab-t" if attack.targets else "fab"
    return f"pgd-{attack.steps}" if name == "pgd" else name


def _value(text, field, value, kind, epsilon):
    kinds = typing.get_args(kind) or (kind,)
    if typing.get_origin(kind) is typing.Literal:
        if value in kinds:
            return value
        raise ValueError(f"in attack {text!r}: {field} must be one of {kinds}; received {value!r}")
    if bool in kinds and value in ("true", "false"):
        return value == "true"
    for number in (int, float):
        if number in kinds:
            try:
                return _number(value, number, epsilon)
            except ValueError:
                continue
    literal = [v for k in kinds for v in typing.get_args(k)]
    if str in kinds or Attack in kinds or value in literal:
        return value
    raise ValueError(f"in attack {text!r}: {field} cannot be {value!r}")


def _number(value: str, number: type, epsilon: float):
    above, slash, below = value.partition("/")
    if not slash:
        return number(value)
    if number is int:
        raise ValueError(value)
    return (epsilon if above == "epsilon" else float(above)) / float(below)
