"""`robustify`: one call from a Keras model to a robust sparse one, with a report.

A third of the epochs trains the dense network adversarially, from the weights it has; a third
prunes it by magnitude, round after round, while the training goes on; the last third trains at the
final density (Zhu & Gupta 2017, with adversarial training as Madry et al. 2018 or TRADES).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from rst_tf.attacks.attack import Norm
from rst_tf.attacks.pgd import PGD
from rst_tf.callbacks import MaskGuard, StopOnNonFinite
from rst_tf.data import Split, Splits, batches, steps_per_epoch
from rst_tf.data.sampling import stratified
from rst_tf.data.sources import parts_of
from rst_tf.evaluation import Evaluator
from rst_tf.keras_optimizers import forget
from rst_tf.masks import check_density
from rst_tf.models.architecture import describe_model
from rst_tf.objectives import Objective, Trades
from rst_tf.optimizers import Adam, Optimizer
from rst_tf.robust_report import Report, measured
from rst_tf.schedules import Cosine
from rst_tf.surgery import baked, check_clonable, masked, with_logits
from rst_tf.ticket import Ticket
from rst_tf.trainer import RobustTrainer
from rst_tf.traversal import finalize_statistics, masked_kernels, walk

_ALLOCATION = "global_floor"  # layerwise leaves a depthwise filter one weight of nine
_HELD_OUT = 0.1
_BATCH_SIZE = 128
_MOST_ROUNDS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Robust:
    """What `robustify` made.

    Attributes:
        model: Plain Keras model of the given one's layers, its softmax too; zeros where pruned.
        network: The same with masks, returning logits; to train further, attack or export.
        ticket: Masks and weights of `network`; `ticket.build()` makes it again.
        report: What it came to; print it.
    """

    model: keras.Model
    network: keras.Model
    ticket: Ticket
    report: Report


def robustify(
    model: keras.Model,
    train,
    *,
    density: float,
    epsilon: float,
    validation=None,
    norm: Norm = "linf",
    epochs: int = 30,
    rounds: int | None = None,
    batch_size: int | None = None,
    objective: Objective | None = None,
    optimizer: Optimizer | keras.optimizers.Optimizer | None = None,
    dense: Sequence[str] = (),
    seed: int = 0,
    verbose: bool = True,
) -> Robust:
    """Makes a classifier robust and sparse; the given model stays as it is.

    Training goes on from the model's weights, one optimiser throughout. Each round keeps the same
    fraction of the surviving weights, the largest of the whole network, though no layer less than a
    tenth of its share. Of the dense epochs and of those at the final density, the first one with
    the highest robust accuracy on the validation images is taken. Layers with `trainable=False`
    are pruned but not trained.

    Args:
        model: A built Sequential or functional Keras classifier, with or without a softmax at its
            end. Images in [0, 1] go in: let it scale them itself if it wants another range.
        train: Arrays (x, y), images uint8 or float in [0, 1] and integer labels; or `Splits`
            (`rst.Data(...).load()`); or a finite `tf.data.Dataset` of batches (x, y), float images
            in [0, 1], read once per epoch in the order it gives.
        density: Fraction of the weights kept, in (0, 1].
        epsilon: Radius of the ball that the network is to withstand, in [0, 1] units (8/255).
        validation: What choices are made by, arrays or a dataset; of arrays a tenth is held out if
            None; `Splits` bring their own.
        norm: Of the ball: linf or l2.
        epochs: Length of the training, at least 3.
        rounds: Prunings, at most a third of the epochs; that many, but at most 4, if None.
        batch_size: Of arrays and `Splits`; 128 if None.
        objective: What is trained on; `Trades` under PGD of 10 steps if None.
        optimizer: Configuration, whose schedule spans the training, or Keras optimiser; Adam with
            a learning rate from 1e-3 to 0 along a cosine if None. Lower it for trained weights
            that are to change little.
        dense: Names of layers that are not to be pruned.
        seed: Keys order, random starts and what is held out.
        verbose: Print a line per epoch.

    Returns:
        Plain model, masked network, ticket and report. The report is on the test images where
        there are any (`Splits`), else on the validation images.

    Raises:
        ValueError: An argument out of its range or without effect, a model that cannot be masked,
            images or labels that are not what they must be or do not fit the model.
    """
    check_clonable(model, "robustify")
    check_density(density)
    judge_by = PGD(epsilon, norm, steps=20)
    objective = objective or Trades(PGD(epsilon, norm, steps=10, start="gaussian"))
    if objective.keeps_noise:
        raise ValueError(f"objective must not keep perturbations of examples; received {objective}")
    plan = _plan(density, epochs, rounds)
    data = _read(train, validation, batch_size, seed)
    _check_shape(model, data.shape)
    network = masked(with_logits(model), dense=dense)
    total = epochs * data.steps
    _warn_of_slow_statistics(network, total)

    judge = Evaluator(network, judge_by, seed=seed, batch_size=min(data.batch, data.size))
    lines = [measured("given", network, judge(*data.report))]
    trainer = RobustTrainer(network, objective, seed=seed)
    trainer.compile(_built(optimizer or Adam(schedule=Cosine()), total, data.steps))
    if objective.epsilon_schedule is not None:
        trainer.schedule_epsilon(total, data.steps)
    guard = MaskGuard()
    course = _Course(plan, lambda: judge(*data.valid), guard, verbose)
    trainer.fit(
        data.batches,
        epochs=epochs,
        steps_per_epoch=data.steps if data.endless else None,
        shuffle=False,
        verbose=0,
        callbacks=[course, StopOnNonFinite(), guard],
    )
    for name, ticket in course.best.items():
        ticket.apply(network, weights=True)
        lines.append(measured(f"{name}, robust", network, judge(*data.report)))
    ticket = Ticket.of(network, description=describe_model(network))
    report = Report(str(judge_by), data.split, data.chosen_by, tuple(lines), _layers(ticket))
    return Robust(_plain(model, network), network, ticket, report)


class _Course(keras.callbacks.Callback):
    """Prunes when a round begins, judges every epoch, keeps the best dense and sparse network.

    Args:
        plan: Density from an epoch on.
        judge: Gives the network's `Evaluation` on the validation images.
        guard: Is told of new masks.
        verbose: Print a line per epoch.
    """

    def __init__(self, plan: dict[int, float], judge, guard: MaskGuard, verbose: bool):
        super().__init__()
        self._plan, self._judge, self._guard, self._verbose = plan, judge, guard, verbose
        self._highest: dict[str, tuple] = {}
        self.best: dict[str, Ticket] = {}

    def on_epoch_begin(self, epoch, logs=None):
        """A round's pruning; what the optimiser remembers of pruned weights goes too."""
        if epoch in self._plan:
            network = self.model.network
            Ticket.of(network).prune(self._plan[epoch], allocation=_ALLOCATION).apply(network)
            forget(self.model.optimizer, masked_kernels(network))
            self._guard.remember()

    def on_epoch_end(self, epoch, logs=None):
        """The epoch's network against the best of its kind."""
        found = self._judge()
        first, last = min(self._plan), max(self._plan)
        density = max((e, d) for e, d in {-1: 1.0, **self._plan}.items() if e <= epoch)[1]
        if self._verbose:
            print(
                f"epoch {epoch + 1:>3}/{self.params['epochs']}  density {density:<7.2g}"
                f"loss {logs['loss']:.3f}  accuracy {100 * found.accuracy:.1f} %  "
                f"robust {100 * found.robust_accuracy:.1f} %",
                flush=True,
            )
        if first <= epoch < last:
            return
        kind = "dense" if epoch < first else "sparse"
        value = found.robust_accuracy, found.accuracy
        if kind not in self.best or value > self._highest[kind]:
            self._highest[kind], self.best[kind] = value, Ticket.of(self.model.network)


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
    """Training batches and what to judge on.

    Args:
        batches: A dataset for `fit`, one epoch of it or, if `endless`, all of them.
        steps: Batches per epoch.
        endless: Whether `batches` goes on after an epoch.
        batch: Images per batch of an evaluation, at most.
        shape: (H, W, C) of an image; None where unknown.
        valid: Arguments of an `Evaluator` to choose by.
        report: Arguments of an `Evaluator` to report on.
        split: What the report is on, in words.
    """

    batches: Any
    steps: int
    endless: bool
    batch: int
    shape: tuple
    valid: tuple
    report: tuple
    split: str

    @property
    def size(self) -> int:
        """Number of validation images."""
        return len(self.valid[0])

    @property
    def chosen_by(self) -> bool:
        """Whether the images of the report also chose the networks."""
        return self.report is self.valid


