"""Batches: element t is a function of (seed, t) alone, so that a run can resume anywhere.

Every epoch is a random order of all examples, made at its start from raw integers.
(`tf.random.experimental.index_shuffle` would need no order in memory, but it is not a permutation
for n = 65,537, and at n = 50,000 the classes of a batch of sorted examples vary 11 % less than
they should.)
"""

from typing import get_args

from rst_tf.data.config import PADDED, Augment
from rst_tf.data.images import DRAWS, TRIALS
from rst_tf.data.rotation import rotated
from rst_tf.random import example_uniform, fold, subseed

_FOREVER = 2**62
_UNTOLD = {"resized_crop_flip": "resized", "crop_flip_rotate": "rotated"}
_WINDOWS = 1 << 31  # no example's index, so the noise of windows is that of no crop or flip


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Batches in one pass over `n` examples; the last one may be smaller."""
    return -(-n // batch_size)


def batches(
    split,
    batch_size: int,
    *,
    seed: int,
    augment: str = "none",
    pad: int = 4,
    first_step: int = 0,
    steps: int | None = None,
    places: bool = False,
):
    """Shuffled training batches, epoch after epoch.

    Every epoch holds every example once, in batches of `batch_size` and a last one of what
    remains. The order depends on (seed, epoch); crop, flip and rotation of an example on (seed,
    epoch, its index), whatever the batch size.

    Args:
        split: A `Split`.
        batch_size: Examples per batch.
        seed: Seed of order and augmentation.
        augment: `none`, `flip`, `crop_flip`, `crop_flip_rotate` or `resized_crop_flip`; see `Data`.
        pad: Pixels of zero padding on each side for `crop_flip` and `crop_flip_rotate`.
        first_step: Number of the first batch: k gives what would follow k batches.
        steps: Batches to give; None never ends.
        places: Also tell where each image comes from: "row" of the split, int64 [B], and "window",
            int32 [B, 3]: pixels down and right in the padded image, and 1 if it was flipped.

    Returns:
        A `tf.data.Dataset` of `({"image": float32 [B, H, W, C] in [0, 1], "index": int64 [B]},
        int32 [B])`.

    Raises:
        ValueError: A number is too small, or `places` is asked of resized or rotated images.
    """
    import tensorflow as tf

    if places and augment in _UNTOLD:
        raise ValueError(
            f"places cannot tell where a {_UNTOLD[augment]} image was cut; received "
            f"augment={augment!r} (crop_flip, flip and none can be told)"
        )
    _check_batches(batch_size, augment, pad, first_step, steps)
    n, per_epoch = len(split), steps_per_epoch(len(split), batch_size)
    first_epoch, offset = divmod(first_step, per_epoch)
    order_seed = subseed(seed, "data/order")

    def rows_of(epoch):
        order = _order(n, order_seed, epoch)
        start = tf.where(epoch == first_epoch, tf.constant(offset, tf.int64), 0)
        numbers = tf.data.Dataset.range(start, per_epoch)
        return numbers.map(lambda t: (order[t * batch_size : (t + 1) * batch_size], epoch))

    rows = tf.data.Dataset.range(first_epoch, _FOREVER).flat_map(rows_of)
    rows = rows if steps is None else rows.take(steps)
    length = tf.data.INFINITE_CARDINALITY if steps is None else steps
    elements = _read(split, rows, augment, pad, subseed(seed, "data/augment")[0], places)
    return elements.apply(tf.data.experimental.assert_cardinality(length))


def evaluation_batches(split, batch_size: int):
    """All examples once, in order, unaugmented; elements as those of `batches`."""
    import tensorflow as tf

    _check_batches(batch_size)
    n = len(split)
    numbers = tf.data.Dataset.range(steps_per_epoch(n, batch_size))

    def rows_of(t):
        return tf.range(t * batch_size, tf.minimum((t + 1) * batch_size, n)), tf.zeros([], tf.int64)

    return _read(split, numbers.map(rows_of))


def _check_batches(batch_size, augment="none", pad=1, first_step=0, steps=None) -> None:
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("pad", pad, 1),
        ("first_step", first_step, 0),
        ("steps", steps, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}; received {name}={value}")
    if augment not in get_args(Augment):
        *others, last = get_args(Augment)
        raise ValueError(
            f"augment must be {', '.join(others)} or {last}; received augment={augment!r}"
        )


def _order(n: int, order_seed: tuple[int, int], epoch):
    import tensorflow as tf

    seed = tf.random.experimental.stateless_fold_in(order_seed, epoch, alg="philox")
    keys = tf.random.stateless_uniform([n], seed, None, None, tf.int64, alg="philox")
    return tf.argsort(keys, stable=True)


def _read(split, rows, augment: str = "none", pad: int = 0, key: int = 0, places: bool = False):
    """Batches of the given (rows, epoch) elements."""
    import tensorflow as tf

    windows = augment == "resized_crop_flip"
    pad = pad if augment in PADDED else 0
    with tf.device("CPU:0"):
        labels, index = tf.constant(split.labels), tf.constant(split.index)
    read = split.reader()

    def element(rows, epoch):
        identity = tf.gather(index, rows)
        if windows:
            noise = example_uniform(fold(fold(key, epoch), _WINDOWS), identity, (TRIALS, DRAWS))
        images = read(rows, noise) if windows else read(rows)
        place = {}
        if augment != "none":
            example = fold(fold(key, epoch), identity)
            down, right, flipped = _windows(pad, example)
            images = _cut(images, pad, down, right, flipped)
            if augment == "crop_flip_rotate":
                images = rotated(images, fold(example, 3))
        if places:
            place = {"row": rows, "window": tf.zeros((tf.shape(rows)[0], 3), tf.int32)}
            if augment != "none":
                place["window"] = tf.stack([down, right, tf.cast(flipped, tf.int32)], axis=1)
        if images.dtype == tf.uint8:
            images = tf.cast(images, tf.float32) / 255.0
        return {"image": images, "index": identity, **place}, tf.gather(labels, rows)

    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    calls = tf.data.AUTOTUNE if split.parallel or windows else None
    return (
        rows.map(element, num_parallel_calls=calls).prefetch(tf.data.AUTOTUNE).with_options(options)
    )


def _windows(pad: int, example):
    """Where images are cut, by their keys [B]: pixels down, pixels right, and whether flipped."""
    import tensorflow as tf

    offsets = tf.constant(2 * pad + 1, tf.uint32)
    down = tf.cast(fold(example, 0) % offsets, tf.int32)
    right = tf.cast(fold(example, 1) % offsets, tf.int32)
    return down, right, fold(example, 2) < tf.constant(2**31, tf.uint32)


def _cut(images, pad: int, down, right, flipped):
    """Windows of the zero-padded images [B, H, W, C], of their size."""
    import tensorflow as tf

    _, height, width, channels = images.shape
    column = tf.range(width)
    rows = down[:, tf.newaxis] + tf.range(height)
    mirrored = tf.where(flipped[:, tf.newaxis], width - 1 - column, column)
    columns = right[:, tf.newaxis] + mirrored
    padded = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    across = tf.gather(padded, columns, axis=2, batch_dims=1)
    return tf.ensure_shape(
        tf.gather(across, rows, axis=1, batch_dims=1), (None, height, width, channels)
    )
