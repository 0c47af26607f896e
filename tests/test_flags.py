"""Laws of the command line, over toy configurations that use every type a field may have."""

import dataclasses
import os
import shutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Literal

import pytest

from experiments import experiment as real
from flags import command_line
from flags.binding import Binding
from flags.folders import LONGEST, file_name, move_aside, settings_name
from flags.resolve import flatten, values_of
from flags.tree import Level
from flags.values import convert, field_docs, optional, text
from rst_tf.registry import choices_of

ROOT = Path(__file__).parent.parent


class Attack:
    pass


@dataclasses.dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent.

    Args:
        epsilon: Radius of the ball,
            in [0, 1] units.
        steps: Number of gradient steps.
        norm (str): The norm of the ball.
        step_size: Length of a step; none: 2.5 epsilon / steps.
    """

    epsilon: float
    steps: int = 10
    norm: Literal["linf", "l2"] = "linf"
    step_size: float | None = None

    def __post_init__(self):
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must be in [0, 1]; received epsilon={self.epsilon}")
        if self.norm == "l2" and self.steps == 1:
            raise ValueError("one step in l2\nis not an attack")


@dataclasses.dataclass(frozen=True)
class FGSM(Attack):
    """One signed step.

    Args:
        epsilon: Radius of the ball.
    """

    epsilon: float


class Objective:
    pass


@dataclasses.dataclass(frozen=True)
class Natural(Objective):
    """Cross entropy on clean images."""


@dataclasses.dataclass(frozen=True)
class Adversarial(Objective):
    """Cross entropy on attacked images.

    Args:
        attack: Makes the images.
        warmup: Steps until the attack has its full radius: steps or "2ep".
    """

    attack: Attack
    warmup: int | str = 0


@dataclasses.dataclass(frozen=True)
class Trades(Objective):
    """Natural loss plus beta times a divergence.

    Args:
        attack: Makes the images of the divergence.
        beta: Weight of the divergence.
    """

    attack: Attack = PGD(epsilon=0.031, steps=7)
    beta: float = 6.0


@dataclasses.dataclass(frozen=True)
class Data:
    """Images and labels.

    Args:
        source: Name of a data set, or npz:PATH.
        validation: Fraction held out.
        shuffle: Whether the order changes between epochs.
    """

    source: str = "fashion_mnist"
    validation: float = 0.1
    shuffle: bool = True


class Experiment:
    pass


@dataclasses.dataclass(frozen=True)
class Shared(Experiment):
    """What all share.

    Args:
        data: What to train on.
        seed: Of everything random.
    """

    data: Data = Data(validation=0.2)
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Pruning(Shared):
    """Prunes by rounds.

    Args:
        objective: What is trained on.
        rounds: Number of train-prune cycles.
        densities: Of each layer.
        hidden: Units of each layer.
        evaluation: The attack that judges; none: no attack.
        extra: A second data set, if any.
    """

    objective: Objective = Trades(attack=PGD(epsilon=0.1, steps=3), beta=2.0)
    rounds: int = 5
    densities: tuple[float, ...] = ()
    hidden: tuple[int, ...] = (300, 100)
    evaluation: Attack | None = None
    extra: Data | None = None


@dataclasses.dataclass(frozen=True)
class Dense(Shared):
    """Trains without pruning.

    Args:
        objective: What is trained on.
        steps: Optimiser steps, or "12ep".
        augment: Flip and crop.
        ordered: Sort the examples.
        order: By what, if they are sorted.
    """

    objective: Objective = dataclasses.field(default_factory=Natural)
    steps: int | str = "12ep"
    augment: bool = False
    ordered: bool = True
    order: str = dataclasses.field(default="name", metadata={"only_with": {"ordered": True}})

    def __post_init__(self):
        if not self.ordered and self.order != "name":
            raise ValueError("order has an effect only with ordered")


REGISTRIES = {
    Experiment: {"pruning": Pruning, "dense": Dense},
    Objective: {"natural": Natural, "adversarial": Adversarial, "trades": Trades},
    Attack: {"pgd": PGD, "fgsm": FGSM},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Toy program.

    Args:
        preset: Name of a preset.
        debug: Show tracebacks.
    """

    preset: str | None = None
    debug: bool = False


TOY = Binding(Experiment, "experiment", REGISTRIES.get, Options, "Usage of toy.", "What to run.")


def bind(*arguments, preset=None, overlay=None):
    levels = [("toy.yaml", preset), ("over.yaml", overlay)]
    given = [Level(flatten(values), name) for name, values in levels if values is not None]
    return TOY.bind(["toy", *arguments], given)


def config(*arguments, **presets):
    return bind(*arguments, **presets).config


def error(*arguments, **presets):
    with pytest.raises(ValueError) as caught:
        bind(*arguments, **presets)
    return str(caught.value)


# ---------------------------------------------------------------- round trip

CONFIGS = [
    Pruning(),
    Dense(),
    Dense(steps=500, augment=True, objective=Trades(), data=Data("npz:a b=c.npz", 1 / 3, False)),
    Pruning(objective=Natural(), densities=(0.1, 8 / 255), hidden=(), rounds=-1),
    Pruning(objective=Adversarial(FGSM(1e-7), warmup="2ep"), evaluation=PGD(1.0, step_size=0.01)),
    Pruning(objective=Adversarial(PGD(0.3, 1, "linf")), evaluation=FGSM(0.3), hidden=(7,)),
    Pruning(extra=Data(), seed=2**40),
]


@pytest.mark.parametrize("made", CONFIGS, ids=lambda made: repr(made)[:60])
def test_values_as_flags_give_the_same_configuration(made):
    flat = values_of(made, Experiment, "experiment", REGISTRIES.get)
    bound = bind(*(f"--{path}={value}" for path, value in flat.items()))
    assert bound.config == made
    assert bound.values == flat
    assert bound.dropped == {}


@pytest.mark.parametrize("made", CONFIGS, ids=lambda made: repr(made)[:60])
def test_values_as_a_preset_give_the_same_configuration(made):
    nested: dict = {}
    for path, value in values_of(made, Experiment, "experiment", REGISTRIES.get).items():
        *above, last = path.split(".")
        node = nested
        for name in above:
            if not isinstance(node.get(name), dict):  # a bare choice becomes a mapping
                node[name] = {"name": node[name]} if name in node else {}
            node = node[name]
        node[last] = value
    assert config(preset=nested) == made