def _read(train, validation, batch_size: int | None, seed: int) -> _Read:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; received batch_size={batch_size!r}")
    if isinstance(train, tf.data.Dataset):
        return _read_dataset(train, validation, batch_size)
    if isinstance(train, Splits):
        if validation is not None:
            raise ValueError("validation is part of the given Splits; received validation beside")
        return _read_splits(train.train, (train.valid,), (train.test,), "test", batch_size, seed)
    images = _split(train, "train")
    if validation is None:
        count = max(1, round(_HELD_OUT * len(images)))
        rows = stratified(images.labels, count, seed, "robustify/validation")
        left = np.setdiff1d(np.arange(len(images)), rows)
        if not left.size:
            raise ValueError("train must have at least 2 images; received 1")
        valid = (images.select(rows),)
        images = images.select(left)
    else:
        valid = _validation(validation)
    return _read_splits(images, valid, valid, "validation", batch_size, seed)


def _read_splits(train: Split, valid, report, split: str, batch_size, seed) -> _Read:
    size = batch_size or _BATCH_SIZE
    return _Read(
        batches(train, size, seed=seed),
        steps_per_epoch(len(train), size),
        True,
        size,
        train.shape,
        valid,
        report,
        split,
    )


def _read_dataset(train, validation, batch_size) -> _Read:
    if batch_size is not None:
        raise ValueError(
            "batch_size has no effect on a tf.data.Dataset, which has batches; received "
            f"batch_size={batch_size!r}"
        )
    if validation is None:
        raise ValueError(
            "validation must be given with a tf.data.Dataset; received validation=None"
        )
    steps = int(train.cardinality())
    if steps == tf.data.INFINITE_CARDINALITY:
        raise ValueError("train must end: its end is that of an epoch; use train.take(steps)")
    if steps == tf.data.UNKNOWN_CARDINALITY:
        steps = int(train.reduce(0, lambda n, *_: n + 1))
    spec = train.element_spec
    spec = spec[0] if isinstance(spec, tuple) else spec
    image = spec["image"] if isinstance(spec, dict) else spec
    valid = _validation(validation)
    return _Read(
        train, steps, False, _BATCH_SIZE, tuple(image.shape[1:]), valid, valid, "validation"
    )


