"""What is said of a report: its verdict, its table, its notes."""

import math
import textwrap
from collections import Counter

import numpy as np

from rst_tf.analysis import formats, printing
from rst_tf.analysis.estimates import wilson

INDICATIVE = 1000
"""Examples below which a number is called indicative."""
SHOWN = {"fgsm": "FGSM", "fgsm-alone": "FGSM", "square": "Square", "fab": "FAB", "fab-t": "FAB-T"}
LISTS = {"standard": "AutoAttack", "plus": "AutoAttack plus", "rand": "AutoAttack rand"}


def title_of(attack: str) -> str:
    """An attack's name as papers write it."""
    return SHOWN.get(attack, attack.upper() if attack.startswith(("apgd", "pgd")) else attack)


def listed(report) -> str:
    """The list of attacks, by name."""
    attacks = report.outcome.attacks
    if len(attacks) == 1:
        return title_of(attacks[0])
    return LISTS.get(report.version, f"worst of {len(attacks)} attacks")


def radius(epsilon: float) -> str:
    """An epsilon as people write it: 8/255, 0.3."""
    decimal = f"{epsilon:.4g}"
    levels = epsilon * 255
    if float(decimal) != epsilon and math.isclose(levels, round(levels), rel_tol=1e-9):
        return f"{round(levels)}/255"
    return decimal


def ball(norm: str, epsilon: float) -> str:
    """A norm and a radius."""
    return f"{'L-inf' if norm == 'linf' else 'L2'}, epsilon {radius(epsilon)}"


def architecture(report) -> str:
    """Told by the caller, else what the network calls itself."""
    known = report.model.get("architecture", report.model.get("kind", ""))
    return str(report.facts.get("architecture", known))


def digits(report) -> int:
    """Decimals of percentages that so many examples are worth."""
    return 2 if len(report) >= formats.FINE else 1


def span(pair, places: int = 1) -> str:
    """An interval of shares, in percent."""
    return " to ".join(f"{100 * value:.{places}f}" for value in pair)


def flags(report) -> str:
    """Names of errors and warnings, counted; none if there are none."""
    parts = []
    for kind, found in (("error", report.errors), ("warning", report.warnings)):
        if found:
            names = Counter(finding.check for finding in found)
            said = ", ".join(f"{n} x{k}" if k > 1 else n for n, k in names.items())
            parts.append(f"{len(found)} {kind}{'s' if len(found) > 1 else ''} ({said})")
    said = ", ".join(parts) or "none"
    if not report.checks:
        said += "; the checks for masked gradients were not made"
    elif mostly_skipped(report):
        said += f"; {skipped(report)} of {len(report.checks)} checks were skipped"
    return said


def skipped(report) -> int:
    """Number of checks that could not be made."""
    return sum(check.level == "skipped" for check in report.checks)


def mostly_skipped(report) -> bool:
    """Whether so few checks could be made that their silence says little."""
    return 2 * skipped(report) > len(report.checks)


def verdict(report) -> str:
    """One line: clean, robust with its interval, flags."""
    places = digits(report)
    clean = f"clean {100 * report.accuracy:.{places}f} %"
    robust = f"{100 * report.robust_accuracy:.{places}f} %"
    if report.errors:
        said = f"{listed(report)} at most {robust} (upper bound, unreliable)"
    else:
        said = f"{listed(report)} {robust} ({span(report.interval, places)})"
    return f"{clean} | {said} | flags: {flags(report)}"


