"""`report`: one call from a model and images to what attacks leave of it, checked and written."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rst_tf.attacks.attack import Norm, check_examples
from rst_tf.attacks.attacked import load
from rst_tf.attacks.autoattack import AutoAttack, Version, integer_labels
from rst_tf.attacks.fgsm import FGSM
from rst_tf.attacks.outcome import Outcome
from rst_tf.registry import to_dict
from rst_tf.robustness import battery as batteries
from rst_tf.robustness import curves
from rst_tf.robustness import facts as known
from rst_tf.robustness.battery import Battery
from rst_tf.robustness.case import Case
from rst_tf.robustness.record import RobustnessReport, Surface
from rst_tf.robustness.strength_checks import pgd_20

__all__ = ["Battery", "RobustnessReport", "report"]


def report(
    model,
    x,
    y,
    epsilon: float,
    norm: Norm = "linf",
    *,
    version: Version = "standard",
    attacks: tuple = (),
    battery: bool | Battery = True,
    alone: bool = False,
    twin=None,
    seed: int = 0,
    more_seeds: Sequence[int] = (),
    batch_size: int = 250,
    index=None,
    name: str | None = None,
    dataset: str | None = None,
    subset: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    state: str | Path | None = None,
    progress: bool | Callable[[str], None] = True,
) -> RobustnessReport:
    """Attacks a model with AutoAttack and looks whether the number can be trusted.

    ```python
    made = rst.report(model, x, y, epsilon=8 / 255, dataset="cifar10")
    print(made)
    made.save("report.json")
    made.save_html("report.html")
    ```

    Args:
        model: Keras model, loaded SavedModel, callable from images to logits, or the path of a
            `.keras` file or a SavedModel's folder.
        x: Images [n, ...] in [0, 1].
        y: Integer labels [n], or one-hot [n, classes].
        epsilon: Radius of the ball around the image, in [0, 1] units.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        version: AutoAttack's list: standard, plus, rand (for randomised models) or custom.
        attacks: The list of a custom version, names or `Attack` objects.
        battery: Look for signs of masked gradients, draw the epsilon curve, and find minimum
            norms, on 500 points at most; or a `Battery` that says how much of it.
        alone: Also try every attack of the list on all images, on its own.
        twin: Undefended model of the same classes, for the check of transferred attacks.
        seed: Keys everything random.
        more_seeds: Run the list with these seeds too, to tell how much chance is in the number;
            the number remains that of `seed`.
        batch_size: Images at a time.
        index: Identities of the examples, distinct integers [n]; 0..n-1 if not given.
        name: What tables call the model; its own name if not given.
        dataset: What the images are of.
        subset: How they were chosen among all, as plain values: {"rule": "first", "of": 10000}.
        facts: What else a table should tell: architecture, training, training_seeds, mask_rule,
            authors, link, venue, additional_data, reported; plain values.
        state: File from which an interrupted attack goes on.
        progress: True shows it on stderr; or what takes its lines.

    Raises:
        ValueError: Images outside [0, 1], wrong labels, a model that gives no finite logits, an
            epsilon or a list that is none.
    """
    started = time.monotonic()
    auto = AutoAttack(epsilon, norm, version, tuple(attacks))
    x, labels = np.asarray(x, np.float32), y
    y = integer_labels(labels)
    check_examples(x, y)
    run = {"batch_size": batch_size, "index": index, "images": False}
    say, first = _speaker(progress), x[: max(batch_size, 1)]
    model = load(model) if isinstance(model, str | Path) else model
    attacker = auto.against(model, first)
    outcome = auto.run(attacker, x, labels, seed=seed, state=state, progress=progress, **run)
    spread = {}
    for other in dict.fromkeys(more_seeds):
        found = auto.run(attacker, x, labels, seed=other, progress=False, **run)
        spread[str(other)] = found.robust_accuracy
        say(f"seed {other}: {100 * found.robust_accuracy:.2f} %")

    case = Case(
        attacker.logits,
        x,
        y,
        epsilon,
        norm,
        broken_by=outcome.broken_by,
        attacks=outcome.attacks,
        index=index,
        seed=seed,
        batch_size=batch_size,
        twin=None if twin is None else auto.against(twin, first).logits,
        random=version == "rand",
    )
    singles = {} if case.random else _baselines(case)
    if alone:
        singles |= _each_alone(auto, case, seed, say)
    if not battery:
        looks = {"checks": (), "points": np.arange(0), "curve": None}
        looks |= {"minimum_norms": None, "surface": None}
    else:
        looks = _looked(case, Battery() if battery is True else battery, say)
    return RobustnessReport(
        name=name or str(getattr(model, "name", None) or type(model).__name__),
        norm=norm,
        epsilon=float(epsilon),
        version=version,
        seed=seed,
        outcome=outcome,
        more_seeds=spread,
        alone=singles,
        **looks,
        model=known.of_model(model),
        data=known.of_points(x, y) | ({"subset": dict(subset)} if subset else {}),
        machine=known.of_machine(),
        facts={**({"dataset": dataset} if dataset else {}), **(facts or {})},
        deviations=_deviations(auto, outcome),
        seconds=time.monotonic() - started,
        configurations=tuple(map(_configuration, attacker.attacks)),
    )


def _configuration(attack) -> dict[str, Any]:
    """Every setting of an attack; a model that it is made on by its name."""
    return {
        key: value if _is_plain(value) else str(getattr(value, "name", type(value).__name__))
        for key, value in to_dict(attack).items()
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, str | int | float)


def _baselines(case: Case) -> dict[str, np.ndarray]:
    """What older papers tell: FGSM and PGD-20, on all points."""
    attacks = {"fgsm": FGSM(case.epsilon, case.norm), "pgd-20": pgd_20(case.epsilon, case.norm)}
    return {name: case.withstands(attack) for name, attack in attacks.items()}


def _each_alone(auto: AutoAttack, case: Case, seed: int, say) -> dict[str, np.ndarray]:
    """Every attack of the list on all points, with the random numbers it has in the list."""
    from rst_tf import random

    found = {}
    for number, (title, attack) in enumerate(zip(auto.titles(), auto.listed(), strict=True)):
        key = int(random.fold(seed, number).numpy())
        found[title] = case.withstands(attack, seed=key)
        say(f"{title} alone: {100 * found[title].mean():.1f} %")
    return found


def _looked(case: Case, battery: Battery, say) -> dict[str, Any]:
    """Checks, epsilon curve, minimum norms and loss surface on some of the points."""
    count = min(battery.points, len(case))
    points = np.unique(np.linspace(0, len(case) - 1, count).round().astype(int))
    some = case.at(points)
    checks = batteries.run(some, battery, say)
    if case.random or not some.correct.any():
        return {
            "checks": checks,
            "points": points,
            "curve": None,
            "minimum_norms": None,
            "surface": None,
        }
    norms = curves.minimum_norms(some)
    say(f"median minimum norm: {np.median(norms):.4g}")
    surface = some.once(curves.loss_surface, battery.surface_points, battery.grid)
    return {
        "checks": checks,
        "points": points,
        "curve": curves.epsilon_curve(some, battery.factors),
        "minimum_norms": norms,
        "surface": Surface(surface.offsets, surface.losses),
    }


def _deviations(auto: AutoAttack, outcome: Outcome) -> tuple[str, ...]:
    """How this departs from standard AutoAttack."""
    said = []
    if auto.version != "standard":
        said.append(f"the list is {auto.version}: {', '.join(outcome.described)}")
    said += [f.text for f in outcome.findings if f.check == "classes"]
    return tuple(said)


def _speaker(progress) -> Callable[[str], None]:
    if progress is True:
        return lambda line: print(line, file=sys.stderr)
    return progress or (lambda line: None)
