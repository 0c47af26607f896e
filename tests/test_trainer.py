import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small

from rst_tf import (
    PGD,
    Adversarial,
    Mixed,
    Natural,
    RobustTrainer,
    Ticket,
    Trades,
    initialize,
    masked_kernels,
    random,
)
from rst_tf.callbacks import MaskGuard, MaskPictures, StopOnNonFinite
from rst_tf.keras_optimizers import CoupledSGD, forget
from rst_tf.models import MLP

X, Y = easy_data(96)
ATTACK = PGD(0.1, steps=3)
OBJECTIVES = {
    "natural": Natural(),
    "adversarial": Adversarial(ATTACK),
    "mixed": Mixed(ATTACK),
    "trades": Trades(ATTACK),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)
OPTIMIZERS = {
    "coupled sgd": lambda: CoupledSGD(0.1, 0.9, 5e-3),
    "coupled nesterov": lambda: CoupledSGD(0.1, 0.9, 5e-3, nesterov=True),
    "keras sgd": lambda: keras.optimizers.SGD(0.1, 0.9, weight_decay=5e-3),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.05),
    "scaled adamw": lambda: scaled(keras.optimizers.AdamW(0.01, weight_decay=0.05)),
    "scaled coupled sgd": lambda: scaled(CoupledSGD(0.1, 0.9, 5e-3)),
    "averaging adam": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=5),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01, epsilon_1=1e-16),
    "muon": lambda: keras.optimizers.Muon(0.01, exclude_layers=["never"]),
}
scaled = keras.optimizers.LossScaleOptimizer


def trained(objective, network, optimizer=None, epochs=4, x=X, y=Y, callbacks=(), **options):
    trainer = RobustTrainer(network, objective, seed=3)
    trainer.compile(optimizer or keras.optimizers.Adam(0.01), **options)
    history = trainer.fit(
        x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    )
    return trainer, history.history


def pruned(density=0.4, **options):
    network = small(**options)
    initialize(network, 1)
    Ticket.of(network).prune(density).apply(network)
    return network


@every_objective
def test_learns(name):
    trainer, history = trained(OBJECTIVES[name], pruned(), epochs=15)
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    found = trainer.evaluate(X, Y, verbose=0, return_dict=True)
    assert found["accuracy"] > 0.8
    assert ("robust_accuracy" in found) == (name != "natural")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_keep_their_bits_under_every_optimiser(name):
    network = pruned()
    before = [m.kernel.numpy() for m in masked_kernels(network)]
    guard = MaskGuard()
    trained(Adversarial(ATTACK), network, OPTIMIZERS[name](), callbacks=[guard])
    for m, old in zip(masked_kernels(network), before, strict=True):
        cut = np.broadcast_to(m.mask.numpy() == 0, m.shape)
        assert (m.kernel.numpy()[cut] == old[cut]).all()
        assert (m.kernel.numpy()[~cut] != old[~cut]).mean() > 0.9


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_that_shrink_in_a_training_hold_at_once(name):
    network = pruned()
    trainer, _ = trained(Natural(), network, OPTIMIZERS[name](), epochs=2)
    Ticket.of(network).prune(rate=0.5).apply(network)
    kernels = masked_kernels(network)
    forget(trainer.optimizer, kernels)
    before = [m.kernel.numpy() for m in kernels]
    trainer.fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[MaskGuard()])
    for m, old in zip(kernels, before, strict=True):
        cut = m.mask.numpy() == 0
        assert m.kernel.numpy()[cut].tobytes() == old[cut].tobytes()
        assert (m.kernel.numpy()[~cut] != old[~cut]).mean() > 0.5


def test_an_average_over_steps_leaves_pruned_weights_alone():
    network = pruned()
    before = [m.kernel.numpy() for m in masked_kernels(network)]
    average = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    trained(Natural(), network, average, jit_compile=False)  # XLA rounds otherwise
    for m, old in zip(masked_kernels(network), before, strict=True):
        cut = m.mask.numpy() == 0
        assert (m.kernel.numpy()[cut] == old[cut]).all()