def test_values_are_the_flat_texts_of_a_configuration():
    flat = values_of(Pruning(), Experiment, "experiment", REGISTRIES.get)
    assert list(flat.items())[:4] == [
        ("experiment", "pruning"),
        ("data.source", "fashion_mnist"),
        ("data.validation", "0.2"),
        ("data.shuffle", "true"),
    ]
    assert flat["objective.attack"] == "pgd"
    assert flat["evaluation"] == flat["extra"] == "none"


# ---------------------------------------------------------------- precedence

LEVELS = [  # (preset, flags, path, text)
    ({}, [], "rounds", "5"),
    ({"rounds": 7}, [], "rounds", "7"),
    ({"rounds": 7}, ["--rounds=9"], "rounds", "9"),
    ({}, ["--rounds", "9"], "rounds", "9"),
    ({}, ["-rounds=-9"], "rounds", "-9"),
    ({"objective": {"beta": 4}}, [], "objective.beta", "4.0"),
    ({"objective": {"beta": 4}}, ["--objective.beta=1/2"], "objective.beta", "0.5"),
    ({"data": {"shuffle": False}}, [], "data.shuffle", "false"),
    ({"data": {"shuffle": False}}, ["--data.shuffle"], "data.shuffle", "true"),
    ({}, ["--nodata.shuffle"], "data.shuffle", "false"),
    ({}, ["--data.shuffle=False"], "data.shuffle", "false"),
    # a bare value for a group sets its first field and leaves the others
    ({"data": "mnist"}, [], "data.source", "mnist"),
    ({"data": "mnist"}, [], "data.validation", "0.2"),
    ({"data": "mnist"}, ["--data=npz:x"], "data.source", "npz:x"),
    ({"data": "mnist"}, ["--data.source=npz:x"], "data.source", "npz:x"),
    ({"data": {"source": "mnist"}}, ["--data=npz:x"], "data.source", "npz:x"),
    # the values of a default instance belong to its class
    ({}, [], "objective.attack.steps", "3"),
    ({}, ["--objective=trades"], "objective.attack.steps", "3"),
    ({}, ["--objective.attack=pgd"], "objective.attack.steps", "3"),
    ({"objective": "natural"}, ["--objective=trades"], "objective.beta", "2.0"),
    ({"experiment": "dense"}, ["--objective=trades"], "objective.beta", "6.0"),
    ({"experiment": "dense"}, ["--objective=trades"], "objective.attack.steps", "7"),
    # another class keeps what a user set in fields of the same name, and nothing else
    (
        {"objective": {"attack": {"epsilon": "8/255"}}},
        ["--objective=adversarial", "--objective.attack=pgd"],
        "objective.attack.epsilon",
        repr(8 / 255),
    ),
    (
        {"objective": {"attack": {"epsilon": 0.5, "steps": 4}}},
        ["--objective=adversarial", "--objective.attack=pgd"],
        "objective.attack.steps",
        "4",
    ),
    (
        {"objective": {"attack": {"name": "pgd", "epsilon": 0.5}}},
        ["--objective.attack=fgsm"],
        "objective.attack.epsilon",
        "0.5",
    ),
    ({"experiment": "pruning", "seed": 3}, ["--experiment=dense"], "seed", "3"),
    ({"experiment": "dense", "data": "mnist"}, ["--experiment=pruning"], "data.source", "mnist"),
    # nodes that may be none
    ({"evaluation": {"name": "fgsm", "epsilon": 0.3}}, ["--evaluation=none"], "evaluation", "none"),
    ({"evaluation": None}, [], "evaluation", "none"),
    ({"evaluation": "none"}, ["--evaluation=fgsm", "--evaluation.epsilon=1"], "evaluation", "fgsm"),
    ({"extra": "mnist"}, [], "extra.source", "mnist"),
    ({"extra": "mnist"}, ["--extra=none"], "extra", "none"),
    ({"extra": "none"}, ["--extra=mnist"], "extra.source", "mnist"),
    ({}, ["--extra.validation=0.3"], "extra.source", "fashion_mnist"),
    # texts and lists
    ({"hidden": [10, 20]}, [], "hidden", "10,20"),
    ({"hidden": 10}, [], "hidden", "10"),
    ({"hidden": "10, 20"}, ["--hidden="], "hidden", ""),
    ({"densities": ["1/2", 1]}, [], "densities", "0.5,1.0"),
    ({"experiment": "dense", "steps": "3ep"}, [], "steps", "3ep"),
    ({"experiment": "dense", "steps": "3ep"}, ["--steps=300"], "steps", "300"),
]


@pytest.mark.parametrize(("preset", "given", "path", "value"), LEVELS)
def test_flags_over_preset_over_defaults(preset, given, path, value):
    bound = bind(*given, preset={"experiment": "pruning", **preset})
    assert bound.values[path] == value


ATTACKED = {
    "experiment": "pruning",
    "objective": {"name": "trades", "beta": 3, "attack": {"epsilon": 0.2, "steps": 4}},
}
DROPPED = [  # (flags, preset, overlay, what is reported)
    # a thing that a flag replaces takes its settings along
    (["--objective=adversarial", "--objective.attack=fgsm"], ATTACKED, None, {}),
    (["--objective=natural"], ATTACKED, None, {}),
    # another experiment is told, and so is all that an overlay cannot change
    (["--experiment=dense"], {"experiment": "pruning", "rounds": 3}, None, {"rounds": "toy.yaml"}),
    (
        ["--objective=natural"],
        ATTACKED,
        {"objective": {"beta": 2}},
        {"objective.beta": "over.yaml"},
    ),
    (
        [],
        {**ATTACKED, "objective": "natural"},
        {"objective": {"attack": {"epsilon": 0.1, "steps": 2}}, "rounds": 2},
        {"objective.attack": "over.yaml"},
    ),
    (
        ["--experiment=dense"],
        {"experiment": "pruning", "rounds": 3},
        {"rounds": 4},
        {"rounds": "toy.yaml, over.yaml"},
    ),
    # a preset that another preset replaces in part
    (
        [],
        ATTACKED,
        {"experiment": "dense", "objective": "natural"},
        {"objective.beta": "toy.yaml", "objective.attack": "toy.yaml"},
    ),
    # only_with
    (["--ordered=false"], {"experiment": "dense", "order": "size"}, None, {"order": "toy.yaml"}),
    ([], {"experiment": "dense", "ordered": False}, {"order": "size"}, {"order": "over.yaml"}),
    ([], {"experiment": "dense"}, {"order": "size"}, {}),
    ([], {"experiment": "dense", "ordered": True}, {"order": "size"}, {}),
]


@pytest.mark.parametrize(("given", "preset", "overlay", "dropped"), DROPPED)
def test_what_a_preset_sets_in_vain_is_reported(given, preset, overlay, dropped):
    bound = bind(*given, preset=preset, overlay=overlay)
    assert bound.dropped == dropped
    for path in dropped:
        assert path not in bound.values or bound.values[path] == "name"  # the default of `order`


