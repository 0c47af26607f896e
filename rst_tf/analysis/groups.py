"""Runs side by side: those that differ only in the seed are one group, named by what sets it apart.

A group's label is the settings, as flags, that differ between the groups: `rewind=reset`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rst_tf.analysis.runs import Run
from rst_tf.analysis.settings import flat, folder_name, scalar
from rst_tf.analysis.tables import Table, table

EVALUATED = ("valid", "test")


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one configuration with different seeds.

    Args:
        label: What sets it apart from the other groups; "" if there is no other.
        runs: One per seed.
        table: Of these runs.
    """

    label: str
    runs: tuple[Run, ...]
    table: Table


def groups_of(
    runs: Sequence[Run], step: int | None = None, labels: Sequence[str] = ()
) -> tuple[Group, ...]:
    """The groups, in the order of their first runs.

    Args:
        runs: At least one. Runs whose only other difference is the number of rounds they are to
            have are one group, unless two of them have the same seed.
        step: Tables at this exact step of every round, in place of the best by validation.
        labels: Names of the user's own, one per group; none says what differs.

    Raises:
        ValueError: Two runs were evaluated under different attacks or have the same configuration
            and seed, a run has no evaluation at `step`, or there are not as many groups as labels.
    """
    check_attacks(runs)
    members = _merged(_exact(runs))
    found = labels_of([group[0] for group in members])
    if labels and len(labels) != len(members):
        raise ValueError(
            f"labels: expected one for each of {len(members)} groups "
            f"({'; '.join(found)}); received {', '.join(labels)}"
        )
    return tuple(
        Group(label, tuple(group), table(group, step))
        for label, group in zip(labels or found, members, strict=True)
    )


def check_attacks(runs: Sequence[Run]) -> None:
    """Checks that all runs were evaluated under one attack.

    Raises:
        ValueError: Two were not; names both, and both attacks.
    """
    first = runs[0]
    for run in runs[1:]:
        for split in EVALUATED:
            here, there = run.attack(split), first.attack(split)
            if here != there:
                raise ValueError(
                    f"{first.workdir} was evaluated under {there or 'no attack'} and {run.workdir} "
                    f"under {here or 'no attack'} ({split}); such numbers share no column"
                )


def same_experiment(runs: Sequence[Run]) -> None:
    """Checks that `runs` are one experiment with different seeds.

    They may differ in the number of rounds they are to have, where that does not change a round.

    Raises:
        ValueError: They differ in more than the seed, or not in the seed; names both workdirs.
    """
    first, *others = runs
    for run in others:
        if _alike(run, first, rounds=False):
            continue
        here, there = _rounds_aside(run), _rounds_aside(first)
        for what in here | there:
            if here.get(what) != there.get(what):
                raise ValueError(
                    f"{run.workdir} is not {first.workdir} with another seed: "
                    f"{what} is {here.get(what)!r} instead of {there.get(what)!r}"
                )
    _check_seeds(runs)


def _check_seeds(runs: Sequence[Run]) -> None:
    seen: dict[int | None, Run] = {}
    for run in runs:
        if run.seed in seen:
            raise ValueError(
                f"{run.workdir} and {seen[run.seed].workdir} have the same seed ({run.seed})"
            )
        seen[run.seed] = run


def labels_of(runs: Sequence[Run]) -> list[str]:
    """One label per run: as few of the differing settings as tell the runs apart.

    Runs without a difference have the label "".
    """
    settings = [settings_of(run) for run in runs]
    differing = _differing(settings)
    if not differing:
        return [""] * len(runs)
    # What comes with a choice, or with a data set, is not worth a word where the choice is named.
    said = [
        path
        for path in differing
        if all(path in each for each in settings)
        and not path.startswith("dataset")
        and not any(path.startswith(f"{other}.") for other in differing)
    ]
    places = range(len(runs))

    def told_apart(paths: Sequence[str]) -> int:
        return len({tuple(repr(differing[path][place]) for path in paths) for place in places})

    for path in differing:
        if told_apart([*said, path]) > told_apart(said):
            said.append(path)
    named = {path: differing[path] for path in said}
    labels = [_label(named, place, brief=True) for place in places]
    if len(set(labels)) < told_apart(said):
        labels = [_label(named, place, brief=False) for place in places]
    return labels


