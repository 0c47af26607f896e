import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from ticket_tables import BUILDERS, DENSITIES, NETWORKS, OWN, TICKETS, X, Y, network

from rst_tf import (
    FGSM,
    PGD,
    MaskedDense,
    Switch,
    Ticket,
    accuracy,
    switch_robustness,
    transfer_matrix,
)
from rst_tf.attacks._losses import answer, cross_entropy, defeated, divergence, value_and_gradient
from rst_tf.switch_evaluation import SwitchAttacker, SwitchRobustness
from rst_tf.ticket_set import TicketSet

every_network = pytest.mark.parametrize("name", BUILDERS)
two_networks = pytest.mark.parametrize("name", ["mlp", "conv"])
either = pytest.mark.parametrize("per", ["batch", "example"])
WEIGHTED = (0.0, 0.25, 0.75)


def switch(name="mlp", **options):
    return Switch(NETWORKS[name], TICKETS[name], **options)


def logits(name, x=X):
    """Of every ticket's own network, [tickets, n, classes]."""
    return np.stack([net(x).numpy() for net in OWN[name]])


def drawn(name, found, x=X):
    """The number of the ticket that gave each row."""
    distance = np.abs(logits(name, x) - np.asarray(found)).max(-1)
    assert (distance.min(0) < 1e-5).all() and (np.sort(distance, 0)[1] > 1e-3).all()
    return distance.argmin(0)


@every_network
def test_a_ticket_in_the_set_is_the_network_of_its_own(name):
    held = TicketSet(NETWORKS[name], TICKETS[name])
    every = logits(name)
    for number in range(3):
        for ticket in (number, tf.constant(number)):
            np.testing.assert_allclose(held.one(ticket)(X), every[number], atol=1e-5)
    np.testing.assert_allclose(held.all(X), every, atol=1e-5)
    assert held.densities == tuple(t.density for t in TICKETS[name]) and len(held) == 3


@two_networks
@either
@pytest.mark.parametrize("compiled", [False, True])
def test_answers_by_tickets_and_all_of_them(name, per, compiled):
    one = switch(name, per=per, seed=1)
    call = tf.function(one) if compiled else one
    draws = np.stack([drawn(name, call(X)) for _ in range(12)])
    assert set(draws.ravel()) == {0, 1, 2}
    assert (draws == draws[:, :1]).all() == (per == "batch")
    assert len({tuple(row) for row in draws}) > 1


@either
def test_draws_are_a_function_of_the_seed_and_the_number_of_the_call(per):
    one = switch(per=per, seed=7)
    call = tf.function(one)
    first = [one(X).numpy() for _ in range(6)]
    one.reset(7)
    again = [call(X).numpy() for _ in range(6)]
    np.testing.assert_allclose(again, first, atol=1e-5)
    other = switch(per=per, seed=8)
    assert [drawn("mlp", other(X)).tolist() for _ in first] != [
        drawn("mlp", f).tolist() for f in first
    ]


def test_an_example_is_drawn_by_its_position_whatever_comes_after_it():
    one = switch(per="example", seed=2)
    whole = one(X).numpy()
    one.reset(2)
    np.testing.assert_allclose(one(X[:9]), whole[:9], atol=1e-5)


@either
def test_tickets_come_as_often_as_their_probabilities_say(per):
    one = switch(per=per, probabilities=WEIGHTED, seed=5)
    x = X[:30] if per == "example" else X[:1]
    call = tf.function(one)
    draws = np.concatenate([drawn("mlp", call(x), x) for _ in range(40 if len(x) > 1 else 200)])
    shares = np.bincount(draws, minlength=3) / len(draws)
    assert shares[0] == 0 and shares[1] == pytest.approx(0.25, abs=4 * (3 / 16 / len(draws)) ** 0.5)


@pytest.mark.parametrize("certain", range(3))
def test_a_ticket_of_probability_one_is_always_drawn(certain):
    one = switch("conv", per="example", probabilities=np.eye(3)[certain])
    for _ in range(3):
        np.testing.assert_allclose(one(X), logits("conv")[certain], atol=1e-5)