def test_a_field_without_effect_is_refused_where_flags_or_one_preset_set_it():
    refusal = "order has an effect only with ordered"
    assert refusal in error("--experiment=dense", "--noordered", "--order=size")
    assert refusal in error("--order=size", preset={"experiment": "dense", "ordered": False})
    assert refusal in error(preset={"experiment": "dense", "ordered": False, "order": "size"})


@pytest.mark.parametrize(("order", "reverse"), [("size", True), ("name", False)])
def test_only_with_beside_a_value_that_a_flag_has_to_give(order, reverse):
    @dataclasses.dataclass(frozen=True)
    class Sorting(Experiment):
        order: str
        reverse: bool = dataclasses.field(default=False, metadata={"only_with": {"order": "size"}})

    binding = dataclasses.replace(TOY, choices_of={Experiment: {"sorting": Sorting}}.get)
    preset = Level({"experiment": "sorting", "reverse": True}, "toy.yaml")
    bound = binding.bind(["toy", f"--order={order}"], [preset])
    assert bound.config == Sorting(order, reverse)
    assert bound.dropped == ({} if reverse else {"reverse": "toy.yaml"})


OVERLAYS = [  # (preset, overlay, flags, path, text)
    ({"rounds": 7}, {"rounds": 8}, [], "rounds", "8"),
    ({"rounds": 7}, {"rounds": 8}, ["--rounds=9"], "rounds", "9"),
    ({"rounds": 7}, {"seed": 8}, [], "rounds", "7"),
    ({}, {"objective": {"attack": {"steps": 2}}}, [], "objective.attack.steps", "2"),
    ({"data": "mnist"}, {"data": {"validation": 0.5}}, [], "data.source", "mnist"),
    (
        {"evaluation": {"name": "fgsm", "epsilon": 0.5}},
        {"evaluation": "pgd"},
        [],
        "evaluation.epsilon",
        "0.5",
    ),
    ({"rounds": 7}, {"experiment": "dense", "steps": 5}, [], "steps", "5"),
]


@pytest.mark.parametrize(("preset", "overlay", "given", "path", "value"), OVERLAYS)
def test_a_later_preset_overrides_an_earlier_one(preset, overlay, given, path, value):
    bound = bind(*given, preset={"experiment": "pruning", **preset}, overlay=overlay)
    assert bound.values[path] == value


OVERLAY_ERRORS = [  # (preset, overlay, flags, what the message contains)
    ({"experiment": "pruning"}, {"round": 3}, [], ["over.yaml: unknown key round; did you mean"]),
    ({"experiment": "pruning"}, {"round": 3}, ["--rounds=3"], ["over.yaml: unknown key round"]),
    ({"experiment": "pruning"}, {"rounds": "x"}, ["--rounds=3"], ["over.yaml: rounds: expected"]),
    (ATTACKED, {"objective": {"attack": {"step": 3}}}, ["--objective=natural"], ["over.yaml: unk"]),
    # a whole preset is right by itself, or wrong
    (
        {"experiment": "pruning", "objective": {"name": "adversarial", "attack": "pgd"}},
        {"experiment": "pruning", "objective": {"warmup": 3}},
        [],
        ["over.yaml: unknown key objective.warmup; warmup exists with objective=adversarial"],
    ),
    (ATTACKED, {"experiment": "dense", "rounds": 3}, [], ["over.yaml: unknown key rounds"]),
    ({"seed": 3}, {"experiment": "dense"}, [], ["toy.yaml changes another preset: name it after"]),
    (None, {"seed": 3}, [], ["--experiment is required, for over.yaml only changes", "pruning, d"]),
    ({"rounds": 3}, {"seed": 3}, [], ["--experiment is required, for over.yaml only"]),
]


@pytest.mark.parametrize(("preset", "overlay", "given", "parts"), OVERLAY_ERRORS)
def test_a_wrong_overlay_is_named(preset, overlay, given, parts):
    message = error(*given, preset=preset, overlay=overlay)
    assert [part for part in parts if part not in message] == [], message


# ---------------------------------------------------------------- what flags change

CHANGES = [  # (flags, preset, changes)
    ([], ATTACKED, {}),
    (["--rounds=5", "--objective.beta=3", "--objective=trades"], ATTACKED, {}),
    (["--rounds=6"], ATTACKED, {"rounds": ("5", "6")}),
    (["--objective.beta=1/2"], ATTACKED, {"objective.beta": ("3.0", "0.5")}),
    (["--data=mnist"], ATTACKED, {"data.source": ("fashion_mnist", "mnist")}),
    # only the choice is told, not what comes with it
    (["--objective=natural"], ATTACKED, {"objective": ("trades", "natural")}),
    (
        ["--objective=adversarial", "--objective.attack=pgd", "--objective.warmup=3"]
        + ["--objective.attack.steps=9"],
        ATTACKED,
        {
            "objective": ("trades", "adversarial"),
            "objective.attack": (None, "pgd"),
            "objective.attack.steps": ("4", "9"),
            "objective.warmup": ("0", "3"),
        },
    ),
    (
        ["--evaluation=pgd", "--evaluation.epsilon=.5"],
        ATTACKED,
        {"evaluation": ("none", "pgd"), "evaluation.epsilon": (None, "0.5")},
    ),
    (["--extra=none"], {"experiment": "pruning", "extra": "mnist"}, {"extra": (None, "none")}),
    (["--experiment=dense"], ATTACKED, {}),
    (["--experiment=dense", "--steps=3"], ATTACKED, {"steps": ("12ep", "3")}),
    # a new objective's attack is compared with what that objective would have
    (
        ["--experiment=pruning", "--objective=adversarial", "--objective.attack=fgsm"]
        + ["--objective.attack.epsilon=.1"],
        {"experiment": "dense"},
        {
            "objective": ("trades", "adversarial"),
            "objective.attack": (None, "fgsm"),
            "objective.attack.epsilon": (None, "0.1"),
        },
    ),
]


@pytest.mark.parametrize(("given", "preset", "changes"), CHANGES)
def test_changes_are_what_differs_from_the_presets(given, preset, changes):
    assert bind(*given, preset=preset).changes == changes


