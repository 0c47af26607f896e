"""The report as one self-contained HTML file: no reference out of it, no JavaScript.

It is written as XML-clean HTML, so that any parser can check it, and everything that comes from a
workdir is escaped.
"""

import base64
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from rst_tf.analysis import captions as said
from rst_tf.analysis import formats, words
from rst_tf.analysis.groups import Group, differences
from rst_tf.analysis.printing import Column
from rst_tf.analysis.settings import flat, folder_name, scalar
from rst_tf.analysis.tables import across, highlight

STYLE = """
:root { --ink: #1f2328; --soft: #59626c; --line: #dfe3e7; --tint: #eef5fa; --blue: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); line-height: 1.55;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 54rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; }
p { margin: 0 0 .75rem; }
.soft, figcaption, .notes { color: var(--soft); font-size: .875rem; }
.headline { border-left: 4px solid var(--blue); background: var(--tint); margin: 1.5rem 0;
  padding: 1rem 1.25rem; }
.headline p { margin: 0; font-size: 1.15rem; line-height: 1.5; }
.headline p.soft { font-size: .875rem; margin-top: .35rem; }
.headline b { white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; vertical-align: bottom; }
th, td { text-align: right; padding: .3rem .5rem; white-space: nowrap; }
thead th { border-bottom: 1px solid var(--ink); }
thead th { white-space: normal; }
thead th.group { border-bottom: 1px solid var(--line); text-align: center; color: var(--soft);
  font-weight: 400; overflow-wrap: anywhere; }
thead th.group:empty { border: 0; }
tbody tr { border-bottom: 1px solid var(--line); }
tbody tr.chosen { background: var(--tint); font-weight: 600; }
.wide tr { background: #fff; }
.wide tr > :first-child { position: sticky; left: 0; background: inherit; }
.notes { margin: .75rem 0 0; padding: 0; list-style: none; }
figure { margin: 1.75rem 0 2.25rem; }
figure img { display: block; width: 100%; min-width: 34rem; height: auto; }
figcaption { margin-top: .5rem; }
figure img.narrow { width: 62%; min-width: 21rem; }
.reading li { margin-bottom: .5rem; }
dl { margin: 0 0 .75rem; }
dt { font-weight: 600; }
dd { margin: 0 0 .5rem; }
td.text, th.text { text-align: left; white-space: normal; min-width: 11rem; }
.holds { color: #00674b; font-weight: 600; }
.fails { color: #a33a00; font-weight: 600; }
.notes + details { margin-top: 1.5rem; }
details { border-top: 1px solid var(--line); padding: .6rem 0; }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; }
details table { margin: .75rem 0; }
table.settings th, table.settings td { text-align: left; white-space: normal;
  overflow-wrap: anywhere; vertical-align: top; font-weight: 400;
  border-bottom: 1px solid var(--line); }
table.settings th { width: 40%; }
code { font-family: ui-monospace, "Liberation Mono", Menlo, monospace; font-size: .85em; }
@media print {
  @page { margin: 18mm; }
  html { font-size: 9pt; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure, tr, li, .headline { break-inside: avoid; }
  .wide { overflow: visible; }
  figure img, figure img.narrow { min-width: 0; }
}
"""


VERDICTS = {"holds": ' class="holds"', "does not hold": ' class="fails"'}


