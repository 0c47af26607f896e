import dataclasses
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS, easy_data, images, small

from flags.values import convert, field_docs, text
from rst_tf import (
    PGD,
    Adversarial,
    Free,
    MaskedConv2D,
    MaskedDense,
    Natural,
    Normalization,
    RobustTrainer,
    Trades,
    masks,
    prune_once,
)
from rst_tf import masked as with_masks
from rst_tf._saliency import in_order, sampled
from rst_tf.data.splits import ArraySplit
from rst_tf.first_masks import FIRST_MASKS, SNIP, FirstMasks, GraSP, Magnitude, RandomMasks, SynFlow
from rst_tf.registry import from_dict, to_dict
from rst_tf.traversal import masked_kernels

ATTACK = Adversarial(PGD(0.1, steps=2))
SHAPE = (8, 8, 3)
STARTS = {
    "random": RandomMasks(),
    "random erk": RandomMasks("erk", 0.5),
    "random uniform": RandomMasks("uniform"),
    "magnitude": Magnitude(),
    "magnitude by layer": Magnitude("layerwise"),
    "snip": SNIP(examples=24),
    "snip adversarial": SNIP("global_floor", 24, "adversarial"),
    "grasp": GraSP(examples=24),
    "grasp adversarial": GraSP(examples=24, score_on="adversarial"),
    "synflow": SynFlow(rounds=5),
}
every_start = pytest.mark.parametrize("name", STARTS)


def residual():
    """A block of a ResNet; statistics are not those of the start."""
    image = keras.Input(SHAPE)
    x = keras.layers.Rescaling(4.0, -2.0)(image)
    x = MaskedConv2D(8, 3, padding="same", use_bias=False)(x)
    y = keras.layers.ReLU()(Normalization()(x))
    y = MaskedConv2D(8, 3, padding="same", use_bias=False)(y)
    y = keras.layers.ReLU()(Normalization(affine=False)(y))
    x = keras.layers.Add()([x, MaskedConv2D(8, 3, padding="same", use_bias=False)(y)])
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(Normalization()(x)))
    network = keras.Model(image, MaskedDense(4)(x))
    for layer in network.layers:
        if isinstance(layer, Normalization):
            layer.moving_variance.assign(np.linspace(0.5, 2, 8))
    return network


def foreign():
    """Keras' own normalisation, a bias, dropout, separable kernels, a dense layer without mask."""
    image = keras.Input(SHAPE)
    x = keras.layers.SeparableConv2D(8, 3, activation="relu")(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.Dense(6, activation="relu", bias_initializer="ones", name="open")(x)
    x = keras.layers.Flatten()(keras.layers.DepthwiseConv2D(3)(x))
    return with_masks(keras.Model(image, keras.layers.Dense(4)(x)), dense=("open",))


BUILT = {}


def network_of(kind):
    if kind not in BUILT:
        keras.utils.set_random_seed(0)
        BUILT[kind] = {"residual": residual, "foreign": foreign, "small": small}[kind]()
    return BUILT[kind]


def data(kind="residual"):
    return easy_data(24, (6, 6, 1) if kind == "small" else SHAPE)


def found(start, network, density=0.2, seed=0, batches=None, objective=ATTACK):
    batches = data() if batches is None else batches
    start.apply(network, density, seed=seed, batches=batches, objective=objective)
    return [masked.mask.numpy() for masked in masked_kernels(network)]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_table_has_every_registered_start():
    assert {type(start) for start in STARTS.values()} == set(FIRST_MASKS.values())


@every_start
@pytest.mark.parametrize("kind", ["residual", "foreign"])
def test_masks_keep_the_exact_number_and_nothing_else_changes(name, kind):
    network = network_of(kind)
    trainer = RobustTrainer(network, Natural())
    trainer.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)
    trainer.fit(*data(), batch_size=24, verbose=0)
    own = {id(masked.mask) for masked in masked_kernels(network)}
    rest = [v for v in (*network.variables, *trainer.optimizer.variables) if id(v) not in own]
    before = [v.numpy().tobytes() for v in rest]
    total = sum(masked.size for masked in masked_kernels(network))
    chosen = found(STARTS[name], network)
    assert {float(value) for mask in chosen for value in np.unique(mask)} == {0.0, 1.0}
    if name != "magnitude by layer":
        assert sum(mask.sum() for mask in chosen) == masks.count(total, 0.2)
    else:
        assert [mask.sum() for mask in chosen] == [masks.count(mask.size, 0.2) for mask in chosen]
    assert [v.numpy().tobytes() for v in rest] == before