def commands():
    """Command lines that differ in one or several values, over one preset each."""
    single = [
        [],
        ["--rounds=6"],
        ["--rounds=66"],
        ["--seed=6"],
        ["--hidden=6"],
        ["--hidden=6,6"],
        ["--hidden="],
        ["--densities=.5"],
        ["--data=npz:a/mnist.npz"],
        ["--data=npz:b/mnist.npz"],
        ["--data=npz:b/mnist"],
        ["--data=seed=6"],
        ["--data=x,seed=6"],
        ["--data.validation=.5"],
        ["--extra=none,rounds=6"],
        ["--extra=none,rounds=66"],
        ["--evaluation=fgsm", "--evaluation.epsilon=.5"],
        ["--evaluation=pgd", "--evaluation.epsilon=.5"],
        ["--evaluation=pgd", "--evaluation.epsilon=.25"],
        ["--objective=natural"],
        ["--objective.attack.epsilon=.5"],
        ["--objective.attack=fgsm"],
        ["--objective.attack=fgsm", "--objective.attack.epsilon=.5"],
        ["--objective=adversarial"],
        ["--objective=adversarial", "--objective.attack.epsilon=.5"],
        ["--objective=adversarial", "--objective.attack=fgsm"],
        ["--objective=adversarial", "--objective.warmup=" + "1" * 200],
        ["--objective=adversarial", "--objective.warmup=" + "1" * 199 + "2"],
        ["--objective=adversarial", "--objective.warmup=2ep"],
    ]
    names = [{word.partition("=")[0] for word in given} for given in single]
    pairs = [
        [*one, *other]
        for i, one in enumerate(single)
        for j, other in enumerate(single)
        if i < j and not names[i] & names[j]
    ]
    return single + pairs


@pytest.mark.parametrize("preset", [ATTACKED, {"experiment": "pruning"}], ids=["own", "defaults"])
def test_same_settings_same_name_and_different_settings_different_name(preset):
    named = {}
    for given in commands():
        try:
            bound = bind(*given, preset=preset)
        except ValueError:  # a flag of a choice that is not made
            continue
        changes = {path: here for path, (_, here) in bound.changes.items()}
        name = settings_name("toy", changes, bound.values)
        assert len(name) <= LONGEST and "/" not in name
        assert named.setdefault(name, bound.config) == bound.config
    assert len(set(map(repr, named.values()))) == len(named) > 100


NAMES = [  # (preset, changes, name)
    ("", {}, "default"),
    ("quick_start", {}, "quick_start"),
    ("quick_start,legacy", {"rounds": "3", "seed": "1"}, "quick_start,legacy,rounds=3,seed=1"),
    ("q", {"network.hidden": "300,100"}, "q,hidden=300,100"),
    ("q", {"objective": "natural"}, "q,objective=natural"),
    ("q", {"objective.attack.steps": "3"}, "q,objective.attack.steps=3"),
    ("q", {"evaluation.attack.steps": "3"}, "q,evaluation.attack.steps=3"),
    ("q", {"objective.attack.loss": "ce"}, "q,loss=ce"),
    ("q", {"objective.seed": "3"}, "q,objective.seed=3"),
    ("q", {"teacher.network.width": "3"}, "q,teacher.network.width=3"),
    ("q", {"masks_from": "runs/a b"}, "q,masks_from=ab~"),
    ("q", {"masks_from": ".."}, "q,masks_from=..~"),
]
PATHS = ["rounds", "seed", "masks_from", "network", "network.hidden", "objective", "objective.seed"]
PATHS += ["objective.attack", "objective.attack.steps", "objective.attack.loss"]
PATHS += ["evaluation.attack", "evaluation.attack.steps"]
PATHS += ["teacher.network.width", "student.width"]  # network is a whole path


@pytest.mark.parametrize(("preset", "changes", "name"), NAMES)
def test_a_name_is_as_short_as_it_is_clear(preset, changes, name):
    found = settings_name(preset, changes, PATHS)
    assert found.startswith(name) if "~" in name else found == name


def test_a_long_name_is_cut_and_still_its_own():
    changes = {f"setting_{number}": "1" for number in range(20)}
    names = [settings_name("q", changes | {f"setting_{n}": "2"}, changes) for n in range(20)]
    assert set(map(len, names)) == {LONGEST} and len(set(names)) == 20


@pytest.mark.parametrize(
    "value", ["a/b", "b", "c/b", "", "a b", "ab", "x" * 61, "x" * 62, "~", "é"]
)
def test_what_is_no_file_name_becomes_one(value):
    others = {"a/b", "b", "c/b", "", "a b", "ab", "x" * 61, "x" * 62, "~", "é"} - {value}
    assert file_name(value) not in set(map(file_name, others))
    assert len(file_name(value)) <= 60 and not set(file_name(value)) & set("/ é=")


def test_typed_values_and_options():
    bound = bind("--experiment=dense", "--steps=500", "--data.validation=1", "--debug")
    assert type(bound.config.steps) is int
    assert type(bound.config.data.validation) is float
    assert bound.options == Options(debug=True)


# ---------------------------------------------------------------- errors

