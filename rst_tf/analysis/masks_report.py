"""The masks of one ticket: tables, pictures and the numbers behind them, in a folder."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from rst_tf.analysis import mask_counts, mask_figures, operations, panels, printing, style
from rst_tf.analysis.mask_counts import LayerMask, Pair
from rst_tf.analysis.operations import Operations
from rst_tf.analysis.printing import Column
from rst_tf.analysis.report import write_files
from rst_tf.ticket import Ticket


def ticket_file(source: str | Path) -> Path:
    """The ticket that is meant: a file, or of a run its last round's, best on validation.

    Raises:
        ValueError: There is none.
    """
    source = Path(source)
    if source.is_dir():
        names = [(re.search(r"_(\d+)$", p.stem), p) for p in source.glob("tickets/round_*.npz")]
        found = {int(number[1]): path for number, path in names if number}
        if not found:
            raise ValueError(f"--masks: {source} has no finished round")
        last = found[max(found)]
        best = last.with_name(f"{last.stem}_best.npz")
        return best if best.is_file() else last
    if not source.is_file():
        raise ValueError(f"--masks: {source} is no ticket file and no folder of a run")
    return source


def write(source: str | Path, out: str | Path | None = None, chosen: Sequence[int] = ()) -> Path:
    """Writes tables and figures of a ticket's masks, and prints the tables.

    Args:
        source: A ticket file or the folder of a run.
        out: Folder; None takes `masks` in the run's folder, `<name>_masks` beside a file.
        chosen: Positions of the layers to draw; six spread over the network if none.

    Returns:
        The folder.

    Raises:
        ValueError: There is no such ticket or layer, or the file is damaged.
    """
    file = ticket_file(source)
    folder = Path(source, "masks") if Path(source).is_dir() else None
    out = Path(out or folder or file.with_name(f"{file.stem}_masks"))
    ticket = Ticket.load(file)
    layers = mask_counts.layers_of(ticket)
    pairs, drawn = mask_counts.pairs_of(layers), _drawn(layers, chosen)
    told = operations.image_side(ticket.network)
    side = told or operations.PUBLISHED_SIDE
    estimated = operations.estimate(layers, side)
    tables = {
        "masks": (_layer_columns(layers), _layer_notes()),
        "operations": (_operation_columns(estimated), _operation_notes(estimated, side, told)),
    }
    files: dict[str, str | bytes] = {
        "masks.csv": printing.comma_separated([_layer_record(layer) for layer in layers]),
        "channels.csv": printing.comma_separated(_channel_records(drawn)),
        "kernels.csv": printing.comma_separated(_kernel_records(layers)),
        "pairs.csv": printing.comma_separated([_pair_record(pair) for pair in pairs]),
        "operations.csv": printing.comma_separated(_operation_records(estimated)),
    }
    for name, (columns, notes) in tables.items():
        files[f"{name}.md"] = printing.markdown(columns, notes)
    write_files(out, files | _pictures(drawn, pairs))
    for columns, notes in tables.values():
        print(f"{printing.text(columns, notes)}\n")
    print(f"masks of {file} in {out}\n")
    return out


def _drawn(layers: Sequence[LayerMask], chosen: Sequence[int]) -> list[LayerMask]:
    known = {layer.position: layer for layer in layers}
    for position in chosen:
        if position not in known:
            raise ValueError(
                f"--mask_layers: expected positions from 0 to {max(known)}; received {position}"
            )
    spread = panels.chosen_rounds(sorted(known), tuple(range(-mask_figures.MOST_LAYERS, 0)))
    return [known[position] for position in chosen or spread]


def _pictures(layers: Sequence[LayerMask], pairs: Sequence[Pair]) -> dict[str, bytes]:
    draw = {
        "channels": lambda: mask_figures.channels(layers),
        "kernels": lambda: mask_figures.kernels(layers),
    }
    for layer in layers:
        draw[f"mask_{_file_name(layer)}"] = lambda layer=layer: mask_figures.heat_map(layer)
    for pair in pairs:
        if pair.first in layers:
            name = f"two_layers_{_file_name(pair.first)}"
            draw[name] = lambda pair=pair: mask_figures.two_layers(pair)
    files = {}
    for name, each in draw.items():
        picture = style.rendered(each)
        if picture is not None:
            files |= {f"{name}.png": picture[0], f"{name}.svg": picture[1]}
    return files


def _file_name(layer: LayerMask) -> str:
    name = re.sub(r"[^\w.-]+", "_", layer.name)
    return f"{layer.position:02d}_{name}"


def _layer_record(layer: LayerMask) -> dict[str, object]:
    """What is counted of one layer, and the same of random masks on average."""
    record = {
        "position": layer.position,
        "layer": layer.name,
        "shape": "x".join(map(str, layer.shape)),
        "weights": layer.size,
        "kept": layer.kept,
        "density": layer.kept / layer.size,
    }
    for side in ("output", "input"):
        counts = mask_counts.by_channel(layer, side)
        record[f"{side}_channels"] = len(counts)
        record[f"{side}_empty"] = int((counts == 0).sum())
        record[f"{side}_empty_random"] = mask_counts.random_empty(layer, side)
    record["kernels"] = layer.inputs * layer.outputs
    record["kernels_empty"] = int(mask_counts.kernel_histogram(layer)[0])
    record["kernels_empty_random"] = float(mask_counts.random_kernel_histogram(layer)[0])
    return record


def _channel_records(layers: Sequence[LayerMask]) -> list[dict[str, object]]:
    found = []
    for layer in layers:
        for side in ("output", "input"):
            own = sorted(map(int, mask_counts.by_channel(layer, side)), reverse=True)
            random = mask_counts.random_by_channel(layer, side)
            for rank, (kept, mean) in enumerate(zip(own, random, strict=True)):
                found.append(
                    {
                        "layer": layer.name,
                        "side": side,
                        "rank": rank,
                        "kept": kept,
                        "random": float(mean),
                    }
                )
    return found


def _kernel_records(layers: Sequence[LayerMask]) -> list[dict[str, object]]:
    return [
        {"layer": layer.name, "kept": kept, "kernels": int(own), "random": float(mean)}
        for layer in layers
        for kept, (own, mean) in enumerate(
            zip(
                mask_counts.kernel_histogram(layer),
                mask_counts.random_kernel_histogram(layer),
                strict=True,
            )
        )
    ]


def _pair_record(pair: Pair) -> dict[str, object]:
    return {
        "first": pair.first.name,
        "second": pair.second.name,
        "channels": len(pair.read),
        "written": int(pair.written.sum()),
        "read": int(pair.read.sum()),
        "both": pair.both,
        "both_if_independent": pair.expected,
    }


def _operation_records(estimated: Sequence[Operations]) -> list[dict[str, object]]:
    return [
        {
            "layer": each.layer,
            "side": each.side,
            "kept": each.kept,
            **{
                f"{name}_{way}": getattr(each, name)[place]
                for name in ("binary", "full", "dense")
                for place, way in enumerate(("forward", "backward"))
            },
        }
        for each in estimated
    ]


def _layer_columns(layers: Sequence[LayerMask]) -> list[Column]:
    records = [_layer_record(layer) for layer in layers]

    def cells(name: str) -> tuple[str, ...]:
        return tuple(f"{record[name]:,}" for record in records)

    def means(name: str) -> tuple[str, ...]:
        return tuple(f"{record[name]:,.1f}" for record in records)

    columns = [
        Column("", "layer", tuple(record["layer"] for record in records)),
        Column("", "weights", cells("weights")),
        Column("", "kept", cells("kept")),
        Column("", "density (%)", tuple(f"{100 * record['density']:.3g}" for record in records)),
    ]
    for group, name in (
        ("empty outputs", "output_empty"),
        ("empty inputs", "input_empty"),
        ("empty kernels", "kernels_empty"),
    ):
        columns += [
            Column(group, "here", cells(name)),
            Column(group, "random", means(f"{name}_random")),
        ]
    return columns


def _layer_notes() -> list[str]:
    return [
        "Channels and kernels without a kept weight; random: the mean over random masks that keep "
        "as many, drawn without replacement, exact.",
    ]


def _operation_columns(estimated: Sequence[Operations]) -> list[Column]:
    total = operations.total(estimated)
    names = ("binary", "full", "dense")
    columns = [
        Column("", "layer", (*(each.layer for each in estimated), "total")),
        Column("", "side", (*(str(each.side) for each in estimated), "")),
    ]
    for place, way in enumerate(("forward", "backward")):
        for name in names:
            values = [*(getattr(each, name)[place] for each in estimated), total[name][place]]
            columns.append(Column(way, name, tuple(f"{value:,}" for value in values)))
    return columns


def _operation_notes(estimated: Sequence[Operations], side: int, told: int | None) -> list[str]:
    total = operations.total(estimated)
    ratios = [
        f"{way} {total['binary'][place] / total['full'][place]:.3f} of full precision with the "
        f"same masks, {total['binary'][place] / total['dense'][place]:.4f} of the dense network"
        for place, way in enumerate(("forward", "backward"))
    ]
    said = "the ticket's" if told else "taken, for the ticket does not tell"
    notes = [
        "Operations for one image: +-1 weights, the same masks in full precision, all weights in "
        f"full precision. Binary: {'; '.join(ratios)}.",
        f"An estimate: images of side {side} ({said}), maps that halve where channels double "
        "(basic residual networks); no operation is spent on a pruned weight.",
    ]
    maps = [each for each in estimated if each.side > 1]
    grown = [each for before, each in itertools.pairwise(maps) if each.side > before.side]
    if grown:
        notes.append(
            f"This network is no such one: by that rule the maps would grow at {grown[0].layer}. "
            "The numbers are no estimate of it."
        )
    return notes
