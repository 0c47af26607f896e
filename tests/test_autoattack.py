"""AutoAttack: the loop over survivors, what it takes, what it refuses, what it notices."""

import functools
import itertools
import re

import digits
import keras
import numpy as np
import pytest
import tensorflow as tf

import rst_tf as rst
from rst_tf import PGD, AutoAttack
from rst_tf.attacks.named import VERSIONS, name_of, named
from rst_tf.attacks.outcome import ROBUST, WRONG, Outcome

EPSILON = digits.EPSILON
X, Y = digits.data()
WRONG_ONES = np.setdiff1d(np.arange(360), digits.fixture()["attacked_idx"])[:4]
FEW = np.r_[0:100, WRONG_ONES]
QUICK = ("apgd-ce:steps=10", "apgd-t:steps=5:targets=2", "fab-t:steps=5:targets=2")
QUICK += ("square:queries=60",)


def quick(epsilon=EPSILON, attacks=QUICK, norm="linf"):
    return AutoAttack(epsilon, norm, version="custom", attacks=attacks)


def run(model=None, x=X[FEW], y=Y[FEW], auto=None, **options):
    options = {"progress": False, **options}
    return (auto or quick()).run(model or digits.network(), x, y, **options)


LIGHT = ("apgd-ce:steps=10", "square:queries=20")


def light(x=X[:30], y=Y[:30], model=None, **options):
    return run(model, x, y, quick(attacks=LIGHT), **options)


@pytest.fixture(scope="module")
def whole() -> Outcome:
    return run()


@pytest.fixture(scope="module")
def plain() -> Outcome:
    return light()


@functools.cache
def prepared():
    return quick().against(digits.network(), X[:30])


def same(a: Outcome, b: Outcome) -> bool:
    return np.array_equal(a.broken_by, b.broken_by) and np.array_equal(a.labels, b.labels)


# what it gives


def test_what_is_left_is_what_it_says(whole):
    x, y = X[FEW], Y[FEW]
    answers = np.argmax(digits.network()(whole.images), -1)
    np.testing.assert_array_equal(answers, whole.labels)
    np.testing.assert_array_equal(answers == y, whole.robust)
    np.testing.assert_array_equal(np.argmax(digits.network()(x), -1) == y, whole.correct)
    untouched = whole.broken_by < 0
    np.testing.assert_array_equal(whole.images[untouched], x[untouched])
    assert 0 < whole.robust_accuracy < whole.accuracy < 1.0 + 1e-9
    assert whole.attacks == ("apgd-ce", "apgd-t", "fab-t", "square")


def test_margins_are_those_of_the_image_that_is_left(whole):
    z = np.array(digits.network()(whole.images))
    label = z[np.arange(len(z)), Y[FEW]]
    z[np.arange(len(z)), Y[FEW]] = -np.inf
    np.testing.assert_allclose(whole.margins, label - z.max(1), atol=1e-5)
    np.testing.assert_array_equal(whole.margins > 0, whole.robust)


def test_every_image_lies_in_the_ball_and_the_box(whole):
    moved = np.abs(whole.images - X[FEW]).reshape(len(whole.images), -1).max(1)
    assert moved.max() <= EPSILON * (1 + 1e-5) + 1e-6
    assert whole.largest == pytest.approx(moved.max()) and moved.max() > 0.9 * EPSILON
    assert whole.images.min() >= 0 and whole.images.max() <= 1 and np.isfinite(whole.images).all()


def test_robust_accuracy_falls_attack_by_attack(whole):
    shares = [whole.accuracy, *(whole.after(i) for i in range(4))]
    assert shares == sorted(shares, reverse=True) and shares[-1] == whole.robust_accuracy
    assert {WRONG, ROBUST, 0} <= set(whole.broken_by) <= {WRONG, ROBUST, 0, 1, 2, 3}


# invariances (T13)