@every_start
def test_masks_are_a_function_of_weights_examples_and_seed(name):
    network = network_of("residual")
    first = found(STARTS[name], network)
    for masked in masked_kernels(network):
        masked.mask.assign(np.zeros(masked.shape))
    assert same(first, found(STARTS[name], network))
    assert not same(first, found(STARTS[name], network, density=0.3))


@every_start
def test_density_one_keeps_everything(name):
    assert all(mask.all() for mask in found(STARTS[name], network_of("residual"), 1.0))


@every_start
def test_a_start_is_its_own_configuration(name):
    start = STARTS[name]
    assert from_dict(FirstMasks, to_dict(start)) == start
    with pytest.raises(dataclasses.FrozenInstanceError):
        start.allocation = "global"
    told = field_docs(type(start))
    for field, annotation in typing.get_type_hints(type(start)).items():
        value = getattr(start, field)
        assert told[field] and convert(annotation, text(value)) == value


def test_random_masks_are_drawn_from_the_seed_without_a_pattern():
    network = network_of("residual")
    first, second = (found(RandomMasks("uniform"), network, 0.5, seed) for seed in (0, 1))
    for a, b in zip(first, second, strict=True):
        n = a.size
        assert abs((a * b).sum() - n / 4) < 4 * np.sqrt(n) / 4 + 1  # as independent draws overlap
    same_shape = [m for m in first if m.shape == first[1].shape]
    assert len(same_shape) > 1 and not same(same_shape[:1], same_shape[1:2])


def test_given_densities_reach_the_layers():
    network = network_of("small")
    names = [masked.name for masked in masked_kernels(network)]
    given = {names[0]: 0.25, names[1].rpartition("/")[0]: 0.5}
    start = RandomMasks(given)
    assert start == RandomMasks(start.densities) and hash(start) == hash(RandomMasks(given))
    sizes = [masked.size for masked in masked_kernels(network)]
    density = (sizes[0] / 4 + sizes[1] / 2) / sum(sizes)
    assert [m.sum() for m in found(start, network, density)] == [sizes[0] / 4, sizes[1] / 2]


# ---------------------------------------------------------------- what the scores are


def smooth(*widths, use_bias=True):
    keras.utils.set_random_seed(3)
    inner = [keras.layers.Dense(n, "tanh", use_bias=use_bias) for n in widths[:-1]]
    flat, last = keras.layers.Flatten(), keras.layers.Dense(widths[-1], use_bias=use_bias)
    return with_masks(keras.Sequential([keras.Input((3, 3, 1)), flat, *inner, last]))


def flat_scores(scores):
    return np.concatenate([score.ravel() for score in scores])


def cross_entropy(network, x, y, temperature=1.0):
    logits = network(x) / temperature
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))


def test_snip_is_the_change_of_the_loss_with_the_mask():
    network, (x, y) = smooth(5, 4), easy_data(20, (3, 3, 1))
    scores = flat_scores(SNIP(examples=20).scores(network, 0, (x, y), None))
    slopes = []
    for masked in masked_kernels(network):
        for place in np.ndindex(masked.shape):
            sides = []
            for sign in (1, -1):
                mask = np.ones(masked.shape, "float32")
                mask[place] += sign * 0.05
                masked.mask.assign(mask)
                sides.append(float(cross_entropy(network, x, y)))
            masked.mask.assign(np.ones(masked.shape))
            slopes.append((sides[0] - sides[1]) / 0.1)
    np.testing.assert_allclose(scores, np.abs(slopes), atol=2e-5)