def html(
    groups: Sequence[Group],
    svgs: Mapping[str, bytes],
    captions: Mapping[str, str],
    owned: Mapping[str, list[str]] | None = None,
    sections: Sequence[str] = (),
) -> str:
    """The whole page.

    Args:
        groups: What is reported on.
        svgs: The figures, by name, in the order in which they are shown.
        captions: By name; there may be more than figures.
        owned: Names of figures that stand with one group's own table, by the group's label.
        sections: HTML put before the figures, from `section`.
    """
    owned = owned or {}
    shared, own = words.description(groups)
    title = escape(words.title(groups))
    names = [folder_name(str(run.workdir.resolve())) for g in groups for run in g.runs]
    apart = {name for names in owned.values() for name in names}
    shown = {name: svg for name, svg in svgs.items() if name not in apart}
    figures = "".join(
        figure(svg, captions[name], name, number)
        for number, (name, svg) in enumerate(shown.items(), start=1)
    )
    alone = {
        label: "".join(figure(svgs[name], captions[name], name) for name in names if name in svgs)
        for label, names in owned.items()
    }
    reading = "".join(f"<li>{escape(item)}</li>\n" for item in said.caveats(groups[0].table))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="soft">{escape(", ".join(names))}</p>
{_headline(groups)}
<p>{escape(shared)}</p>
{_own(own) if len(groups) > 1 else ""}
<h2>By density</h2>
{_by_density(groups, alone)}
{"".join(sections)}<h2>Figures</h2>
{figures}<h2>How to read these numbers</h2>
<ul class="reading">
{reading}</ul>
<h2>How it was made</h2>
{_configuration(groups)}
</main>
</body>
</html>
"""


def section(heading: str, *parts: str) -> str:
    """A section of the page.

    Args:
        heading: Text.
        parts: HTML, from `paragraphs`, `table` and `figure`.
    """
    return f"<h2>{escape(heading)}</h2>\n" + "".join(parts)


def paragraphs(texts: Sequence[str]) -> str:
    """A paragraph each."""
    return "".join(f"<p>{escape(text)}</p>\n" for text in texts)


def table(
    columns: Sequence[Column],
    notes: Sequence[str],
    marked: int | None = None,
    prose: Sequence[str] = (),
) -> str:
    """A table with its notes below.

    Args:
        columns: What to show.
        notes: A sentence or more each.
        marked: The row to stand out.
        prose: Headers of columns that hold text rather than numbers.
    """
    groups = "".join(
        f'<th class="group" colspan="{len(list(members))}">{escape(group)}</th>'
        for group, members in groupby(columns, key=lambda column: column.group)
    )
    kinds = [' class="text"' if column.header in prose else "" for column in columns]
    heads = "".join(
        f'<th{kind} scope="col">{_stacked(column.header)}</th>'
        for kind, column in zip(kinds, columns, strict=True)
    )
    body = ""
    for index, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        mark = ' class="chosen"' if index == marked else ""
        row = "".join(
            f"<td{VERDICTS.get(cell, kind)}>{escape(_minus(cell))}</td>"
            for kind, cell in zip(kinds, cells, strict=True)
        )
        body += f"<tr{mark}>{row}</tr>\n"
    above = f"<tr>{groups}</tr>\n" if any(column.group for column in columns) else ""
    below = "".join(f"<li>{escape(note)}</li>\n" for note in notes)
    return (
        f'<div class="wide">\n<table>\n<thead>\n{above}<tr>{heads}</tr>\n</thead>\n'
        f'<tbody>\n{body}</tbody>\n</table>\n</div>\n<ul class="notes">\n{below}</ul>\n'
    )


def figure(svg: bytes, caption: str, name: str, number: int | None = None) -> str:
    """A figure with its caption.

    Args:
        svg: The picture.
        caption: Text.
        name: The element's id.
        number: Of the figure, if it has one.
    """
    data = base64.b64encode(svg).decode()
    kind = ' class="narrow"' if _width(svg) < 400 else ""
    head = "" if number is None else f"Figure {number}. "
    return (
        f'<figure id="{escape(name)}">\n<div class="wide">'
        f'<img{kind} alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}" /></div>\n'
        f"<figcaption>{head}{escape(caption)}</figcaption>\n</figure>\n"
    )


def _width(svg: bytes) -> float:
    """In points."""
    return float(re.search(rb'width="([\d.]+)pt"', svg)[1])


def _headline(groups: Sequence[Group]) -> str:
    line, why = highlight(groups[0].table)
    if len(groups) == 1:
        text = formats.headline(groups[0].table, line)
    else:
        rows = across([group.table for group in groups])
        row = next(row for row in rows if row[0] is line)
        text = formats.across_headline([group.label for group in groups], groups[0].table, row)
        why = f"the density of {why}, in {groups[0].label}"
    bold = re.sub(r"\d[\d.]*( ±[\d.]+)? %", r"<b>\g<0></b>", escape(text))
    return (
        f'<div class="headline">\n<p>{bold}.</p>\n'
        f'<p class="soft">This is {escape(why)}.</p>\n</div>'
    )


def _own(own: Mapping[str, str]) -> str:
    items = "".join(
        f"<dt>{escape(label)}</dt><dd>{escape(text or 'As all of them.')}</dd>\n"
        for label, text in own.items()
    )
    return f"<dl>\n{items}</dl>"


def _by_density(groups: Sequence[Group], alone: Mapping[str, str]) -> str:
    if len(groups) == 1:
        return _one(groups[0])
    labels, tables = [group.label for group in groups], [group.table for group in groups]
    columns = formats.across_columns(labels, tables, lambda line: line.chosen)
    rows = across(tables)
    line = highlight(tables[0])[0]
    marked = next(place for place, row in enumerate(rows) if row[0] is line)
    shown = table(columns, formats.across_notes(labels, tables, last=False), marked)
    each = "".join(
        _details(f"{group.label} on its own", _one(group) + alone.get(group.label, "")) + "\n"
        for group in groups
    )
    return shown + each


def _one(group: Group) -> str:
    marked = group.table.lines.index(highlight(group.table)[0])
    return table(
        formats.columns(group.table, intervals=True),
        formats.notes(group.table, intervals=True),
        marked if len(group.table.lines) > 1 else None,
    )


def _stacked(header: str) -> str:
    return "<br />".join(escape(part) for part in header.rsplit(" ", 1))


def _minus(cell: str) -> str:
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", cell)


def _configuration(groups: Sequence[Group]) -> str:
    runs = [run for group in groups for run in group.runs]
    config = dict(groups[0].runs[0].config)
    differ = differences(groups) if len(groups) > 1 else {}
    shared = {path: value for path, value in flat(config.pop("experiment")) if path not in differ}
    if len(runs) > 1:
        shared["seed"] = list(dict.fromkeys(run.seed for run in runs))
    for name in ("command", "defaults"):
        config.pop(name, None)
    commands = [run.config["command"] for run in runs if run.config.get("command")]
    parts = [_settings("Configuration", shared)]
    if differ:
        heads = ["setting", *(group.label for group in groups)]
        cells = [[path, *map(scalar, values)] for path, values in differ.items()]
        parts.insert(0, _details("What differs", _settings_table(cells, heads)))
    parts += [_settings(name.capitalize(), value) for name, value in config.items()]
    if commands:
        lines = "".join(
            f"<p><code>{escape(shlex.join(map(str, command)))}</code></p>\n" for command in commands
        )
        parts.append(_details("Command" if len(commands) == 1 else "Commands", lines))
    return "\n".join(parts)


def _settings(name: str, value: Any) -> str:
    cells = [[path, scalar(item)] for path, item in flat(value)]
    return _details(name, _settings_table(cells))


def _settings_table(rows: Sequence[Sequence[str]], heads: Sequence[str] = ()) -> str:
    above = "".join(f"<th>{escape(head)}</th>" for head in heads)
    above = f"<thead><tr>{above}</tr></thead>\n" if heads else ""
    body = "".join(
        f"<tr><th><code>{escape(path)}</code></th>"
        + "".join(f"<td>{escape(value)}</td>" for value in values)
        + "</tr>\n"
        for path, *values in rows
    )
    return f'<table class="settings">\n{above}<tbody>\n{body}</tbody>\n</table>\n'


def _details(name: str, content: str) -> str:
    return f"<details>\n<summary>{escape(name)}</summary>\n{content}</details>"