def _validation(validation) -> tuple:
    """Arguments of an `Evaluator` for validation images given as a dataset or as arrays."""
    if isinstance(validation, tf.data.Dataset):
        found = [
            (x["image"] if isinstance(x, dict) else x, np.reshape(y, [-1]) if y.ndim == 2 else y)
            for x, y, *_ in validation.as_numpy_iterator()
        ]
        if not found:
            raise ValueError("validation must have images; received none")
        return tuple(np.concatenate(part) for part in zip(*found, strict=True))
    return (_split(validation, "validation", "validation: "),)


def _split(value, name: str, where: str = "") -> Split:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(
            f"{name} must be arrays (x, y), Splits or a tf.data.Dataset of batches; received "
            f"{type(value).__name__}"
        )
    return parts_of({"train": tuple(value)}, where=where).train


def _plan(density: float, epochs: int, rounds: int | None) -> dict[int, float]:
    """Density from an epoch on, for each round: the same fraction of the survivors each time."""
    third = epochs // 3
    if third < 1:
        raise ValueError(f"epochs must be at least 3; received epochs={epochs!r}")
    if rounds is None:
        rounds = min(_MOST_ROUNDS, third)
    if not 1 <= rounds <= third:
        raise ValueError(
            f"rounds must be between 1 and a third of the {epochs} epochs; received rounds={rounds}"
        )
    plan = {third + k * third // rounds: density ** ((k + 1) / rounds) for k in range(rounds)}
    return {**plan, max(plan): density}


def _check_shape(model, shape: tuple) -> None:
    wanted = tuple(model.inputs[0].shape[1:])
    fits = len(wanted) == len(shape)
    fits = fits and all(None in (a, b) or a == b for a, b in zip(wanted, shape, strict=True))
    if len(model.inputs) != 1 or not fits:
        raise ValueError(
            f"train must hold images of shape {wanted}, which the model takes; received {shape}"
        )


def _warn_of_slow_statistics(network, total: int) -> None:
    """Statistics that start at 0 and 1 and hardly move make inference another network."""
    for layer in walk(network):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.momentum < 1:
            memory = 1 / (1 - layer.momentum)
            if 5 * memory > total:
                logging.warning(
                    "normalisation %r averages its statistics over %d steps (momentum %g), and "
                    "the training has %d: unless they are right already, lower its momentum",
                    layer.name,
                    round(memory),
                    layer.momentum,
                    total,
                )
                return


def _built(optimizer, total: int, steps: int):
    return optimizer.build(total, steps) if isinstance(optimizer, Optimizer) else optimizer


def _layers(ticket: Ticket) -> tuple[tuple[str, int, int], ...]:
    kept = ticket.kept_by_layer().values()
    sizes = [int(np.prod(entry.shape)) for entry in ticket.entries]
    return tuple((e.name, k, n) for e, k, n in zip(ticket.entries, kept, sizes, strict=True))


def _plain(model, network):
    """The given model's layers with the network's weights, zeros where they are pruned."""
    copy = keras.models.clone_model(model)
    copy.set_weights(baked(network).get_weights())
    finalize_statistics(copy)
    return copy
