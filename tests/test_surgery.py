import keras
import numpy as np
import pytest
from networks import NETWORKS, images

from rst_tf import baked, left_dense, masked, with_logits
from rst_tf.surgery import ends_in_softmax
from rst_tf.ticket import Ticket
from rst_tf.traversal import masked_kernels, masked_layers, walk

every_network = pytest.mark.parametrize("name", NETWORKS)
GRANULARITIES = ("element", "row", "kernel", "filter")


def plain(model):
    return not masked_layers(model)


@every_network
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_masked_keeps_the_outputs_and_baked_is_its_inverse(name, granularity):
    model, x = NETWORKS[name](), images()
    net = masked(model, granularity=granularity)
    back = baked(net)
    np.testing.assert_allclose(net(x), model(x), atol=1e-6)
    np.testing.assert_allclose(back(x), model(x), atol=1e-6)
    assert plain(back) and not plain(net)
    assert [v.shape for v in back.variables] == [v.shape for v in model.variables]


@every_network
def test_baked_writes_zeros_in_place_of_masks(name):
    net, x = masked(NETWORKS[name]()), images()
    Ticket.of(net).prune(0.3).apply(net)
    back = baked(net)
    np.testing.assert_allclose(back(x), net(x), atol=1e-6)
    zeros = sum(int((v.numpy() == 0).sum()) for v in back.variables if "kernel" in v.name)
    pruned = sum(int(np.prod(m.shape) - m.mask.numpy().sum()) for m in masked_kernels(net))
    assert zeros == pruned > 0


@every_network
def test_search_freezes_all_but_scores(name):
    net = masked(NETWORKS[name](), search=True, density=0.5)
    scores = [v for v in net.trainable_variables if v.name.endswith("scores")]
    assert len(scores) == len(masked_kernels(net))
    assert all(np.isclose(m.mask.numpy().mean(), 0.5, atol=0.05) for m in masked_kernels(net))


@every_network
def test_keras_round_trip(name, tmp_path):
    net, x = masked(NETWORKS[name]()), images()
    Ticket.of(net).prune(0.4).apply(net)
    net.save(tmp_path / "net.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "net.keras")(x), net(x))


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "Xception"])
def test_keras_applications(name, tmp_path):
    shape = (96, 96, 3)
    model = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10)
    rng = np.random.default_rng(0)
    for v in model.variables:
        if len(v.shape) == 1:
            v.assign(v + rng.uniform(0.1, 0.4, v.shape))
    x = images(shape=shape)
    net = masked(model)
    np.testing.assert_allclose(net(x), model(x), atol=1e-5)
    net.save(tmp_path / "net.keras")
    np.testing.assert_allclose(
        keras.models.load_model(tmp_path / "net.keras")(x), net(x), atol=1e-5
    )
    np.testing.assert_allclose(baked(net)(x), model(x), atol=1e-5)
    assert left_dense(net) == []
    logits = with_logits(net)
    np.testing.assert_allclose(keras.ops.softmax(logits(x)), model(x), atol=1e-5)


def softmax_models():
    image = keras.Input((12, 12, 3))
    flat = keras.layers.Flatten()(image)
    dense = keras.layers.Dense(4, activation="softmax")
    inner = keras.Sequential([keras.Input((432,)), dense])
    return {
        "dense": keras.Model(image, keras.layers.Dense(4, activation="softmax")(flat)),
        "layer": keras.Model(image, keras.layers.Softmax()(keras.layers.Dense(4)(flat))),
        "activation": keras.Sequential(
            [
                keras.Input((12, 12, 3)),
                keras.layers.Flatten(),
                keras.layers.Dense(4),
                keras.layers.Activation("softmax"),
            ]
        ),
        "nested": keras.Model(image, inner(flat)),
    }


@pytest.mark.parametrize("name", ["dense", "layer", "activation", "nested"])
def test_with_logits_takes_the_softmax_off(name):
    model, x = softmax_models()[name], images()
    logits = with_logits(model)
    assert ends_in_softmax(model) and not ends_in_softmax(logits)
    np.testing.assert_allclose(keras.ops.softmax(logits(x)), model(x), atol=1e-6)
    assert with_logits(logits) is logits