@pytest.mark.parametrize("every,wrapped", [(None, True), (3, False)])
def test_decay_alone_shrinks_what_is_kept_and_not_excluded(every, wrapped):
    network = pruned()
    before = [m.kernel.numpy() * m.mask.numpy() for m in masked_kernels(network)]
    biases = [v for v in network.trainable_variables if v.name == "bias"]
    for bias in biases:
        bias.assign(np.ones(bias.shape))
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5, gradient_accumulation_steps=every)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    trainer = RobustTrainer(network, Natural())
    trainer.compile(scaled(optimizer) if wrapped else optimizer)
    trainer.fit(X, Y, sample_weight=np.zeros((96, 1)), batch_size=16, verbose=0)  # 6 steps
    for m, old in zip(masked_kernels(network), before, strict=True):
        expected = 0.95 ** (6 // (every or 1)) * old
        np.testing.assert_allclose(m.kernel.numpy() * m.mask.numpy(), expected, rtol=1e-5)
    assert len(biases) == 2 and all((bias.numpy() == 1).all() for bias in biases)


@pytest.mark.parametrize("name", ["coupled sgd", "keras sgd", "adamw"])
def test_weight_decay_is_still_there_for_kept_weights(name):
    sizes = {}
    for decayed in (True, False):
        network = pruned()
        optimizer = OPTIMIZERS[name]()
        if not decayed:
            optimizer.weight_decay = None
            optimizer.coupled_decay = 0.0
        trained(Natural(), network, optimizer, epochs=10)
        sizes[decayed] = sum(
            float(np.square(m.kernel.numpy() * m.mask.numpy()).sum())
            for m in masked_kernels(network)
        )
    assert sizes[True] < 0.99 * sizes[False]


@pytest.mark.parametrize("jit", [False, True])
@every_objective
def test_the_same_seed_gives_the_same_bits(name, jit):
    runs = []
    for _ in range(2):
        network = pruned()
        trained(OBJECTIVES[name], network, epochs=2, jit_compile=jit)
        runs.append([v.numpy() for v in network.variables])
    for a, b in zip(*runs, strict=True):
        assert a.tobytes() == b.tobytes()


def test_steps_per_execution_changes_nothing():
    runs = []
    for steps in (1, 3):
        network = pruned()
        trained(Adversarial(ATTACK), network, epochs=2, steps_per_execution=steps)
        runs.append(np.concatenate([v.numpy().ravel() for v in network.variables]))
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("granularity", ["element", "filter"])
@pytest.mark.parametrize("name", ["natural", "adversarial"])
def test_a_search_moves_scores_only_and_masks_follow_them(name, granularity):
    network = small(search=True, density=0.5, granularity=granularity)
    initialize(network, 1, "signed_constant")
    before = {v.path: v.numpy() for v in network.variables}
    initial = Ticket.of(network, weights="none")
    _, history = trained(OBJECTIVES[name], network, epochs=10, callbacks=[MaskGuard()])
    for v in network.variables:
        changed = not np.array_equal(before[v.path], v.numpy())
        assert changed == v.name.endswith(("scores", "mask")) or v.name == "mask"
    for m in masked_kernels(network):
        m.check()
        assert m.mask.numpy().sum() == m.kept
    assert Ticket.of(network, weights="none").overlap(initial) < 1
    assert history["loss"][-1] < history["loss"][0]


def test_validation_has_its_own_measures_and_attack():
    network = pruned()
    trainer = RobustTrainer(network, Adversarial(ATTACK), PGD(1e-6), seed=0)
    trainer.compile(keras.optimizers.Adam(0.01))
    history = trainer.fit(X, Y, validation_data=(X, Y), epochs=3, verbose=0).history
    assert "val_robust_accuracy" in history and "accuracy" not in history
    assert history["val_robust_accuracy"] == history["val_accuracy"]
    found = trainer.evaluate(X, Y, verbose=0, return_dict=True)
    assert found["accuracy"] == pytest.approx(history["val_accuracy"][-1])


def test_accepts_sample_weights_and_dictionaries_with_an_index():
    trainer = RobustTrainer(pruned(), Adversarial(ATTACK), seed=0)
    trainer.compile(keras.optimizers.SGD(0.1))
    for weights in (np.zeros(96), np.zeros((96, 1))):
        trainer.fit(X, Y, sample_weight=weights, batch_size=16, verbose=0)
    np.testing.assert_array_equal(trainer.network.get_weights()[0], pruned().get_weights()[0])
    data = tf.data.Dataset.from_tensor_slices(({"image": X, "index": np.arange(96)}, Y)).batch(16)
    trainer.fit(data, validation_data=data, verbose=0)


def test_keras_callbacks_and_the_networks_file(tmp_path):
    network = pruned()
    callbacks = [
        keras.callbacks.TensorBoard(tmp_path / "tb"),
        keras.callbacks.EarlyStopping("loss"),
        MaskPictures(str(tmp_path / "tb")),
        StopOnNonFinite(),
    ]
    trainer, _ = trained(Adversarial(ATTACK), network, callbacks=callbacks)
    trainer.network.save(tmp_path / "n.keras")
    again = keras.models.load_model(tmp_path / "n.keras")
    np.testing.assert_array_equal(again(X), network(X))
    assert list((tmp_path / "tb").rglob("events*"))


def test_a_moved_pruned_weight_and_a_changed_mask_are_caught():
    network = pruned()
    m = masked_kernels(network)[0]

    def kick(kind):
        def act(batch, logs):
            target = {"weight": m.kernel, "mask": m.mask}[kind]
            value = target.numpy()
            value[m.mask.numpy() == 0] = 1.0
            target.assign(value)

        return keras.callbacks.LambdaCallback(on_train_batch_end=act)

    with pytest.raises(FloatingPointError, match="pruned weights of hidden_1/kernel moved"):
        trained(Natural(), network, callbacks=[kick("weight"), MaskGuard()])
    with pytest.raises(FloatingPointError, match="mask of hidden_1/kernel changed"):
        trained(Natural(), network, callbacks=[kick("mask"), MaskGuard()])


def test_a_loss_that_is_not_finite_ends_the_training():
    with pytest.raises(FloatingPointError, match="loss is nan at step"):
        trained(Natural(), pruned(), keras.optimizers.SGD(1e30), callbacks=[StopOnNonFinite()])


def test_l1_pulls_every_kept_kernel_weight_and_no_other():
    network = pruned()
    before = {id(v): v.numpy() for v in network.variables}
    trainer = RobustTrainer(network, Natural(), l1=0.01)
    trainer.compile(keras.optimizers.SGD(0.1))
    trainer.fit(X[:8], Y[:8], sample_weight=np.zeros(8), verbose=0)
    for m in masked_kernels(network):
        old = before.pop(id(m.kernel))
        pull = 0.1 * 0.01 * np.sign(old) * m.mask.numpy()
        np.testing.assert_allclose(m.kernel.numpy(), old - pull, rtol=1e-6)
    assert all(np.array_equal(v, before.get(id(v), v)) for v in network.variables)


def softmaxed():
    return keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(4, "softmax")]
    )


