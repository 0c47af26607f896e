"""A comparison as text, tables, a picture and a section of the page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rst_tf.analysis import page, panels, printing, style
from rst_tf.analysis.comparison import UPDATES, Comparison, Pair, Side
from rst_tf.analysis.figures import wrapped
from rst_tf.analysis.formats import percentages
from rst_tf.analysis.report import write_files
from rst_tf.analysis.style import pen

SMALL, LARGE = 15, 100  # areas of the markers of the fewest and the most updates


def write(comparison: Comparison, out: str | Path) -> str:
    """Writes compare.csv, compare.md, compare.png and compare.svg, and prints the short of it.

    Args:
        comparison: What came out.
        out: Folder.

    Returns:
        The section for the page.
    """
    png, svg = style.rendered(lambda: density_and_cost(comparison))
    said, notes = sentences(comparison), _notes(comparison)
    text = "\n".join(f"{line}\n" for line in said)
    files: dict[str, str | bytes] = {
        "compare.csv": printing.comma_separated(records(comparison)),
        "compare.md": f"{text}\n{printing.markdown(columns(comparison), notes)}",
        "compare.png": png,
        "compare.svg": svg,
    }
    write_files(out, files)
    print("\n".join([*said, "", *(f"compare  {Path(out, name)}" for name in files), ""]))
    return page.section(
        "Comparison",
        page.paragraphs(said),
        page.table(columns(comparison), notes),
        page.figure(svg, _caption(comparison), "compare"),
    )


def sentences(comparison: Comparison) -> list[str]:
    """What was compared, and what came out, in a few sentences."""
    one, other = comparison.first, comparison.second
    density = percentages([one.density, other.density])
    said = [
        f"{side.label}: round {side.round}, {share} % of the weights, step {side.step:,} "
        f"({side.weight_updates:,} updates of its weights, {side.updates:,} with all rounds)"
        for side, share in zip((one, other), density, strict=True)
    ]
    return [
        f"First, {said[0]}. Second, {said[1]}.",
        *map(lambda name: _came_out(comparison, name), comparison.measures),
    ]


def _came_out(comparison: Comparison, name: str) -> str:
    pairs, interval = comparison.of(name), comparison.interval(name)
    first, second = np.mean([[pair.first, pair.second] for pair in pairs], axis=0)
    difference = np.mean([pair.difference for pair in pairs])
    said = (
        f"{_title(name)}: {100 * first:.2f} % against {100 * second:.2f} %, a difference of "
        f"{100 * difference:+.2f} points"
    )
    if interval is not None:
        over = "" if len(pairs) == 1 else f", t over {len(pairs)} seeds"
        said += f" (95 % interval {_signed(interval)}{over})"
    tests = [_test(pair, len(pairs) > 1) for pair in pairs if pair.p_value is not None]
    if tests:
        said += (
            f". Examples about which only the first is right, only the second: {'; '.join(tests)}"
        )
    return f"{said}."


def _test(pair: Pair, several: bool) -> str:
    seed = f" (seed {pair.seeds[0]})" if several else ""
    return (
        f"{pair.only_first:,} and {pair.only_second:,}, McNemar's exact p {_p(pair.p_value)}{seed}"
    )


def records(comparison: Comparison) -> list[dict[str, object]]:
    """The unrounded numbers: a record per measure and seed, then per measure over the seeds."""
    found = []
    for name in comparison.measures:
        pairs = comparison.of(name)
        for pair in pairs:
            seeds = dict.fromkeys(map(str, pair.seeds))
            found.append(
                {
                    **_head(comparison, name, " and ".join(seeds)),
                    "examples": "" if pair.examples is None else pair.examples,
                    "first": pair.first,
                    "second": pair.second,
                    **_difference(pair.difference, pair.interval),
                    "only_first": "" if pair.only_first is None else pair.only_first,
                    "only_second": "" if pair.only_second is None else pair.only_second,
                    "p_value": "" if pair.p_value is None else pair.p_value,
                }
            )
        if len(pairs) > 1:
            difference = float(np.mean([pair.difference for pair in pairs]))
            found.append(
                {
                    **_head(comparison, name, "mean"),
                    "first": float(np.mean([pair.first for pair in pairs])),
                    "second": float(np.mean([pair.second for pair in pairs])),
                    **_difference(difference, comparison.interval(name)),
                }
            )
    return found


def _head(comparison: Comparison, name: str, seed: str) -> dict[str, object]:
    made: dict[str, object] = {"measure": name, "seed": seed}
    for key, side in (("first", comparison.first), ("second", comparison.second)):
        made |= {
            f"{key}_label": side.label,
            f"{key}_round": side.round,
            f"{key}_step": side.step,
            f"{key}_density": side.density,
            f"{key}_weight_updates": side.weight_updates,
            f"{key}_updates": side.updates,
        }
    return made


def _difference(value: float, interval: tuple[float, float] | None) -> dict[str, object]:
    low, high = ("", "") if interval is None else interval
    return {"difference": value, "low": low, "high": high}


def columns(comparison: Comparison) -> tuple[printing.Column, ...]:
    """The printed columns: percent and points."""
    rows = []
    for record in records(comparison):
        bounds = [record["low"], record["high"]]
        tested = record.get("p_value", "") != ""
        rows.append(
            (
                record["measure"].replace("_", " "),
                record["seed"],
                f"{100 * record['first']:.2f}",
                f"{100 * record['second']:.2f}",
                f"{100 * record['difference']:+.2f}",
                "" if "" in bounds else _signed(bounds),
                str(record["only_first"]) if tested else "",
                str(record["only_second"]) if tested else "",
                _p(record["p_value"]).removeprefix("= ") if tested else "",
            )
        )
    heads = ["measure", "seed", "first", "second", "difference", "95 % interval"]
    heads += ["only first", "only second", "p"]
    made = zip(heads, zip(*rows, strict=True), strict=True)
    return tuple(printing.Column("", head, cells) for head, cells in made if any(cells))


def _notes(comparison: Comparison) -> list[str]:
    said = [
        "Percent of the test split, differences in points, first minus second; both sides on the "
        f"same examples, under the same attack, after equally many {UPDATES[comparison.equal]}."
    ]
    if any(pair.p_value is not None for pair in comparison.pairs):
        said.append(
            "Only first, only second: examples about which only that network is right; p is that "
            "of McNemar's exact two-sided test; the interval of one seed is Agresti and Min's."
        )
    if len(comparison.of(comparison.measures[0])) > 1:
        said.append("Interval of the mean: Student's t over the seeds.")
    return [*said, *comparison.remarks]


def density_and_cost(comparison: Comparison) -> Figure:
    """Robust accuracy (or accuracy) of every round over density, and over updates spent.

    Each round is drawn at the compared step, or at its last where it has no such step; the compared
    ones are ringed. Markers grow with the updates spent; thin lines are whole rounds.
    """
    name = comparison.measures[-1]
    figure, (left, right) = panels.side_by_side([f"{_title(name)}, test (%)"] * 2, height=3.1)
    sides = (comparison.first, comparison.second)
    points = [_points(side, name) for side in sides]
    most = max(updates for each in points for _, updates, _, _ in each) or 1
    late: list[float] = []
    for index, (side, each) in enumerate(zip(sides, points, strict=True)):
        look = pen(index)
        for density, updates, value, compared in each:
            edge = "black" if compared else look.colour
            area = SMALL + (LARGE - SMALL) * updates / most
            put = {
                "marker": look.marker,
                "color": look.colour,
                "edgecolors": edge,
                "alpha": 0.85,
                "clip_on": False,
            }
            left.scatter(100 * density, value, s=area, linewidths=1.4, zorder=3, **put)
            right.scatter(updates, value, s=26, linewidths=1.4, zorder=3, **put)
        drawn = [(100 * density, value) for density, _, value, _ in each]
        left.plot(*zip(*drawn, strict=True), color=look.colour, linestyle=look.dash, linewidth=1)
        late += _whole_rounds(right, side, name, look.colour)
        late += [value for _, _, value, _ in each]
    panels.density_axis(left, [density for each in points for density, _, _, _ in each])
    right.set_xlabel("updates spent, earlier rounds included")
    right.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axes in (left, right):
        panels.limit(axes, late)
    handles = [
        Line2D([], [], color=p.colour, linestyle=p.dash, marker=p.marker, markersize=5)
        for p in (pen(0), pen(1))
    ]
    labels = [wrapped(side.label, 40) for side in sides]
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def _points(side: Side, name: str) -> list[tuple[float, int, float, bool]]:
    """Density, updates spent, percent right and whether it is compared, of every round."""
    found = []
    for round in sorted(set.intersection(*(set(run.rounds()) for run in side.runs))):
        steps = [{row.step for row in run.curve(round, "test")} for run in side.runs]
        common = set.intersection(*steps)
        step = side.step if side.step in common else max(common)
        rows = [run.at(round, step).test for run in side.runs]
        value = 100 * float(np.mean([getattr(row, name) for row in rows]))
        density = float(np.mean([row.density for row in rows]))
        found.append((density, side.runs[0].updates(round, step), value, round == side.round))
    return found


def _whole_rounds(axes: Axes, side: Side, name: str, colour: str) -> list[float]:
    """The course of every round as a thin line; gives what is late in each."""
    late: list[float] = []
    for round in sorted(set.intersection(*(set(run.rounds()) for run in side.runs))):
        curves = [{r.step: getattr(r, name) for r in run.curve(round, "test")} for run in side.runs]
        steps = sorted(set.intersection(*map(set, curves)))
        values = [100 * float(np.mean([curve[step] for curve in curves])) for step in steps]
        spent = [side.runs[0].updates(round, step) for step in steps]
        axes.plot(spent, values, color=colour, linewidth=0.7, alpha=0.5, zorder=1.5)
        late += panels.late_part(steps, values)
    return late


def _caption(comparison: Comparison) -> str:
    what = _title(comparison.measures[-1])
    several = ", mean over the seeds" if len(comparison.of(comparison.measures[0])) > 1 else ""
    return (
        f"{what} on the test split{several}, over density and over the optimiser updates spent, "
        "those of earlier rounds included; a marker per round, at the compared step or, in a round "
        "without it, the last. Black edges: the compared networks. Left, markers grow with the "
        "updates spent; right, thin lines are the course of each round."
    )


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _signed(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}"


def _p(value: float) -> str:
    return f"= {value:.2g}" if value >= 1e-4 else "< 0.0001"