CHANGES = {  # how it is run, and on which images of the whole run
    "batches of 1": ({"batch_size": 1}, range(12)),
    "batches of 7": ({"batch_size": 7}, range(12)),
    "batches of 64": ({"batch_size": 64}, range(len(FEW))),
    "backwards": ({}, range(11, -1, -1)),
    "a part": ({}, range(8, 20)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_neither_batches_nor_order_matter(change, whole):
    options, rows = CHANGES[change][0], list(CHANGES[change][1])
    found = run(prepared(), X[FEW][rows], Y[FEW][rows], index=rows, **options)
    np.testing.assert_array_equal(found.broken_by, whole.broken_by[rows])


def test_the_seed_matters(plain):
    assert not np.array_equal(light(seed=1).images, plain.images)
    assert same(light(seed=0), plain)


class Killed(Exception):
    pass


@pytest.mark.parametrize("lines", [1, 2])
def test_an_interrupted_run_goes_on(lines, plain, tmp_path, monkeypatch):
    state, seen = tmp_path / "state.npz", []
    monkeypatch.setattr("rst_tf.attacks._survivors._SAVE_EVERY", 0.0)

    def kill(line):
        seen.append(line)
        if len(seen) > lines:
            raise Killed

    with pytest.raises(Killed):
        light(state=state, progress=kill, batch_size=10)
    rest = []
    assert same(light(state=state, progress=rest.append, batch_size=10), plain)
    assert len(rest) == 3


def test_a_run_killed_within_an_attack_goes_on(plain, tmp_path, monkeypatch):
    state, batches = tmp_path / "state.npz", []
    monkeypatch.setattr("rst_tf.attacks._survivors._SAVE_EVERY", 0.0)

    def kill(self, *_):
        batches.append(1)
        if len(batches) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("rst_tf.attacks._progress.Progress.bar", kill)
        with pytest.raises(Killed):
            light(state=state, batch_size=10)
    assert same(light(state=state, batch_size=10), plain)


REFUSED_STATES = {
    "another seed": lambda state: light(X[:8], Y[:8], state=state, seed=3),
    "other images": lambda state: light(X[1:9], Y[1:9], state=state),
    "another list": lambda state: run(state=state, x=X[:8], y=Y[:8], auto=quick(attacks=("pgd",))),
}


@pytest.mark.parametrize("why", REFUSED_STATES)
def test_the_state_of_another_run_is_refused(why, tmp_path):
    state = tmp_path / "state.npz"
    light(X[:8], Y[:8], state=state)
    with pytest.raises(ValueError, match="is of another model, other images or other attacks"):
        REFUSED_STATES[why](state)


def test_a_damaged_state_is_refused(tmp_path):
    state = tmp_path / "state.npz"
    light(X[:8], Y[:8], state=state)
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(ValueError, match="is damaged"):
        light(X[:8], Y[:8], state=state)


def test_nothing_is_traced_again_as_survivors_become_fewer():
    calls = []

    class Counted(Subclassed):
        def call(self, x):
            calls.append(1)  # in Python: once for every place of a graph where the model stands
            return super().call(x)

    attacker = quick().against(Counted(), X[:30])
    first = run(attacker, X[:30], Y[:30])
    traced = len(calls)
    second = run(attacker, X[:30], Y[:30], batch_size=7)
    run(attacker, X[30:41], Y[30:41], seed=5)
    assert len(calls) == traced and same(first, second)
    assert 0 < first.robust_accuracy < first.accuracy
    with pytest.raises(ValueError, match="prepared for another list"):
        run(attacker, X[:30], Y[:30], quick(attacks=LIGHT))


# what it takes


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = digits.network()

    def call(self, x):
        return self.inner(x)


def functional():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, digits.network()(inputs))


def with_softmax():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, keras.layers.Softmax()(digits.network()(inputs)))


def saved(folder, kind):
    network = digits.network()
    if kind == "keras":
        network.save(folder / "network.keras")
        return folder / "network.keras"
    path = folder / "saved_model"
    if kind == "export":
        network.export(path, verbose=False)
    else:
        call = tf.function(
            lambda images: {"logits": network(images)},
            input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32)],
        )
        module = tf.Module()
        module.network = network
        tf.saved_model.save(module, path, signatures=call)
    return tf.saved_model.load(path) if kind == "loaded" else path


