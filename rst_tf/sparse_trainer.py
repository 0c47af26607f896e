"""`sparsely`: a Keras model and an optimiser as a trainer of a sparse network, in one line."""

import inspect
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from rst_tf.dynamic_sparsity import DynamicSparsity
from rst_tf.first_masks import FirstMasks, RandomMasks
from rst_tf.flying_bird import Topology, check_topology
from rst_tf.objectives import Natural, Objective
from rst_tf.surgery import masked, with_logits
from rst_tf.trainer import RobustTrainer


def sparsely(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer | str,
    topology: Topology,
    *,
    density: float,
    objective: Objective | None = None,
    start: FirstMasks | None = None,
    batches=None,
    dense: Sequence[str] = (),
    seed: int = 0,
    **compiled,
) -> "SparseTrainer":
    """A compiled trainer of a sparse copy of a model; `fit` changes its masks as it goes.

    ```python
    bird = rst.FlyingBird(update_every="1ep")
    trainer = rst.sparsely(model, keras.optimizers.SGD(0.1, 0.9), bird, density=0.2,
                           objective=rst.Adversarial(rst.PGD(8 / 255)))
    trainer.fit(x, y, epochs=30, batch_size=128)
    sparse = rst.baked(trainer.network)
    ```

    Args:
        model: A built Sequential or functional Keras classifier, with or without a softmax at its
            end; it stays as it is, and the copy begins with its weights.
        optimizer: Keras optimiser or its name.
        topology: What changes the masks: `FlyingBird`, `FlyingBirdPlus`, `Static`.
        density: Fraction of the weights kept at the start, in (0, 1].
        objective: What is trained on; `Natural` if None.
        start: How the first masks are made; at random by ideal gas quotas if None.
        batches: Examples for a `start` that looks at some, as `FirstMasks.apply` takes them.
        dense: Names of layers that are not to be pruned.
        seed: Keys first masks, growth and random starts of attacks.
        **compiled: What `RobustTrainer.compile` takes besides: jit_compile, run_eagerly, ...

    Returns:
        The trainer; `trainer.network` is the masked network, which returns logits, and
        `trainer.updates` tells what changed.

    Raises:
        ValueError: A model that cannot be masked, or an argument out of its range.
    """
    check_topology(topology)
    network = masked(with_logits(model), dense=dense)
    objective = objective or Natural()
    first = start or RandomMasks()
    first.apply(network, density, seed=seed, batches=batches, objective=objective)
    trainer = SparseTrainer(network, objective, topology=topology, seed=seed)
    trainer.compile(optimizer, **compiled)
    return trainer


class SparseTrainer(RobustTrainer):
    """A `RobustTrainer` whose `fit` changes masks; each `fit` is a training from its beginning.

    Args:
        network: Masked network, its masks set.
        objective: What to train on.
        topology: What changes the masks.
        seed: Keys growth and every random start.
        **kwargs: As of `RobustTrainer`.

    Attributes:
        updates: What every update of the last `fit` did, see `Rewiring.update`.
    """

    def __init__(self, network, objective, *, topology: Topology, seed: int = 0, **kwargs):
        super().__init__(network, objective, seed=seed, **kwargs)
        self.topology = topology
        self._dynamics: list[DynamicSparsity] = []

    @property
    def updates(self) -> list[dict]:
        """What every update of the last `fit` did."""
        return self._dynamics[-1].updates if self._dynamics else []

    def fit(self, x=None, y=None, *args, **kwargs):
        """As in Keras; Flying Bird+ needs `validation_data`.

        Raises:
            ValueError: It cannot be told how many steps there will be, `validation_split` is
                given, or `validation_data` is not where it is needed.
        """
        given = inspect.signature(keras.Model.fit).bind(self, x, y, *args, **kwargs)
        given.apply_defaults()
        asked = given.arguments
        if asked["validation_split"]:
            raise ValueError("validation_split has no place here; give validation_data")
        steps = _steps_per_epoch(x, asked["batch_size"], asked["steps_per_epoch"])
        listens = self.topology.listens
        dynamics = DynamicSparsity(
            self.topology,
            steps * (asked["epochs"] - asked["initial_epoch"]),
            steps,
            seed=self.seed,
            validation=_arrays(asked["validation_data"]) if listens else None,
        )
        self._dynamics = [dynamics]
        asked["callbacks"] = [*_listed(asked["callbacks"]), dynamics]
        del asked["self"]
        return super().fit(asked.pop("x"), asked.pop("y"), **asked)


def _listed(callbacks) -> list:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise ValueError("callbacks must be a list of callbacks; received a CallbackList")
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] * bool(callbacks)


def _steps_per_epoch(x, batch_size: int | None, steps: int | None) -> int:
    if steps is not None:
        return steps
    if isinstance(x, tf.data.Dataset):
        number = int(x.cardinality())
        if number < 1:
            raise ValueError("steps_per_epoch must be given, for the dataset does not tell its own")
        return number
    images = x["image"] if isinstance(x, dict) else x
    if isinstance(images, keras.utils.PyDataset):
        return len(images)
    if not hasattr(images, "__len__"):
        raise ValueError(f"steps_per_epoch must be given with x of type {type(x).__name__}")
    return math.ceil(len(images) / (batch_size or 32))


def _arrays(validation):
    """Images and labels of what Keras takes as validation data."""
    if validation is None:
        raise ValueError("validation_data must be given, for Flying Bird+ listens to it")
    if not isinstance(validation, tf.data.Dataset):
        return keras.utils.unpack_x_y_sample_weight(validation)[:2]  # a weight is no index
    parts = [keras.utils.unpack_x_y_sample_weight(batch)[:2] for batch in validation]
    images = [x["image"] if isinstance(x, dict) else x for x, _ in parts]
    return np.concatenate(images), np.concatenate([y for _, y in parts])
