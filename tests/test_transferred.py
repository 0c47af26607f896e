"""Attacks made on another model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small

from rst_tf import APGD, PGD, Transferred
from rst_tf.registry import from_dict, to_dict

X, Y = easy_data(16)


def classifier(seed, activation=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(4, activation)]
    )


SOURCE, TARGET = classifier(1), classifier(2)
ATTACKS = {
    "default": (Transferred(0.1, source=SOURCE), PGD(0.1, steps=20)),
    "l2": (Transferred(0.9, "l2", source=SOURCE), PGD(0.9, "l2", steps=20)),
    "chosen": (
        Transferred(0.3, source=SOURCE, attack=APGD(0.3, steps=5)),
        APGD(0.3, steps=5),
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_is_the_attack_on_the_source_whatever_is_attacked(name):
    transferred, made = ATTACKS[name]
    expected = made(SOURCE, X, Y, seed=4)
    np.testing.assert_array_equal(transferred(TARGET, X, Y, seed=4), expected)
    assert not np.array_equal(expected, made(TARGET, X, Y, seed=4))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    SOURCE.save(folder / "source.keras")
    SOURCE.export(folder / "saved", verbose=False)
    return folder


@pytest.mark.parametrize("kind", ["source.keras", "saved"])
def test_a_source_is_read_from_its_file_also_while_a_graph_is_traced(files, kind):
    attack = Transferred(0.1, source=str(files / kind))
    f = tf.function(lambda x, y: attack(TARGET, x, y))
    found, expected = f(tf.constant(X), tf.constant(Y)), PGD(0.1, steps=20)(SOURCE, X, Y)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(attack(TARGET, X, Y), expected, atol=1e-5)


def test_a_source_in_memory_is_attacked_as_it_is_now():
    source = small()
    attack = Transferred(0.1, source=source)
    before = attack(TARGET, X, Y)
    for weights in source.trainable_variables:
        weights.assign(-weights)
    np.testing.assert_array_equal(attack(TARGET, X, Y), PGD(0.1, steps=20)(source, X, Y))
    assert not np.array_equal(before, attack(TARGET, X, Y))


def test_has_the_tries_of_its_attack_for_as_many_classes():
    attack = Transferred(0.3, source=SOURCE, attack=APGD(0.3, loss="dlr", targets=9, restarts=2))
    fitted = attack.fitted(4)
    assert (attack.trials, fitted.trials, fitted.attack.targets) == (18, 6, 3)
    trial = (X, tf.constant(Y), 3, tf.range(16), tf.constant(4))
    found = fitted.attempt(None, *trial)
    np.testing.assert_array_equal(found, fitted.attack.attempt(lambda x: SOURCE(x), *trial))


def test_is_a_configuration_like_any_other():
    attack = Transferred(0.1, source="other.keras", attack=PGD(0.1, steps=3))
    assert from_dict(type(attack).__mro__[1], to_dict(attack)) == attack


REFUSED = {
    "epsilon": (
        lambda: Transferred(0.1, source="a.keras", attack=PGD(0.2)),
        "attack must have the same epsilon; received epsilon=0.1 with an attack of epsilon=0.2",
    ),
    "norm": (
        lambda: Transferred(0.1, source="a.keras", attack=PGD(0.1, "l2")),
        "attack must have the same norm",
    ),
    "no source": (lambda: Transferred(0.1, source=""), "source must be a model or its path"),
    "no such file": (
        lambda: Transferred(0.1, source="nowhere.keras")(TARGET, X, Y),
        "received 'nowhere.keras', which does not exist",
    ),
    "probabilities": (
        lambda: Transferred(0.1, source=classifier(3, "softmax"))(TARGET, X, Y),
        "returns probabilities",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