MODELS = {
    "functional": lambda _: functional(),
    "subclassed": lambda _: Subclassed(),
    "softmax taken off": lambda _: with_softmax(),
    "probabilities": lambda _: lambda x: tf.nn.softmax(digits.network()(x)),
    "callable": lambda _: lambda x: digits.network()(x, training=False),
    ".keras": lambda folder: saved(folder, "keras"),
    "SavedModel of Keras": lambda folder: saved(folder, "export"),
    "SavedModel's signature": lambda folder: saved(folder, "signature"),
    "SavedModel, loaded": lambda folder: saved(folder, "loaded"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_any_model_is_attacked_alike(kind, plain, tmp_path):
    model = MODELS[kind](tmp_path)
    found = light(model=model)
    np.testing.assert_array_equal(found.broken_by, plain.broken_by)
    told = [f.level for f in found.findings if f.check == "probabilities"]
    assert told == {"softmax taken off": ["note"], "probabilities": ["warning"]}.get(kind, [])


def test_one_hot_labels_are_labels(plain):
    found = light(y=np.eye(10)[Y[:30]])
    assert same(found, plain)


def test_masks_are_multiplied_in():
    network = half_masked()
    assert same(light(model=network), light(model=rst.baked(network)))


def test_attacks_of_any_kind_stand_in_the_list():
    texts = ("fgsm", "pgd-20", "pgd:steps=3:restarts=2", "cw:steps=5", PGD(EPSILON, steps=4))
    found = run(auto=quick(attacks=texts), x=X[:20], y=Y[:20])
    assert found.attacks == ("fgsm", "pgd-20", "pgd-3", "cw", "pgd-4")
    assert found.described[2] == "PGD(epsilon=0.15, steps=3, restarts=2)"


def test_another_model_can_be_the_source(tmp_path):
    digits.network().save(tmp_path / "twin.keras")
    text = f"transferred:source={tmp_path / 'twin.keras'}"
    found = run(auto=quick(attacks=(text,)), x=X[:20], y=Y[:20])
    own = run(auto=quick(attacks=("pgd:steps=20",)), x=X[:20], y=Y[:20])
    assert abs(found.robust_accuracy - own.robust_accuracy) <= 0.1


# classes (T14)


def constant(classes, channels=1, height=6, width=9):
    keras.utils.set_random_seed(classes)
    layers = [keras.Input((height, width, channels)), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(classes)])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_few_classes_have_substitutes_that_are_told(classes, norm):
    chance = np.random.default_rng(0)
    model = constant(classes, channels=1 + 2 * (classes % 2))
    x = chance.random((20, *model.input_shape[1:]), np.float32)
    y = np.argmax(model(x), -1)
    auto = quick(0.1 if norm == "linf" else 0.5, QUICK[:2] + ("fab-t:steps=5", QUICK[3]), norm)
    found = run(model, x, y, auto)
    assert 0 <= found.robust_accuracy < 1
    told = [f.text for f in found.findings if f.check == "classes"]
    assert len(told) == (2 if classes < 4 else 1)
    assert all(f"the model has {classes} classes" in text for text in told)


EDGES = {
    "one image": (slice(0, 1), None),
    "all wrong": (slice(0, 5), "wrong"),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges(edge):
    rows, labels = EDGES[edge]
    y = (Y[rows] + 1) % 10 if labels else Y[rows]
    found = run(x=X[rows], y=y)
    assert len(found.broken_by) == len(y)
    if labels:
        assert found.accuracy == 0 and (found.broken_by == WRONG).all()


def test_all_are_broken_by_a_large_epsilon():
    found = run(auto=quick(1.0), x=X[:30], y=Y[:30])
    assert found.robust_accuracy == 0


def test_an_undefended_network_falls_to_nothing():
    """T11 on the embedded digits: trained without attacks, at a visible perturbation."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(64, "relu")]
    network = keras.Sequential([*layers, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss)
    network.fit(X, Y, epochs=60, batch_size=20, verbose=0)
    found = AutoAttack(0.3).run(network, X, Y, progress=False)
    assert found.accuracy > 0.98 and found.robust_accuracy == 0


# what it notices (T17)


class Noisy(keras.Model):
    def __init__(self, scale):
        super().__init__()
        self.inner, self.scale = digits.network(), scale

    def call(self, x):
        z = self.inner(x)
        return z + self.scale * tf.random.normal(tf.shape(z))


def signs(x):
    return digits.network()(tf.sign(x - 0.5))


def by_batch(x):
    return digits.network()(x) + tf.reduce_mean(x) * tf.range(10.0)


def optimising(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(digits.network()(x))
    return digits.network()(x) + 1e-6 * tf.reduce_mean(tape.gradient(total, x))


@tf.custom_gradient
def _misled(x):
    return x, lambda upstream: tf.random.stateless_normal(tf.shape(upstream), (1, 2))


def misled(x):
    return digits.network()(_misled(x))


def straight_through(x):
    return x + tf.stop_gradient(tf.round(x * 4) / 4 - x)


NOTICED = {
    "randomised": Noisy(0.5),
    "batch": by_batch,
    "dynamic": optimising,
    "zero gradient": signs,
    "square": misled,
    "quantised": lambda x: digits.network()(straight_through(x)),
}


@pytest.mark.parametrize("check", NOTICED)
def test_notices(check):
    auto = quick(attacks=("apgd-ce:steps=5", "fab-t:steps=2:targets=1", "square:queries=300"))
    found = run(NOTICED[check], auto=auto)
    assert check in {f.check for f in found.findings if f.level in ("error", "warning")}
    assert found.warnings


def on(change):
    """The digits' network on changed images."""
    return lambda x: digits.network()(change(x))


def network_of(*layers, dtype="float32"):
    """Layers before a dense one."""
    ends = [keras.layers.Flatten(), keras.layers.Dense(10, dtype=dtype)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, *ends])


def half_masked():
    network = rst.masked(digits.network())
    rst.Ticket.of(network).prune(0.5).apply(network)
    return network


def exported(folder, network):
    network.export(folder, verbose=False)
    return tf.saved_model.load(str(folder))


def in_int8(_):
    network = network_of()
    network.layers[-1].quantize("int8")
    return network


def repeated(x):
    return tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, tf.round(x * 4) / 4), (0, x))[1]


