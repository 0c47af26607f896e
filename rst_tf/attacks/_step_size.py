"""APGD's step sizes: when they are looked at, and which of them are halved.

Croce & Hein 2020, section 3.1, as the published code does it. Pure functions of losses: an attack
shows them the losses of every step and asks at every checkpoint.
"""

from typing import Any, NamedTuple

import tensorflow as tf


class Pace(NamedTuple):
    """What is remembered of a run, per example.

    Attributes:
        size: Length of the next step, float32 [n].
        rises: Steps of this window whose loss was above that of the step before, int32 [n].
        last: Loss of the step before, float32 [n].
        highest: Highest loss so far, float32 [n].
        mark: What `highest` was at the last checkpoint, float32 [n].
        reduced: Halved at the last checkpoint, bool [n].
    """

    size: Any
    rises: Any
    last: Any
    highest: Any
    mark: Any
    reduced: Any


def checkpoints(steps: int) -> list[int]:
    """After how many steps each checkpoint comes.

    The first window is 22 % of all steps, each later one 3 % of them shorter, down to 6 %.
    """
    window, shorter, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found = [window]
    while True:
        window = max(window - shorter, shortest)
        if found[-1] + window > steps:
            return found
        found.append(found[-1] + window)


def begin(losses, epsilon: float) -> Pace:
    """Before the first step.

    `last` is 0 and not the loss of the start: the published code compares the first step with an
    empty row of its history. `reduced` keeps the second condition silent at the first checkpoint.

    Args:
        losses: Of the start, float32 [n].
        epsilon: Radius of the ball.
    """
    zeros = tf.zeros_like(losses)
    return Pace(
        size=zeros + 2 * epsilon,
        rises=tf.cast(zeros, tf.int32),
        last=zeros,
        highest=losses,
        mark=losses,
        reduced=tf.ones_like(losses, tf.bool),
    )


def observe(pace: Pace, losses):
    """After a step.

    Args:
        pace: Before it.
        losses: Of the image it led to, float32 [n]; NaN is never the highest.

    Returns:
        The new pace, and whether this loss is above all before, bool [n].
    """
    better = losses > pace.highest
    pace = pace._replace(
        rises=pace.rises + tf.cast(losses > pace.last, tf.int32),
        last=losses,
        highest=tf.where(better, losses, pace.highest),
    )
    return pace, better


def control(pace: Pace, window):
    """At a checkpoint: halves the steps of examples that oscillate or make no progress.

    The first step of the next window is compared with the image that a halved example has left,
    not with the best one to which it returns: `last` stays, as in the published code.

    Args:
        pace: Before it.
        window: Number of steps since the checkpoint before, int or int32 scalar.

    Returns:
        The new pace, and whether the step was halved, bool [n].
    """
    oscillates = 4 * pace.rises <= 3 * window
    stuck = ~pace.reduced & (pace.mark >= pace.highest)
    halved = oscillates | stuck
    pace = pace._replace(
        size=tf.where(halved, pace.size / 2, pace.size),
        rises=tf.zeros_like(pace.rises),
        mark=pace.highest,
        reduced=halved,
    )
    return pace, halved
