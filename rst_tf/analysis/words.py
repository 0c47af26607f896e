"""What a run was and what its numbers mean, in sentences made from its files."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rst_tf.analysis.formats import densities, interval, percent, steps
from rst_tf.analysis.runs import FirstLayer, Run, image_sides
from rst_tf.analysis.tables import Estimate, Table, highlight, wilson

TRAINED = {
    "natural": "Trained on clean images",
    "adversarial": "Trained on attacked images",
    "mixed": "Trained on clean and attacked images",
    "trades": "Trained with the TRADES objective",
}


def title(run: Run) -> str:
    """What the experiment is, as a heading."""
    experiment = run.config["experiment"]
    said = experiment["name"].replace("_", " ").capitalize()
    if "model" in experiment:
        said += f" of {_name(experiment['model'])}"
    if "data" in experiment:
        said += f" on {_data(run)}"
    return said


def description(runs: Sequence[Run], table: Table) -> str:
    """One paragraph: networks, data, training."""
    experiment = runs[0].config["experiment"]
    said = [_networks(table)]
    if "model" in experiment:
        said.append(f"The network is {phrase(experiment['model'])}.")
    if "data" in experiment:
        said.append(f"The data set is {_data(runs[0])}{_sizes(runs[0])}.")
    said.append(_training(experiment, table))
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
    if isinstance(value, Mapping):
        return str(value.get("name", value.get("source", phrase(value))))
    return scalar(value)


def _data(run: Run) -> str:
    return run.config.get("dataset", {}).get("name") or _name(run.config["experiment"]["data"])


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


def _training(experiment: Mapping[str, Any], table: Table) -> str:
    objective = experiment.get("objective")
    said = "Trained"
    if isinstance(objective, Mapping):
        name = objective.get("name")
        said = TRAINED.get(name, f"Trained with the {name} objective")
        if "attack" in objective:
            said += f", the attack being {phrase(objective['attack'])},"
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
    if image_sides(layers[0].mask.shape) is not None:
        what = "weights kept per input pixel (white: none)"
    return f"First layer ({layers[0].name}): {what}, by density of the network.{seed}{gaps}"
