"""Checks G9, G11 and G12: what a network's answers, losses and gradients are like near a point."""

import numpy as np

from rst_tf.robustness.case import Case
from rst_tf.robustness.checked import above, percent
from rst_tf.robustness.curves import loss_surface

STEP = 1e-3
CALLS = 5
RANDOM_DISTANCE = BATCH_DISTANCE = 1e-4


def health(case: Case, battery):
    """G9: gradients that are 0 or not finite, and directional derivatives against differences."""
    measured = case.traced(_gradients(case))
    parts = [measured(rows, case.seed) for rows in case.batches(case.correct)]
    zero, wild, error = (np.concatenate(p) for p in zip(*parts, strict=True))
    share, wild = float(zero.mean()), int(wild.sum())
    known = error[np.isfinite(error)]
    median = float(np.median(known)) if len(known) else 0.0
    numbers = {"zero": share, "not_finite": wild, "median_error": median}
    text = (
        f"gradients of {percent(share)} of the points are 0, of {wild} not finite; median error of "
        f"directional derivatives {median:.2g}"
    )
    if wild:
        return "error", text, numbers
    flat = above(share, battery.zero, len(zero))
    return "warning" if flat or median > battery.slope else "passed", text, numbers


def surface(case: Case, battery):
    """G11: the loss on a grid through the ball against the highest one that APGD found."""
    found = case.once(loss_surface, battery.surface_points, battery.grid)
    beyond = found.highest > found.reached * 1.01 + 1e-3
    numbers = {
        "points": len(found.reached),
        "beaten": int(beyond.sum()),
        "linearity_error": float(np.median(found.linearity)),
        "largest_linearity_error": float(np.max(found.linearity)),
    }
    text = (
        f"the grid has a higher loss than APGD at {int(beyond.sum())} of {len(beyond)} points; "
        f"median departure from a plane {numbers['linearity_error']:.2g}"
    )
    return "warning" if beyond.any() else "passed", text, numbers


def repeats(case: Case, battery):
    """G12: the same logits at every call, and for a point alone as in a batch."""
    del battery
    rows = np.arange(min(case.batch_size, len(case)))
    x, y = case.x[rows], case.y[rows]
    calls = [_unit(case.logits(x)) for _ in range(CALLS)]
    apart = max(float(np.linalg.norm(calls[0] - call, axis=1).max()) for call in calls)
    right = {int((call.argmax(1) == y).sum()) for call in calls}
    some = x[: min(len(x), 32)]
    singles = np.concatenate([_unit(case.logits(image[np.newaxis])) for image in some])
    batch = float(np.linalg.norm(singles - calls[0][: len(some)], axis=1).max())
    numbers = {"between_calls": apart, "between_batches": batch}
    text = f"logits differ by {apart:.1g} between calls, by {batch:.1g} between batch sizes"
    if apart > RANDOM_DISTANCE or len(right) > 1:
        level = "passed" if case.random else "error"
        return level, f"{text}: the network is randomised", numbers
    if batch > BATCH_DISTANCE:
        return "error", f"{text}: an answer depends on the images beside it", numbers
    return "passed", text, numbers


def _unit(logits) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    return logits / np.maximum(np.linalg.norm(logits, axis=1, keepdims=True), 1e-10)


def _gradients(case: Case):
    """Per point: a zero gradient of the loss, one that is not finite, and the slope's error."""
    import tensorflow as tf

    from rst_tf.attacks._geometry import NORMS
    from rst_tf.attacks._losses import cross_entropy, value_and_gradient

    step = min(STEP, case.epsilon / 8)
    axes = list(range(1, case.x.ndim))

    def margin(z, y):
        z = tf.cast(z, tf.float32)
        own = tf.one_hot(y, case.classes, on_value=True, off_value=False)
        others = tf.where(own, -float("inf"), z)
        return tf.reduce_max(others, 1) - tf.gather(z, y, batch_dims=1)

    def measure(x, y, index, seed, trial):
        del trial
        start = NORMS[case.norm].start(x, case.epsilon, seed, index)
        zero, wild = tf.zeros_like(y, tf.bool), tf.zeros_like(y, tf.bool)
        for image in (x, start):
            gradient = value_and_gradient(case.logits, lambda z: cross_entropy(z, y), image)[1]
            gradient = tf.zeros_like(x) if gradient is None else gradient
            zero |= tf.reduce_sum(tf.abs(gradient), axes) == 0
            wild |= ~tf.reduce_all(tf.math.is_finite(gradient), axes)
        inner = tf.clip_by_value(x, step, 1 - step)
        slope = value_and_gradient(case.logits, lambda z: margin(z, y), inner)[1]
        slope = tf.zeros_like(x) if slope is None else slope
        way = tf.sign(slope)
        high, low = (margin(case.logits(inner + s * step * way), y) for s in (1, -1))
        seen, told = (high - low) / (2 * step), tf.reduce_sum(slope * way, axes)
        larger = tf.maximum(tf.abs(seen), tf.abs(told))
        return zero, wild, tf.math.divide_no_nan(tf.abs(seen - told), larger)

    return measure
