import hashlib
import statistics

import numpy as np
import pytest
import tensorflow as tf

from rst_tf import random


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


GOLDEN = {
    "raw": lambda: random.raw(1000, 3, "kernel", 1),
    "uniform": lambda: random.uniform((50, 20), 3, "kernel", 1),
    "normal": lambda: random.normal((50, 20), 3, "kernel", 1),
    "permutation": lambda: random.permutation(1000, 3, "kernel", 1),
    "subseed": lambda: np.array(random.subseed(3, "kernel", 1)),
    "example_uniform": lambda: random.example_uniform(random.fold(3, 7), tf.range(20), (28, 28)),
}
HASHES = {
    "raw": "20894da030d78336",
    "uniform": "2bbde13b15704991",
    "normal": "ee9ffdb2fe51918b",
    "permutation": "0be2174672f8f025",
    "subseed": "4f0751b431d318f3",
    "example_uniform": "c92ea9db6cfa1e0c",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_recipe_is_frozen(name):
    assert digest(GOLDEN[name]()) == HASHES[name]


@pytest.mark.parametrize("changed", [(4, "kernel", 1), (3, "scores", 1), (3, "kernel", 2)])
def test_streams_differ_in_every_argument(changed):
    assert (random.raw(8, *changed) != random.raw(8, 3, "kernel", 1)).all()


def test_subseeds_have_31_bits_and_differ_by_index():
    found = [random.subseed(3, "reinit", index) for index in range(200)]
    assert len(set(found)) == 200
    assert all(0 <= number < 2**31 for pair in found for number in pair)


def test_normal_is_the_inverse_distribution_function_of_uniform():
    p = random.uniform((4000,), 0, "x")
    expected = [statistics.NormalDist().inv_cdf(float(q)) for q in p]
    np.testing.assert_allclose(random.normal((4000,), 0, "x"), expected, rtol=1e-13, atol=1e-14)


def test_normal_tails():
    p = np.array([1e-15, 1e-9, 1e-4, 0.5])
    assert np.allclose(random._log(p), np.log(p), rtol=3e-16, atol=0)


def test_uniform_is_uniform_and_its_signs_are_fair():
    u = random.uniform((100_000,), 1, "x")
    assert u.min() > 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.004 and abs((u < 0.5).mean() - 0.5) < 0.006


def test_mix_is_a_bijection_and_the_same_in_a_graph():
    values = np.arange(1 << 16, dtype=np.uint32)
    assert len(np.unique(random.mix(values))) == len(values)
    np.testing.assert_array_equal(random.mix_in_graph(tf.constant(values)), random.mix(values))


def noise(key, index):
    return random.example_uniform(key, tf.constant(index), (7, 5)).numpy()


def test_noise_of_an_example_ignores_the_batch_around_it():
    batch = noise(9, [4, 17, 3])
    np.testing.assert_array_equal(noise(9, [17])[0], batch[1])
    np.testing.assert_array_equal(noise(9, [3, 4])[1], batch[0])


def test_noise_differs_by_example_key_and_pixel_and_is_uniform():
    u = random.example_uniform(random.fold(1, tf.constant(5)), tf.range(300), (28, 28)).numpy()
    flat = u.reshape(300, -1)
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() * 12 - 1) < 0.02
    assert np.abs(np.corrcoef(flat)[np.triu_indices(300, 1)]).mean() < 0.04
    assert abs(np.corrcoef(u.ravel()[:-1], u.ravel()[1:])[0, 1]) < 0.01
    assert not (noise(1, [0]) == noise(2, [0])).any()
    assert (noise(random.fold(1, tf.constant(5)), [0]) != noise(random.fold(1, 6), [0])).all()


def test_noise_lies_on_an_even_grid_between_zero_and_one():
    u = random.example_uniform(5, tf.range(50), (30, 30)).numpy()
    assert (u.astype("float64") * 2.0**23 % 1 == 0.5).all() and len(np.unique(u)) > 44_000


def test_normal_noise_is_the_inverse_distribution_function_of_the_uniform():
    p = random.example_uniform(5, tf.range(20), (9, 11)).numpy()
    expected = np.vectorize(statistics.NormalDist().inv_cdf)(p)
    found = random.example_normal(5, tf.range(20), (9, 11))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [7, -1, -7, 2**32 + 5, 2**40])
def test_fold_is_the_same_for_tensors_and_integers(seed):
    assert random.fold(seed, 12).numpy() == random.fold(tf.constant(seed, tf.int64), 12).numpy()
    assert random.fold(7, seed).numpy() == random.fold(7, tf.constant(seed, tf.int64)).numpy()
