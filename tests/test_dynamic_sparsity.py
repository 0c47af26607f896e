"""Laws of masks that change during a training, and of what the optimiser remembers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small

import rst_tf as rst
from rst_tf.dynamic_sparsity import DynamicSparsity, Rewiring, gap_and_loss
from rst_tf.first_masks import RandomMasks
from rst_tf.flying_bird import FlyingBird, FlyingBirdPlus, Static
from rst_tf.keras_optimizers import _remembered
from rst_tf.sparse_trainer import sparsely
from rst_tf.traversal import dense_gradients, masked_kernels

X, Y = easy_data()
SMALL = {"x": X, "y": Y, "batch_size": 16, "shuffle": False, "verbose": 0}  # 4 steps an epoch
OPTIMIZERS = {
    "sgd": lambda: rst.optimizers.SGD(0.1, weight_decay=1e-2).build(100),
    "averaged": lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True),
    "adamw": lambda: keras.optimizers.AdamW(0.02, weight_decay=1e-2, amsgrad=True),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.02), dynamic_growth_steps=1
    ),
}
BIRDS = {
    "random": FlyingBird(update_every=3),
    "gradient": FlyingBird(update_every=3, growth="gradient"),
    "momentum": FlyingBird(update_every=3, growth="momentum", regrown="zero"),
    "all": FlyingBird(update_every=3, death_rate=1.0),
    "plus": FlyingBirdPlus(update_every=3, adaptive_from=1, growth="gradient"),
}


def network(density=0.3):
    made = small()
    rst.initialize(made, 1)
    if density < 1:
        RandomMasks().apply(made, density, seed=2)
    return made


def trainer(optimizer="sgd", objective=None, density=0.3):
    made = rst.RobustTrainer(network(density), objective or rst.Natural(), seed=3)
    made.compile(OPTIMIZERS[optimizer](), jit_compile=False)
    return made


def masks_of(model):
    return [masked.mask.numpy() for masked in masked_kernels(model)]


def state(made, masked):
    """A kernel and its slots, and averages of it."""
    slots, averages = _remembered(made.optimizer, masked.kernel)
    return [value.numpy() for value in (masked.kernel, *averages, *slots)]


def trained(bird, optimizer, epochs=4):
    made = trainer(optimizer)
    before = masks_of(made.network)
    validation = (X, Y) if bird.listens else None
    dynamics = DynamicSparsity(bird, 4 * epochs, 4, seed=5, validation=validation)
    made.fit(**SMALL, epochs=epochs, callbacks=[dynamics])
    return made, dynamics, before


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", BIRDS)
def test_a_training_keeps_its_counts_and_its_zeros(name, optimizer):
    made, dynamics, before = trained(BIRDS[name], optimizer)
    assert [update["step"] for update in dynamics.updates] == [3, 6, 9, 12, 15]
    for masked, old in zip(masked_kernels(made.network), before, strict=True):
        mask = masked.mask.numpy()
        assert set(np.unique(mask)) <= {0, 1} and not np.array_equal(mask, old)
        if name != "plus":
            assert mask.sum() == old.sum()
        for value in state(made, masked):
            assert np.isfinite(value).all() and not value[mask == 0].any()
    ever = [update["ever_active"] for update in dynamics.updates]
    assert ever == sorted(ever) and ever[0] > dynamics.updates[0]["density_before"]


def rewiring(bird, optimizer="sgd", density=0.3):
    """A trained state, two steps in, whose masks have not changed yet."""
    made = trainer(optimizer, density=density)
    work = Rewiring(bird, made, 100, 4, seed=5)
    made.fit(**SMALL, epochs=1)
    return made, work


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["random", "gradient", "momentum", "all"])
def test_an_update_leaves_survivors_alone_and_begins_the_new_at_zero(name, optimizer):
    bird = BIRDS[name]
    made, work = rewiring(bird, optimizer)
    kernels = masked_kernels(made.network)
    old = [(m.mask.numpy() > 0, state(made, m)) for m in kernels]
    work.update(3)
    for masked, (mask, values) in zip(kernels, old, strict=True):
        new = masked.mask.numpy() > 0
        both = mask & new
        for value, now in zip(values, state(made, masked), strict=True):
            assert not now[new & ~mask].any() and not now[~new].any()
            kept = now[both] == value[both]
            if bird.regrown == "keep":
                assert kept.all()  # those that were pruned and grew again, too
            else:
                assert not now[both][~kept].any()
        pruned = int(np.ceil(work.rates[3] * mask.sum()))
        gone = np.sort(np.abs(values[0][mask]))[:pruned]
        assert np.isin(np.abs(values[0][mask & ~new]), gone).all()


def test_a_training_goes_on_with_another_optimiser():
    made, dynamics = trainer("sgd"), DynamicSparsity(BIRDS["random"], 16, 4)
    for optimizer in ("sgd", "adamw"):
        made.compile(OPTIMIZERS[optimizer](), jit_compile=False)
        made.fit(**SMALL, epochs=2, callbacks=[dynamics])
    assert [update["step"] for update in dynamics.updates] == [3, 6, 9, 12, 15]
    for masked in masked_kernels(made.network):
        for values in state(made, masked):
            assert not values[masked.mask.numpy() == 0].any()
    with pytest.raises(ValueError, match="goes with one trainer"):
        trainer().fit(**SMALL, callbacks=[dynamics])


def test_a_dense_layer_is_left_alone():
    made, work = rewiring(FlyingBirdPlus(update_every=3, adaptive_from=1), density=1)
    work.heard(0.1, 1.0)
    work.heard(0.2, 2.0)
    before = [v.numpy() for v in made.network.variables]
    update = work.update(3)
    assert update["prune_more"] and update["grow_more"]
    assert update["density_before"] == update["density_after"] == 1
    for old, variable in zip(before, made.network.variables, strict=True):
        assert np.array_equal(old, variable.numpy())


def test_flying_bird_plus_follows_what_it_hears():
    made, work = rewiring(FlyingBirdPlus(update_every=3, adaptive_from=1))
    live = sum(mask.sum() for mask in masks_of(made.network))
    work.heard(0.1, 2.0)
    first = work.update(3)
    assert first["gap_share"] is None and first["density_after"] == first["density_before"]
    work.heard(0.2, 1.0)
    second = work.update(6)
    assert (second["gap_share"], second["loss_share"]) == (1, 0)
    assert second["prune_more"] and second["density_after"] < second["density_before"]
    left = sum(mask.sum() for mask in masks_of(made.network))
    assert left / live == pytest.approx(1 - 0.4 * work.rates[6], abs=0.02)
    work.heard(0.1, 3.0)
    third = work.update(9)
    assert third["prune_more"] and third["grow_more"] and third["loss_share"] == 0.5


@pytest.mark.parametrize("name", ["random", "gradient"])
def test_the_same_seed_gives_the_same_masks(name):
    first, again = (trained(BIRDS[name], "sgd", 2)[0].network for _ in range(2))
    for a, b in zip(first.variables, again.variables, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


def test_another_seed_grows_others():
    found = []
    for seed in (5, 6):
        made = trainer()
        work = Rewiring(BIRDS["random"], made, 100, 4, seed=seed)
        work.update(3)
        found.append(masks_of(made.network)[0])
    assert not np.array_equal(*found)


# ---------------------------------------------------------------- gradients of what is pruned

ATTACKED = rst.Adversarial(rst.PGD(0.1, steps=2))
FGSM = rst.Adversarial(rst.FGSM(0.1))
WATCHED = {  # objective, XLA, and the penalty, with which sums of three gradients may round
    "natural": (rst.Natural(), False, 1e-4),
    "adversarial": (ATTACKED, False, 1e-4),
    "mixed": (rst.Mixed(rst.FGSM(0.1)), False, 0),
    "free": (rst.Free(0.1, repeats=2), False, 1e-4),
    "compiled": (rst.Natural(), True, 0),
}


@pytest.mark.parametrize("name", WATCHED)
def test_watching_changes_no_bit_of_a_training(name):
    objective, jit, l1 = WATCHED[name]
    found = []
    for beta in (None, 0.9):
        made = rst.RobustTrainer(network(), objective, seed=3, l1=l1)
        made.compile(OPTIMIZERS["sgd"](), jit_compile=jit)
        if beta is not None:
            made.watch_growth(beta)
        made.fit(**SMALL, epochs=1)
        found.append([v.numpy().tobytes() for v in made.network.variables])
    assert found[0] == found[1]


@pytest.mark.parametrize("optimizer", ["sgd", "scaled"])
@pytest.mark.parametrize("beta", [0.0, 0.8])
def test_memories_are_the_dense_gradients_of_each_batch(beta, optimizer):
    made = trainer(optimizer)
    memories, expected = made.watch_growth(beta), None
    for first in (0, 16):
        x, y = X[first : first + 16], Y[first : first + 16]

        def loss(x=x, y=y):
            logits = made.network(x, training=True)
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))

        gradients = [(1 - beta) * g.numpy() for g in dense_gradients(made.network, loss)]
        before = expected or [0] * len(gradients)
        expected = [beta * m + g for m, g in zip(before, gradients, strict=True)]
        made.fit(x, y, batch_size=16, verbose=0)
    for memory, gradient, mask in zip(memories, expected, masks_of(made.network), strict=True):
        assert np.abs(gradient[mask == 0]).max() > 0
        np.testing.assert_allclose(memory.numpy(), gradient, rtol=1e-4, atol=1e-7)


def test_a_step_that_overflows_is_not_remembered():
    made = trainer("scaled")
    memories = made.watch_growth(0.5)
    made.fit(**SMALL, epochs=1)
    before = [memory.numpy() for memory in memories]
    made.optimizer.dynamic_scale.assign(1e38)
    made.fit(X[:16], Y[:16], sample_weight=np.full(16, 1e4), batch_size=16, verbose=0)
    assert made.optimizer.dynamic_scale < 1e38
    for old, memory in zip(before, memories, strict=True):
        assert np.array_equal(old, memory.numpy())


def test_watching_begins_whenever_it_is_asked_for():
    """Also after a training that was traced without."""
    made = trainer()
    made.fit(**SMALL, epochs=1)
    (first, *_) = made.watch_growth()
    made.fit(**SMALL, epochs=1)
    assert first.numpy().any()


# ---------------------------------------------------------------- what is refused, what is guarded


class Moves(keras.callbacks.Callback):
    """Gives a pruned weight a value."""

    def on_train_batch_end(self, batch, logs=None):
        for masked in masked_kernels(self.model.network):
            masked.kernel.assign(masked.kernel + 0.5 * (1 - masked.mask))


@pytest.mark.parametrize("bird", [Static(), FlyingBird(update_every=2)], ids=["epoch", "update"])
def test_a_training_whose_pruned_weights_move_ends(bird):
    with pytest.raises(FloatingPointError, match=r"pruned weights of .* moved"):
        trainer().fit(**SMALL, callbacks=[Moves(), DynamicSparsity(bird, 4)])


def frozen():
    made = network()
    made.layers[-1].trainable = False
    return made


def alone(callback):
    """A fit of Keras' own."""
    made = plain()
    made.compile("sgd", "sparse_categorical_crossentropy")
    made.fit(X, Y, callbacks=[callback], verbose=0)