def scaled_signs(x):
    return tf.sign(x - 0.5) * tf.reduce_mean(tf.abs(x - 0.5), axis=[1, 2, 3], keepdims=True)


def cut_to_shape(x):
    side = tf.cast(tf.floor(tf.cast(tf.shape(x)[1:3], tf.float32) * 1.01), tf.int32)
    return tf.image.resize(x, side)


def binary_layer():
    return rst.BinaryDense(8, activation="relu")


LOOKED_AT = {  # a model, given a folder, and what is told of it
    "sign": (lambda _: on(tf.sign), "quantised"),
    "round": (lambda _: on(tf.round), "quantised"),
    "rint": (lambda _: on(tf.math.rint), "quantised"),
    "floor": (lambda _: on(lambda x: tf.floor(x * 16) / 16), "quantised"),
    "floor division": (lambda _: on(lambda x: (x // 0.25) * 0.25), "quantised"),
    "fake quantisation": (
        lambda _: on(lambda x: tf.quantization.fake_quant_with_min_max_args(x, 0, 1, 3)),
        "quantised",
    ),
    "bytes": (lambda _: on(lambda x: tf.cast(tf.cast(x * 7, tf.uint8), x.dtype)), "quantised"),
    "straight-through": (lambda _: on(straight_through), "quantised"),
    "scaled signs": (lambda _: on(scaled_signs), "quantised"),
    "round in a condition": (
        lambda _: on(lambda x: tf.cond(x[0, 0, 0, 0] < 2, lambda: tf.round(x), lambda: x)),
        "quantised",
    ),
    "round in a loop": (lambda _: on(repeated), "quantised"),
    "int8 of Keras": (in_int8, "quantised"),
    "binary activation": (lambda _: network_of(rst.BinaryActivation()), "quantised"),
    "binary activation, saved": (
        lambda folder: exported(folder, network_of(rst.BinaryActivation())),
        "quantised",
    ),
    "bfloat16": (
        lambda _: network_of(
            keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16"), dtype="mixed_bfloat16"
        ),
        "precision",
    ),
    "float16 in one layer": (
        lambda _: network_of(keras.layers.Conv2D(4, 3, dtype="mixed_float16")),
        "precision",
    ),
    "float32": (lambda _: network_of(keras.layers.Conv2D(4, 3, activation="relu")), None),
    "masked": (lambda _: half_masked(), None),
    "baked": (lambda _: rst.baked(half_masked()), None),
    "saved": (lambda folder: exported(folder, digits.network()), None),
    "binary weights": (lambda _: network_of(keras.layers.Flatten(), binary_layer()), None),
    "inference": (
        lambda _: network_of(
            keras.layers.RandomRotation(0.1),
            keras.layers.Resizing(7, 7),
            keras.layers.Dropout(0.5),
            keras.layers.GaussianNoise(0.1),
            keras.layers.BatchNormalization(),
            keras.layers.MaxPooling2D(),
        ),
        None,
    ),
    "transposed convolution": (lambda _: network_of(keras.layers.Conv2DTranspose(3, 3)), None),
    "absolute values": (lambda _: on(tf.abs), None),
    "values times signs": (lambda _: on(lambda x: x * tf.sign(x)), None),
    "leaky ReLU by hand": (lambda _: on(lambda x: x * tf.where(x > 0.5, 1.0, 0.1)), None),
    "clipped by hand": (lambda _: on(lambda x: tf.where(x > 0.5, 0.5, x)), None),
    "floor of a shape": (lambda _: on(cut_to_shape), None),
    "rounded constants": (lambda _: on(lambda x: x - tf.sign(tf.constant(0.5)) * 0.1), None),
}


@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_look_at_the_model_tells(name, tmp_path):
    model, told = LOOKED_AT[name]
    keras.utils.set_random_seed(0)
    found = quick(attacks=("fgsm",)).against(model(tmp_path), X[:4]).findings
    assert [(f.check, f.level) for f in found] == ([(told, "warning")] if told else [])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0", "ResNet50V2"])
def test_a_look_at_keras_applications_tells_nothing(name):
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    network = build(weights=None, classes=10, input_shape=(64, 64, 3), classifier_activation=None)
    x = np.random.default_rng(0).random((4, 64, 64, 3), np.float32)
    assert quick(attacks=("fgsm",)).against(network, x).findings == []


def one_logit(x):
    """All logits but the label's are cut off, as in a sparse network: DLR is constant."""
    z = digits.network()(x)
    return tf.where(z == tf.reduce_max(z, axis=-1, keepdims=True), z, 0.0)


@pytest.mark.parametrize(("model", "level"), [(signs, "error"), (one_logit, "warning")])
def test_tells_which_loss_has_no_gradient(model, level):
    found = run(model, X[:20], Y[:20], quick(attacks=("fgsm",))).findings
    (noticed,) = [f for f in found if f.check == "zero gradient"]
    assert noticed.level == level
    assert ("of cross-entropy at 0 " in noticed.text) == (level == "warning")


def test_is_silent_about_an_honest_network(whole):
    assert whole.findings == () and whole.warnings == ()


def test_a_randomised_network_is_judged_by_mean_logits():
    auto = AutoAttack(EPSILON, version="rand")
    found = run(Noisy(0.1), x=X[:15], y=Y[:15], auto=auto)
    assert [f.check for f in found.findings] == ["randomised"]
    assert "mean logits of 20 calls; one call is right on" in found.findings[0].text


# what it refuses

REFUSED = {
    "outside the box": (lambda: run(x=2 * X[:4], y=Y[:4]), "images in [0, 1]; received 0.0 to 2.0"),
    "labels too high": (lambda: run(x=X[:4], y=Y[:4] + 10), "labels below 10"),
    "negative labels": (lambda: run(x=X[:4], y=Y[:4] - 10), "labels from 0"),
    "float labels": (lambda: run(x=X[:4], y=Y[:4] * 1.0), "integer labels"),
    "lengths": (lambda: run(x=X[:4], y=Y[:3]), "one length above 0; received 4 and 3"),
    "no images": (lambda: run(x=X[:0], y=Y[:0]), "one length above 0"),
    "NaN": (lambda: run(lambda x: digits.network()(x) / 0 * 0, X[:4], Y[:4]), "not finite for 4"),
    "index": (lambda: run(x=X[:2], y=Y[:2], index=[1, 1]), "distinct integers"),
    "batch": (lambda: run(batch_size=0), "batch_size must be at least 1; received batch_size=0"),
    "flat images": (
        lambda: run(lambda x: x[:, :10], np.full((3, 54), 0.5), np.zeros(3, int)),
        "Square needs images",
    ),
    "no model": (lambda: run(3, X[:4], Y[:4]), "received 3"),
    "no path": (lambda: run("there/is/none.keras"), "does not exist"),
    "version": (lambda: AutoAttack(0.1, version="strong"), "received 'strong'"),
    "list beside a version": (lambda: AutoAttack(0.1, attacks=("pgd",)), "version='custom'"),
    "custom without a list": (lambda: AutoAttack(0.1, version="custom"), "needs some"),
    "epsilon": (lambda: AutoAttack(8.0), "received epsilon=8.0"),
    "two epsilons": (lambda: quick(attacks=(PGD(0.2),)), "one robust accuracy is of one ball"),
    "unknown attack": (lambda: quick(attacks=("apdg",)), "did you mean 'apgd'?"),
    "unknown setting": (lambda: quick(attacks=("pgd:step=3",)), "did you mean 'steps'?"),
    "no number": (lambda: quick(attacks=("pgd:steps=many",)), "steps cannot be 'many'"),
    "its own epsilon": (lambda: quick(attacks=("pgd:epsilon=1",)), "unknown setting 'epsilon'"),
    "no choice": (lambda: quick(attacks=("pgd:start=far",)), "start must be one of"),
    "not an attack": (lambda: quick(attacks=(3,)), "received 3"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refuses(why):
    wrong, message = REFUSED[why]
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        wrong()
    assert "\n" not in str(error.value)


# names


def test_names_mean_what_the_papers_mean():
    apgd_t = named("apgd-t", 8 / 255)
    assert (apgd_t.steps, apgd_t.loss, apgd_t.targets, apgd_t.trials) == (100, "dlr", 9, 9)
    assert named("apgd-ce:restarts=5", 0.1).trials == 5
    assert named("fab-t", 0.1).targets == 9 and named("square", 0.1).queries == 5000
    assert named("pgd-20", 8 / 255).step_size == 2 / 255
    for version, texts in VERSIONS.items():
        auto = AutoAttack(0.1, version=version)
        names = [name_of(attack) for attack in auto.listed()]
        assert names == [text.partition(":")[0] for text in texts]


# against the reference (T9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_standard_agrees_with_the_reference(seed):
    found = AutoAttack(EPSILON).run(digits.network(), X, Y, seed=seed, progress=False)
    reference = digits.fixture()["aa_standard_robust_s0"]
    assert 263 <= found.robust.sum() <= 270
    assert (found.robust != reference).sum() <= 5


def test_agrees_with_the_reference_without_square():
    """As T9 without Square, which breaks none of the points that the others leave here."""
    auto = quick(attacks=("apgd-ce", "apgd-t", "fab-t"))
    found = run(x=X, y=Y, auto=auto)
    reference = digits.fixture()["aa_standard_robust_s0"]
    assert 263 <= found.robust.sum() <= 270
    assert (found.robust != reference).sum() <= 5


# ordering (T16)


@pytest.mark.parametrize("attack", QUICK)
def test_the_list_leaves_no_more_than_any_attack_of_it(attack, whole):
    alone = run(auto=quick(attacks=(attack,))).robust_accuracy
    assert whole.robust_accuracy <= alone + 0.01


def test_apgd_leaves_no_more_than_pgd():
    left = [run(auto=quick(attacks=(text,))).robust_accuracy for text in ("apgd-ce", "pgd-20")]
    assert left[0] <= left[1] + 0.02


def test_a_larger_ball_leaves_less():
    left = [run(auto=quick(e, LIGHT)).robust_accuracy for e in (0.02, 0.08, 0.15, 0.3)]
    assert all(a + 0.01 >= b for a, b in itertools.pairwise(left)) and left[-1] < left[0]
