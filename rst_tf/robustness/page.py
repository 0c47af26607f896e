"""A report as one self-contained page: verdict on top, then numbers, pictures, findings, settings.

No reference out of it and no JavaScript; written as XML-clean HTML, everything told escaped.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from rst_tf.analysis import page, style
from rst_tf.analysis.printing import Column
from rst_tf.analysis.settings import flat, scalar
from rst_tf.robustness import pictures, wording
from rst_tf.robustness.battery import CHECKS

STYLE = (
    page.STYLE
    + """
.headline.error { border-color: #a33a00; background: #fdf1ea; }
.headline.warning { border-color: #b07800; background: #fdf7e7; }
td.level { text-align: left; font-weight: 600; }
td.passed { color: #00674b; } td.warning { color: #8a5d00; }
td.error { color: #a33a00; } td.skipped, td.note { color: var(--soft); font-weight: 400; }
table.findings td, table.findings th { text-align: left; white-space: normal; vertical-align: top; }
table.findings td:first-child { white-space: nowrap; }
table.findings .why { color: var(--soft); display: block; }
main.wide { max-width: 96rem; overflow: visible; }
main.wide td.text, main.wide th.text { min-width: 6.5rem; }
"""
)


def html(report) -> str:
    """The whole page."""
    columns = wording.columns(report)
    last = len(columns[0].cells) - 1
    parts = [
        page.section("Under attack", page.table(columns, wording.notes(report), marked=last)),
        _findings(report),
        _checks(report),
        _pictures(report),
        _settings(report),
    ]
    return document(f"Robustness of {report.name}", _head(report), *parts)


def document(title: str, *body: str, kind: str = "") -> str:
    """A page of parts.

    Args:
        title: Text.
        body: HTML.
        kind: wide for tables of many columns.
    """
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1" />\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<main class="{kind}">\n<h1>{escape(title)}</h1>\n'
        f"{''.join(body)}</main>\n</body>\n</html>\n"
    )


def _head(report) -> str:
    said = [wording.architecture(report), report.facts.get("dataset", "")]
    said.append(wording.ball(report.norm, report.epsilon))
    kind = "error" if report.errors else "warning" if report.warnings else ""
    bold = re.sub(r"\d[\d.]* %", r"<b>\g<0></b>", escape(report.verdict))
    below = [wording.weights(report)]
    if len(report) < wording.INDICATIVE:
        below.append(f"Indicative: {len(report):,} images only.")
    if report.errors:
        below.append("An error below says why the robust accuracy is an upper bound only.")
    return (
        f'<p class="soft">{escape(", ".join(filter(None, map(str, said))))}</p>\n'
        f'<div class="headline {kind}">\n<p>{bold}</p>\n'
        f'<p class="soft">{escape(" ".join(filter(None, below)))}</p>\n</div>\n'
    )


def _findings(report) -> str:
    """What was noticed besides the battery, which has a table of its own."""
    rows = [(f.level, f.check, f.text, "") for f in report.outcome.findings]
    return page.section("What the attacks noticed", _levels(rows)) if rows else ""


def _checks(report) -> str:
    if not report.checks:
        return page.section(
            "Checks for masked gradients", page.paragraphs(["They were not made (battery)."])
        )
    meanings = {check.name: check.meaning for check in CHECKS}
    rows = [
        (
            check.level,
            f"{check.check} {check.title}",
            check.text,
            meanings.get(check.check, "") if check.level in ("warning", "error") else "",
        )
        for check in report.checks
    ]
    among = f"On {len(report.points):,} of the images, with random starts of their own."
    return page.section("Checks for masked gradients", page.paragraphs([among]), _levels(rows))


def meanings() -> str:
    """What every check asks for, and what it means where it does not hold; a section."""
    columns = [
        Column("", "check", tuple(check.name for check in CHECKS)),
        Column("", "what should hold", tuple(check.title for check in CHECKS)),
        Column("", "if it does not", tuple(check.meaning for check in CHECKS)),
    ]
    prose = [column.header for column in columns]
    return page.section("What the flags mean", page.table(columns, [], prose=prose))


def _levels(rows: Sequence[tuple[str, str, str, str]]) -> str:
    body = "".join(
        f'<tr><td class="level {level}">{level}</td><td>{escape(what)}</td><td>{escape(text)}'
        + (f'<span class="why">{escape(why)}</span>' if why else "")
        + "</td></tr>\n"
        for level, what, text, why in rows
    )
    return (
        '<div class="wide">\n<table class="findings">\n<thead><tr><th>level</th><th>what</th>'
        f"<th>found</th></tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>\n"
    )


def _pictures(report) -> str:
    every = [
        (pictures.epsilon_curve, "epsilon_curve", _CURVE),
        (pictures.minimum_norms, "minimum_norms", _norms_caption(report)),
        (pictures.loss_surface, "loss_surface", _SURFACE),
    ]
    shown = []
    for draw, name, caption in every:
        picture = style.rendered(lambda draw=draw: draw(report))
        if picture is not None:
            shown.append(page.figure(picture[1], caption, name, len(shown) + 1))
    return page.section("Pictures", *shown) if shown else ""


_CURVE = (
    "Accuracy under APGD on cross-entropy in balls of growing size. It should fall steadily and "
    "reach zero; a plateau above zero or a rise means that the attack is led astray. The diamond "
    "is the whole list at the epsilon of this report."
)
_SURFACE = (
    "The loss around some images, along the gradient's direction (right) and a random one. White: "
    "the edge of the ball. Gradients lead where the loss rises smoothly to the right; a flat or "
    "speckled picture is a sign of masking."
)


def _norms_caption(report) -> str:
    norms = report.minimum_norms
    if norms is None:
        return ""
    beyond = int((norms > report.epsilon).sum())
    unknown = int(np.isinf(norms).sum())
    none = f"; of {unknown:,} of them none was found, and they are not shown" if unknown else ""
    return (
        f"The perturbation that FAB needed for each of {len(norms):,} images, whatever epsilon; "
        f"dashed: the median, {report.median_norm:.4g}. Images that are wrong without an attack "
        f"count as 0, and {beyond:,} lie beyond epsilon{none}."
    )


def _settings(report) -> str:
    attacks = dict(zip(report.outcome.attacks, report.outcome.described, strict=True))
    run = {
        "version": report.version,
        "seed": report.seed,
        "seconds": round(report.seconds, 1),
        "largest perturbation": float(f"{report.outcome.largest:.6g}"),
    }
    tables: list[tuple[str, Mapping]] = [
        ("Run", run),
        ("Attacks", attacks),
        ("Network", report.model),
        ("Images", report.data),
        ("Told by the caller", report.facts),
        ("Numbers of the checks", {check.check: dict(check.numbers) for check in report.checks}),
        ("Versions and devices", report.machine),
    ]
    return page.section("How it was made", *(_table(*one) for one in tables if one[1]))


def _table(name: str, values: Mapping) -> str:
    rows = "".join(
        f"<tr><th><code>{escape(str(path))}</code></th><td>{escape(scalar(value))}</td></tr>\n"
        for path, value in flat(values)
    )
    return (
        f"<details>\n<summary>{escape(name)}</summary>\n"
        f'<table class="settings">\n<tbody>\n{rows}</tbody>\n</table>\n</details>\n'
    )