def compiled(model, optimizer=None):
    made = rst.RobustTrainer(model, rst.Natural())
    made.compile(optimizer or keras.optimizers.SGD(0.1), jit_compile=False)
    return made


REFUSED = {
    "is not trained, so what grows there": lambda: Rewiring(
        BIRDS["random"], compiled(frozen()), 100
    ),
    "watch_growth needs masks that are not searched": lambda: compiled(
        small(search=True)
    ).watch_growth(),
    "update_every must be below": lambda: Rewiring(FlyingBird(), trainer(), 100),
    "validation must be given, for FlyingBirdPlus": lambda: DynamicSparsity(FlyingBirdPlus(), 9),
    "topology must be .* received 'rigl'": lambda: DynamicSparsity("rigl", 9),
    "topology must be .* received <class": lambda: sparsely(
        plain(), "sgd", FlyingBird, density=0.3
    ),
    "DynamicSparsity goes with .* received Sequential": lambda: alone(
        DynamicSparsity(BIRDS["random"], 9)
    ),
    "StopAtEarlyBird goes with .* received Sequential": lambda: alone(rst.StopAtEarlyBird(0.3)),
    "validation has no effect with FlyingBird": lambda: DynamicSparsity(
        FlyingBird(), 9, validation=(X, Y)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_several_steps_at_once_are_refused():
    made = rst.RobustTrainer(network(), rst.Natural())
    made.compile(keras.optimizers.SGD(0.1), jit_compile=False, steps_per_execution=2)
    with pytest.raises(ValueError, match=r"steps_per_execution must be 1; received .*=2"):
        made.fit(**SMALL, callbacks=[DynamicSparsity(BIRDS["random"], 8)])


HEARD = {
    "attacked": ({"robust_accuracy": 0.5}, {"robust_accuracy": 0.3, "robust_loss": 2}, (0.2, 2)),
    "clean": ({"accuracy": 0.9}, {"accuracy": 0.5, "loss": 1, "robust_accuracy": None}, (0.4, 1)),
    "trained without": (
        {"accuracy": 0.9},
        {"accuracy": 0.5, "loss": 1, "robust_accuracy": 0.1, "robust_loss": 3},
        (0.4, 1),
    ),
}


@pytest.mark.parametrize("name", HEARD)
def test_what_is_listened_to(name):
    train, valid, expected = HEARD[name]
    assert gap_and_loss(train, valid) == pytest.approx(expected)


# ---------------------------------------------------------------- one line


def plain():
    keras.utils.set_random_seed(1)
    hidden = keras.layers.Dense(16, "relu", name="hidden")
    layers = [keras.layers.Flatten(), hidden, keras.layers.Dense(4, name="output")]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers, keras.layers.Softmax()])


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


