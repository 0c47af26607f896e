"""Free adversarial training, whose gradient moves weights and images (Shafahi et al. 2019)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small

from rst_tf import RobustTrainer
from rst_tf.objectives import Free

X, Y = easy_data(24)


def fitted(objective, *, batch_size=8, epochs=1, rate=0.1):
    keras.utils.set_random_seed(0)
    trainer = RobustTrainer(small(), objective)
    trainer.compile(keras.optimizers.SGD(rate), jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(batch_size)
    trainer.fit(data, epochs=epochs, verbose=0, shuffle=False)
    return trainer


def by_hand(objective, batch_size, rate=0.1):
    """The published recursion, written out: L-inf, one epoch."""
    keras.utils.set_random_seed(0)
    network, noise = small(), np.zeros((batch_size, *X.shape[1:]), "float32")
    for first in range(0, len(X), batch_size):
        x, y = X[first : first + batch_size], Y[first : first + batch_size]
        for _ in range(objective.repeats):
            shifted = tf.constant(np.clip(x + noise[: len(x)], 0, 1))
            with tf.GradientTape() as tape:
                tape.watch(shifted)
                losses = keras.losses.sparse_categorical_crossentropy(
                    y, network(shifted), from_logits=True
                )
                loss = tf.reduce_mean(losses)
            weights = network.trainable_variables
            gradients = tape.gradient(loss, [*(w.value for w in weights), shifted])
            for weight, gradient in zip(weights, gradients, strict=False):
                weight.assign_sub(rate * gradient)
            size = objective.step_size or objective.epsilon
            moved = noise[: len(x)] + size * np.sign(gradients[-1])
            noise[: len(x)] = np.clip(moved, -objective.epsilon, objective.epsilon)
    return network, noise


@pytest.mark.parametrize(
    "repeats, step_size, batch_size", [(1, None, 8), (3, None, 9), (4, 0.02, 5)]
)
def test_weights_and_noise_follow_the_published_recursion(repeats, step_size, batch_size):
    objective = Free(0.1, repeats=repeats, step_size=step_size)
    trainer = fitted(objective, batch_size=batch_size)
    network, noise = by_hand(objective, batch_size)
    for found, expected in zip(trainer.network.weights, network.weights, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(trainer.noise, noise, atol=1e-6)


@pytest.mark.parametrize("norm", ("linf", "l2"))
def test_noise_stays_in_the_ball_and_images_in_the_box(norm):
    objective = Free(0.3, norm, repeats=3)
    trainer = fitted(objective, epochs=2)
    flat = trainer.noise.numpy().reshape(8, -1)
    size = np.abs(flat).max(1) if norm == "linf" else np.linalg.norm(flat, axis=1)
    assert (size <= 0.3 + 1e-6).all() and size.max() > 0.29
    x_adv = objective.perturb(None, tf.constant(X[:5]), None, 0, None, noise=trainer.noise.value)
    assert x_adv.shape[0] == 5 and np.min(x_adv) >= 0 and np.max(x_adv) <= 1


def test_a_batch_is_as_many_optimiser_steps_as_it_is_repeated():
    assert int(fitted(Free(0.1, repeats=3)).optimizer.iterations) == 3 * 3


def test_arrays_and_their_batch_size_give_the_shape_of_the_noise():
    trainer = RobustTrainer(small(), Free(0.1))
    trainer.compile(jit_compile=False)
    trainer.fit(X, Y, batch_size=10, verbose=0)
    assert trainer.noise.shape == (10, 6, 6, 1)


def test_it_is_judged_by_pgd_in_its_ball():
    attack = RobustTrainer(small(), Free(0.2, "l2")).evaluation_attack
    assert (attack.epsilon, attack.norm, attack.steps) == (0.2, "l2", 10)


def test_several_devices_are_refused():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tf.distribute.get_strategy()), "num_replicas_in_sync", 2)
        with pytest.raises(ValueError, match="works on one device only"):
            RobustTrainer(small(), Free(0.1)).carry_noise((4, 6, 6, 1))