@two_networks
@either
def test_gradients_are_those_of_the_tickets_that_were_drawn(name, per):
    one = switch(name, per=per, seed=4)

    @tf.function
    def gradient(x):
        value, found, z = value_and_gradient(one, lambda z: cross_entropy(z, Y), x)
        return value, found, z

    _, found, z = gradient(tf.constant(X))
    for example, ticket in enumerate(drawn(name, z)):
        net, own = OWN[name][ticket], slice(example, example + 1)
        _, expected, _ = value_and_gradient(
            net, lambda z, y=Y[own]: cross_entropy(z, y), tf.constant(X[own])
        )
        np.testing.assert_allclose(found[own], expected, atol=1e-5)


LOSSES = {
    "ce": lambda z, clean, weights=None: cross_entropy(z, Y, weights),
    "kl": lambda z, clean, weights=None: divergence(clean, z, weights),
}


@two_networks
@pytest.mark.parametrize("probabilities", [None, WEIGHTED])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_averages_gradient_is_the_average_of_the_gradients(name, probabilities, loss):
    average, climb = switch(name, probabilities=probabilities).average, LOSSES[loss]
    clean, x = logits(name, X[::-1]), tf.constant(X)
    found = value_and_gradient(average, lambda z: climb(z, clean, average.weights), x)[:2]
    alone = [
        value_and_gradient(net, lambda z, c=c: climb(z, c), x)[:2]
        for net, c in zip(OWN[name], clean, strict=True)
    ]
    p = np.full(3, 1 / 3) if probabilities is None else probabilities
    for mean, values in zip(found, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(mean, np.tensordot(p, np.stack(values), 1), atol=1e-5)


def test_without_weights_the_losses_of_networks_count_the_same():
    z = tf.constant(logits("mlp"))
    equal = tf.fill([3], 1 / 3)
    np.testing.assert_allclose(cross_entropy(z, Y), cross_entropy(z, Y, equal), rtol=1e-5)
    np.testing.assert_allclose(divergence(z[::-1], z), divergence(z[::-1], z, equal), rtol=1e-5)
    np.testing.assert_array_equal(answer(z[:1]), np.argmax(z[0], -1))
    np.testing.assert_array_equal(answer(z, [0.0, 1.0, 0.0]), np.argmax(z[1], -1))
    np.testing.assert_array_equal(defeated(z, Y), (np.argmax(z, -1) != Y).all(0))


ATTACKS = {
    "pgd": PGD(0.1, steps=5),
    "kl": PGD(0.1, steps=5, loss="kl"),
    "best": PGD(0.1, steps=5, iterate="best", restarts=2),
    "early stop": PGD(0.1, steps=5, early_stop=True),
    "predicted": PGD(0.1, steps=5, label="predicted"),
    "fgsm": FGSM(0.1),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_average_of_one_ticket_is_attacked_as_the_ticket(attack):
    one = Switch(NETWORKS["conv"], TICKETS["conv"][1:2])
    found = tf.function(ATTACKS[attack])(one.average, X, Y)
    np.testing.assert_allclose(found, ATTACKS[attack](OWN["conv"][1], X, Y), atol=1e-4)


@two_networks
def test_an_attack_on_the_average_raises_the_mean_loss_more_than_one_on_any_ticket(name):
    one, attack = switch(name), PGD(0.1, steps=10)

    def mean_loss(x):
        return float(tf.reduce_mean(cross_entropy(tf.constant(logits(name, x)), Y)))

    adaptive = mean_loss(attack(one.average, X, Y))
    assert adaptive > max(mean_loss(attack(net, X, Y)) for net in OWN[name]) + 0.01


@two_networks
def test_an_attacker_who_knows_the_draw_gets_the_tickets_own_network(name):
    attack, one = PGD(0.1, steps=3), switch(name)
    for ticket, net in enumerate(OWN[name]):
        found = attack(one.ticket_logits(ticket), X, Y, seed=2)
        np.testing.assert_allclose(found, attack(net, X, Y, seed=2), atol=1e-4)


@pytest.mark.parametrize("part", ["switch", "average"])
def test_compiles_with_xla(part):
    one = switch("conv", seed=3)
    x_adv = tf.function(
        lambda x, y: PGD(0.1, steps=2)(one if part == "switch" else one.average, x, y),
        jit_compile=True,
    )(X, Y)
    assert 0.05 < np.abs(x_adv - X).max() < 0.1001


@two_networks
@either
def test_keras_predicts_with_it_and_evaluators_take_it(name, per):
    one = switch(name, per=per)
    assert set(drawn(name, one.predict(X, verbose=0))) <= {0, 1, 2}
    lowest, highest = np.sort((np.argmax(logits(name), -1) == Y), 0)[[0, -1]].mean(-1)
    assert lowest <= accuracy(one, X, Y) <= highest


@every_network
def test_weights_are_held_once_and_masks_in_bits(name):
    one = switch(name)
    held = {id(v) for v in one.variables} - {id(v) for v in NETWORKS[name].variables}
    assert held == {id(one.seed), id(one.calls)}
    entries, leftovers = TICKETS[name][0].entries, TICKETS[name][0].leftovers
    expected = sum(-(-e.mask.size // 8) for e in entries) + sum(v.nbytes for v in leftovers)
    assert 0 <= expected - one.tickets.bytes_per_ticket <= 16 * 4  # what all share is not held


@every_network
@either
def test_the_network_is_left_as_it_was(name, per):
    before = [v.numpy() for v in NETWORKS[name].variables]
    one = switch(name, per=per)
    one(X)
    one(X, training=True)
    PGD(0.1, steps=2)(one.average, X, Y)
    for variable, value in zip(NETWORKS[name].variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_tickets_of_masks_alone_use_the_networks_own_variables():
    net, masks = network("conv"), []
    for number, density in enumerate(DENSITIES):
        Ticket.of(net).prune(density, criterion="random", seed=number).apply(net)
        masks.append(Ticket.of(net, weights="none"))
        network_ones(net)
    held = TicketSet(net, masks)
    for number, ticket in enumerate(masks):
        ticket.apply(net)
        expected = net(X).numpy()
        network_ones(net)
        np.testing.assert_allclose(held.one(number)(X), expected, atol=1e-5)


def network_ones(net):
    for variable in net.variables:
        if variable.name == "mask":
            variable.assign(np.ones(variable.shape))


CLEAN_START = PGD(0.06, steps=3, start="clean")


@pytest.mark.parametrize(("name", "probabilities"), [("conv", None), ("mlp", WEIGHTED)])
def test_the_exact_expectations_are_the_matrix_times_the_probabilities(name, probabilities):
    one = switch(name, probabilities=probabilities)
    found = switch_robustness(one, X, Y, CLEAN_START, repetitions=1, batch_size=25)
    matrix = transfer_matrix(NETWORKS[name], TICKETS[name], X, Y, CLEAN_START, batch_size=25)
    m = matrix.robust_accuracy
    if probabilities is None:
        assert found.attacker_draws == pytest.approx(m.mean(), abs=1e-12)
        assert found.attacker_knows == pytest.approx(np.trace(m) / 3, abs=1e-12)
        assert found.accuracy == pytest.approx(matrix.accuracy.mean(), abs=1e-12)
    else:
        p = np.array(probabilities)
        assert found.attacker_draws == pytest.approx(
            sum(p[a] * p[b] * m[a, b] for a in range(3) for b in range(3)), abs=1e-12
        )
        assert found.attacker_knows == pytest.approx((p * np.diag(m)).sum(), abs=1e-12)
    x_adv = CLEAN_START(one.average, X, Y)
    right = (np.argmax(logits(name, x_adv), -1) == Y).mean(-1)
    assert found.adaptive == pytest.approx(one.probabilities @ right, abs=1e-12)
    assert found.interval is None


@two_networks
@either
def test_repeated_trials_of_the_switch_meet_the_expectation(name, per):
    one = switch(name, per=per, probabilities=(0.5, 0.2, 0.3), seed=1)
    attacker = SwitchAttacker(one, CLEAN_START, seed=1, batch_size=20)
    trials = np.stack([attacker.once(repetition, X, Y) for repetition in range(120)])
    matrix = transfer_matrix(NETWORKS[name], TICKETS[name], X, Y, CLEAN_START, batch_size=20)
    inside = 0
    for block in np.split(trials, 4):
        found = SwitchRobustness(matrix, one.probabilities, trials, block)
        low, high = found.interval
        inside += low <= found.attacker_draws <= high
        assert low < found.by_repetition.mean() < high < low + 0.2
        assert found.worst == block.all(0).mean() <= found.by_repetition.min()
    assert inside >= 3


def test_the_same_seeds_give_the_same_trials():
    one = switch(per="example")
    attackers = [SwitchAttacker(one, PGD(0.06, steps=2), seed=seed) for seed in (2, 5)]

    def once(seed=1, attacker=attackers[0], repetition=4):
        one.reset(seed)
        return attacker.once(repetition, X, Y)

    np.testing.assert_array_equal(once(), once())
    for other in (once(seed=5), once(attacker=attackers[1]), once(repetition=5)):
        assert not np.array_equal(once(), other)


def adapted(shift):
    image = keras.Input((6, 6, 1))
    x = keras.layers.Normalization(mean=None)
    x.adapt(X + shift)
    x = keras.layers.Flatten()(x(image))
    return keras.Model(image, MaskedDense(4, kernel_initializer="zeros")(x))


OTHER = {name: network(name, seed=4) for name in BUILDERS}


def scored():
    image = keras.Input((6, 6, 1))
    x = MaskedDense(4, search=True, density=0.5)(keras.layers.Flatten()(image))
    return keras.Model(image, x)


REFUSED = {
    "none": (lambda: Switch(NETWORKS["mlp"], []), "tickets must be at least one; received none"),
    "other network": (
        lambda: Switch(NETWORKS["mlp"], [TICKETS["mlp"][0], TICKETS["conv"][0]]),
        r"tickets\[1\] does not fit: position 0 differs: the network has .*the ticket",
    ),
    "other masks": (
        lambda: Switch(NETWORKS["filters"], TICKETS["conv"]),
        r"tickets\[0\] does not fit: position 0 differs.*\(1, 1, 1, 5\)",
    ),
    "other stored weights": (
        lambda: Switch(NETWORKS["mlp"], [*TICKETS["mlp"], Ticket.of(OTHER["mlp"])]),
        r"tickets\[3\] does not fit: its weights differ from the network's in '.*/kernel'",
    ),
    "network of other weights": (
        lambda: Switch(OTHER["mlp"], TICKETS["mlp"]),
        r"tickets\[0\] does not fit: its weights differ.*apply\(network, weights=True\)",
    ),
    "other seed": (
        lambda: Switch(OTHER["conv"], TICKETS["conv"]),
        r"tickets\[0\] does not fit: seed 3 with 'kaiming_normal' did not draw",
    ),
    "other leftovers": (
        lambda: Switch(
            NETWORKS["conv"],
            [TICKETS["conv"][0], dataclasses.replace(TICKETS["conv"][0], leftovers=(X,))],
        ),
        r"tickets\[1\] does not fit: the network has \d+ kernels or variables",
    ),
    "scores": (lambda: Switch(scored(), [Ticket.of(scored())]), "takes its mask from scores"),
    "adapted": (
        lambda: Switch(adapted(0), [Ticket.of(adapted(1))]),
        "statistics adapted to data, which cannot be switched",
    ),
    "per": (lambda: switch(per="image"), "per must be batch or example; received per='image'"),
    "too few probabilities": (
        lambda: switch(probabilities=(0.5, 0.5)),
        r"probabilities must be 3 numbers.*received \(0.5, 0.5\)",
    ),
    "sum": (lambda: switch(probabilities=(0.5, 0.5, 0.5)), "that sum to 1"),
    "negative": (lambda: switch(probabilities=(1.5, -0.5, 0)), "numbers from 0"),
    "ticket": (lambda: switch().ticket_logits(3), r"ticket must be in 0..2; received ticket=3"),
    "repetitions": (
        lambda: switch_robustness(switch(), X, Y, CLEAN_START, repetitions=0),
        "repetitions must be at least 1; received repetitions=0",
    ),
    "batch size": (
        lambda: switch_robustness(switch(), X, Y, CLEAN_START, batch_size=0),
        "batch_size must be at least 1; received batch_size=0",
    ),
    "images": (lambda: switch_robustness(switch(), X * 2, Y, CLEAN_START), r"images in \[0, 1\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_adapted_statistics_that_all_share_are_no_obstacle():
    net = adapted(0)
    held = TicketSet(net, [Ticket.of(net)])
    np.testing.assert_array_equal(held.one(0)(X), net(X))