def test_grasp_is_the_weight_times_the_hessian_times_the_gradient():
    network, (x, y) = smooth(4, 4), easy_data(20, (3, 3, 1))
    start, kernels = GraSP(examples=20, temperature=3.0), masked_kernels(network)
    sizes = [masked.size for masked in kernels]

    def loss(w):
        parts = tf.split(w, sizes)
        h = tf.reshape(x, (20, -1))
        a, b = (tf.reshape(p, m.shape) for p, m in zip(parts, kernels, strict=True))
        first, last = (masked.layer.bias for masked in kernels)
        logits = (tf.tanh(h @ a + first) @ b + last) / 3.0
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))

    w = tf.concat([tf.reshape(masked.kernel.value, [-1]) for masked in kernels], 0)
    with tf.GradientTape() as outer:
        outer.watch(w)
        with tf.GradientTape() as inner:
            inner.watch(w)
            value = loss(w)
        gradient = inner.gradient(value, w)
    expected = w * tf.linalg.matvec(outer.jacobian(gradient, w), gradient)
    ranks = flat_scores(start.scores(network, 0, [(x[:12], y[:12]), (x[12:], y[12:])], None))
    order = np.argsort(expected)
    assert (np.diff(ranks[order]) > 0).mean() > 0.97  # but for rounding among the smallest
    largest = order[-10:]
    assert set(np.argsort(ranks)[-10:]) == set(largest)


