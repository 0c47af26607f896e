"""The report as one self-contained HTML file: no reference out of it, no JavaScript.

It is written as XML-clean HTML, so that any parser can check it, and everything that comes from a
workdir is escaped.
"""

import base64
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from rst_tf.analysis import formats, words
from rst_tf.analysis.runs import Run
from rst_tf.analysis.tables import Table, highlight

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
thead th.group { border-bottom: 1px solid var(--line); text-align: center; color: var(--soft);
  font-weight: 400; }
thead th.group:empty { border: 0; }
tbody tr { border-bottom: 1px solid var(--line); }
tbody tr.chosen { background: var(--tint); font-weight: 600; }
.notes { margin: .75rem 0 0; padding: 0; list-style: none; }
figure { margin: 1.75rem 0 2.25rem; }
figure img { display: block; width: 100%; min-width: 34rem; height: auto; }
figure.narrow img { width: 62%; min-width: 21rem; }
figcaption { margin-top: .5rem; }
.reading li { margin-bottom: .5rem; }
details { border-top: 1px solid var(--line); padding: .6rem 0; }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; }
details table { margin: .75rem 0; }
details th, details td { text-align: left; white-space: normal; overflow-wrap: anywhere;
  vertical-align: top; font-weight: 400; border-bottom: 1px solid var(--line); }
details th { width: 45%; }
code { font-family: ui-monospace, "Liberation Mono", Menlo, monospace; font-size: .85em; }
@media print {
  @page { margin: 18mm; }
  html { font-size: 9pt; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure, tr, li, .headline { break-inside: avoid; }
  .wide { overflow: visible; }
  figure img, figure.narrow img { min-width: 0; }
}
"""


def html(
    runs: Sequence[Run], table: Table, svgs: Mapping[str, bytes], captions: Mapping[str, str]
) -> str:
    """The whole page.

    Args:
        runs: One experiment's runs.
        table: Of these runs.
        svgs: The figures, by name, in the order in which they are shown.
        captions: By name; there may be more than figures.
    """
    title = escape(words.title(runs[0]))
    names = escape(", ".join(run.workdir.resolve().name for run in runs))
    figures = "".join(
        _figure(number, name, svg, captions[name], narrow=table.attack is None and name != "masks")
        for number, (name, svg) in enumerate(svgs.items(), start=1)
    )
    reading = "".join(f"<li>{escape(item)}</li>\n" for item in words.caveats(table))
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
<p class="soft">{names}</p>
{_headline(table)}
<p>{escape(words.description(runs, table))}</p>
<h2>By density</h2>
{_table(table)}
<h2>Figures</h2>
{figures}<h2>How to read these numbers</h2>
<ul class="reading">
{reading}</ul>
<h2>How it was made</h2>
{_configuration(runs)}
</main>
</body>
</html>
"""


def _headline(table: Table) -> str:
    line, why = highlight(table)
    said = re.sub(r"\d[\d.]*( ±[\d.]+)? %", r"<b>\g<0></b>", escape(formats.headline(table, line)))
    return (
        f'<div class="headline">\n<p>{said}.</p>\n'
        f'<p class="soft">This is {escape(why)}.</p>\n</div>'
    )


def _table(table: Table) -> str:
    shown = formats.columns(table, intervals=True)
    chosen = table.lines.index(highlight(table)[0])
    groups = "".join(
        f'<th class="group" colspan="{len(list(members))}">{escape(group)}</th>'
        for group, members in groupby(shown, key=lambda column: column.group)
    )
    heads = "".join(f'<th scope="col">{_stacked(column.header)}</th>' for column in shown)
    body = ""
    for index, cells in enumerate(zip(*(column.cells for column in shown), strict=True)):
        mark = ' class="chosen"' if index == chosen and len(table.lines) > 1 else ""
        row = "".join(f"<td>{escape(_minus(cell))}</td>" for cell in cells)
        body += f"<tr{mark}>{row}</tr>\n"
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in formats.notes(table, intervals=True))
    return (
        f'<div class="wide">\n<table>\n<thead>\n<tr>{groups}</tr>\n<tr>{heads}</tr>\n</thead>\n'
        f'<tbody>\n{body}</tbody>\n</table>\n</div>\n<ul class="notes">\n{notes}</ul>'
    )


def _stacked(header: str) -> str:
    return "<br />".join(escape(part) for part in header.rsplit(" ", 1))


def _minus(cell: str) -> str:
    return f"\u2212{cell[1:]}" if cell.startswith("-") else cell


def _figure(number: int, name: str, svg: bytes, caption: str, narrow: bool) -> str:
    data = base64.b64encode(svg).decode()
    kind = ' class="narrow"' if narrow else ""
    return (
        f'<figure{kind} id="{name}">\n<div class="wide">'
        f'<img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}" /></div>\n'
        f"<figcaption>Figure {number}. {escape(caption)}</figcaption>\n</figure>\n"
    )


def _configuration(runs: Sequence[Run]) -> str:
    config = dict(runs[0].config)
    experiment = dict(config.pop("experiment"))
    if len(runs) > 1:
        experiment["seed"] = [run.seed for run in runs]
    command = config.pop("command", None)
    parts = [_details("Configuration", experiment)]
    parts += [_details(name.capitalize(), value) for name, value in config.items()]
    if command:
        line = shlex.join(map(str, command))
        parts.append(
            f"<details>\n<summary>Command</summary>\n<p><code>{escape(line)}</code></p>\n</details>"
        )
    return "\n".join(parts)


def _details(name: str, value: Any) -> str:
    rows = "".join(
        f"<tr><th><code>{escape(path)}</code></th><td>{escape(words.scalar(item))}</td></tr>\n"
        for path, item in _flat(value)
    )
    return (
        f"<details>\n<summary>{escape(name)}</summary>\n<table>\n<tbody>\n{rows}</tbody>\n</table>\n"
        "</details>"
    )


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted paths, which are the flags that set them."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, item in value.items():
        # A choice's name is set by the flag of the choice itself: --objective=trades.
        yield from _flat(item, path if key == "name" and path else f"{path}.{key}".lstrip("."))
