import keras
import numpy as np
import pytest
from networks import NETWORKS
from test_surgery import embedding_model

from rst_tf import initialize, masked, masked_kernels, masks, random
from rst_tf.initializers import INITIALIZERS, Stream, fans_of, parsed, standard
from rst_tf.models import MLP, Conv, masked_parts

SHAPE = (6, 6)
FANS = fans_of(SHAPE, (1,), ())


def alike(**options):
    """Three kernels of one shape: a stream that two of them share would show."""
    parts = masked_parts(**options)
    return MLP(hidden=(6, 6), use_bias=True).build((3, 2, 1), 6, parts)


def distinct(arrays):
    return len({np.asarray(a).tobytes() for a in arrays}) == len(arrays)


@pytest.mark.parametrize("rule", sorted(INITIALIZERS))
def test_every_kernel_is_drawn_by_its_rule_from_a_stream_of_its_own(rule):
    network = alike()
    initialize(network, 7, rule)
    kernels = [m.kernel.numpy() for m in masked_kernels(network)]
    for position, kernel in enumerate(kernels):
        expected = INITIALIZERS[rule](SHAPE, FANS, Stream(7, "kernel", position))
        np.testing.assert_array_equal(kernel, expected.astype("float32"))
    assert distinct(kernels) == (not rule.startswith("unsigned_constant"))


@pytest.mark.parametrize("granularity", ["element", "filter"])
def test_scores_are_standard_for_their_group_and_masks_follow(granularity):
    found = {}
    for seed in (7, 8):
        network = alike(search=True, density=0.5, granularity=granularity)
        initialize(network, seed, "standard")
        found[seed] = [m.scores.numpy() for m in masked_kernels(network)]
        for position, m in enumerate(masked_kernels(network)):
            fans = fans_of(m.mask.shape, (1,), ())
            stream = Stream(seed, "scores", position)
            if m.layer.granularity == "filter":
                expected = random.normal(tuple(m.mask.shape), *stream)
            else:
                expected = standard(m.mask.shape, fans, stream)
            np.testing.assert_array_equal(m.scores, expected.astype("float32"))
            np.testing.assert_array_equal(m.mask.numpy() > 0, masks.select(expected, m.kept))
            assert granularity == "filter" or not np.array_equal(m.scores, m.kernel)
    assert distinct(found[7] + found[8])


@pytest.mark.parametrize("rule", ("signed_constant", "kaiming_normal", "kaiming_uniform"))
def test_a_fan_can_be_that_of_the_outputs_and_shrink_with_the_density(rule):
    drawn = {}
    for change in ("", "+fan_out", "+fan=0.25", "+fan_out+fan=0.25"):
        network = alike()
        initialize(network, 7, rule + change)
        drawn[change] = masked_kernels(network)[0].kernel.numpy()
    n_in, n_out = drawn[""].shape
    ratio = {"+fan_out": (n_in / n_out) ** 0.5, "+fan=0.25": 2.0}
    ratio["+fan_out+fan=0.25"] = ratio["+fan_out"] * 2
    for change, factor in ratio.items():
        np.testing.assert_allclose(drawn[change], drawn[""] * factor, rtol=1e-6)


@pytest.mark.parametrize("name", ("standard+fan_out", "kaiming_normal+fan=2", "kaiming_normal+x"))
def test_other_changes_of_a_fan_are_refused(name):
    with pytest.raises(ValueError, match="initializer can be followed by"):
        parsed(name)


def biases(network):
    return [v.numpy() for v in network.variables if v.name == "bias"]


