import builtins
import dataclasses

import pytest

from rst_tf.attacks import ATTACKS, PGD
from rst_tf.registry import Registry, to_dict


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
