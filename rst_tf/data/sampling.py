"""Drawing rows class by class."""

import numpy as np

from rst_tf.random import permutation


def stratified(labels: np.ndarray, count: int, seed: int, stream: str) -> np.ndarray:
    """`count` rows with every class in its share (largest remainders), in ascending order.

    Args:
        labels: Integer array [n], not negative.
        count: Rows to draw, at most n.
        seed: Seed of the draw.
        stream: Name of the draw; two names give independent draws.
    """
    sizes = np.bincount(labels)
    quotas, remainders = np.divmod(count * sizes, len(labels))
    quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    drawn = [
        rows[permutation(len(rows), seed, stream, label)[:quota]]
        for label, (rows, quota) in enumerate(zip(by_class, quotas, strict=True))
    ]
    return np.sort(np.concatenate(drawn))
