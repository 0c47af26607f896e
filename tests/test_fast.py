"""FGSM from perturbations that every training example keeps (Liu et al. 2022, adv_step_fast)."""

import dataclasses
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small
from trainings import QUICK, files

from experiments._watch import Watch
from experiments.dense_training import DenseTraining
from experiments.interruption import Interrupted
from rst_tf import Adversarial, Fast, RobustTrainer, Trades, batches
from rst_tf.attacks import PGD
from rst_tf.carried_noise import CarriedNoise
from rst_tf.data import Data
from rst_tf.data.sources import from_arrays

SHAPE = (6, 5, 2)
X, Y = easy_data(24, SHAPE)
SPLIT = from_arrays(X, Y, X[:4], Y[:4], x_valid=X[:4], y_valid=Y[:4]).train
AUGMENTS = {"none": 0, "flip": 0, "crop_flip": 3}
every_augment = pytest.mark.parametrize("augment", AUGMENTS)


def data(augment="crop_flip", batch_size=7, epochs=1, seed=3):
    size = -(-len(X) // batch_size)
    options = {"augment": augment, "pad": 3, "seed": seed, "places": True}
    return batches(SPLIT, batch_size, steps=epochs * size, **options)


def kept(augment="crop_flip", **options):
    return CarriedNoise(len(X), SHAPE, 0.1, pad=AUGMENTS[augment], **options)


def fitted(objective, augment="crop_flip", epochs=2, rate=0.1, seed=3):
    keras.utils.set_random_seed(0)
    trainer = RobustTrainer(small(inputs=SHAPE), objective, seed=seed)
    trainer.compile(keras.optimizers.SGD(rate), jit_compile=False)
    trainer.keep_noise(len(X), SHAPE, AUGMENTS[augment])
    trainer.fit(data(augment, epochs=epochs), verbose=0, shuffle=False)
    return trainer


# ---------------------------------------------------------------- what is kept


@every_augment
def test_what_is_read_is_cut_and_flipped_as_the_images_are(augment):
    """Where the padded images themselves are kept, a read gives the augmented batch."""
    noise, pad = kept(augment), AUGMENTS[augment]
    noise.variable.assign(np.pad(X, [(0, 0), (pad, pad), (pad, pad), (0, 0)]))
    seen = set()
    for x, _ in data(augment, epochs=3):
        np.testing.assert_array_equal(noise.read(x["row"], x["window"]), x["image"])
        seen.update(map(tuple, x["window"].numpy()))
    assert len(seen) > {"none": 0, "flip": 1, "crop_flip": 30}[augment]
    assert np.max([*seen]) == {"none": 0, "flip": 1, "crop_flip": 6}[augment]  # offset 2 pad too


@every_augment
def test_what_is_written_is_read_again_and_nothing_else_moves(augment):
    noise, chance = kept(augment), np.random.default_rng(0)
    for x, _ in data(augment):
        before = noise.variable.numpy()
        new = chance.uniform(-0.1, 0.1, x["image"].shape).astype("float32")
        noise.write(x["row"], x["window"], tf.constant(new))
        np.testing.assert_array_equal(noise.read(x["row"], x["window"]), new)
        moved = (noise.variable.numpy() != before).any(-1).sum((1, 2))
        inside = np.isin(np.arange(len(X)), x["row"])
        assert (moved == inside * SHAPE[0] * SHAPE[1]).all()


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("stored", ["float32", "float16", "int8"])
def test_coarser_numbers_are_near_and_smaller(stored, block):
    noise = kept(stored=stored, block=block)
    x, _ = next(iter(data()))
    new = np.full(x["image"].shape, 0.07, "float32")
    zeros = tf.zeros_like(noise.variable)
    noise.variable.assign(zeros)
    noise.write(x["row"], x["window"], tf.constant(new))
    found = noise.read(x["row"], x["window"]).numpy()
    if block == 1:
        tolerance = {"float32": 0, "float16": 1e-4, "int8": 0.1 / 254 + 1e-7}[stored]
        np.testing.assert_allclose(found, new, atol=tolerance)
    assert (found > -1e-6).all() and (found < 0.0704).all()
    if block == 2:  # all blocks inside the window have its number
        assert (np.abs(found[:, 1:-1, 1:-1] - 0.07) < 1e-3).all()
    size = noise.variable.numpy().nbytes
    options = {"stored": stored, "block": block}
    assert size == CarriedNoise.bytes(len(X), SHAPE, pad=3, **options)
    width = {"float32": 4, "float16": 2, "int8": 1}[stored]
    assert size == len(X) * -(-12 // block) * -(-11 // block) * 2 * width


def test_the_first_perturbations_are_uniform_and_the_seeds():
    large = CarriedNoise(600, SHAPE, 0.1, pad=3, seed=4).variable.numpy()
    again = CarriedNoise(600, SHAPE, 0.1, pad=3, seed=4).variable.numpy()
    other = CarriedNoise(600, SHAPE, 0.1, pad=3, seed=5).variable.numpy()
    assert (large == again).all() and (large != other).mean() > 0.99
    assert np.abs(large).max() <= 0.1 and np.abs(large.mean()) < 1e-3
    np.testing.assert_allclose(large.std(), 0.1 / np.sqrt(3), rtol=0.01)


# ---------------------------------------------------------------- the objective


@pytest.mark.parametrize("step_size", [None, 0.03])
def test_perturbations_follow_the_published_recursion(step_size):
    """Two epochs over weights that do not move, written out for one window at a time."""
    network, noise, pad = small(inputs=SHAPE), kept(seed=3).variable.numpy(), 3
    trainer = RobustTrainer(network, Fast(0.1, step_size=step_size), seed=3)
    trainer.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    trainer.keep_noise(len(X), SHAPE, pad)
    trainer.fit(data(epochs=2), verbose=0, shuffle=False)
    size = step_size or 0.05
    for x, y in data(epochs=2):
        for row, (down, right, flipped), image, label in zip(
            x["row"].numpy(), x["window"].numpy(), x["image"].numpy(), y.numpy(), strict=True
        ):
            cut = (row, slice(down, down + SHAPE[0]), slice(right, right + SHAPE[1]))
            turn = slice(None, None, -1 if flipped else 1)
            delta = noise[cut][:, turn]
            at = tf.constant(image + delta)[None]
            with tf.GradientTape() as tape:
                tape.watch(at)
                loss = keras.losses.sparse_categorical_crossentropy(
                    tf.constant([label]), network(at), from_logits=True
                )
            up = np.sign(tape.gradient(loss, at)[0])
            delta = np.clip(delta + size * up, -0.1, 0.1)
            noise[cut] = (np.clip(image + delta, 0, 1) - image)[:, turn]
    np.testing.assert_allclose(trainer.noise, noise, atol=1e-6)


@pytest.mark.parametrize("stored", ["float32", "int8"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_stay_in_the_ball_and_the_box(norm, stored):
    objective = Fast(0.1, norm, stored=stored)
    trainer = fitted(objective)
    for x, y in data():
        noise = trainer._kept.read(x["row"], x["window"])
        found = objective.perturb(trainer.network, x["image"], y, 0, x["index"], noise=noise)
        assert np.min(found) >= 0 and np.max(found) <= 1
        delta = (found - x["image"]).numpy().reshape(len(y), -1)
        size = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
        assert (size <= 0.1 + 1e-6).all() and size.max() > 0.05


@pytest.mark.parametrize("beta", [None, 2.0])
def test_smoothing_and_divergence_are_those_of_the_other_objectives(beta):
    network, x_adv = small(inputs=SHAPE), tf.constant(np.clip(X + 0.05, 0, 1))
    options = {"label_smoothing": 0.2}
    attack = PGD(0.1)
    other = Adversarial(attack, **options) if beta is None else Trades(attack, beta, **options)
    found = Fast(0.1, beta=beta, **options).loss(network, X, x_adv, Y).loss
    np.testing.assert_array_equal(found, other.loss(network, X, x_adv, Y).loss)


def test_it_becomes_stronger_from_visit_to_visit():
    """On a fixed network, many visits of one step reach what a many-step attack does."""
    network = fitted(Fast(0.1), epochs=4).network
    trainer = RobustTrainer(network, Fast(0.1, step_size=0.02), seed=1)
    trainer.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    trainer.keep_noise(len(X), SHAPE)
    losses = []
    for _ in range(12):
        trainer.fit(data("none"), verbose=0, shuffle=False)
        losses.append(float(trainer.get_metrics_result()["loss"]))
    strong = PGD(0.1, steps=30)(network, X, Y)
    ceiling = float(np.mean(Adversarial(PGD(0.1)).loss(network, X, strong, Y).loss))
    clean = float(np.mean(Adversarial(PGD(0.1)).loss(network, X, X, Y).loss))
    assert losses[-1] > losses[0] and losses[-1] - clean > 0.9 * (ceiling - clean)


# ---------------------------------------------------------------- runs


RUN = DenseTraining(
    **{
        **QUICK,
        "objective": Fast(0.1, stored="int8", label_smoothing=0.1),
        "data": Data(train_limit=100, augment="crop_flip", pad=2),
        "train_steps": 8,
    }
)


def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path, monkeypatch, capsys):
    RUN.run(tmp_path / "whole")
    size = 100 * 32 * 32
    assert f"perturbations of all images take {size:,} bytes" in capsys.readouterr().err
    monkeypatch.setattr("experiments.training.STEPS_PER_CALL", 1)

    def stop(watch, batch, logs=None, original=Watch.on_train_batch_end):
        if watch.step + watch.sizes[batch] == 7:  # in the second epoch of 5 steps
            os.kill(os.getpid(), signal.SIGTERM)
        original(watch, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_train_batch_end", stop)
        with pytest.raises(Interrupted):
            RUN.run(tmp_path / "parts")
    RUN.run(tmp_path / "parts")
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def without_places():
    trainer = RobustTrainer(small(), Fast(0.1))
    trainer.compile(jit_compile=False)
    trainer.keep_noise(8, (6, 6, 1))
    trainer.fit(*easy_data(8), verbose=0)


def never_kept():
    trainer = RobustTrainer(small(), Fast(0.1))
    trainer.compile(jit_compile=False)
    trainer.fit(*easy_data(8), verbose=0)


def too_large():
    trainer = RobustTrainer(small(), Fast(0.1, memory_limit=0.001))
    trainer.compile(jit_compile=False)
    trainer.keep_noise(20_000, (6, 6, 1), 2)


REFUSED = {
    "no places": (without_places, "batches that tell where images were cut"),
    "nothing kept": (never_kept, r"call keep_noise\(number of examples, shape, pad\) before fit"),
    "memory": (too_large, r"memory_limit is below what 20,000 .* received memory_limit=0.001"),
    "resized": (lambda: data("resized_crop_flip"), "places cannot tell where a resized image"),
    "rotated": (lambda: data("crop_flip_rotate"), "places cannot tell where a rotated image"),
    "rotated in a run": (
        lambda: dataclasses.replace(RUN, data=Data(augment="crop_flip_rotate")),
        "cannot follow a scale or a rotation; received 'crop_flip_rotate'",
    ),
    "resized in a run": (
        lambda: dataclasses.replace(RUN, data=Data(augment="resized_crop_flip")),
        "data.augment must be crop_flip, flip or none .* received 'resized_crop_flip'",
    ),
    "stored": (lambda: Fast(0.1, stored="int4"), "unknown stored 'int4'"),
    "block": (lambda: Fast(0.1, block=0), "block must be at least 1; received block=0"),
    "beta": (lambda: Fast(0.1, beta=-1.0), "beta must be at least 0; received beta=-1.0"),
    "step": (lambda: Fast(0.1, step_size=0.0), "step_size must be above 0; received"),
    "epsilon": (lambda: Fast(8.0), "epsilon must be at most 1"),
    "limit": (lambda: Fast(0.1, memory_limit=0.0), "memory_limit must be above 0; received"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_several_devices_are_refused():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tf.distribute.get_strategy()), "num_replicas_in_sync", 2)
        with pytest.raises(ValueError, match="works on one device only"):
            RobustTrainer(small(), Fast(0.1)).keep_noise(4, (6, 6, 1))


def test_it_is_judged_by_pgd_in_its_ball():
    attack = RobustTrainer(small(), dataclasses.replace(Fast(0.2), norm="l2")).evaluation_attack
    assert (attack.epsilon, attack.norm, attack.steps) == (0.2, "l2", 10)