P, A = "--experiment=pruning", "--objective=adversarial"
FLAG_ERRORS = [  # (flags, what the message contains)
    ([], ["--experiment is required (What to run; one of pruning, dense)"]),
    (["--experiment=prunin"], ["--experiment: expected one of", "'prunin'", "mean pruning?"]),
    ([P, "--objective=tradse"], ["--objective: expected one of natural", "'tradse'; did you mean"]),
    ([P, "--objective=none"], ["--objective: expected one of", "'none'"]),
    ([P, "--evaluation=pdg"], ["--evaluation: expected one of pgd, fgsm, none; received 'pdg'"]),
    (
        [P, "--objective.attack.epsilon=abc"],
        ["--objective.attack.epsilon: expected a number such as 0.3 or 8/255; received 'abc'"],
    ),
    ([P, "--objective.beta=8/0"], ["--objective.beta: expected a number", "'8/0'"]),
    ([P, "--objective.beta=nan"], ["--objective.beta: expected a number", "'nan'"]),
    ([P, "--rounds=2.5"], ["--rounds: expected a whole number such as 3; received '2.5'"]),
    ([P, "--hidden=3,x"], ["--hidden: expected values separated by commas", "'3,x'"]),
    ([P, "--data.shuffle=maybe"], ["--data.shuffle: expected true or false; received 'maybe'"]),
    (
        [P, "--objective.attack.norm=l3"],
        ["--objective.attack.norm: expected one of linf, l2", "l3"],
    ),
    ([P, "--objective.attack.step_size=x"], ["step_size: expected a number", "or none", "'x'"]),
    ([P, A], ["--objective.attack is required (Makes the images; one of pgd, fgsm)"]),
    (
        [P, A, "--objective.attack=pgd"],
        ["--objective.attack.epsilon is required (Radius of the ball, in [0, 1] units; a number"],
    ),
    # the class' own word
    ([P, "--objective.attack.epsilon=3"], ["--objective.attack.epsilon must be in", "epsilon=3"]),
    (
        [P, "--objective.attack.norm=l2", "--objective.attack.steps=1"],
        ["--objective.attack: one step in l2"],
    ),
    # names
    ([P, "--round=3"], ["unknown flag --round; did you mean rounds?"]),
    (
        [P, "--objective.atack.epsilon=.3"],
        ["--objective.atack.epsilon; did you mean objective.att"],
    ),
    ([P, "--beta=3"], ["unknown flag --beta; did you mean objective.beta?"]),
    ([P, "--noaugment"], ["unknown flag --noaugment"]),
    ([P, "--steps=3"], ["unknown flag --steps; steps exists with experiment=dense"]),
    ([P, A, "--objective.beta=3"], ["--objective.beta; beta exists with objective=trades"]),
    (["--rounds=3"], ["unknown flag --rounds; rounds exists with experiment=pruning"]),
    ([P, "--objective.name=natural"], ["unknown flag --objective.name"]),
    ([P, "--preste=x"], ["unknown flag --preste; did you mean preset?"]),
    # nothing is silently ignored
    ([P, "--evaluation.steps=3"], ["unknown flag --evaluation.steps; evaluation is none"]),
    ([P, "--evaluation=none", "--evaluation.steps=3"], ["--evaluation.steps; evaluation is none"]),
    ([P, "--extra=none", "--extra.source=x"], ["unknown flag --extra.source; extra is none"]),
    ([P, "--rounds=3", "--rounds=4"], ["--rounds is given twice: '3' and '4'"]),
    ([P, P], ["--experiment is given twice"]),
    ([P, "--data.shuffle", "--nodata.shuffle"], ["--data.shuffle is given twice"]),
    ([P, "--data=x", "--data.source=y"], ["--data.source and --data set the same value"]),
    ([P, "rounds=3"], ["unexpected argument 'rounds=3'"]),
    ([P, "--", "--rounds=3"], ["unexpected argument '--rounds=3'"]),
    ([P, "--data.shuffle", "false"], ["unexpected argument 'false'"]),
    ([P, "--rounds"], ["--rounds"]),
    ([P, "--data.source", "--rounds=3"], ["--data.source needs a value; received the flag"]),
    ([P, "--flagfile=/no/such/file"], ["/no/such/file"]),
]


@pytest.mark.parametrize(("given", "parts"), FLAG_ERRORS)
def test_a_wrong_flag_is_named_with_what_was_received(given, parts):
    message = error(*given)
    assert [part for part in parts if part not in message] == [], message


PRESET_ERRORS = [  # (preset, what the message contains)
    ({"experiment": "dens"}, ["experiment: expected one of pruning, dense; received 'dens'; did"]),
    ({"round": 3}, ["unknown key round; did you mean rounds?"]),
    ({"objective": {"atack": {"epsilon": 1}}}, ["unknown key objective.atack.epsilon; did you"]),
    (
        {"objective": {"name": "natural", "beta": 3}},
        ["objective.beta; beta exists with objective="],
    ),
    ({"objective": ["natural"]}, ["objective: expected one of", "received ['natural']"]),
    ({"objective": None}, ["objective: expected one of", "received None"]),
    ({"evaluation": {"epsilon": 1}}, ["unknown key evaluation.epsilon; evaluation is none"]),
    ({"data": {"name": "mnist"}}, ["unknown key data.name"]),
    ({"rounds": {"count": 3}}, ["unknown key rounds.count"]),
    ({"rounds": 2.0}, ["rounds: expected a whole number such as 3; received 2.0"]),
    ({"rounds": True}, ["rounds: expected a whole number such as 3; received True"]),
    ({"objective": {"beta": "6,0"}}, ["objective.beta: expected a number", "received '6,0'"]),
    ({"data": {"shuffle": 1}}, ["data.shuffle: expected true or false; received 1"]),
    ({"data": 3}, ["data.source: expected text; received 3"]),
    (
        {"objective": {"attack": {"norm": False}}},
        ["attack.norm: expected one of linf, l2", "False"],
    ),
    ({"workdir": "x"}, ["unknown key workdir"]),
    ({"preset": "x"}, ["unknown key preset"]),
    ({3: "x"}, ["unknown key 3"]),
]


@pytest.mark.parametrize(("preset", "parts"), PRESET_ERRORS)
@pytest.mark.parametrize("given", [[], ["--experiment=dense"]], ids=["alone", "overridden"])
def test_a_wrong_preset_is_named_with_its_file(preset, parts, given):
    message = error(*given, preset={"experiment": "pruning", **preset})
    assert message.startswith("toy.yaml: ")
    assert [part for part in parts if part not in message] == [], message


def test_a_preset_may_leave_the_root_to_the_flags():
    assert config("--experiment=dense", preset={"seed": 3}) == Dense(seed=3)
    assert "toy.yaml: unknown key round" in error("--experiment=pruning", preset={"round": 3})
    assert "--experiment is required" in error(preset={"seed": 3})


def test_a_field_of_an_unsupported_type_shows_at_once():
    @dataclasses.dataclass(frozen=True)
    class Odd(Experiment):
        table: dict[str, int] | None = None

    binding = dataclasses.replace(TOY, choices_of={Experiment: {"odd": Odd}}.get)
    with pytest.raises(TypeError, match="cannot be of type"):
        binding.bind(["toy", "--experiment=odd"])


# ---------------------------------------------------------------- help


