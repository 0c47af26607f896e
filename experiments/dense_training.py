"""Training a dense network on any objective: the baseline of every other method."""

import dataclasses
from typing import Literal, get_args

from experiments.experiment import EXPERIMENTS
from experiments.training import Session, Training
from rst_tf.initializers import initialize
from rst_tf.masks import check_choice


@EXPERIMENTS.register("dense_training")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseTraining(Training):
    """One training of the dense network.

    Args:
        weights: real; binary, layers see the signs of the weights that are trained, and these stay
            in [-1, 1] (BinaryConnect, Courbariaux et al. 2015); or stochastic, each pass of the
            training sees +1 with probability (w + 1) / 2, while attacks and evaluations see signs.
        activations: real; or binary, signs in place of ReLU, for networks with normalisation.
    """

    weights: Literal["real", "binary", "stochastic"] = "real"
    activations: Literal["real", "binary"] = "real"

    def __post_init__(self):
        super().__post_init__()
        for name in ("weights", "activations"):
            known = get_args(type(self).__dataclass_fields__[name].type)
            check_choice(getattr(self, name), known, name)

    def masked_network(self, splits):
        """Masks stay one; binary layers and activations are part of what tickets describe."""
        from rst_tf.models import describe, masked_parts

        chosen = {"weights": self.weights, "activations": self.activations}
        options = {name: value for name, value in chosen.items() if value != "real"}
        network = self.network.build(splits.shape, splits.classes, masked_parts(**options))
        return network, describe(self.network, splits.shape, splits.classes, **options)

    def run(self, workdir):
        """Initial weights, one round, the tickets `initial`, `round_00`, `round_00_best`."""
        from rst_tf.binary_connect import clamp

        with Session(self, workdir) as session:
            if not session.finished(0):
                initialize(session.network, self.seed, self.initializer)
                clamp(session.network)
                session.save_ticket("initial")
                session.train(0)