FITS = {
    "arrays": lambda t: t.fit(X, Y, epochs=2, batch_size=16, verbose=0),
    "a dataset": lambda t: t.fit(dataset(), epochs=2, verbose=0),
    "an endless one": lambda t: t.fit(dataset().repeat(), epochs=2, steps_per_epoch=4, verbose=0),
    "a generator": lambda t: t.fit(
        ((x.numpy(), y.numpy()) for x, y in dataset().repeat()),
        epochs=2,
        steps_per_epoch=4,
        verbose=0,
    ),
}


@pytest.mark.parametrize("way", FITS)
def test_one_line_makes_a_trainer_whose_fit_changes_masks(way):
    model = plain()
    weights = [w.copy() for w in model.get_weights()]
    bird = FlyingBird(update_every="0.5ep", growth="gradient")
    made = sparsely(model, "sgd", bird, density=0.3, jit_compile=False)
    before = rst.Ticket.of(made.network)
    FITS[way](made)
    after = rst.Ticket.of(made.network)
    assert [update["step"] for update in made.updates] == [2, 4, 6]
    assert after.kept == before.kept and after.mask_hash != before.mask_hash
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    baked = rst.baked(made.network)
    np.testing.assert_allclose(baked(X), made.network(X), atol=1e-6)


VALIDATIONS = {"arrays": (X, Y), "weighted": (X, Y, np.ones(len(Y))), "a dataset": dataset()}


