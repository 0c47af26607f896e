"""Twelve checks for masked gradients: does a high robust accuracy come from a blind attacker?

After Carlini et al. 2019 (On evaluating adversarial robustness) and Athalye et al. 2018
(Obfuscated gradients give a false sense of security).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from rst_tf.robustness import gradient_checks, point_checks, strength_checks
from rst_tf.robustness.case import Case
from rst_tf.robustness.checked import Checked, Skipped

Answer = tuple[str, str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Battery:
    """How much is spent on the checks, and from where on they speak. Shares are of the points.

    Args:
        points: Points the checks are made on, evenly spaced over the set; all if there are fewer.
        steps: Lengths of the gradient attack that are compared, ascending.
        factors: Radii of the epsilon curve, in units of epsilon, ascending.
        restarts: Numbers of restarts that are compared, ascending.
        draws: Random images tried per point.
        surface_points: Points whose loss is looked at on a grid.
        grid: Images along a side of that grid, odd.
        stronger: By how much a stronger kind of attack may leave a higher accuracy.
        rise: By how much accuracy may rise with steps or with epsilon.
        converged: By how much it may fall with more steps or more restarts, and what share restarts
            may break that the list of attacks had not.
        black_box: From which share of points on that only an attack without gradients breaks there
            is a warning.
        black_box_error: From which share on it is an error.
        zero: Share of points that may have a gradient of exactly 0.
        slope: Median relative error of directional derivatives.
        targeted: By how much targeted attacks may beat the cross-entropy.
        scale: By how much an attack on multiplied logits may beat one on the logits.
    """

    points: int = 500
    steps: tuple[int, ...] = (20, 50, 100, 200, 1000)
    factors: tuple[float, ...] = (0.25, 0.5, 1, 2, 4, 8)
    restarts: tuple[int, ...] = (1, 5, 10)
    draws: int = 1000
    surface_points: int = 20
    grid: int = 21
    stronger: float = 0.005
    rise: float = 0.002
    converged: float = 0.005
    black_box: float = 0.002
    black_box_error: float = 0.01
    zero: float = 0.01
    slope: float = 0.1
    targeted: float = 0.05
    scale: float = 0.01

    def __post_init__(self):
        for name in ("points", "draws", "surface_points"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; received {getattr(self, name)!r}")
        for name in ("steps", "factors", "restarts"):
            given = getattr(self, name)
            if not given or list(given) != sorted(set(given)) or given[0] <= 0:
                raise ValueError(f"{name} must be above 0 and ascend; received {given!r}")
        if self.grid < 3 or self.grid % 2 == 0:
            raise ValueError(f"grid must be odd and at least 3; received {self.grid!r}")


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: G1 to G12.
        title: What should hold.
        meaning: What it means where it does not.
        function: From (case, battery) to a level (passed, warning, error), a line and numbers.
        single_calls: Is about single calls or small differences: it says nothing of a randomised
            network.
    """

    name: str
    title: str
    meaning: str
    function: Callable[[Case, Battery], Answer]
    single_calls: bool = True


CHECKS = (
    Check(
        "G1",
        "a stronger attack leaves less",
        "An iterated attack that does worse than one step climbs a loss whose gradient misleads.",
        strength_checks.stronger_kinds,
    ),
    Check(
        "G2",
        "more steps leave less, and enough are enough",
        "A rise with steps means misleading gradients; a fall at the end, an attack too short.",
        strength_checks.more_steps,
    ),
    Check(
        "G3",
        "a larger ball leaves less",
        "Whatever is in a ball is in a larger one: a rise is a failure of the attack.",
        strength_checks.larger_balls,
    ),
    Check(
        "G4",
        "an unbounded attack leaves nothing",
        "Where any image is allowed, one of another class is; not to find it is to be blind.",
        strength_checks.unbounded,
        single_calls=False,
    ),
    Check(
        "G5",
        "Square adds nothing",
        "An attack without gradients that beats those with them: the gradients do not lead.",
        point_checks.only_square,
        single_calls=False,
    ),
    Check(
        "G6",
        "another network's images add nothing",
        "Images made against an undefended network show where this one's gradients do not lead.",
        point_checks.transfer,
    ),
    Check(
        "G7",
        "random images add nothing",
        "A point that chance breaks and the attacks do not was not attacked well.",
        point_checks.chance,
    ),
    Check(
        "G8",
        "restarts add little",
        "Where the start decides, the loss is rough, and more restarts would break more.",
        strength_checks.more_restarts,
    ),
    Check(
        "G9",
        "gradients are there, finite and true",
        "Zero, infinite or wrong gradients stop every attack that follows them.",
        gradient_checks.health,
    ),
    Check(
        "G10",
        "neither loss nor scale matters",
        "Large logits make the cross-entropy flat; trust the attacks on differences of logits.",
        strength_checks.loss_and_scale,
    ),
    Check(
        "G11",
        "no grid point beats the attack",
        "A higher loss close by means that the attack stopped short of it.",
        gradient_checks.surface,
    ),
    Check(
        "G12",
        "answers repeat, whatever the batch",
        "Chance or neighbours in the answers make an attacked image pass for a robust one.",
        gradient_checks.repeats,
        single_calls=False,
    ),
)


def run(case: Case, battery: Battery, say: Callable[[str], None] = lambda line: None):
    """All checks in order, as `Checked`.

    Args:
        case: Network and points.
        battery: What to spend.
        say: Takes a line per check as it is done.
    """
    found = []
    for check in CHECKS:
        found.append(_one(check, case, battery))
        say(f"{check.name} {check.title}: {found[-1].level}")
    return tuple(found)


def _one(check: Check, case: Case, battery: Battery) -> Checked:
    try:
        if check.single_calls and case.random:
            raise Skipped("the network is randomised, and single calls are noise")
        if not case.correct.any():
            raise Skipped("no point is classified right without an attack")
        level, text, numbers = check.function(case, battery)
    except Skipped as reason:
        level, text, numbers = "skipped", str(reason), {}
    return Checked(check.name, check.title, level, text, dict(numbers))
