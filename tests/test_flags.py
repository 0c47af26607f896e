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
from flags.resolve import values_of
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
    """

    objective: Objective = dataclasses.field(default_factory=Natural)
    steps: int | str = "12ep"
    augment: bool = False


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


def bind(*arguments, preset=None):
    return TOY.bind(["toy", *arguments], preset, "toy.yaml")


def config(*arguments, preset=None):
    return bind(*arguments, preset=preset).config


def error(*arguments, preset=None):
    with pytest.raises(ValueError) as caught:
        bind(*arguments, preset=preset)
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
    assert bound.dropped == ()


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


def test_what_the_flags_choices_leave_no_place_for_is_reported():
    preset = {
        "experiment": "pruning",
        "objective": {"name": "trades", "beta": 3, "attack": {"epsilon": 0.2, "steps": 4}},
    }
    bound = bind("--objective=adversarial", "--objective.attack=fgsm", preset=preset)
    assert bound.config == Pruning(objective=Adversarial(FGSM(0.2)))
    assert bound.dropped == ("objective.beta", "objective.attack.steps")
    assert bind("--objective=natural", preset=preset).dropped == (
        "objective.beta",
        "objective.attack",
    )


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
    """

    upto: int = 3
    fail: str = ""

    def run(self, workdir):
        errors = {
            "value": ValueError("two\\n  lines"), "os": PermissionError(13, "Permission denied"),
            "run": RunError("masked weights moved"), "stop": KeyboardInterrupt(),
            "bug": KeyError("bug"), "mute": ValueError(),
        }
        if self.fail:
            raise errors[self.fail]
        print("ran", self.upto, workdir, type(workdir).__name__, os.environ["TF_CPP_MIN_LOG_LEVEL"])
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "results.csv").touch()

@EXPERIMENTS.register("idle")
@dataclasses.dataclass(frozen=True)
class Idle(Experiment):
    """Does nothing."""

    def run(self, workdir):
        pass
'''
TOY_REPORT = 'def write(workdir, out=None):\n    print("reported", workdir)\n'


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A copy of the program with a toy experiment in the place of the real ones."""
    home = tmp_path_factory.mktemp("program")
    shutil.copy(ROOT / "run_experiments.py", home)
    shutil.copytree(ROOT / "flags", home / "flags", ignore=shutil.ignore_patterns("presets"))
    (home / "flags" / "presets").mkdir()
    (home / "flags" / "presets" / "quick_start.yaml").write_text("experiment: counting\nupto: 2\n")
    (home / "rst_tf" / "analysis").mkdir(parents=True)
    shutil.copy(ROOT / "rst_tf" / "registry.py", home / "rst_tf")
    (home / "rst_tf" / "quiet.py").write_text("def start_tensorflow():\n    pass\n")
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

    return start


C = "--experiment=counting"


@pytest.mark.parametrize(
    ("given", "upto", "workdir"),
    [
        ([], 2, "runs/quick_start"),
        (["--workdir=here"], 2, "here"),
        (["--upto=3"], 3, "runs/quick_start"),
        (["--preset=quick_start", "--upto=5"], 5, "runs/quick_start"),
        (["--preset", "flags/presets/quick_start.yaml"], 2, "runs/quick_start"),
        ([C], 3, "runs/counting"),
        ([C, "--upto=4", "--workdir=a/b", "--debug"], 4, "a/b"),
    ],
)
def test_program_runs_and_reports(program, given, upto, workdir):
    done = program(*given)
    assert done.stdout.splitlines() == [f"ran {upto} {workdir} PosixPath 2", f"reported {workdir}"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("given", "line", "code"),
    [
        ([C, "--fail=value"], "error: two lines", 1),
        ([C, "--fail=os"], "error: [Errno 13] Permission denied", 1),
        ([C, "--fail=run"], "error: masked weights moved", 1),
        ([C, "--fail=mute"], "error: ValueError", 1),
        ([C, "--fail=stop"], "interrupted", 130),
        ([C, "--upot=3"], "error: unknown flag --upot; did you mean upto?", 1),
        (["--preset=quick"], "error: --preset: expected a path or one of quick_start; rece", 1),
        (["--preset"], "error: ", 1),
    ],
)
def test_program_ends_with_one_line(program, given, line, code):
    done = program(*given)
    assert done.stderr.startswith(f"run_experiments: {line}")
    assert done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (code, "")


def test_program_shows_tracebacks_of_bugs_and_on_demand(program):
    assert "Traceback" in program(C, "--fail=bug").stderr
    shown = program(C, "--fail=value", "--debug")
    assert "Traceback" in shown.stderr
    assert shown.stderr.endswith("run_experiments: error: two lines\n")
    assert shown.returncode == 1


def test_program_says_what_the_flags_leave_of_a_preset(program):
    done = program("--preset=quick_start", "--experiment=idle")
    line = "run_experiments: the flags' choices have no upto, set by the preset\n"
    assert (done.returncode, done.stderr) == (0, line)


def test_program_helps(program):
    done = program("--preset=quick_start", "--help")
    assert "--upto: How far." in done.stdout
    assert "(default: '2')" in done.stdout
    assert "--workdir:" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


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


REQUIRED = {"export": ["--source=runs/x"]}


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
    for file in ["values.py", "tree.py", "resolve.py", "binding.py"]:
        source = (ROOT / "flags" / file).read_text()
        assert "rst_tf" not in source
        assert "import experiments" not in source and "from experiments" not in source
