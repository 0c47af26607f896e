"""What a run was and what its numbers mean, in sentences made from its files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rst_tf.analysis.formats import densities, interval, percent, steps
from rst_tf.analysis.runs import FirstLayer, Run
from rst_tf.analysis.tables import Estimate, Table, highlight, wilson

TRAINED = {
    "natural": "clean images",
    "adversarial": "attacked images",
    "mixed": "clean and attacked images",
    "trades": "clean images, and held to the same answers on attacked ones (TRADES)",
}


def title(run: Run) -> str:
    """What the experiment is, as a heading."""
    experiment = run.config["experiment"]
    said = experiment["name"].replace("_", " ").capitalize()
    if "network" in experiment:
        said += f" of {_name(experiment['network'])}"
    if "data" in experiment:
        said += f" on {_name(experiment['data'])}"
    return said


def description(runs: Sequence[Run], table: Table) -> str:
    """One paragraph: networks, data, training."""
    experiment = runs[0].config["experiment"]
    said = [_networks(table)]
    if "network" in experiment:
        said.append(f"The network is {phrase(experiment['network'])}.")
    if "data" in experiment:
        said.append(f"The data set is {_name(experiment['data'])}{_sizes(runs[0])}.")
    said.append(_training(runs[0], table))
    if len(runs) > 1:
        said.append(f"All of it was repeated with {len(runs)} seeds.")
    return " ".join(said)


def caveats(table: Table) -> list[str]:
    """What a careful reader asks about the numbers, and the answers."""
    count = "" if table.test_examples is None else f" ({table.test_examples:,} examples)"
    said = [
        f"The test split{count} gave the numbers and nothing else: steps, and the density in the "
        "headline, were chosen on the validation split. Accuracy and robust accuracy under one "
        "heading belong to the same network at the same step."
    ]
    if table.attack is None:
        said.append("No attack was run: these numbers say nothing about robustness.")
    else:
        other = "" if table.valid_attack == table.attack else f"; under {table.valid_attack} on "
        other += "validation" if other else ""
        said.append(f"Robust accuracy is the accuracy under {table.attack}{other}.")
        said.append(
            "It is an upper bound of the true robustness: an attack that fails does not show that "
            "none succeeds. A gradient attack alone, such as PGD, often overestimates it; confirm "
            "a claim with an ensemble of attacks, such as AutoAttack."
        )
    return [*said, _chance(table)]


def captions(table: Table, layers: Sequence[FirstLayer]) -> dict[str, str]:
    """What each figure shows, by the figure's name."""
    what = "Accuracy" if table.attack is None else "Accuracy and robust accuracy"
    several = len(table.seeds) > 1
    line = table.lines[0].best.accuracy
    band = ""
    if several:
        band = " Band: one sample standard deviation over the seeds."
    elif line.interval is not None:
        band = " Band: 95 % Wilson interval."
    dense = " Dashed: the dense network." if table.dense is not None else ""
    each = "mean over the seeds; a line per density" if several else "a line per density"
    dots = "" if several else " Dots: the best steps."
    return {
        "density": f"{what} on the test split at the best step, over density.{dense}{band}",
        "steps": f"{what} on the validation split during training, {each}.{dots} What is low in "
        "the first tenth of a round may lie below the axis.",
        "masks": _masks(table, layers),
    }


def phrase(value: Any) -> str:
    """A configured value in words: `{"name": "pgd", "steps": 7}` gives "pgd (steps 7)"."""
    if not isinstance(value, Mapping):
        return scalar(value)
    settings = [
        f"{key.replace('_', ' ')} {phrase(item)}"
        for key, item in value.items()
        if key != "name" and item is not None
    ]
    name = str(value.get("name", ""))
    if not settings:
        return name
    return f"{name} ({', '.join(settings)})" if name else ", ".join(settings)


def scalar(value: Any) -> str:
    """A plain value as a flag would have it: "8/255", "300,100", "none", "true"."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        levels = round(value * 255)
        is_level = 0 < levels < 255 and abs(value * 255 - levels) < 1e-9 and len(repr(value)) > 8
        return f"{levels}/255" if is_level else repr(value)
    if isinstance(value, list) and not any(isinstance(item, list | Mapping) for item in value):
        return ",".join(scalar(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


def _name(value: Any) -> str:
    """The name of a choice, or the source of data without its folders."""
    if isinstance(value, Mapping):
        return str(value.get("name") or Path(str(value.get("source", phrase(value)))).name)
    return scalar(value)


def _networks(table: Table) -> str:
    names = densities(table.lines)
    sparse = names if table.dense is None else names[1:]
    whole = table.lines[0].kept / table.lines[0].density
    of = f"of the {whole:,.0f} masked weights"
    if not sparse:
        return f"One dense network with {whole:,.0f} masked weights was trained."
    kept = f"{sparse[0]} % {of}"
    if len(sparse) > 1:
        kept = f"between {sparse[0]} % and {sparse[-1]} % {of}"
    number = "One sparse network" if len(sparse) == 1 else f"{len(sparse)} sparse networks"
    before = "" if table.dense is None else "A dense network, then "
    number = number if table.dense is None else number[0].lower() + number[1:]
    return f"{before}{number} keeping {kept}."


def _sizes(run: Run) -> str:
    dataset = run.config.get("dataset", {})
    counts = [
        f"{dataset[key]:,} {word}"
        for key, word in (
            ("train_examples", "training"),
            ("valid_examples", "validation"),
            ("test_examples", "test"),
        )
        if isinstance(dataset.get(key), int)
    ]
    return f" ({', '.join(counts)} examples)" if counts else ""


def _training(run: Run, table: Table) -> str:
    objective = run.config["experiment"].get("objective")
    said = "Trained"
    if isinstance(objective, Mapping):
        name = objective.get("name")
        said += f" on {TRAINED[name]}" if name in TRAINED else f" with the {name} objective"
    if run.attack("train") is not None:
        said += f", the attack being {run.attack('train')},"
    last = steps([step for line in table.lines for step in line.last.steps])
    return f"{said} for {last} steps a round."


def _chance(table: Table) -> str:
    n = len(table.seeds)
    if table.test_examples is None:
        known = "The number of test examples is unknown, so no intervals are given."
    else:
        mean = highlight(table)[0].best.measure.mean
        example = Estimate(mean, None, wilson(mean, table.test_examples))
        known = (
            f"By the number of test examples alone, {percent(Estimate(mean))} % means "
            f"{interval(example)} % (95 % Wilson interval)."
        )
    if n == 1:
        return (
            f"{known} There is one seed here, so nothing is known of the variation between seeds."
        )
    return f"{known} Between seeds, numbers vary by the standard deviation given after ±."


def _masks(table: Table, layers: Sequence[FirstLayer]) -> str:
    if not layers:
        return ""
    missing = sorted({line.round for line in table.lines} - {layer.round for layer in layers})
    seed = f" Seed {table.seeds[0]}." if len(table.seeds) > 1 else ""
    gaps = f" No ticket file for rounds {', '.join(map(str, missing))}." if missing else ""
    what = "weights kept per output channel, a column each"
    if layers[0].image is not None:
        what = "weights kept per input pixel (white: none)"
    return f"First layer ({layers[0].name}): {what}, by density of the network.{seed}{gaps}"