def page(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        bind(*arguments)
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "--helpfull", "-h"])
@pytest.mark.parametrize("made", CONFIGS, ids=lambda made: repr(made)[:60])
def test_help_lists_every_field_of_the_chosen_tree(made, flag, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    flat = values_of(made, Experiment, "experiment", REGISTRIES.get)
    given = [f"--{path}={value}" for path, value in flat.items()]
    shown = page(capsys, *given, flag)
    for path in [*flat, "data", "preset"]:
        assert f"--{path}:" in shown or f"--[no]{path}:" in shown
    assert shown.startswith("Usage of toy.\n")


def test_help_shows_docstrings_defaults_and_what_is_expected(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    given = [P, A, "--objective.attack=pgd", "--evaluation=fgsm", "--rounds=9"]
    shown = page(capsys, *given, "--help")
    for part in [
        "--experiment: What to run.",
        "objective=adversarial - Cross entropy on attacked images:",
        "--objective.attack.epsilon: Radius of the ball, in [0, 1] units.",
        "(required; a number such as 0.3 or 8/255)",
        "--objective.attack.norm: The norm of the ball.\n    (default: 'linf')\n    (one of linf",
        "--rounds: Number of train-prune cycles.\n    (default: '5')",
        "--seed: Of everything random.",
        "--data.validation: Fraction held out.\n    (default: '0.2')",
        "--data: What to train on.\n    (short for --data.source)",
        "--hidden: Units of each layer.\n    (default: '300,100')",
        "--evaluation.epsilon:",
        "(one of pgd, fgsm, none)",
    ]:
        assert part in shown, part
    assert "--objective.beta" not in shown


def test_help_without_an_experiment_lists_the_experiments(capsys):
    shown = page(capsys, "--help")
    assert "(one of pruning, dense)" in shown
    assert "--rounds" not in shown


# ---------------------------------------------------------------- values

TEXTS = [
    (int, "3", 3),
    (float, "8/255", 8 / 255),
    (float, " 1 / 4 ", 0.25),
    (float, "1e-3", 1e-3),
    (float, 2, 2.0),
    (bool, "True", True),
    (str, "", ""),
    (str, "none", "none"),
    (str | None, "none", None),
    (Literal["a", 2], "2", 2),
    (Literal[0, 1], "0", 0),
    (int | str, "12ep", "12ep"),
    (int | str, "12", 12),
    (str | int, "12", 12),
    (int | str | None, "None", None),
    (tuple[int, ...], "", ()),
    (tuple[float, ...] | None, [1, "1/2"], (1.0, 0.5)),
    (tuple[str, ...], "a, b", ("a", "b")),
]


@pytest.mark.parametrize(("annotation", "raw", "value"), TEXTS)
def test_texts_become_typed_values_and_come_back(annotation, raw, value):
    assert convert(annotation, raw) == value
    assert type(convert(annotation, raw)) is type(value)
    assert convert(annotation, text(value)) == value


# ---------------------------------------------------------------- presets and programs

QUICK = """
about:
  paper: none
  command: python toy.py
experiment: pruning
rounds: 2
objective:
  name: trades
  attack: {name: pgd, epsilon: 8/255}
data: mnist
"""


@pytest.fixture
def presets(tmp_path):
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "quick_start.yaml").write_text(QUICK)
    (folder / "long_run.yaml").write_text("experiment: dense\n")
    return folder


@pytest.mark.parametrize("by_path", [False, True])
def test_a_preset_is_found_by_name_and_by_path(presets, by_path):
    name = str(presets / "quick_start.yaml") if by_path else "quick_start"
    bound = command_line.configure(TOY, ["toy", f"--preset={name}", "--seed=3"], presets)
    assert bound.config.rounds == 2
    assert bound.config.seed == 3
    assert bound.config.data == Data("mnist", 0.2)
    assert bound.config.objective == Trades(PGD(epsilon=8 / 255, steps=3), beta=2.0)
    assert command_line.read_preset(name, presets).about["command"] == "python toy.py"


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("quick_strat", None, ["--preset: expected", "'quick_strat'; did you mean quick_start?"]),
        ("zzz", None, ["long_run, quick_start; received 'zzz'"]),
        ("no/such.yaml", None, ["--preset: there is no file 'no/such.yaml'"]),
        ("bad", "rounds: [1", ["bad.yaml: "]),
        ("bad", "- rounds", ["bad.yaml: expected a mapping of fields; received ['rounds']"]),
        ("bad", "", ["bad.yaml: expected a mapping"]),
        ("bad", "rounds: 1\nseed: 2\nrounds: 3", ["bad.yaml: line 3: the key 'rounds' is given"]),
    ],
)
def test_a_preset_that_cannot_be_read_is_named(presets, name, content, parts):
    if content is not None:
        (presets / f"{name}.yaml").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        command_line.configure(TOY, ["toy", f"--preset={name}"], presets)
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value


def test_flags_may_come_from_a_file(tmp_path):
    lines = ["# a comment", A, "--objective.warmup=3", "--objective.attack=fgsm"]
    (tmp_path / "flags.txt").write_text("\n".join(lines))
    given = [P, f"--flagfile={tmp_path}/flags.txt", "--objective.attack.epsilon=.3"]
    assert config(*given) == Pruning(objective=Adversarial(FGSM(0.3), warmup=3))


TOY_EXPERIMENTS = '''
import dataclasses
import os
from rst_tf.registry import Registry, choices

class Experiment:
    pass

class RunError(RuntimeError):
    pass

EXPERIMENTS = choices(Experiment, Registry("experiment"))

@EXPERIMENTS.register("counting")
@dataclasses.dataclass(frozen=True)
class Counting(Experiment):
    """Counts.

    Args:
        upto: How far.
        fail: How to end.
        seed: Counts too.
        fail_at: The seed that fails.
    """

    upto: int = 3
    fail: str = ""
    seed: int = 0
    fail_at: int = 0

    def run(self, workdir):
        errors = {
            "value": ValueError("two\\n  lines"), "os": PermissionError(13, "Permission denied"),
            "run": RunError("masked weights moved"), "stop": KeyboardInterrupt(),
            "bug": KeyError("bug"), "mute": ValueError(), "noted": RunError("made by another"),
            "saved": RunError("SIGTERM: saved"),
        }
        for note in ("--rounds: 3 there, 5 here", "what another\\nprogram printed", "--seed: 1"):
            errors["noted"].add_note(note)
        errors["saved"].exit_code = 143
        if self.fail and self.seed == self.fail_at:
            raise errors[self.fail]
        quiet = os.environ["TF_CPP_MIN_LOG_LEVEL"]
        print("ran", self.upto, self.seed, workdir, type(workdir).__name__, quiet)
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "results.csv").touch()
        (workdir / "config.json").touch()

@EXPERIMENTS.register("planned")
@dataclasses.dataclass(frozen=True)
class Planned(Counting):
    """Knows beforehand."""

    def plan(self, trials):
        return f"{self.upto} things {trials} times"

@EXPERIMENTS.register("idle")
@dataclasses.dataclass(frozen=True)
class Idle(Experiment):
    """Does nothing."""

    def run(self, workdir):
        pass
'''
TOY_REPORT = """
def write_seeds(workdirs, out):
    print("reported", *workdirs, "in", out)
"""