REFUSED = {
    "probabilities": (
        lambda: RobustTrainer(softmaxed(), Natural()),
        r"returns probabilities.*pass rst_tf.with_logits\(network\)",
    ),
    "not a model": (lambda: RobustTrainer("mlp", Natural()), "built Keras model; received 'mlp'"),
    "a loss": (
        lambda: RobustTrainer(small(), Natural()).compile("sgd", loss="mse"),
        "loss comes from the objective",
    ),
    "one-hot labels": (
        lambda: trained(Natural(), small(), y=np.eye(4, dtype="float32")[Y]),
        r"labels must be integers \[n\], not one-hot; received float32 of shape \(16, 4\)",
    ),
    "one-hot labels as integers": (
        lambda: trained(Natural(), small(), y=np.eye(4, dtype="int32")[Y]),
        r"labels must be integers \[n\], not one-hot; received int32 of shape \(16, 4\)",
    ),
    "images of 0 to 255": (
        lambda: trained(Natural(), small(), x=(X * 255).astype("uint8")),
        r"x must be images in \[0, 1\]; received uint8 values from",
    ),
    "images of -1 to 1, streamed": (
        lambda: RobustTrainer(small(), Natural()).fit(
            tf.data.Dataset.from_tensor_slices((2 * X - 1, Y)).batch(16)
        ),
        r"x must be images in \[0, 1\]; received float32 values from -0",
    ),
    "labels beyond the logits": (
        lambda: trained(Natural(), small(), y=Y + 1),
        "y must be labels from 0 to 3, the network's logits; received 1 to 4",
    ),
    "l1 of no masked kernel": (
        lambda: RobustTrainer(regularised(), Natural(), l1=0.1),
        "l1 needs masked kernels that are trained; received l1=0.1",
    ),
    "l1 of frozen kernels": (
        lambda: RobustTrainer(small(search=True, density=0.5), Natural(), l1=0.1),
        "l1 needs masked kernels that are trained; received l1=0.1",
    ),
    "an optimiser that divides by the zeros of pruned rows and columns": (
        lambda: trained(Natural(), pruned(), scaled(keras.optimizers.Adafactor(0.01)), epochs=1),
        "optimizer: Adafactor divides by 0 .* received epsilon_1=1e-30",
    ),
    "saving the trainer": (
        lambda: trained(Natural(), small(), epochs=1)[0].save("x.keras"),
        "save trainer.network",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_xla_is_chosen_for_dense_networks_only():
    from rst_tf.models import Conv

    for architecture, expected in ((MLP(hidden=(8,)), True), (Conv(depth=2, width=0.1), False)):
        trainer = RobustTrainer(architecture.build((8, 8, 1), 3), Natural())
        trainer.compile("sgd")
        assert trainer.jit_compile is expected


def regularised():
    image = keras.Input((6, 6, 1))
    dense = keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.01))
    network = keras.Model(image, dense(keras.layers.Flatten()(image)))
    network.set_weights([np.linspace(-1, 1, 144).reshape(36, 4), np.zeros(4)])
    return network


