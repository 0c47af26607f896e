"""What a job traced is gone when it ends."""

import gc
import weakref

import keras
import pytest
from networks import easy_data, small
from tensorflow.python.framework.func_graph import FuncGraph

import run_experiments
from rst_tf import PGD, Adversarial, RobustTrainer
from rst_tf.graphs import let_go


def trained():
    """Trains and evaluates a network that searches; gives weak references to what that traced."""
    gc.collect()
    before = {id(each) for each in gc.get_objects() if type(each) is FuncGraph}
    x, y = easy_data(32)
    attack = PGD(0.1, steps=1)
    trainer = RobustTrainer(small(search=True), Adversarial(attack), evaluation_attack=attack)
    trainer.compile(keras.optimizers.SGD(0.1))
    trainer.fit(x, y, verbose=0)
    trainer.evaluate(x, y, verbose=0)
    found = [each for each in gc.get_objects() if type(each) is FuncGraph]
    new = [weakref.ref(each) for each in found if id(each) not in before]
    return [*new, weakref.ref(trainer.network)]


def alive(references):
    gc.collect()
    return sum(each() is not None for each in references)


def test_graphs_and_networks_go_with_their_job():
    with let_go():
        inside = trained()
    assert len(inside) > 2 and not alive(inside)


def test_what_was_there_before_stays():
    with let_go():
        before = trained()
        kept = alive(before)
        with let_go():
            trained()
        assert kept and alive(before) == kept


def test_an_error_lets_go_too():
    with pytest.raises(ZeroDivisionError), let_go():
        inside = trained()
        raise ZeroDivisionError
    assert not alive(inside)


def test_runs_let_go_one_by_one(tmp_path):
    inside, seen = [], []

    class Run:
        def run(self, folder):
            seen.append(alive(inside))
            inside.extend(trained())

    run_experiments.run({tmp_path / name: Run() for name in "ab"})
    assert seen == [0, 0] and not alive(inside)
