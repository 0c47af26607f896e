"""When masks change, by how much, and what evaluations add: the numbers of the published code."""

import math
import typing

import pytest

from flags.values import convert, field_docs, text
from rst_tf import registry
from rst_tf.flying_bird import (
    TOPOLOGIES,
    Change,
    Decision,
    FlyingBird,
    FlyingBirdPlus,
    Layer,
    Static,
    Topology,
)
from rst_tf.schedules import Constant, Cosine, Linear, Schedule

TOTAL, EPOCH = 70_400, 352  # 200 epochs of 45,000 images in batches of 128
SHIPPED = {"update_every": 900, "update_every_late": 1200}

# ---------------------------------------------------------------- when

UPDATES = {  # updates, the first, the last, those in the second half
    "shipped": (FlyingBird(**SHIPPED), TOTAL, EPOCH, (68, 900, 69_600, 29)),
    "without the switch": (FlyingBird(), TOTAL, EPOCH, (78, 900, 70_200, 39)),
    "epochs": (FlyingBird(update_every="0.5ep"), 1000, 100, (19, 50, 950, 9)),
    "rigl": (FlyingBird(update_every=100, stop_at=0.75), 1000, 100, (7, 100, 700, 2)),
    "as long as the training": (FlyingBird(update_every=500), 1000, 100, (1, 500, 500, 0)),
    "from the start": (
        FlyingBird(update_every=300, update_every_late=200, late_from=0),
        1000,
        100,
        (4, 200, 800, 2),
    ),
}


@pytest.mark.parametrize("name", UPDATES)
def test_updates_are_counted(name):
    bird, total, epoch, expected = UPDATES[name]
    steps = bird.update_steps(total, epoch)
    late = [step for step in steps if step > total / 2]
    assert (len(steps), steps[0], steps[-1], len(late)) == expected
    assert steps == sorted(set(steps)) and steps[-1] < bird.stop_at * total
    assert list(bird.rates(total, epoch)) == steps


def test_the_interval_changes_after_the_epoch_of_the_middle():
    """Epoch 100 of 200 still has multiples of 900, epoch 101 has those of 1200."""
    steps = FlyingBird(**SHIPPED).update_steps(TOTAL, EPOCH)
    assert steps[:2] == [900, 1800] and steps[38:41] == [35_100, 36_000, 37_200]
    assert 35_100 <= 101 * EPOCH < 36_000
    wide = FlyingBird(update_every=35_300, update_every_late=35_400)
    assert wide.update_steps(TOTAL, EPOCH) == [35_300]  # in epoch 100, and no multiple of 35,400
    later = FlyingBird(update_every=35_600, update_every_late=35_700)
    assert later.update_steps(TOTAL, EPOCH) == [35_700]  # in epoch 101


# ---------------------------------------------------------------- how much

RATES = {0: 0.5, 50: 0.4275, 100: 0.2525, 150: 0.0775}  # by epoch


def test_the_published_death_rates():
    rates = FlyingBird(update_every=1).rates(TOTAL, EPOCH)
    for epoch, rate in RATES.items():
        assert rates[max(1, epoch * EPOCH)] == pytest.approx(rate, abs=5e-5)
    assert rates[TOTAL - 1] == pytest.approx(0.005, abs=1e-6)
    for step in (900, 20_000, 69_600):
        cosine = (1 + math.cos(math.pi * step / TOTAL)) / 2
        assert rates[step] == pytest.approx(0.005 + 0.495 * cosine, rel=1e-12)


def test_other_schedules():
    constant = FlyingBird(update_every=10, death_rate=0.3, death_schedule=Constant())
    assert set(constant.rates(100).values()) == {0.3}
    linear = FlyingBird(update_every=10, death_schedule=Linear())
    assert linear.rates(100)[40] == pytest.approx(0.5 * 0.6)
    stops = FlyingBird(update_every=10, death_schedule=Cosine(), stop_at=0.75)
    assert stops.rates(80)[30] == pytest.approx(0.25)  # half-way to the stop
    assert max(stops.rates(80)) == 50


LAYERS = [Layer(100, 40, 10), Layer(50, 50, 5), Layer(1000, 7, 10), Layer(20, 19, 2)]