@every_objective
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("indexed", [False, True])
def test_two_steps_are_the_formula(name, weighted, indexed):
    """Key, index, attack, mean over the batch, sample weights and regulariser, by hand."""
    objective, network, twin = OBJECTIVES[name], regularised(), regularised()
    weights = np.linspace(0.2, 2, 32).astype("float32") if weighted else np.ones(32, "float32")
    index = np.arange(500, 532) if indexed else np.tile(np.arange(16), 2)
    x = {"image": X[:32], "index": index} if indexed else X[:32]
    batches = tf.data.Dataset.from_tensor_slices((x, Y[:32], weights)).batch(16)
    trainer = RobustTrainer(network, objective, seed=9)
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    trainer.fit(batches, verbose=0, shuffle=False)

    for step in range(2):
        part = slice(16 * step, 16 * step + 16)
        key = random.fold(random.fold(9, 1), step)
        images, labels = tf.constant(X[part]), tf.constant(Y[part])
        x_adv = objective.perturb(twin, images, labels, key, tf.constant(index[part]))
        variables = [v.value for v in twin.trainable_variables]
        with tf.GradientTape() as tape:
            losses = objective.loss(twin, images, x_adv, labels).loss
            total = tf.reduce_mean(losses * weights[part]) + tf.add_n(twin.losses)
        for variable, gradient in zip(variables, tape.gradient(total, variables), strict=True):
            variable.assign_sub(0.1 * gradient)
    for a, b in zip(network.weights, twin.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_evaluation_is_in_inference_mode_under_the_evaluation_attack():
    image = keras.Input((6, 6, 1))
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(image))
    network = keras.Model(image, keras.layers.Dense(4)(x))
    attack = PGD(0.2, steps=2, start="clean")
    trainer = RobustTrainer(network, Adversarial(PGD(1e-6)), attack)
    trainer.compile("sgd")
    found = trainer.evaluate(X, Y, verbose=0, return_dict=True)
    right = np.argmax(network(X), -1) == Y
    robust = np.argmax(network(attack(network, X, Y)), -1) == Y
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["robust_accuracy"] == pytest.approx(robust.mean())
    assert found["loss"] == pytest.approx(
        float(keras.losses.SparseCategoricalCrossentropy(from_logits=True)(Y, network(X))), rel=1e-5
    )


