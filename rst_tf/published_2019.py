"""How the published code of the 2019 system counted: its labels, and the updates behind them.

Its log looked at the index of a batch *within* its epoch and wrote a row where that index was a
multiple of `every`, the first of them after one update; the label of a row is `every` times the
number of rows before it. With S steps per epoch there are k = ceil(S / every) rows per epoch, and
row r was taken after

    S * (r div k) + (r mod k) * every + 1

updates. With S = 834 and every = 500 a label is about 1.2 times the updates: 30,000 is 25,021.

Source: justincosentino/robust-sparse-networks; Cosentino, Zaiter, Pei and Zhu, The search for
sparse, robust neural networks, 2019 (arXiv 1912.02386).
"""


def published_step(label: int, steps_per_epoch: int, every: int) -> int:
    """The optimiser updates behind a published label.

    Args:
        label: As in the published logs, figures and tables: a multiple of `every`, at least 0.
        steps_per_epoch: Updates in one epoch, at least 1.
        every: Interval of the published log, at least 1.

    Raises:
        ValueError: An argument is out of range, or no row has this label.

    >>> [published_step(label, 834, 500) for label in (0, 500, 1000, 30_000, 59_500)]
    [1, 501, 835, 25021, 49707]
    """
    rows = _rows_per_epoch(steps_per_epoch, every)
    if label < 0 or label % every:
        raise ValueError(f"label must be a multiple of every={every}; received {label}")
    epoch, row = divmod(label // every, rows)
    return steps_per_epoch * epoch + row * every + 1


def published_label(step: int, steps_per_epoch: int, every: int) -> int:
    """The label that the published code gave to an evaluation; the inverse of `published_step`.

    Args:
        step: Optimiser updates done, at least 1.
        steps_per_epoch: Updates in one epoch, at least 1.
        every: Interval of the published log, at least 1.

    Raises:
        ValueError: An argument is out of range, or the published code evaluated at no such step.

    >>> [published_label(step, 834, 500) for step in (1, 501, 835, 25_021, 49_707)]
    [0, 500, 1000, 30000, 59500]
    """
    rows = _rows_per_epoch(steps_per_epoch, every)
    epoch, index = divmod(step - 1, steps_per_epoch)
    row, rest = divmod(index, every)
    if step < 1 or rest:
        raise ValueError(
            f"step must be 1 more than a multiple of {every} within an epoch of {steps_per_epoch} "
            f"updates; received {step}"
        )
    return every * (rows * epoch + row)


def _rows_per_epoch(steps_per_epoch: int, every: int) -> int:
    for name, value in (("steps_per_epoch", steps_per_epoch), ("every", every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; received {value}")
    return -(-steps_per_epoch // every)