def chain(widths=(6, 5, 4), scale=1.0, depth=2):
    keras.utils.set_random_seed(5)
    inner = [keras.layers.Dense(n, "relu", use_bias=False) for n in widths * (depth // 2)]
    model = [keras.Input((3, 3, 1)), keras.layers.Flatten(), *inner, keras.layers.Dense(4)]
    network = with_masks(keras.Sequential(model))
    for masked in masked_kernels(network):
        masked.kernel.assign(scale * masked.kernel)
    return network


def test_one_round_of_synflow_ranks_by_the_paths_through_a_weight():
    network = chain()
    weights = [np.abs(masked.kernel.numpy()) for masked in masked_kernels(network)]
    forward = [np.ones(9)]
    for w in weights:
        forward.append(forward[-1] @ w)
    backward = [np.ones(4)]
    for w in reversed(weights):
        backward.insert(0, w @ backward[0])
    flows = [w * forward[i][:, None] * backward[i + 1][None, :] for i, w in enumerate(weights)]
    for own in flows:  # as much flows through each layer
        np.testing.assert_allclose(own.sum(), backward[-1] @ forward[-1], rtol=1e-6)
    expected = masks.select(flat_scores(flows), 40)
    density = 40 / expected.size
    chosen = flat_scores(found(SynFlow(rounds=1), network, density))
    np.testing.assert_array_equal(chosen > 0, expected)


def test_rounds_of_synflow_spare_a_layer_that_one_round_empties():
    network = chain((40, 2, 40))
    with pytest.raises(ValueError, match=r"round 1 of 1 leaves no way.*received rounds=1"):
        found(SynFlow(rounds=1), network, 0.1)
    assert min(mask.mean() for mask in found(SynFlow(rounds=100), network, 0.1)) > 0.01


def test_synflow_may_empty_a_layer_that_others_bypass():
    image = keras.Input((3, 3, 1))
    x = MaskedDense(6)(keras.layers.Flatten()(image))
    sum_ = keras.layers.Add()([MaskedDense(4)(x), MaskedDense(4)(x)])
    network = keras.Model(image, sum_)
    kernel = masked_kernels(network)[1].kernel
    kernel.assign(1e-6 * kernel)
    assert [mask.any() for mask in found(SynFlow(rounds=5), network, 0.3)] == [True, False, True]


def test_synflow_takes_a_flow_beyond_float32():
    calm, wild = chain(depth=12), chain(depth=12, scale=2.0**10)
    assert len(masked_kernels(wild)) == 19 and same(
        found(SynFlow(rounds=3), calm, 0.5), found(SynFlow(rounds=3), wild, 0.5)
    )


@pytest.mark.parametrize("kind", ["residual", "foreign"])
def test_synflow_looks_at_no_statistics_offsets_or_signs(kind):
    keras.utils.set_random_seed(1)
    network = {"residual": residual, "foreign": foreign}[kind]()
    first = found(SynFlow(rounds=2), network)
    for variable in network.variables:
        if variable.name in ("moving_mean", "beta", "bias"):
            variable.assign(np.linspace(-5, 1, int(np.prod(variable.shape))))
        elif variable.name == "moving_variance":
            variable.assign(np.linspace(0.1, 9, variable.shape[0]))
        elif variable.name.endswith("kernel") or variable.name == "gamma":
            variable.assign(-variable)
    assert same(first, found(SynFlow(rounds=2), network))


def test_ranks_are_in_the_order_of_signed_scores():
    scores = [np.array([[3.0, -2.0], [0.0, -1e-30]]), np.array([1e30, -2.0, 3.0])]
    first, second = in_order(scores)
    assert first.shape == (2, 2) and first.dtype == np.float32
    ranks = np.concatenate([first.ravel(), second])
    values = flat_scores(scores)
    assert (np.sign(ranks[:, None] - ranks) == np.sign(values[:, None] - values)).all()
    assert (ranks > 0).all() and np.isfinite(ranks).all()


# ---------------------------------------------------------------- examples


@pytest.mark.parametrize("name", ["snip adversarial", "grasp adversarial"])
@pytest.mark.parametrize("objective", [ATTACK, Trades(PGD(0.1, steps=2)), Free(0.1)], ids=str)
def test_adversarial_scores_are_of_the_objective(name, objective):
    network, examples = network_of("small"), data("small")
    start = dataclasses.replace(STARTS[name], allocation="global")
    clean = found(dataclasses.replace(start, score_on="clean"), network, 0.3, 0, examples)
    attacked = found(start, network, 0.3, 0, examples, objective)
    other = found(start, network, 0.3, 0, examples, Adversarial(PGD(0.5, steps=2)))
    assert not same(clean, attacked) and not same(attacked, other)


def forms(x, y):
    index = np.arange(len(y), dtype=np.int64)
    parts = [slice(0, 7), slice(7, 20), slice(20, 24)]
    named = [({"image": x[p], "index": index[p]}, y[p]) for p in parts]
    endless = tf.data.Dataset.from_tensor_slices(({"image": x, "index": index}, y)).batch(5)
    return {
        "batches": [(x[p], y[p]) for p in parts],
        "batches with identities": named,
        "dataset": endless.repeat(),
        "split": ArraySplit(images=x, labels=y, index=index),
    }


@pytest.mark.parametrize("form", ["batches", "batches with identities", "dataset", "split"])
def test_examples_come_in_any_form(form):
    network, (x, y) = network_of("small"), data("small")
    start = SNIP(examples=24, score_on="adversarial")
    whole = start.scores(network, 0, (x, y), ATTACK)
    parted = start.scores(network, 0, forms(x, y)[form], ATTACK)
    for a, b in zip(whole, parted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_only_so_many_examples_count():
    network, (x, y) = network_of("small"), data("small")
    start = SNIP(examples=10)
    first = start.scores(network, 0, (x[:10], y[:10]), None)
    cut = start.scores(network, 0, [(x[:8], y[:8]), (x[8:], y[8:])], None)
    for a, b in zip(first, cut, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    assert not np.allclose(first[0], SNIP(examples=24).scores(network, 0, (x, y), None)[0])


@pytest.mark.parametrize("form", ["arrays", "split"])
def test_examples_are_drawn_from_every_class_in_no_order(form):
    x, y = images(600, (2, 2, 1)), np.arange(600, dtype="int32") // 150
    source = {
        "arrays": (x, y),
        "split": ArraySplit(images=x, labels=y, index=np.arange(600, dtype=np.int64)),
    }[form]
    drawn = {seed: list(sampled(source, 400, seed)) for seed in (0, 1)}
    for parts in drawn.values():
        index = np.concatenate([part.index for part in parts])
        labels = np.concatenate([part.labels for part in parts])
        assert len(set(index)) == 400 and (np.bincount(labels) == 100).all()
        np.testing.assert_array_equal(labels, y[index])
        np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), x[index])
        assert all(len(set(part.labels.numpy())) == 4 for part in parts)
    assert set(drawn[0][0].index.numpy()) != set(drawn[1][0].index.numpy())


# ---------------------------------------------------------------- errors


def emptying():
    network = small()
    masked_kernels(network)[0].kernel.assign(1e-9 * np.ones((36, 16)))
    return network


def centred():
    x = image = keras.Input(SHAPE)
    x = keras.layers.LayerNormalization()(keras.layers.Flatten()(x))
    return with_masks(keras.Model(image, keras.layers.Dense(4)(x)))


def ending_in_softmax():
    layers = [keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4, "softmax")]
    return with_masks(keras.Sequential(layers))


def darkened():
    layers = [keras.layers.Rescaling(1.0, -2.0), keras.layers.Flatten(), keras.layers.ReLU()]
    return with_masks(keras.Sequential([keras.Input(SHAPE), *layers, keras.layers.Dense(4)]))


REFUSED = {
    "no masks": (Magnitude(), NETWORKS["shared"], {}, "no masked layers"),
    "a search": (RandomMasks(), lambda: small(search=True), {}, "search=False"),
    "filters": (
        RandomMasks(),
        lambda: small(granularity="filter"),
        {},
        "first masks are by element; received granularity='filter'",
    ),
    "density 0": (RandomMasks(), small, {"density": 0}, "received density=0"),
    "an empty layer": (Magnitude(), emptying, {"density": 0.02}, "without a weight.*global_floor"),
    "no examples": (SNIP(), small, {}, "batches must be given"),
    "few examples": (GraSP(), small, {"batches": data("small")}, "24 of the.*examples=512"),
    "no objective": (SNIP(score_on="adversarial"), small, {}, "received objective=None"),
    "no attack": (
        SNIP(score_on="adversarial"),
        small,
        {"objective": Natural()},
        "needs an objective with an attack; received objective=Natural",
    ),
    "probabilities": (SNIP(examples=8), ending_in_softmax, {"batches": data()}, "logits"),
    "flow in a centring layer": (SynFlow(), centred, {}, "layer 'layer_normalization.*centres"),
    "flow that ends": (SynFlow(), darkened, {}, "largest flow of 0"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_is_refused_and_the_network_stays(why):
    start, build, options, message = REFUSED[why]
    network = build()
    before = [v.numpy() for v in network.variables]
    with pytest.raises(ValueError, match=message):
        start.apply(network, **{"density": 0.1, "seed": 0, **options})
    assert same(before, [v.numpy() for v in network.variables])


WRONG = {
    "allocation": (lambda: SNIP("globl"), "did you mean 'global'"),
    "examples": (lambda: SNIP(examples=0), "received examples=0"),
    "score_on": (lambda: GraSP(score_on="adversarail"), "did you mean 'adversarial'"),
    "temperature": (lambda: GraSP(temperature=0.0), "received temperature=0.0"),
    "rounds": (lambda: SynFlow(rounds=0), "received rounds=0"),
    "densities": (lambda: RandomMasks("erc"), "did you mean 'erk'"),
    "power": (lambda: RandomMasks("igq", 0.5), "power has an effect with"),
    "negative power": (lambda: RandomMasks("erk", -1.0), "received power=-1.0"),
    "start": (lambda: prune_once(NETWORKS["shared"](), "snap", 0.5), "did you mean 'snip'"),
}


@pytest.mark.parametrize("argument", WRONG)
def test_wrong_arguments_are_named(argument):
    make, message = WRONG[argument]
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- a user's own model


@pytest.mark.parametrize("start", ["random", "magnitude", "snip", "grasp", SynFlow(rounds=3)])
@pytest.mark.parametrize("name", ["functional", "nested"])
def test_prune_once_gives_a_masked_copy_of_a_users_model(name, start):
    model = NETWORKS[name]()
    model = keras.Sequential([keras.Input((12, 12, 3)), model, keras.layers.Softmax()])
    x, y = images(512), np.arange(512) % 5
    before = [v.numpy() for v in model.variables]
    network = prune_once(model, start, 0.3, batches=(x, y))
    kernels = masked_kernels(network)
    total = sum(masked.size for masked in kernels)
    assert sum(m.mask.numpy().sum() for m in kernels) == masks.count(total, 0.3)
    np.testing.assert_allclose(np.sum(network(x[:9]), axis=1), 1, rtol=1e-5)
    assert same(before, [v.numpy() for v in model.variables])
    given = [m.kernel.numpy() for m in masked_kernels(with_masks(model))]
    assert same(given, [m.kernel.numpy() for m in kernels])
