"""Writes what a workdir says into its report folder, and prints the short of it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rst_tf.analysis import figures, formats, page, runs, style, tables, words
from rst_tf.files import write_bytes


def write(workdir: str | Path, out: str | Path | None = None) -> None:
    """Reports on one run: tables, figures and report.html, and a summary on the terminal.

    Args:
        workdir: Folder with config.json, results.csv and perhaps tickets.
        out: Where the report goes; `workdir/report` if None.

    Raises:
        ValueError: A file is missing or damaged; names the file and the line.
    """
    write_seeds([workdir], Path(workdir, "report") if out is None else out)


def write_seeds(workdirs: Sequence[str | Path], out: str | Path) -> None:
    """Reports on runs of one experiment with different seeds: means and standard deviations.

    Args:
        workdirs: At least one, in the order in which their seeds are listed.
        out: Where the report goes.

    Raises:
        ValueError: A file is missing or damaged, or the runs differ in more than the seed.
    """
    loaded = [runs.load(workdir) for workdir in workdirs]
    runs.same_experiment(loaded)
    table, layers = tables.table(loaded), loaded[0].first_layers()
    drawn = {
        "density": style.rendered(lambda: figures.over_density(table)),
        "steps": style.rendered(lambda: figures.over_steps(loaded, table)),
        "masks": style.rendered(lambda: figures.first_layer(layers)),
    }
    pictures = {name: both for name, both in drawn.items() if both is not None}
    files = {"table.csv": formats.comma_separated(table), "table.md": formats.markdown(table)}
    for name, (png, svg) in pictures.items():
        files |= {f"{name}.png": png, f"{name}.svg": svg}
    svgs = {name: svg for name, (_, svg) in pictures.items()}
    files["report.html"] = page.html(loaded, table, svgs, words.captions(table, layers))
    for name, content in files.items():
        write_bytes(Path(out, name), content if isinstance(content, bytes) else content.encode())
    print(_summary(loaded, table, Path(out), list(pictures)))


def _summary(loaded: Sequence[runs.Run], table: tables.Table, out: Path, names: list[str]) -> str:
    line, why = tables.highlight(table)
    paths = {
        "report": [out / "report.html"],
        "figures": [out / f"{name}.png" for name in names],
        "tables": [out / "table.csv", out / "table.md"],
    }
    lines = [f"{words.title(loaded[0])}: {', '.join(str(run.workdir) for run in loaded)}", ""]
    lines += [formats.text(table), "", f"{formats.headline(table, line)}", f"({why})", ""]
    for kind, each in paths.items():
        lines += [f"{kind:8} {path}" for path in each]
    logs = [run.workdir / "tensorboard" for run in loaded]
    lines += [f"tensorboard --logdir {shlex.quote(str(path))}" for path in logs if path.is_dir()]
    return "\n".join(lines)
