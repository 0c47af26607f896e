"""What trainings cost: passes of an example, multiply-adds of a run, and the file that holds them."""

import keras
import pytest
import tensorflow as tf
from networks import easy_data, small

from rst_tf import APGD, FGSM, PGD, RobustTrainer, batches
from rst_tf.data.sources import from_arrays
from rst_tf.objectives import OBJECTIVES, Adversarial, Fast, Free, Mixed, Natural, Trades

X, Y = easy_data(16)
SPLIT = from_arrays(X, Y, X[:4], Y[:4], x_valid=X[:4], y_valid=Y[:4]).train
PGD_3 = PGD(0.1, steps=3)
PASSES = {  # forward alone, pairs of an attack, pairs of the training
    Natural(): (0, 0, 1),
    Adversarial(FGSM(0.1)): (0, 1, 1),
    Adversarial(PGD_3): (0, 3, 1),
    Adversarial(PGD(0.1, steps=2, restarts=2, iterate="best", label="predicted")): (3, 4, 1),
    Adversarial(APGD(0.1, steps=4, restarts=2), norm_mode="batch"): (0, 10, 1),
    Mixed(PGD_3): (0, 3, 2),
    Trades(PGD_3): (1, 3, 2),
    Free(0.1, repeats=3): (0, 0, 3),
    Fast(0.1): (0, 1, 1),
    Fast(0.1, beta=2.0): (0, 1, 2),
}


def counted(network):
    """Rows that pass forward and back through a network from now on."""
    layer, rows = network.layers[-1], {"forward": 0, "back": 0}
    call = layer.call

    @tf.custom_gradient
    def noted(x):
        def gradient(upstream):
            rows["back"] += len(upstream)
            return upstream

        return tf.identity(x), gradient

    def counting(x, *args, **kwargs):
        rows["forward"] += len(x)
        return noted(call(x, *args, **kwargs))

    layer.call = counting
    return rows


def test_the_table_has_every_objective():
    assert {type(objective) for objective in PASSES} == set(OBJECTIVES.values())


@pytest.mark.parametrize("objective", PASSES, ids=[type(each).__name__ for each in PASSES])
def test_passes_are_those_that_a_training_makes(objective):
    """Counted in the network while it is trained, example by example."""
    trainer = RobustTrainer(small(), objective)
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True, jit_compile=False)
    if objective.keeps_noise:
        trainer.keep_noise(len(X), X.shape[1:])
    elif objective.carries_noise:
        trainer.carry_noise((8, *X.shape[1:]))
    data = batches(SPLIT, 8, seed=0, steps=2, places=objective.keeps_noise)
    rows = counted(trainer.network)
    for batch in data:  # `fit` also looks once at what the network returns
        trainer.train_step(batch)
    passes = objective.passes(classes=4)
    assert passes == PASSES[objective]
    assert rows["back"] == 16 * passes.pairs
    attack = objective.training_attack
    looks = attack.trials + 1 if isinstance(attack, APGD) else 0  # what no try of it costs
    assert rows["forward"] == 16 * (passes.forward + passes.pairs + looks)


def test_units_of_the_published_tables():
    pgd = PGD(8 / 255, steps=10)
    found = [o.passes(10).in_forward for o in (Natural(), Fast(0.1), Adversarial(pgd))]
    assert found == [3, 6, 33]