def shared_dense(groups: Sequence[Group]) -> bool:
    """Whether all groups begin with a dense network of the same test accuracies."""
    dense = [group.table.dense for group in groups]
    if None in dense:
        return False
    first = dense[0].chosen
    return all(
        (line.chosen.accuracy, line.chosen.measure) == (first.accuracy, first.measure)
        for line in dense
    )


def differences(groups: Sequence[Group]) -> dict[str, tuple[Any, ...]]:
    """The settings that differ, as dotted paths, with the value in each group (None if absent)."""
    return _differing([settings_of(group.runs[0]) for group in groups])


def _alike(one: Run, other: Run, rounds: bool = True) -> bool:
    """Whether two runs differ at most in the seed: take the same run, or each that of its seed."""
    of = _identity if rounds else _rounds_aside
    return of(one) == of(other) or of(one, written=True) == of(other, written=True)


def _identity(run: Run, written: bool = False) -> dict[str, Any]:
    """What runs must share to be averaged.

    Args:
        run: The run.
        written: Paths of other runs as they are, else without the run's own seed at their ends.
    """
    experiment = {k: v for k, v in run.config["experiment"].items() if k != "seed"}
    for name in ("masks_from", "weights_from", "ticket"):
        if isinstance(experiment.get(name), str) and not written:
            experiment[name] = _seedless(experiment[name], run.seed)
    dataset = run.config.get("dataset")
    taught = None if written else experiment.get("distillation")
    if isinstance(taught, Mapping) and taught.get("teachers"):
        own = [_seedless(folder, run.seed) for folder in taught["teachers"]]
        experiment["distillation"] = {**taught, "teachers": own}
        dataset = {k: v for k, v in (dataset or {}).items() if k != "teachers"}
    attacks = {f"attack on {split}": run.attack(split) for split in EVALUATED}
    return {**experiment, "dataset": dataset, **attacks}


def _seedless(path: str, seed: int | None) -> str:
    """A run's folder, or a ticket in it, with a star for the run's own seed at its name's end."""
    folder = Path(path)
    if folder.suffix == ".npz":
        folder = folder.parent
    if folder.name == "tickets":
        folder = folder.parent
    name = re.sub(rf"(?<![\d.])0*{seed}$", "*", folder.name)
    if name == folder.name:
        return path
    return str(folder.with_name(name) / Path(path).relative_to(folder))


def _exact(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by identity, in order."""
    found: list[list[Run]] = []
    for run in runs:
        members = next((members for members in found if _alike(members[0], run)), None)
        if members is None:
            found.append([run])
        else:
            members.append(run)
    for members in found:
        _check_seeds(members)
    return found


def _merged(exact: list[list[Run]]) -> list[list[Run]]:
    """Joins groups of disjoint seeds that differ only in how many rounds they are to have."""
    merged: list[list[Run]] = []
    for members in exact:
        for known in merged:
            seeds = {run.seed for run in known} & {run.seed for run in members}
            if not seeds and _alike(known[0], members[0], rounds=False):
                known += members
                break
        else:
            merged.append(list(members))
    return merged


def _rounds_aside(run: Run, written: bool = False) -> dict[str, Any]:
    identity = _identity(run, written)
    if identity.get("density") is None:  # else the number of rounds sets the rate of each
        identity.pop("rounds", None)
    return identity


def settings_of(run: Run) -> dict[str, Any]:
    """A run's settings without the seed, by flag."""
    named = dict(flat(_identity(run)))
    return {"experiment": named.pop("name", None), **named}


def _differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    paths = dict.fromkeys(path for each in settings for path in each)
    values = {path: tuple(each.get(path) for each in settings) for path in paths}
    return {path: each for path, each in values.items() if any(v != each[0] for v in each)}


def _label(differing: Mapping[str, Sequence[Any]], place: int, brief: bool) -> str:
    """The settings at `place`; briefly, without those that are unset or as in most places."""
    parts = []
    for path, values in differing.items():
        value = values[place]
        usual = values.count(value) > max(2, len(values) / 2)
        if brief and (value is None or usual):
            continue
        parts.append(f"{path}={_shown(path, value)}")
    return ", ".join(parts) or _label(differing, place, brief=False)


def _shown(path: str, value: Any) -> str:
    """A setting in a label: of a folder its name, and a word for no folders."""
    if path == "masks_from" and value:
        return folder_name(value)
    if path == "distillation.teachers" and value is not None:
        return ",".join(folder_name(folder) for folder in value) or "none"
    return scalar(value)