@pytest.mark.parametrize("absorbed", [False, True])
def test_robust_accuracy_is_no_number_where_the_attack_gives_none(absorbed):
    """sqrt(0) has no gradient; a network that passes NaN pixels over still has finite logits."""
    image = keras.Input((6, 6, 1))
    x = keras.layers.Lambda(keras.ops.nan_to_num)(image) if absorbed else image
    x = keras.layers.Lambda(lambda x: x + keras.ops.sqrt(0 * x))(x)
    network = keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(x)))
    trainer = RobustTrainer(network, Adversarial(ATTACK))
    trainer.compile(keras.optimizers.SGD(1e-9))
    found = trainer.evaluate(X, Y, verbose=0, return_dict=True)
    assert np.isnan(found["robust_accuracy"]) and 0 <= found["accuracy"] <= 1


def test_an_objective_is_judged_on_true_labels_and_cross_entropy():
    attack = PGD(0.1, label="predicted", start="gaussian")
    judged = RobustTrainer(small(), Trades(attack)).evaluation_attack
    assert (judged.label, judged.loss, judged.epsilon) == ("true", None, 0.1)
    assert RobustTrainer(small(), Natural()).evaluation_attack is None


@pytest.mark.parametrize("name", ["natural", "mixed", "trades", "adversarial"])
def test_training_measures_are_those_of_the_images_trained_on(name):
    keras.utils.set_random_seed(0)
    trainer = RobustTrainer(small(), OBJECTIVES[name])
    trainer.compile(keras.optimizers.SGD(0.0 + 1e-12))
    history = trainer.fit(X, Y, batch_size=96, verbose=0).history
    clean = (np.argmax(trainer.network(X), -1) == Y).mean()
    assert set(history) - {"loss"} == {
        "natural": {"accuracy"},
        "adversarial": {"robust_accuracy"},
    }.get(name, {"accuracy", "robust_accuracy"})
    if "accuracy" in history:
        assert history["accuracy"][0] == pytest.approx(clean)
    if "robust_accuracy" in history:
        assert history["robust_accuracy"][0] < clean or clean < 0.3


@pytest.mark.parametrize("loss", [float("inf"), float("nan"), -float("inf")])
def test_every_loss_that_is_not_finite_is_caught(loss):
    trainer = RobustTrainer(small(), Natural())
    trainer.compile("sgd")
    stop = StopOnNonFinite()
    stop.set_model(trainer)
    stop.on_train_batch_end(0, {"loss": 1.0})
    with pytest.raises(FloatingPointError, match=f"loss is {loss}"):
        stop.on_train_batch_end(0, {"loss": loss})


@pytest.mark.parametrize("moment", ["epoch", "training"])
def test_the_guard_looks_at_the_end_of(moment):
    network = small(search=True, density=0.5)
    trainer = RobustTrainer(network, Natural())
    trainer.compile("sgd")
    guard = MaskGuard()
    guard.set_model(trainer)
    guard.on_train_begin()
    look = guard.on_train_end if moment == "training" else lambda: guard.on_epoch_end(0)
    look()
    scores = masked_kernels(network)[0].scores
    scores.assign(-scores.numpy()[::-1])
    with pytest.raises(FloatingPointError, match="differs from its scores"):
        look()