TOY_QUIET = """
import contextlib

quiet = contextlib.nullcontext


def start_tensorflow():
    pass
"""
TOY_GRAPHS = """
import contextlib

let_go = contextlib.nullcontext
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A copy of the program with a toy experiment in the place of the real ones."""
    home = tmp_path_factory.mktemp("program")
    shutil.copy(ROOT / "run_experiments.py", home)
    shutil.copytree(ROOT / "flags", home / "flags", ignore=shutil.ignore_patterns("presets"))
    (home / "flags" / "presets").mkdir()
    (home / "flags" / "presets" / "quick_start.yaml").write_text("experiment: counting\nupto: 2\n")
    (home / "rst_tf" / "analysis").mkdir(parents=True)
    for name in ("registry.py", "strategies.py", "cluster.py"):
        shutil.copy(ROOT / "rst_tf" / name, home / "rst_tf")
    (home / "rst_tf" / "quiet.py").write_text(TOY_QUIET)
    (home / "rst_tf" / "graphs.py").write_text(TOY_GRAPHS)
    (home / "rst_tf" / "analysis" / "report.py").write_text(TOY_REPORT)
    (home / "experiments").mkdir()
    (home / "experiments" / "experiment.py").write_text(TOY_EXPERIMENTS)

    quiet = "TF_CPP_MIN_LOG_LEVEL"
    env = {name: value for name, value in os.environ.items() if name != quiet}

    def start(*arguments):
        return subprocess.run(
            [sys.executable, "run_experiments.py", *arguments],
            cwd=home,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    start.home = home
    return start


C = "--experiment=counting"


@pytest.mark.parametrize(
    ("given", "upto", "workdir"),
    [
        ([], 2, "runs/counting/quick_start"),
        (["--workdir=here"], 2, "here"),
        (["--upto=3"], 3, "runs/counting/quick_start,upto=3"),
        (["--preset=quick_start", "--upto=2"], 2, "runs/counting/quick_start"),
        (["--preset", "flags/presets/quick_start.yaml"], 2, "runs/counting/quick_start"),
        (["--flagfile=flagfile"], 2, "runs/counting/quick_start"),
        ([C], 3, "runs/counting/default"),
        ([C, "--upto=4", "--workdir=a/b", "--debug"], 4, "a/b"),
    ],
)
def test_program_runs_and_reports(program, given, upto, workdir):
    (program.home / "flagfile").write_text("--preset=quick_start\n")
    done = program(*given)
    ran = [f"ran {upto} 0 {workdir} PosixPath 2", f"reported {workdir} in {workdir}/report"]
    assert done.stdout.splitlines() == ran
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("given", "line", "code"),
    [
        ([C, "--fail=value"], "error: two lines", 1),
        ([C, "--fail=os"], "error: [Errno 13] Permission denied", 1),
        ([C, "--fail=run"], "error: masked weights moved", 1),
        ([C, "--fail=mute"], "error: ValueError", 1),
        ([C, "--fail=stop"], "interrupted", 130),
        ([C, "--fail=saved"], "SIGTERM: saved\n", 143),
        ([C, "--upot=3"], "error: unknown flag --upot; did you mean upto?", 1),
        ([C, "--trails=3"], "error: unknown flag --trails; did you mean trials?", 1),
        ([C, "--trials=0"], "error: --trials must be at least 1; received trials=0", 1),
        ([C, "--trials=two"], "error: --trials: expected a whole number", 1),
        (["--experiment=idle", "--trials=2"], "error: --trials needs a seed, and idle has none", 1),
        (["--preset=quick"], "error: --preset: expected a path or one of quick_start; rece", 1),
        (["--preset=quick_start,"], "error: --preset: expected a path or one of quick_start; r", 1),
        (["--preset=quick_start,quick_start"], "error: --preset: quick_start is given twice", 1),
        (["--preset"], "error: ", 1),
    ],
)
def test_program_ends_with_one_line(program, given, line, code):
    done = program(*given)
    assert done.stderr.startswith(f"run_experiments: {line}")
    assert done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (code, "")


def test_program_prints_notes_of_one_line_below_the_error(program):
    done = program(C, "--fail=noted")
    assert done.stderr.splitlines() == [
        "run_experiments: error: made by another",
        "  --rounds: 3 there, 5 here",
        "  --seed: 1",
    ]
    assert (done.returncode, done.stdout) == (1, "")
    assert "what another\nprogram printed" in program(C, "--fail=noted", "--debug").stderr


def test_program_runs_trials_and_more_trials(program):
    def lines(*seeds, folder="t", upto=3):
        folders = [f"{folder}/seed_{seed}" for seed in seeds]
        pairs = zip(seeds, folders, strict=True)
        ran = [f"ran {upto} {seed} {folder} PosixPath 2" for seed, folder in pairs]
        return [*ran, f"reported {' '.join(folders)} in {folder}/report"]

    assert program(C, "--trials=2", "--workdir=t").stdout.splitlines() == lines(0, 1)
    assert program(C, "--trials=3", "--workdir=t").stdout.splitlines() == lines(0, 1, 2)
    assert program(C, "--trials=1", "--seed=4", "--workdir=t").stdout.splitlines() == lines(4)
    for given in (["--trials=1", "--seed=3"], ["--trials=1", "--seed=3", "--upto=3"]):
        named = lines(3, folder="runs/counting/default,seed=all")
        assert program(C, *given).stdout.splitlines() == named
    single = program(C, "--workdir=t")
    assert "workdir t holds trials; go on with them by --trials=N" in single.stderr
    program(C, "--workdir=one")
    assert "workdir one holds a single run" in program(C, "--workdir=one", "--trials=2").stderr


def test_program_says_which_trial_failed(program):
    done = program(C, "--trials=3", "--fail=run", "--fail_at=1", "--workdir=f")
    assert done.stdout.splitlines() == ["ran 3 0 f/seed_0 PosixPath 2"]
    assert done.stderr.splitlines() == [
        "run_experiments: error: masked weights moved",
        "  in trial 2 of 3, f/seed_1",
    ]


def test_program_tells_what_a_run_would_take_and_leaves_no_trace(program):
    before = sorted(program.home.rglob("*"))
    done = program("--preset=quick_start", "--dry_run", "--upto=5", "--trials=3", "--seed=2")
    assert done.stdout.splitlines() == [
        "differs from preset quick_start:",
        "  setting  preset  here",
        "  upto     2       5",
        "  seed     0       2",
        "",
        "workdir   runs/counting/quick_start,upto=5,seed=all",
        "trials    3, seeds 2 to 4",
        "counting cannot tell beforehand what it takes",
    ]
    done = program("--experiment=planned", "--dry_run", "--trials=3", "--force")
    assert done.stdout.splitlines()[0] == "nothing differs from the defaults"
    assert done.stdout.splitlines()[-1] == "3 things 3 times"
    assert (done.returncode, done.stderr) == (0, "")
    assert program("--experiment=planned", "--dry_run").stdout.endswith("3 things 1 times\n")
    assert sorted(program.home.rglob("*")) == before