def test_biases_are_drawn_as_pytorch_draws_them_and_by_no_other_rule():
    """Uniform in +-1/sqrt(fan_in), each from a stream of its own, a function of the seed."""
    parts = masked_parts()
    network = Conv(2, width=2.0).build((8, 8, 3), 400, parts)
    found = {}
    for seed, rule in ((7, "torch_default"), (8, "torch_default"), (7, "standard")):
        initialize(network, seed, rule)
        found[seed, rule] = biases(network)
        kernels = [m.kernel.numpy() for m in masked_kernels(network)]
        assert (rule == "standard") == (not any(b.any() for b in found[seed, rule]))
    other = Conv(2, width=2.0).build((8, 8, 3), 400, parts)
    initialize(other, 7, "torch_default")
    assert all(map(np.array_equal, found[7, "torch_default"], biases(other)))
    assert all(map(np.array_equal, kernels, [m.kernel.numpy() for m in masked_kernels(other)]))
    drawn = found[7, "torch_default"] + found[8, "torch_default"]
    assert distinct(drawn)
    for bias, kernel in zip(found[7, "torch_default"], kernels, strict=True):
        bound = np.prod(kernel.shape[:-1]) ** -0.5
        assert 0.9 * bound < np.abs(bias).max() <= bound
        assert abs(bias.mean()) < 0.2 * bound and abs(bias.std() * 3**0.5 / bound - 1) < 0.2


OTHERS = {"bias": 0, "beta": 0, "gamma": 1, "moving_mean": 0, "moving_variance": 1, "mask": 1}


@pytest.mark.parametrize("name", ["functional", "sequential", "nested", "shared"])
def test_everything_else_is_set_whatever_it_was(name):
    network = masked(NETWORKS[name]())
    for variable in network.variables:
        variable.assign(np.full(variable.shape, 7.0))
    initialize(network, 1)
    for variable in network.variables:
        if "kernel" not in variable.name:
            expected = OTHERS[variable.name.removeprefix("depthwise_").removeprefix("pointwise_")]
            assert (variable.numpy() == expected).all(), variable.path
    for m in masked_kernels(network):
        assert (m.mask.numpy() == 1).all() and (m.kernel.numpy() != 7).any()


def activated(alpha):
    image, scale = keras.Input((2, 3)), keras.layers.Normalization(axis=(1, 2))
    scale.adapt(np.arange(30.0, dtype="float32").reshape(5, 2, 3))
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(scale(image)))
    x = keras.layers.Dense(4)(x)
    return masked(keras.Model(image, keras.layers.PReLU(alpha_initializer=alpha)(x)))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_what_has_no_name_here_gets_its_own_constant(alpha):
    network = activated(keras.initializers.Constant(alpha) if alpha else "zeros")
    others = {id(v) for v in network.variables} - {id(v) for v in network.trainable_variables}
    before = {id(v): v.numpy() for v in network.variables if id(v) in others}
    for variable in network.trainable_variables:
        variable.assign(np.full(variable.shape, 7.0))
    initialize(network, 1)
    found = {v.name: v.numpy() for v in network.trainable_variables}
    assert set(found) == {"kernel", "bias", "alpha"}
    assert (found["alpha"] == alpha).all() and (found["bias"] == 0).all()
    for variable in network.variables:  # a mask of ones, adapted statistics, the dropout's state
        if id(variable) in others:
            np.testing.assert_array_equal(variable, before[id(variable)])


@pytest.mark.parametrize("frozen", [False, True])
def test_what_cannot_be_set_is_named_and_nothing_is_set(frozen):
    network = activated(keras.initializers.RandomUniform(0, 1))
    network.layers[-1].trainable = not frozen
    before = [v.numpy() for v in network.variables]
    with pytest.raises(ValueError, match=r"cannot set 'p_re_lu.*/alpha' of shape \(4,\)"):
        initialize(network, 1)
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_kernel_without_a_mask_is_not_left_to_chance():
    model = embedding_model()
    network = masked(model, dense=[model.layers[1].name])
    with pytest.raises(ValueError, match=r"cannot set '.*/embeddings' of shape \(50, 8\)"):
        initialize(network, 1)
    with pytest.raises(ValueError, match="has no masked layers"):
        initialize(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), 1)
