"""What runs were, in sentences made from their files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rst_tf.analysis.formats import densities, steps
from rst_tf.analysis.groups import Group
from rst_tf.analysis.runs import Run
from rst_tf.analysis.settings import folder_name, scalar
from rst_tf.analysis.tables import Table

TRAINED = {
    "natural": "clean images",
    "adversarial": "attacked images",
    "mixed": "clean and attacked images",
    "trades": "clean images, and held to the same answers on attacked ones (TRADES)",
}
STARTED = {
    "reset": "Every round started again from the initial weights.",
    "reinit": "Every round started from newly drawn weights.",
    "continued": "Every round went on with the weights that the round before had ended with.",
}


def title(groups: Sequence[Group]) -> str:
    """What was done, as a heading."""
    runs = [group.runs[0] for group in groups]
    parts = [_words(_title_parts(run)[place] for run in runs) for place in range(3)]
    kind, network, data = parts
    if len(groups) == 1:
        kind += f" ({strategy(runs[0])})" if strategy(runs[0]) else ""
    said = kind[:1].upper() + kind[1:]
    said += f" of {network}" if network else ""
    said += f" on {data}" if data else ""
    return said if len(groups) == 1 else f"{said}, {len(groups)} groups compared"


def strategy(run: Run) -> str:
    """What the rounds of iterative pruning start from, in a few words; "" for other experiments."""
    experiment = run.config["experiment"]
    said, step = experiment.get("rewind") or "", experiment.get("rewind_step", 0)
    if said == "reset" and step is None:
        said = "reset to unknown weights"
    elif said == "reset" and step == "end":
        said = "reset to trained weights"
    elif said == "reset" and step not in (0, "0"):
        said = f"reset to step {step}"
    masks = experiment.get("masks_from")
    return f"control: {said} under the masks of {folder_name(masks)}" if masks else said


def description(groups: Sequence[Group]) -> tuple[str, dict[str, str]]:
    """What most groups share, as a paragraph; and by label what each has of its own."""
    said = [_sentences(group, len(groups) > 1) for group in groups]
    shared = []
    for topic in dict.fromkeys(topic for each in said for topic in each):
        sentences = [each.get(topic) for each in said]
        common = max(sentences, key=sentences.count)
        if common is not None and 2 * sentences.count(common) > len(said):
            shared.append(common)
    own = {
        group.label: " ".join(sentence for sentence in each.values() if sentence not in shared)
        for group, each in zip(groups, said, strict=True)
    }
    if any(sentence not in each.values() for sentence in shared for each in said):
        shared.insert(0, "Unless something else is said below:")
    return " ".join(shared), own


def _sentences(group: Group, compared: bool) -> dict[str, str]:
    run, experiment = group.runs[0], group.runs[0].config["experiment"]
    said = {"networks": _networks(group.table)}
    if "network" in experiment:
        said["network"] = f"The network is {phrase(experiment['network'])}."
    if "data" in experiment:
        said["data"] = f"The data set is {_name(experiment['data'])}{_sizes(run)}."
    said["training"], said["start"] = _training(run, group.table), _start(run)
    if len(group.runs) > 1:
        said["seeds"] = f"All of it was repeated with {len(group.runs)} seeds."
    elif compared:
        said["seeds"] = "It was run with one seed."
    said["schedule"] = _schedule(run, group.table)
    return {key: sentence for key, sentence in said.items() if sentence}


def _start(run: Run) -> str:
    """What every round after the dense one started from, and whose masks it had."""
    experiment = run.config["experiment"]
    rewind, step = experiment.get("rewind"), experiment.get("rewind_step", 0)
    if rewind not in STARTED or run.rounds() == (0,):
        return ""
    said = STARTED[rewind]
    if rewind == "reset" and step is None:
        said = "The files do not tell from which weights the rounds started."
    elif rewind == "reset" and step == "end":
        said = (
            "Every round started from the trained weights of the dense network: this is the rewind "
            "of the code published in 2019, not that of its paper, which goes back to the initial "
            "weights."
        )
    elif rewind == "reset" and step not in (0, "0"):
        said = f"Every round started again from the weights of step {step} of the dense round."
    masks = experiment.get("masks_from")
    if masks:
        said += (
            f" The masks are not the run's own but those of {folder_name(masks)}, round by round: "
            "this is a control, which tells what the masks are worth without that run's weights."
        )
    return said


def _schedule(run: Run, table: Table) -> str:
    """How the published labels relate to the steps given, for a run on the published schedule."""
    shown = [table.step] if table.step is not None else []
    shown += [row.step for row in reversed(run.curve(table.lines[0].round, "test"))]
    for step in shown:
        label = run.published_label(step)
        if label is not None:
            who = "It was evaluated when the code published in 2019 evaluated"
            if run.imported:
                who = "It was trained and evaluated by the code published in 2019"
            return (
                f"{who}; steps are optimiser updates, and that code's labels are inflated: its "
                f"{label:,} is step {step:,}."
            )
    return ""


def _title_parts(run: Run) -> tuple[str, str, str]:
    experiment = run.config["experiment"]
    network, data = experiment.get("network"), experiment.get("data")
    kind = experiment["name"].replace("_", " ")
    kind = "imported iterative pruning" if run.imported else kind
    return kind, (network and _name(network)) or "", (data and _name(data)) or ""


def _words(values) -> str:
    """Each value once, joined by "and"."""
    known = list(dict.fromkeys(value for value in values if value))
    return " and ".join(filter(None, [", ".join(known[:-1]), *known[-1:]]))


def phrase(value: Any) -> str:
    """A configured value in words: `{"name": "pgd", "steps": 7}` gives "pgd (steps 7)"."""
    if not isinstance(value, Mapping):
        return scalar(value)
    settings = [
        f"{key.replace('_', ' ')} {phrase(item)}"
        for key, item in value.items()
        if key != "name" and item not in (None, [], ())
    ]
    name = str(value.get("name", ""))
    if not settings:
        return name
    return f"{name} ({', '.join(settings)})" if name else ", ".join(settings)


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