class Subclassed(keras.Model):
    def call(self, x):
        return x


def embedding_model():
    tokens = keras.Input((5,), dtype="int32")
    x = keras.layers.Flatten()(keras.layers.Embedding(50, 8)(tokens))
    return keras.Model(tokens, keras.layers.Dense(3)(x))


def test_what_stays_dense_must_be_named():
    model = embedding_model()
    with pytest.raises(ValueError, match=r"76.* of the weights .* would stay dense.*embedding"):
        masked(model)
    name = model.layers[1].name
    net = masked(model, dense=[name])
    assert left_dense(net) == [(f"{name}/embeddings", 400)]


@pytest.mark.parametrize("name", ["shared", "nested"])
def test_a_named_layer_stays_as_it_is(name):
    model, x = NETWORKS[name](), images()
    chosen = next(layer for layer in walk(model) if isinstance(layer, keras.layers.Conv2D))
    net = masked(model, dense=[chosen.name])
    twin = next(layer for layer in walk(net) if layer.name == chosen.name)
    assert type(twin) is keras.layers.Conv2D
    assert [n for _, n in left_dense(net)] == [np.prod(chosen.kernel.shape)]
    np.testing.assert_allclose(net(x), model(x), atol=1e-6)


def test_what_stays_dense_is_listed_largest_first():
    model = NETWORKS["nested"]()
    names = [layer.name for layer in walk(model) if type(layer) is keras.layers.Dense]
    sizes = [n for _, n in left_dense(masked(model, dense=names))]
    assert sizes == [2400, 30]


@pytest.mark.parametrize(("words", "fits"), [(1, True), (2, False), (40, False)])
def test_one_percent_may_stay_dense_untold(words, fits):
    tokens = keras.Input((30,), dtype="int32")
    x = keras.layers.Flatten()(keras.layers.Embedding(words, 2)(tokens))
    model = keras.Model(tokens, keras.layers.Dense(5)(x))  # 300 weights
    if fits:
        assert [n for _, n in left_dense(masked(model))] == [2]
    else:
        with pytest.raises(ValueError, match="would stay dense"):
            masked(model)


OPTIONS = [
    {"granularity": "kernel"},
    {"search": True, "density": 0.4, "count": "floor", "granularity": "row"},
]


@every_network
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_masked_layer_gets_the_options(name, options):
    for layer in masked_layers(masked(NETWORKS[name](), **options)):
        assert {option: getattr(layer, option) for option in options} == options


def test_only_the_last_softmax_is_taken_off():
    image, x = keras.Input((12, 12, 3)), images()
    flat = keras.layers.Flatten()(image)
    gate = keras.layers.Dense(6, activation="softmax")(flat)
    gated = keras.layers.Multiply()([gate, keras.layers.Dense(6)(flat)])
    gated = keras.layers.Softmax()(gated)
    model = keras.Model(image, keras.layers.Dense(4, activation="softmax")(gated))
    np.testing.assert_allclose(keras.ops.softmax(with_logits(model)(x)), model(x), atol=1e-6)


REFUSED = {
    "subclassed": (lambda: masked(Subclassed()), "received Subclassed.*rst_tf's masked"),
    "already masked": (lambda: masked(masked(NETWORKS["nested"]())), "already has masked layers"),
    "unbuilt": (
        lambda: masked(keras.Sequential([keras.layers.Dense(3)])),
        "is not built; call it once or give an Input first",
    ),
    "unknown layer": (
        lambda: masked(NETWORKS["nested"](), dense=["nowhere"]),
        "does not have: .'nowhere'",
    ),
    "nothing to bake": (lambda: baked(NETWORKS["nested"]()), "no masked layers"),
    "density without a search": (
        lambda: masked(NETWORKS["nested"](), density=0.1),
        "has an effect only with search=True",
    ),
    "dense as text": (
        lambda: masked(NETWORKS["nested"](), dense="body"),
        "must be a sequence of layer names; received dense='body'",
    ),
    "granularity": (
        lambda: masked(NETWORKS["nested"](), granularity="rows"),
        "unknown granularity 'rows'; did you mean 'row'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