def test_program_moves_an_older_run_aside(program):
    for number in (1, 2):
        program(C, "--workdir=w")
        (program.home / "w" / "mine").write_text(str(number))
        done = program(C, "--workdir=w", "--force")
        assert done.stderr == f"run_experiments: moved w to w.old-{number}\n"
        assert "ran 3 0 w" in done.stdout and not (program.home / "w" / "mine").exists()
    old = [program.home / f"w.old-{number}" for number in (1, 2)]
    assert [(path / "mine").read_text() for path in old] == ["1", "2"]
    assert all((path / "results.csv").exists() for path in old)
    assert program(C, "--workdir=new", "--force").stderr == ""


def test_program_shows_tracebacks_of_bugs_and_on_demand(program):
    assert "Traceback" in program(C, "--fail=bug").stderr
    shown = program(C, "--fail=value", "--debug")
    assert "Traceback" in shown.stderr
    assert shown.stderr.endswith("run_experiments: error: two lines\n")
    assert shown.returncode == 1


def test_program_says_what_the_flags_leave_of_a_preset(program):
    done = program("--preset=quick_start", "--experiment=idle")
    line = "run_experiments: not used beside what was chosen: upto, set by quick_start.yaml\n"
    assert (done.returncode, done.stderr) == (0, line)


def test_program_helps(program):
    done = program("--preset=quick_start", "--help")
    assert "Presets: quick_start.\n\noptions:" in done.stdout
    assert "--upto: How far." in done.stdout
    assert "(default: '2')" in done.stdout
    assert "--workdir:" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- moving a run aside


def workdir(folder, *files):
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(file)
    return folder


TRIAL = ("seed_0/config.json", "seed_0/.lock", "seed_1/config.json", "seed_1/.lock")


@pytest.mark.parametrize("files", [("config.json",), ("config.json", ".lock", "x/y"), TRIAL])
def test_a_run_goes_to_the_first_free_name_whole(tmp_path, files):
    workdir(tmp_path / "w.old-1", "taken")
    (tmp_path / "w.old-2").symlink_to("nowhere")
    moved = move_aside(workdir(tmp_path / "w", *files))
    assert moved == tmp_path / "w.old-3" and not (tmp_path / "w").exists()
    assert all((moved / file).read_text() == file for file in files)
    assert (tmp_path / "w.old-1" / "taken").exists()


@pytest.mark.parametrize("files", [None, (), (".lock",), (".lock", "log")])
def test_nothing_moves_where_there_is_no_run(tmp_path, files):
    folder = tmp_path / "w"
    if files is not None:
        workdir(folder, *files)
    assert move_aside(folder) is None
    assert list(tmp_path.iterdir()) == ([] if files is None else [folder])


def test_a_folder_that_is_no_run_stays(tmp_path, monkeypatch):
    photos = workdir(tmp_path / "photos", "one.jpg", ".lock")
    with pytest.raises(ValueError, match="photos has no config"):
        move_aside(photos)
    inside = workdir(tmp_path / "w", "config.json", "report/x")
    monkeypatch.chdir(inside / "report")
    for path in (inside, Path(".."), Path("../../w")):
        with pytest.raises(ValueError, match="this process is inside"):
            move_aside(path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.chdir(tmp_path)
    assert move_aside(Path("w/report/..")) == Path("w.old-1")


HOLD = """
import fcntl, sys
stream = open(sys.argv[1], "a+")
fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("files", "held"), [(("config.json",), ".lock"), (TRIAL, "seed_1/.lock")])
def test_a_run_at_work_stays(tmp_path, files, held):
    folder = workdir(tmp_path / "w", *files)
    (folder / held).write_text("process 7 on host")
    command = [sys.executable, "-c", HOLD, str(folder / held)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=r"w(/seed_1)? is in use by process 7 on host"):
            move_aside(folder)
        assert folder.exists()
        other.stdin.close()
        other.wait()
    assert move_aside(folder) == tmp_path / "w.old-1"


# ---------------------------------------------------------------- the real experiments

HELP = """
import runpy, sys
sys.argv = ["run_experiments.py", *sys.argv[1:]]
try:
    runpy.run_path("run_experiments.py", run_name="__main__")
except SystemExit as end:
    heavy = {"tensorflow", "keras", "matplotlib", "tensorflow_datasets"} & set(sys.modules)
    print("heavy:", sorted(heavy), "code:", end.code)
"""


@pytest.mark.parametrize("name", [None, *real.EXPERIMENTS])
def test_help_of_every_experiment_loads_nothing_heavy(name):
    given = [] if name is None else [f"--experiment={name}"]
    done = subprocess.run(
        [sys.executable, "-c", HELP, *given, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "heavy: [] code: 0" in done.stdout, done.stdout[-500:] + done.stderr


REQUIRED = {
    "evaluation": ["--source=zoo:x", "--epsilon=8/255"],
    "fine_tuning": ["--ticket=runs/x"],
    "export": ["--source=runs/x"],
    "import_published": ["--source=x"],
    "tuning": ["--space=batch_size: 16..64"],
    "transfer": ["--tickets=runs/x,runs/y", "--attack=pgd", "--attack.epsilon=8/255"],
}


@pytest.mark.parametrize("name", real.EXPERIMENTS)
def test_every_experiment_comes_back_from_its_flags(name):
    binding = Binding(real.Experiment, "experiment", choices_of, Options)
    default = binding.bind(["toy", f"--experiment={name}", *REQUIRED.get(name, [])])
    given = [f"--{path}={value}" for path, value in default.values.items()]
    assert binding.bind(["toy", *given]).config == default.config


def reachable(cls, seen):
    """The configuration class and all that its fields can hold."""
    if cls in seen:
        return
    seen.add(cls)
    for annotation in typing.get_type_hints(cls).values():
        inner, _ = optional(annotation)
        found = [inner] if choices_of(inner) is None else choices_of(inner).values()
        for member in filter(dataclasses.is_dataclass, found):
            reachable(member, seen)


def test_every_field_of_every_configuration_is_documented():
    classes: set[type] = set()
    for cls in real.EXPERIMENTS.values():
        reachable(cls, classes)
    missing = [
        f"{cls.__name__}.{field.name}"
        for cls in classes
        for field in dataclasses.fields(cls)
        if not field_docs(cls).get(field.name)
    ]
    assert missing == []


def test_the_machinery_names_neither_library_nor_experiments():
    for file in ["values.py", "tree.py", "resolve.py", "parsing.py", "binding.py", "folders.py"]:
        source = (ROOT / "flags" / file).read_text()
        assert "rst_tf" not in source
        assert "import experiments" not in source and "from experiments" not in source