def columns(report) -> list[printing.Column]:
    """A line per attack: what it leaves alone, and what the list leaves up to it.

    The two are different numbers and stand under different heads; the last line is the result.
    """
    outcome, places, count = report.outcome, digits(report), len(report)
    rows = [("no attack", report.accuracy, None, None, None)]
    rows += [
        (title_of(name), float(flags.mean()), None, None, None)
        for name, flags in report.alone.items()
        if name not in outcome.attacks
    ]
    for i, name in enumerate(outcome.attacks):
        own = report.alone.get(name)
        first = outcome.after(0) if i == 0 else None
        alone = first if own is None else float(own.mean())
        broken = int((outcome.broken_by == i).sum())
        rows.append((title_of(name), alone, outcome.after(i), broken, outcome.seconds[i]))
    broken = int((outcome.broken_by >= 0).sum())
    rows.append(("all, worst case", None, report.robust_accuracy, broken, sum(outcome.seconds)))

    sequence = "in sequence, cumulative"

    def shares(values):
        return tuple("" if v is None else f"{100 * v:.{places}f}" for v in values)

    def spans(values):
        return tuple("" if v is None else span(wilson(v, count), places) for v in values)

    def numbers(values, form):
        return tuple("" if v is None else format(v, form) for v in values)

    names, alone, left, broke, seconds = zip(*rows, strict=True)
    made = [
        ("", "attack", names),
        ("each alone", "accuracy", shares(alone)),
        ("each alone", "95 % interval", spans(alone)),
        (sequence, "broken", numbers(broke, ",")),
        (sequence, "accuracy left", shares(left)),
        (sequence, "95 % interval", spans(left)),
        (
            "in sequence, cumulative",
            "seconds",
            numbers(seconds, ".1f"),
        ),
    ]
    return [printing.Column(*column) for column in made]


def notes(report) -> list[str]:
    """What a reader must know to read the table."""
    count = len(report)
    said = [
        f"Percent, on {count:,} images{_of(report)}; {ball(report.norm, report.epsilon)}, images "
        f"in [0, 1], white box, untargeted; seed {report.seed}."
    ]
    if count < INDICATIVE:
        said.append(f"Indicative only: fewer than {INDICATIVE:,} images.")
    said.append(
        "Alone: the attack on all images. In sequence: on those that withstood the lines above, so "
        "the last line is the share that withstood every attack of the list; nothing is averaged."
    )
    if report.best_known < report.robust_accuracy:
        said.append(
            f"Best known: {100 * report.best_known:.{digits(report)}f}, with the attacks that were "
            "tried alone."
        )
    said.append("95 % intervals: Wilson's, for the finite number of images.")
    if report.more_seeds:
        said.append(_seeds(report))
    forward, back = np.sum(report.outcome.passes, axis=0)
    said.append(f"The list took at most {forward:,} passes forward and {back:,} forward and back.")
    if report.minimum_norms is not None:
        among = "" if len(report.points) == count else f" of {len(report.points):,} images"
        said.append(f"Median minimum norm (FAB){among}: {report.median_norm:.4g}.")
    said += [f"Not standard: {line}." for line in report.deviations]
    return said


def weights(report) -> str:
    """The network's weights in a sentence, "" if they are not known."""
    model = report.model
    if "parameters" not in model:
        return ""
    said = f"{model['nonzero']:,} of {model['parameters']:,} parameters are not 0"
    if "density" in model:
        said += f", {formats.percentages([model['density']])[0]} % of the kernels' weights"
    masked = "; masks are applied in what was attacked" if model.get("masked") else ""
    return f"{said}{masked}."


def text(report) -> str:
    """The whole, for a terminal."""
    head = "\n".join(
        filter(None, [report.name, report.verdict, weights(report), "", _table(report)])
    )
    findings = [
        textwrap.fill(f"{f.level}: {f.check}: {f.text}", printing.WIDTH, subsequent_indent="  ")
        for f in report.findings
    ]
    return "\n".join([head, *([""] if findings else []), *findings])


def _table(report) -> str:
    return printing.text(columns(report), notes(report))


def _of(report) -> str:
    dataset, subset = report.facts.get("dataset"), report.data.get("subset", {})
    said = [str(subset["rule"])] if "rule" in subset else []
    said += [f"of {subset['of']:,}"] if "of" in subset else []
    return (f" of {dataset}" if dataset else "") + (f" ({', '.join(said)})" if said else "")


def _seeds(report) -> str:
    """What other seeds of the same list leave, and the standard deviation over all of them."""
    places = digits(report)
    each = ", ".join(f"{100 * share:.{places}f}" for share in report.more_seeds.values())
    return (
        f"Robust accuracy with other attack seeds ({', '.join(report.more_seeds)}): {each}; "
        f"standard deviation over all {1 + len(report.more_seeds)}: "
        f"{100 * report.seed_spread:.2f} points."
    )
