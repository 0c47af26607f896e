"""Checks G1 to G4, G8 and G10: an attack that is given more must leave less."""

from collections.abc import Sequence

import numpy as np

from rst_tf.attacks.fgsm import FGSM
from rst_tf.attacks.pgd import PGD
from rst_tf.robustness.case import Case
from rst_tf.robustness.checked import above, percent
from rst_tf.robustness.curves import epsilon_curve

SCALES = (0.1, 10.0)


def pgd_20(epsilon: float, norm: str) -> PGD:
    """PGD of 20 steps of a quarter of epsilon (Madry et al. 2018)."""
    return PGD(epsilon, norm, steps=20, step_size=epsilon / 4)


def stronger_kinds(case: Case, battery):
    """G1: one step, twenty, and APGD."""
    attacks = {
        "FGSM": FGSM(case.epsilon, case.norm),
        "PGD-20": pgd_20(case.epsilon, case.norm),
        "APGD-CE": case.apgd(),
    }
    left = {name: case.share(case.withstands(attack)) for name, attack in attacks.items()}
    rise = _largest_rise(list(left.values()))
    level = "warning" if above(rise, battery.stronger, len(case)) else "passed"
    return level, _chain(left), {"accuracy": left, "rise": rise}


def more_steps(case: Case, battery):
    """G2: the same attack with more and more steps."""
    left = {
        f"{steps:,}": case.share(case.withstands(case.apgd(steps=steps))) for steps in battery.steps
    }
    values = list(left.values())
    rise = _largest_rise(values)
    usual = values[battery.steps.index(100)] if 100 in battery.steps else values[0]
    fall = usual - values[-1]
    said = _chain(left, " steps")
    numbers = {"accuracy": left, "rise": rise, "fall": fall}
    if above(rise, battery.rise, len(case)):
        return "warning", f"{said}: accuracy rises with steps", numbers
    if above(fall, battery.converged, len(case)):
        return "warning", f"{said}: not converged, quote the last", numbers
    return "passed", said, numbers


def larger_balls(case: Case, battery):
    """G3: the same attack in larger and larger balls."""
    radii, accuracy = epsilon_curve(case, battery.factors)
    rise = _largest_rise(accuracy)
    text = f"{percent(accuracy[0])} without an attack, {percent(accuracy[-1])} in the largest ball"
    numbers = {"epsilon": radii, "accuracy": accuracy, "rise": rise}
    if above(rise, battery.rise, len(case)):
        return "warning", f"{text}; in between it rises by {percent(rise)}", numbers
    return "passed", text, numbers


def unbounded(case: Case, battery):
    """G4: in a ball that holds every image nothing stays, in half of it one class at most."""
    del battery
    difference = "dlr" if case.classes > 2 else "margin"
    everything, half = (
        case.share(
            case.withstands(case.apgd(epsilon=radius))
            & case.withstands(case.apgd(difference, epsilon=radius))
        )
        for radius in (case.whole, case.whole / 2)
    )
    largest = float(np.bincount(case.y).max() / len(case))
    numbers = {"unbounded": everything, "half": half, "largest_class": largest}
    text = (
        f"{percent(everything)} are left where every image is allowed, {percent(half)} in half of "
        f"that ball (largest class {percent(largest)})"
    )
    stays = above(everything, 0, len(case)) if case.random else everything > 0
    if stays or half > largest:
        return "error", f"{text}: gradient masking likely", numbers
    return "passed", text, numbers


def more_restarts(case: Case, battery):
    """G8: the same attack from more and more random starts: does it matter, to it or to the list?

    A fall says that the attack depends on its start, whatever the list made of these points; what
    withstood the whole list and falls now, that the list's number is too high.
    """
    held, left = case.withstands(case.apgd()), {}
    for restart in range(max(battery.restarts)):
        if restart:
            seed = case.seed + 1_000_003 * restart
            held = case.withstands(case.apgd(), seed=seed, among=held)
        if restart + 1 in battery.restarts:
            left[str(restart + 1)] = case.share(held)
    values, missed = list(left.values()), case.share(case.robust & ~held)
    fall = values[0] - values[-1]
    said = []
    if above(fall, battery.converged, len(case)):
        said.append(f"{percent(fall)} fewer are left with more starts")
    if above(missed, battery.converged, len(case)):
        said.append(f"{percent(missed)} broken that withstood the whole list, which left too many")
    numbers = {"accuracy": left, "fall": fall, "missed": missed}
    chain = _chain(left, " starts")
    if said:
        return "warning", "; ".join([chain, *said]), numbers
    return "passed", f"{chain}; {percent(missed)} broken that the list had not", numbers


def loss_and_scale(case: Case, battery):
    """G10: cross-entropy against targeted differences, and against itself on scaled logits.

    Logits made small weaken the attack on any network; only what scaling adds is a sign.
    """
    entropy = case.withstands(case.apgd())
    plain = case.share(entropy)
    scaled = {f"{s:g}": case.share(case.withstands(case.apgd(), scale=s)) for s in SCALES}
    gain = max(plain - min(scaled.values()), 0.0)
    numbers = {"apgd_ce": plain, "scaled": scaled, "gain": gain}
    text = f"scaled logits let APGD on cross-entropy break {percent(gain)} more"
    gap = 0.0
    if case.classes > 3:
        targeted = case.apgd("dlr", targets=min(9, case.classes - 1))
        gap = plain - case.share(case.withstands(targeted, among=entropy))
        numbers["gap"] = gap
        text += f", targets {percent(gap)} more"
    if above(gap, battery.targeted, len(case)) or above(gain, battery.scale, len(case)):
        return "warning", f"{text}: trust the attacks on differences of logits", numbers
    return "passed", text, numbers


def _largest_rise(values: Sequence[float]) -> float:
    """By how much a later value is above an earlier one, at least 0."""
    lowest = np.minimum.accumulate(values)
    return float(max(0.0, np.max(np.asarray(values) - lowest)))


def _chain(left: dict[str, float], of: str = "") -> str:
    """The numbers that attacks leave: `left after 20, 100 steps: 75.0 %, 74.1 %`."""
    return f"left after {', '.join(left)}{of}: {', '.join(map(percent, left.values()))}"