@pytest.mark.parametrize("way", VALIDATIONS)
def test_flying_bird_plus_listens_to_validation_data(way):
    bird = FlyingBirdPlus(update_every=2, adaptive_from=1)
    made = sparsely(plain(), "adam", bird, density=0.3, objective=FGSM, jit_compile=False)
    made.fit(X, Y, epochs=4, batch_size=16, verbose=0, validation_data=VALIDATIONS[way])
    assert len(made._dynamics[-1].validation) == 2
    shares = [update["gap_share"] for update in made.updates]
    assert shares[:4] == [None] * 4 and None not in shares[4:]


def test_every_fit_is_a_training_from_its_beginning():
    made = sparsely(plain(), "sgd", FlyingBird(update_every=3), density=0.3, jit_compile=False)
    for _ in range(2):
        made.fit(X, Y, epochs=2, batch_size=16, verbose=0)
        assert [update["step"] for update in made.updates] == [3, 6]


def test_a_static_mask_stays():
    made = sparsely(plain(), "adam", Static(), density=0.3, dense=["output"], jit_compile=False)
    before = rst.Ticket.of(made.network).mask_hash
    made.fit(X, Y, verbose=0)
    assert rst.Ticket.of(made.network).mask_hash == before and made.updates == []


WRONG_FITS = {
    "validation_data must be given": (FlyingBirdPlus(update_every=2), (X, Y), {}),
    "validation_split has no place": (Static(), (X, Y), {"validation_split": 0.5}),
    "steps_per_epoch must be given, for the dataset": (Static(), (dataset().repeat(),), {}),
    "steps_per_epoch must be given with x of": (Static(), (iter([(X, Y)]),), {}),
}


@pytest.mark.parametrize("message", WRONG_FITS)
def test_a_fit_that_cannot_be_is_refused(message):
    bird, data, options = WRONG_FITS[message]
    made = sparsely(plain(), "sgd", bird, density=0.3, jit_compile=False)
    with pytest.raises(ValueError, match=message):
        made.fit(*data, **options)
