"""`robustify`: what it promises of every model, and what it refuses."""

import functools
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from networks import easy_data

from rst_tf import (
    PGD,
    Adversarial,
    Fast,
    data,
    evaluate,
    masked_kernels,
    masks,
    optimizers,
    robustify,
)
from rst_tf.robustifying import _plan, _warn_of_slow_statistics
from rst_tf.schedules import Linear
from rst_tf.traversal import masked_layers

EPSILON = 0.15
X, Y = easy_data(120)
VALID = easy_data(80, seed=1)


def perceptron():
    return [keras.layers.Flatten(), keras.layers.Dense(24, "relu"), keras.layers.Dense(4)]


def softmax_inside():
    layers = [*perceptron()[:2], keras.layers.Dense(4, activation="softmax")]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers])


def softmax_layer_around_a_network():
    image = keras.Input((6, 6, 1))
    inner = keras.Sequential([keras.Input((6, 6, 1)), *perceptron()])
    return keras.Model(image, keras.layers.Softmax()(inner(image)))


def normalised_convolutions():
    x = image = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(6, 3, use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.5)(x))
    x = keras.layers.Dropout(0.1)(keras.layers.DepthwiseConv2D(3)(x))
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(x)))


MODELS = (softmax_inside, softmax_layer_around_a_network, normalised_convolutions)
QUICK = {
    "density": 0.21,
    "epsilon": EPSILON,
    "epochs": 3,
    "objective": Adversarial(PGD(EPSILON, steps=2)),
    "optimizer": optimizers.Adam(0.02),
    "verbose": False,
}


def robust(model, train=(X, Y), **options):
    if isinstance(train, tuple):
        options = {"validation": VALID, "batch_size": 20, **options}
    return robustify(model, train, **{**QUICK, **options})


@functools.cache
def made(build):
    """A model, its weights before, and what was made of it."""
    keras.utils.set_random_seed(3)
    model = build()
    before = model.get_weights()
    return model, before, robust(model)


of_every_model = pytest.mark.parametrize("build", MODELS, ids=lambda f: f.__name__)


@of_every_model
def test_the_density_is_met_exactly_and_no_layer_is_empty(build):
    result = made(build)[2]
    sizes = [int(np.prod(m.shape)) for m in masked_kernels(result.network)]
    kept = [int(m.mask.numpy().sum()) for m in masked_kernels(result.network)]
    assert sum(kept) == masks.count(sum(sizes), 0.21) == result.ticket.kept
    assert min(kept) >= 1
    assert [line.kept for line in result.report.lines] == [sum(sizes), sum(sizes), sum(kept)]
    assert [layer[1:] for layer in result.report.layers] == list(zip(kept, sizes, strict=True))


@of_every_model
def test_the_model_is_plain_and_zero_where_the_network_is_pruned(build):
    given, _, result = made(build)
    assert not masked_layers(result.model)
    assert [type(a) for a in result.model.layers] == [type(b) for b in given.layers]
    weights = result.model.get_weights()
    assert [w.shape for w in weights] == [w.shape for w in given.get_weights()]
    zeros = sum(int((w == 0).sum()) for w in weights if w.ndim > 1)
    assert zeros == result.report.lines[-1].weights - result.ticket.kept


@of_every_model
def test_model_network_and_rebuilt_ticket_answer_alike(build):
    result = made(build)[2]
    logits = result.network(X, training=False)
    answers = logits if build is normalised_convolutions else tf.nn.softmax(logits)
    np.testing.assert_allclose(result.model(X, training=False), answers, atol=1e-6)
    np.testing.assert_array_equal(result.ticket.build()(X, training=False), logits)


@of_every_model
def test_the_given_model_stays_as_it_is(build):
    model, before, _ = made(build)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@of_every_model
def test_the_report_says_what_an_evaluation_of_its_own_finds(build):
    result = made(build)[2]
    line = result.report.lines[-1]
    found = evaluate(result.network, *VALID, PGD(EPSILON, steps=20))
    assert (line.accuracy, line.robust_accuracy) == (found.accuracy, found.robust_accuracy)
    low, high = line.robust_accuracy_interval
    assert line.images == len(VALID[1]) and low < line.robust_accuracy < high
    values = json.loads(json.dumps(result.report.to_dict()))
    assert values["lines"][-1]["robust_accuracy"] == line.robust_accuracy


def test_training_goes_on_from_the_given_weights():
    model = softmax_inside()
    result = robust(model, optimizer=optimizers.Adam(1e-9))
    for old, new in zip(model.get_weights(), result.model.get_weights(), strict=True):
        kept = (new != 0) | (old.ndim == 1)
        np.testing.assert_allclose(new[kept], old[kept], atol=1e-6)


def test_it_ends_more_robust_than_natural_training_and_takes_the_best_epochs(capsys):
    keras.utils.set_random_seed(3)
    model = softmax_inside()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(X, Y, epochs=20, verbose=0)
    wide = {"epsilon": 0.23, "objective": Adversarial(PGD(0.23, steps=2))}
    report = robust(model, epochs=9, density=0.3, verbose=True, **wide).report
    given, dense, sparse = report.lines
    assert given.accuracy > 0.9 and given.robust_accuracy < 0.4
    assert dense.robust_accuracy > given.robust_accuracy + 0.3
    assert sparse.robust_accuracy > given.robust_accuracy + 0.2
    told = [float(v) for v in re.findall(r"robust ([\d.]+) %", capsys.readouterr().out)]
    assert len(told) == 9
    assert max(told[:3]) == pytest.approx(100 * dense.robust_accuracy, abs=0.051)
    assert max(told[5:]) == pytest.approx(100 * sparse.robust_accuracy, abs=0.051)


