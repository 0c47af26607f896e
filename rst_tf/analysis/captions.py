"""What each figure shows, and what a careful reader asks about the numbers."""

from collections.abc import Mapping, Sequence

from rst_tf.analysis.estimates import Estimate, wilson
from rst_tf.analysis.formats import chosen, interval, percent
from rst_tf.analysis.groups import Group, shared_dense
from rst_tf.analysis.tables import Table, highlight
from rst_tf.analysis.tickets import FirstLayer, Weights
from rst_tf.analysis.words import strategy


def caveats(table: Table) -> list[str]:
    """Questions of a careful reader about the first group's numbers, answered."""
    count = "" if table.test_examples is None else f" ({table.test_examples:,} examples)"
    how = "steps, and the density in the headline, were chosen on the validation split"
    if table.step is not None:
        how = "the step was given, and the density in the headline chosen on the validation split"
    said = [
        f"The test split{count} gave the numbers and nothing else: {how}. Accuracy and robust "
        "accuracy under one heading belong to the same network at the same step."
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


def captions(
    groups: Sequence[Group],
    layers: Mapping[str, Sequence[FirstLayer]],
    weights: Mapping[str, Sequence[Weights]],
) -> dict[str, str]:
    """What each figure shows, by the figure's name.

    Args:
        groups: What is reported on.
        layers: First layers by figure name, "masks" or "masks_<group>".
        weights: Weights by figure name, "weights" or "weights_<group>".
    """
    said = {
        "density": _density(groups),
        "steps": _steps(groups[0].table),
        "steps_accuracy": _steps_by_group("Accuracy", groups),
        "steps_robust_accuracy": _steps_by_group("Robust accuracy", groups),
        "early_stopping": _early_stopping(groups),
    }
    for group, (name, each) in zip(groups, layers.items(), strict=True):
        said[name] = _of(group) + _masks(group.table, each)
    for group, (name, each) in zip(groups, weights.items(), strict=True):
        said[name] = _of(group) + _weights(group, each)
    return said


def _of(group: Group) -> str:
    return f"{group.label}. " if group.label else ""


def _density(groups: Sequence[Group]) -> str:
    table = groups[0].table
    what = "Accuracy" if table.attack is None else "Accuracy and robust accuracy"
    at = "the best step" if table.step is None else chosen(table)
    said = f"{what} on the test split at {at}, over density."
    if shared_dense(groups):
        said += " Dashed: the dense network."
    elif len(groups) > 1 and any(len(group.table.lines) == 1 for group in groups):
        said += " Dashed: a group of dense networks only."
    return said + _bands([group.table for group in groups])


def _bands(tables: Sequence[Table]) -> str:
    seeds = {len(table.seeds) > 1 for table in tables}
    known = all(table.test_examples is not None for table in tables)
    if seeds == {True}:
        return " Band: one sample standard deviation over the seeds."
    if seeds == {False}:
        return " Band: 95 % Wilson interval." if known else ""
    single = "95 % Wilson interval" if known else "none"
    return f" Band: one sample standard deviation over the seeds; with one seed, {single}."


def _steps(table: Table) -> str:
    what = "Accuracy" if table.attack is None else "Accuracy and robust accuracy"
    several = len(table.seeds) > 1
    each = "mean over the seeds; a line per density" if several else "a line per density"
    dots = "the best steps" if table.step is None else chosen(table)
    dots = "" if several else f" Dots: {dots}."
    return f"{what} on the validation split during training, {each}.{dots}{_EARLY}"


_EARLY = " What is low in the first fifth of a round may lie below the axis."


def _steps_by_group(what: str, groups: Sequence[Group]) -> str:
    several = any(len(group.runs) > 1 for group in groups)
    mean = ", mean over the seeds with a band of one standard deviation" if several else ""
    dense = ""
    if any(shared_dense([groups[0], group]) for group in groups[1:]):
        dense = f" A dense network shared with {groups[0].label} is in the first panel only."
    return (
        f"{what} on the test split during training{mean}; colour is density, line style is group. "
        f"Each panel shows its group beside {groups[0].label}.{dense}{_EARLY}"
    )


def _early_stopping(groups: Sequence[Group]) -> str:
    table = groups[0].table
    said = (
        "Early stopping: the step of a round with the highest validation "
        f"{table.measure}, and what validation gives there, over density."
    )
    if all(line.lowest_loss for group in groups for line in group.table.lines):
        said += (
            " Below: the same for the lowest validation loss, which is the criterion of the 2019 "
            "paper; the loss is the one trained on."
        )
    return said + _bands([group.table for group in groups]).replace("Band", "Bands")


def _masks(table: Table, layers: Sequence[FirstLayer]) -> str:
    if not layers:
        return ""
    missing = sorted({line.round for line in table.lines} - {layer.round for layer in layers})
    gaps = f" No ticket file for rounds {', '.join(map(str, missing))}." if missing else ""
    what = "weights kept per output channel, a column each"
    if layers[0].image is not None:
        what = "weights kept per input pixel (white: none)"
    said = f"First layer ({layers[0].name}): {what}, by density of the network."
    return f"{said}{_seed(table)}{gaps}"


def _weights(group: Group, weights: Sequence[Weights]) -> str:
    said = (
        "How the values of the surviving weights spread, by density; colour is layer. Each layer's "
        "weights sum to 100 %; the farthest 0.1 % lie outside."
    )
    if any(each.start is None for each in weights):
        said += " Weights that a round drew anew are stored in no ticket."
    elif any(each.round > 0 for each in weights):
        run = group.runs[0]
        said += f" Before training is after the rewind ({strategy(run)})." if strategy(run) else ""
    return said + _seed(group.table)


def _seed(table: Table) -> str:
    return f" Seed {table.seeds[0]}." if len(table.seeds) > 1 else ""


def _chance(table: Table) -> str:
    n = len(table.seeds)
    if table.test_examples is None:
        known = "The number of test examples is unknown, so no intervals are given."
    else:
        mean = highlight(table)[0].chosen.measure.mean
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
