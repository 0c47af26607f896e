import keras
import numpy as np
import pytest
from networks import NETWORKS
from test_surgery import embedding_model

from rst_tf import initialize, masked, masked_kernels, masks
from rst_tf.initializers import INITIALIZERS, Stream, fans_of, standard
from rst_tf.models import MLP, masked_parts

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
    assert distinct(kernels) == (rule != "unsigned_constant")


@pytest.mark.parametrize("granularity", ["element", "filter"])
def test_scores_are_standard_for_their_group_and_masks_follow(granularity):
    found = {}
    for seed in (7, 8):
        network = alike(search=True, density=0.5, granularity=granularity)
        initialize(network, seed, "standard")
        found[seed] = [m.scores.numpy() for m in masked_kernels(network)]
        for position, m in enumerate(masked_kernels(network)):
            fans = fans_of(m.mask.shape, (1,), ())
            expected = standard(m.mask.shape, fans, Stream(seed, "scores", position))
            np.testing.assert_array_equal(m.scores, expected.astype("float32"))
            np.testing.assert_array_equal(m.mask.numpy() > 0, masks.select(expected, m.kept))
            assert granularity == "filter" or not np.array_equal(m.scores, m.kernel)
    assert distinct(found[7] + found[8])


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


def test_a_kernel_without_a_mask_is_not_left_to_chance():
    model = embedding_model()
    network = masked(model, dense=[model.layers[1].name])
    with pytest.raises(ValueError, match=r"cannot set '.*/embeddings' of shape \(50, 8\)"):
        initialize(network, 1)
    with pytest.raises(ValueError, match="has no masked layers"):
        initialize(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), 1)
