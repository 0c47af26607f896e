"""Checks G5 to G7: points that fall to attacks without this network's gradients only."""

import numpy as np

from rst_tf.robustness.case import Case
from rst_tf.robustness.checked import Skipped, level_of, percent


def only_square(case: Case, battery):
    """G5: points that Square broke after all that follow gradients had failed."""
    black_box = [i for i, name in enumerate(case.attacks) if name.partition("#")[0] == "square"]
    if not black_box:
        raise Skipped("Square is not among the attacks")
    if min(black_box) == 0:
        raise Skipped("Square is the first of the attacks, so none had failed before it")
    share = case.share(np.isin(case.broken_by, black_box))
    level = level_of(share, battery.black_box, battery.black_box_error, len(case))
    return level, f"Square alone breaks {percent(share)}", {"share": share}


def transfer(case: Case, battery):
    """G6: images made against an undefended network of the same classes."""
    if case.twin is None:
        raise Skipped("no undefended network of the same classes was given (twin)")
    gradient = [i for i, name in enumerate(case.attacks) if name.startswith("apgd")]
    withstood = case.withstands(case.apgd()) & ~np.isin(case.broken_by, gradient)
    crossed = case.withstands(case.apgd(), by_twin=True)
    share = case.share(withstood & ~crossed)
    level = level_of(share, battery.black_box, battery.black_box_error, len(case))
    text = f"images made against the other network break {percent(share)} that APGD does not"
    return level, text, {"share": share, "accuracy": case.share(crossed)}


def chance(case: Case, battery):
    """G7: corners of the ball, and images drawn uniformly from it, in turns."""
    held = case.robust.copy()
    if not held.any():
        raise Skipped("the attacks left no point")
    endure = case.traced(_draws(case, battery.draws))
    for rows in case.batches(held):
        held[rows] = endure(rows, case.seed)
    broken = int((case.robust & ~held).sum())
    level = "passed" if not broken else "warning"
    if broken / len(case) > battery.black_box_error:
        level = "error"
    text = f"{battery.draws:,} random images per point break {broken} that no attack had broken"
    return level, text, {"draws": battery.draws, "broken": broken}


def _draws(case: Case, count: int):
    import tensorflow as tf

    from rst_tf import random
    from rst_tf.attacks._geometry import NORMS

    ball, shape = NORMS[case.norm], case.x.shape[1:]

    def endure(x, y, index, seed, trial):
        del trial

        def corner(key):
            noise = random.example_normal(key, index, shape)
            return tf.clip_by_value(x + case.epsilon * ball.direction(noise), 0.0, 1.0)

        def draw(i, held):
            key = random.fold(random.fold(seed, 77), i)
            inside = lambda: ball.start(x, case.epsilon, key, index)  # noqa: E731
            moved = tf.cond(i % 2 == 0, lambda: corner(key), inside)
            right = tf.argmax(case.logits(moved), -1, output_type=tf.int32) == y
            return i + 1, held & right

        start = (tf.constant(0), tf.ones_like(y, tf.bool))
        return tf.while_loop(lambda i, _: i < count, draw, start, maximum_iterations=count)[1]

    return endure