@pytest.mark.parametrize("bird", [FlyingBird(), FlyingBirdPlus()], ids=["plain", "plus"])
@pytest.mark.parametrize("rate", [0.0, 0.005, 0.1, 0.5, 1.0])
def test_a_layer_grows_what_it_loses_and_a_dense_one_loses_nothing(bird, rate):
    changes = bird.changes(LAYERS, rate, Decision())
    for layer, change in zip(LAYERS, changes, strict=True):
        assert change.pruned == change.grown
        wanted = 0 if layer.live == layer.size else math.ceil(rate * layer.live)
        assert change.pruned == wanted


def test_static_changes_nothing():
    assert Static().rates(100) == {} and Static().memory is None
    assert Static().changes(LAYERS, 0.5, Decision()) == [Change()] * 4


MEMORIES = [("random", 0.9, None), ("gradient", 0.9, 0.0), ("momentum", 0.9, 0.9)]


@pytest.mark.parametrize(("growth", "beta", "memory"), MEMORIES)
def test_what_growth_remembers(growth, beta, memory):
    assert FlyingBird(growth=growth, beta=beta).memory == memory


# ---------------------------------------------------------------- what evaluations ask for

UP, DOWN, FLAT = [1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [1, 1, 1, 1, 1]
TRUTH = {  # gaps, losses: shares of either, prune more, grow more
    "none": (DOWN, DOWN, (0, 0, False, False)),
    "prune": (UP, DOWN, (1, 0, True, False)),
    "grow": (DOWN, UP, (0, 1, False, True)),
    "both": (UP, UP, (1, 1, True, True)),
    "flat gaps do not grow, flat losses do not fall": (FLAT, FLAT, (0, 1, False, True)),
    "half is enough": ([1, 2, 1, 2, 1], [1, 2, 1, 2, 1], (0.5, 0.5, True, True)),
    "a quarter is not": ([4, 3, 2, 1, 2], [4, 3, 2, 1, 2], (0.25, 0.25, False, False)),
    "only the last count": (UP[:4] + DOWN, UP[:4] + DOWN, (0, 0, False, False)),
    "two are enough": ([1, 2], [2, 1], (1, 0, True, False)),
    "one is not": ([1], [1], (None, None, False, False)),
    "none yet": ([], [], (None, None, False, False)),
    "steps of any size": ([0, 1e-9, 1, 0, 0], [5, 4, 3, 2, 1 + 1e-9], (0.5, 0, True, False)),
}


@pytest.mark.parametrize("case", TRUTH)
def test_the_truth_table(case):
    gaps, losses, expected = TRUTH[case]
    assert FlyingBirdPlus().decision(gaps, losses) == Decision(*expected)
    assert FlyingBird().decision(gaps, losses) == Decision()


def test_updates_listen_from_the_middle_on():
    bird = FlyingBirdPlus(**SHIPPED)
    for same in (0.5, "100ep", 35_200):
        named = FlyingBirdPlus(**SHIPPED, adaptive_from=same)
        steps = [step for step in bird.rates(TOTAL, EPOCH) if named.listens_at(step, TOTAL, EPOCH)]
        assert (len(steps), steps[0], steps[-1]) == (29, 36_000, 69_600)
    assert not bird.listens_at(35_200, TOTAL, EPOCH) and bird.listens_at(35_201, TOTAL, EPOCH)
    rates = bird.rates(TOTAL, EPOCH)
    assert sum(rates[step] for step in steps) == pytest.approx(2.742, abs=5e-4)


DECISIONS = {
    "none": Decision(),
    "prune": Decision(prune_more=True),
    "grow": Decision(grow_more=True),
    "both": Decision(prune_more=True, grow_more=True),
}
NET = {"none": 0.0, "prune": -0.4, "grow": 0.05, "both": -0.35}  # times the death rate
ENDS = {"none": 0.2, "prune": 0.0645, "grow": 0.2293, "both": 0.0746}


@pytest.mark.parametrize("name", DECISIONS)
@pytest.mark.parametrize("rate", [0.005, 0.1, 0.5])
def test_net_counts(name, rate):
    layer = Layer(1_000_000, 200_000)
    (change,) = FlyingBirdPlus().changes([layer], rate, DECISIONS[name])
    net = change.grown - change.pruned
    assert net == pytest.approx(NET[name] * rate * layer.live, abs=2)


@pytest.mark.parametrize("name", ENDS)
def test_the_extremes_of_a_whole_training(name):
    bird, size = FlyingBirdPlus(**SHIPPED), 100_000_000
    live = size // 5
    for step, rate in bird.rates(TOTAL, EPOCH).items():
        asked = DECISIONS[name] if bird.listens_at(step, TOTAL, EPOCH) else Decision()
        (change,) = bird.changes([Layer(size, live)], rate, asked)
        live += change.grown - change.pruned
    assert live / size == pytest.approx(ENDS[name], abs=5e-5)


def after(bird, rate, decision, layers=LAYERS):
    changes = bird.changes(layers, rate, decision)
    left = [layer.live + c.grown - c.pruned for layer, c in zip(layers, changes, strict=True)]
    for layer, change, live in zip(layers, changes, left, strict=True):
        assert 0 <= change.pruned <= layer.live and change.grown >= 0 and 0 <= live <= layer.size
    return left


@pytest.mark.parametrize("name", DECISIONS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_counts_stay_possible_and_bounds_hold(name, rate):
    decision = DECISIONS[name]
    wild = {"prune_ratio": 3.0, "growth_ratio": 5.0}
    assert after(FlyingBirdPlus(**wild), rate, decision)[1] == 50  # a dense layer is left alone
    least, most = 0.09, 0.105
    whole = sum(layer.size for layer in LAYERS)
    bounded = FlyingBirdPlus(**wild, min_density=least, max_density=most)
    assert sum(layer.live for layer in LAYERS) == 116
    assert least * whole <= sum(after(bounded, rate, decision)) <= most * whole
    held = after(FlyingBirdPlus(**wild, per_layer_min=2), rate, decision)
    for layer, live in zip(LAYERS, held, strict=True):
        assert live >= min(layer.live, 2 * layer.units)


def test_bounds_are_used_up():
    """What a bound leaves is taken, but for roundings."""
    layers = [Layer(1000, 200), Layer(2000, 400)]
    least = FlyingBirdPlus(prune_ratio=1, min_density=0.15)
    assert 450 <= sum(after(least, 0.5, DECISIONS["prune"], layers)) <= 451
    most = FlyingBirdPlus(growth_ratio=1, max_density=0.25)
    assert 748 <= sum(after(most, 0.5, DECISIONS["grow"], layers)) <= 750


# ---------------------------------------------------------------- as configurations

WRONG = {
    "growth names an unknown growth 'radom'; did you mean 'random'": {"growth": "radom"},
    "regrown names an unknown": {"regrown": "old"},
    r"death_rate must be in \[0, 1\]; received 1.5": {"death_rate": 1.5},
    r"stop_at must be in \(0, 1\]; received stop_at=0": {"stop_at": 0},
    r"beta must be in \[0, 1\)": {"beta": 1.0, "growth": "momentum"},
    "beta has an effect only with growth=momentum": {"beta": 0.5},
    "late_from has an effect only with update_every_late": {"late_from": 0.2},
    "update_every must be a number of steps": {"update_every": "often"},
    "adaptive_from must be a number of steps": {"adaptive_from": -1},
    "evaluations must be at least 1": {"evaluations": 0},
    r"threshold must be in \(0, 1\]": {"threshold": 0},
    "prune_ratio must be at least 0": {"prune_ratio": -0.1},
    r"min_density must be in \(0, 1\]": {"min_density": 2},
    "min_density must be at most max_density=0.1": {"min_density": 0.2, "max_density": 0.1},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_is_refused(message):
    with pytest.raises(ValueError, match=message):
        FlyingBirdPlus(**WRONG[message])


TOO_SHORT = {
    "update_every must be below the 500 steps in which": (FlyingBird(), 500),
    "update_every must be below the 750 steps": (FlyingBird(stop_at=0.75), 1000),
    "adaptive_from must be before the last update, after step 900": (
        FlyingBirdPlus(stop_at=0.5),
        1900,
    ),
    "death_rate times death_schedule must stay": (
        FlyingBird(update_every=100, death_schedule=Linear(3.0)),
        1000,
    ),
}


@pytest.mark.parametrize("message", TOO_SHORT)
def test_a_training_in_which_nothing_would_happen_is_refused(message):
    bird, total = TOO_SHORT[message]
    with pytest.raises(ValueError, match=message):
        bird.rates(total, 100)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_topology_is_its_own_configuration(name):
    """And texts of flags fit every field."""
    bird = TOPOLOGIES[name]()
    values = registry.to_dict(bird)
    assert values["name"] == name
    assert registry.from_dict(Topology, values) == bird
    told = field_docs(type(bird))
    for field, annotation in typing.get_type_hints(type(bird)).items():
        value = getattr(bird, field)
        if not isinstance(value, Schedule):
            assert told[field] and convert(annotation, text(value)) == value