def test_one_seed_gives_the_same_bits_and_another_does_not():
    model, _, first = made(softmax_inside)
    again, other = robust(model), robust(model, seed=1)
    assert again.report == first.report
    assert again.ticket.mask_hash == first.ticket.mask_hash != other.ticket.mask_hash
    for a, b in zip(again.model.get_weights(), first.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_splits_and_a_dataset_do_as_arrays_and_splits_report_on_the_test_images():
    model, _, first = made(softmax_inside)
    splits = data.from_arrays(X, Y, *easy_data(50, seed=2), x_valid=VALID[0], y_valid=VALID[1])
    same = robust(model, splits, batch_size=20)
    assert same.ticket.mask_hash == first.ticket.mask_hash
    assert same.report.split == "test" and same.report.lines[0].images == 50
    assert "chose the epochs" in str(first.report) and "chose the epochs" not in str(same.report)
    whole = {"batch_size": len(X), "optimizer": optimizers.Adam(0.02)}
    from_arrays = robust(model, **whole)
    images = {"image": X, "index": np.arange(len(X))}
    train = tf.data.Dataset.from_tensor_slices((images, Y)).batch(len(X))
    valid = tf.data.Dataset.from_tensor_slices(VALID).batch(32)
    from_dataset = robust(model, train, validation=valid)
    for a, b in zip(from_arrays.model.weights, from_dataset.model.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("epochs", [3, 4, 10, 31])
@pytest.mark.parametrize("rounds", [None, 1, 3])
def test_pruning_takes_the_second_third(epochs, rounds):
    if rounds == 3 and epochs < 9:
        with pytest.raises(ValueError, match="rounds must be between 1 and a third"):
            _plan(0.1, epochs, rounds)
        return
    plan = _plan(0.1, epochs, rounds)
    assert len(plan) == (rounds or min(4, epochs // 3))
    assert min(plan) == epochs // 3 and max(plan) < 2 * (epochs // 3) + 1 <= epochs
    steps = np.diff(np.log([1.0, *plan.values()]))
    np.testing.assert_allclose(steps, np.log(0.1) / len(plan))
    assert list(plan.values())[-1] == 0.1


def test_statistics_that_cannot_follow_the_training_are_warned_of(monkeypatch):
    image = keras.Input((6, 6, 1))
    heard = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: heard.append(text % args))
    for momentum in (0.99, 0.5):
        x = keras.layers.BatchNormalization(momentum=momentum, name="slow")(image)
        _warn_of_slow_statistics(keras.Model(image, x), 60)
    assert len(heard) == 1 and "'slow' averages its statistics over 100 steps" in heard[0]


def in_batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(20)


class Subclassed(keras.Model):
    def call(self, x):
        return x


REFUSED = {
    "subclassed": (lambda: {"model": Subclassed()}, r"robustify\(\) copies Sequential and functi"),
    "density": (lambda: {"density": 0}, r"density must be in \(0, 1\]; received density=0"),
    "epsilon": (lambda: {"epsilon": 8}, "epsilon must be at most 1"),
    "epochs": (lambda: {"epochs": 2}, "epochs must be at least 3; received epochs=2"),
    "batch size": (lambda: {"batch_size": 0}, "batch_size must be at least 1"),
    "unknown layer": (lambda: {"dense": ("none",)}, r"dense names layers .*\['none'\]"),
    "float labels": (lambda: {"train": (X, Y * 1.0)}, "y_train must be integers"),
    "more labels": (lambda: {"train": (X, Y[1:])}, "y_train must have one label for each of 120"),
    "classes": (lambda: {"train": (X, Y + (Y == 3))}, "labels from 0 to 3, the network's logits"),
    "pixels": (lambda: {"train": (255 * X, Y)}, r"x_train must lie in \[0, 1\]"),
    "no pair": (lambda: {"train": X}, r"train must be arrays \(x, y\), Splits or a tf.data"),
    "shape": (lambda: {"train": (X[:, :5], Y)}, r"of shape \(6, 6, 1\), which the model takes"),
    "valid pixels": (lambda: {"validation": (2 * X, Y)}, r"validation: x_train must lie in"),
    "dataset alone": (lambda: {"train": in_batches(), "validation": None}, "must be given with"),
    "dataset batch": (lambda: {"train": in_batches(), "batch_size": 9}, "batch_size has no effect"),
    "kept noise": (lambda: {"objective": Fast(0.1)}, "objective must not keep perturbations"),
    "schedule": (
        lambda: {"objective": Adversarial(PGD(0.1), epsilon_schedule=Linear(2.0, 1.0))},
        r"epsilon_schedule must stay in \[0, 1\]",
    ),
    "endless": (lambda: {"train": in_batches().repeat()}, "train must end"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_one_line(name):
    given, message = REFUSED[name]
    options = {"model": softmax_inside(), "train": (X, Y), "validation": VALID, **given()}
    with pytest.raises(ValueError, match=message) as caught:
        robustify(options.pop("model"), options.pop("train"), **{**QUICK, **options})
    assert "\n" not in str(caught.value)
