"""What a run was and what its numbers mean, in sentences made from its files."""

from collections.abc import Sequence

from rst_tf.analysis.runs import Run
from rst_tf.analysis.tables import Table

TRAINED_ON = {
    "natural": "on clean images",
    "adversarial": "on attacked images",
    "mixed": "on clean and attacked images",
    "trades": "on clean images with a penalty on what an attack changes (TRADES)",
}


def title(run: Run) -> str:
    """What the experiment is, as a heading."""
    experiment = run.config["experiment"]
    parts = [sentence_case(experiment["name"])]
    if "model" in experiment:
        parts.append(f"of {_name(experiment['model'])}")
    if "data" in experiment:
        parts.append(f"on {_name(experiment['data'])}")
    return " ".join(parts)


def description(runs: Sequence[Run], table: Table) -> str:
    """One paragraph: networks, data, training."""
    experiment = runs[0].config["experiment"]
    said = [_networks(table)]
    if "model" in experiment:
        said.append(f"The network is {phrase(experiment['model'])}.")
    if "data" in experiment:
        said.append(f"The data set is {_name(experiment['data'])}.")
    said.append(f"{_training(experiment)} for {_lengths(table)} steps a round.")
    if len(runs) > 1:
        said.append(f"All of it was repeated with {len(runs)} seeds.")
    return " ".join(said)


def caveats(table: Table) -> list[str]:
    """What a careful reader would ask about the numbers."""
    said = [
        f"The test split{_examples(table)} was used for the final numbers only. Steps, and the "
        "density of the headline, were chosen on the validation split; the accuracies of one "
        "line belong to one and the same network."
    ]
    if table.attack is None:
        return [
            *said,
            "No attack was run: these numbers say nothing about robustness.",
            _chance(table),
        ]
    other = "" if table.valid_attack == table.attack else f" Validation used {table.valid_attack}."
    said.append(f"Robust accuracy is the accuracy under {table.attack}.{other}")
    said.append(
        "It is an upper bound of the true robustness: an attack that fails does not prove that "
        "none succeeds, and a gradient attack alone (PGD, FGSM) often overestimates it. Confirm a "
        "claim with an ensemble such as AutoAttack."
    )
    return [*said, _chance(table)]
