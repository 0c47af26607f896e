"""`fit` that stops exactly at the steps it is asked for, many steps per call in between."""

from collections.abc import Iterable, Iterator

import tensorflow as tf

from rst_tf import strategies
from rst_tf.trainer import RobustTrainer


def calls(first: int, last: int, stops: Iterable[int], most: int) -> list[int]:
    """Steps per call from step `first` to `last`, at most `most`, that end on every stop.

    `calls(0, 50, [21], 20)` is `[20, 1, 20, 9]`.
    """
    ends = sorted({stop for stop in stops if first < stop < last} | {last})
    sizes: list[int] = []
    for end in ends:
        while first < end:
            sizes.append(min(most, end - first))
            first += sizes[-1]
    return sizes


class SteppingTrainer(RobustTrainer):
    """A `RobustTrainer` whose calls have lengths of their own.

    Keras counts a call as one step: `fit(..., steps_per_epoch=len(sizes))`. The logs of a call are
    the means since the last `reset_metrics`.
    """

    sizes: Iterator[int] = iter(())

    def make_train_function(self, force=False):
        """A function of the iterator that makes as many steps as `sizes` says next."""
        if self.train_function is not None and not force:
            return
        strategy = self.distribute_strategy

        def one(data):
            strategy.run(self.train_step, args=(data,))

        def many(iterator, steps):
            def body(done):
                one(iterator.get_next())
                return done + 1

            tf.while_loop(lambda done: done < steps, body, [tf.constant(0)])

        if not self.run_eagerly:
            one = tf.function(one, reduce_retracing=True, jit_compile=self.jit_compile)
            many = tf.function(many)

        def train_function(iterator):
            with strategies.exchange():
                many(iterator, tf.constant(next(self.sizes)))
                return self.get_metrics_result()

        self.train_function = train_function
