import builtins
import dataclasses
import json

import pytest

from experiments.experiment import Experiment
from experiments.iterative_pruning import IterativePruning
from rst_tf.attacks import ATTACKS, PGD, Attack
from rst_tf.data import Data
from rst_tf.objectives import Natural, Objective, Trades
from rst_tf.optimizers import SGD, Optimizer
from rst_tf.registry import Registry, at_default, from_dict, to_dict
from rst_tf.schedules import Steps


def filled():
    registry = Registry("tool")
    registry.register("hammer")(1)
    registry.register("saw")(2)
    return registry


def test_a_name_is_given_once():
    registry = filled()
    with pytest.raises(ValueError, match="tool 'saw' is registered twice"):
        registry.register("saw")(3)
    assert dict(registry) == {"hammer": 1, "saw": 2}


@pytest.mark.parametrize("name", ["hamer", "hammers"])
def test_an_unknown_name_is_answered_with_a_known_one(name):
    message = f"unknown tool '{name}'; did you mean 'hammer'. .known: hammer, saw"
    with pytest.raises(ValueError, match=message):
        filled()[name]
    assert name not in filled() and "saw" in filled()


def test_names_and_members_are_inverse():
    for registry in (filled(), ATTACKS):
        assert [registry.name_of(member) for member in registry.values()] == list(registry)
    with pytest.raises(ValueError, match="3 is not a registered tool"):
        filled().name_of(3)


LOOKS = {
    "len": len,
    "iter": list,
    "in": lambda members: "nothing" in members,
    "dict": dict,
}


@pytest.mark.parametrize("name", LOOKS)
def test_every_look_discovers_the_package(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / f"tools_{name}"
    package.mkdir()
    for module in ("__init__", "hammer", "_private"):
        text = f"import builtins; builtins.seen_here.append({module!r})"
        (package / f"{module}.py").write_text(text)
    monkeypatch.setattr(builtins, "seen_here", [], raising=False)
    LOOKS[name](Registry("tool", package.name))
    assert builtins.seen_here == ["__init__", "hammer"]


def test_plain_values_carry_the_chosen_name():
    plain = to_dict(PGD(0.1, steps=3))
    assert plain.pop("name") == "pgd" and ATTACKS["pgd"](**plain) == PGD(0.1, steps=3)
    assert list(plain) == [field.name for field in dataclasses.fields(PGD)]
    assert to_dict({"a": (PGD(0.2), 1)})["a"][0]["epsilon"] == 0.2


PLAIN = {  # configurations, by their base
    "attack": (Attack, PGD(0.1, steps=3)),
    "choice in a choice": (Objective, Trades(PGD(0.1, loss="kl"), beta=2.0)),
    "none": (Objective, Natural()),
    "an optimiser": (Optimizer, SGD(0.1, schedule=Steps())),
    "no choice": (Data, Data("mnist", validation=0.2)),
    "a whole experiment": (Experiment, IterativePruning(rate=(0.5, 0.2), rewind_step="1ep")),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_become_the_configuration_again(name):
    base, config = PLAIN[name]
    assert from_dict(base, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "pgdd", "epsilon": 0.1}, "unknown attack 'pgdd'; did you mean 'pgd'"),
        ({"name": "pgd", "epsilon": 0.1, "step": 3}, "unknown field of PGD 'step'; did you mean"),
        ({"epsilon": 0.1}, "unknown attack None"),
        ({"name": "pgd", "epsilon": 3}, "epsilon"),
    ],
)
def test_plain_values_that_are_wrong_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Attack, values)


def test_fields_at_their_defaults_are_known_at_any_depth():
    found = set(at_default(Trades(PGD(0.1, steps=10), beta=3.0)))
    assert {"label_smoothing", "attack.norm", "attack.steps"} <= found
    assert not found & {"attack", "attack.epsilon", "beta"}
    assert set(at_default(IterativePruning())) >= {"data", "data.source", "seed", "rounds"}
    seeded = set(at_default(IterativePruning(seed=3)))
    assert set(at_default(IterativePruning())) - seeded == {"seed"}
