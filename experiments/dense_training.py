"""Training a dense network on any objective: the baseline of every other method."""

import dataclasses

from experiments.experiment import EXPERIMENTS
from experiments.training import Session, Training
from rst_tf.initializers import initialize


@EXPERIMENTS.register("dense_training")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseTraining(Training):
    """One training of the dense network.

    Args:
        data: Images, their split and augmentation.
    """

    def run(self, workdir):
        """Initial weights, one round, the tickets `initial`, `round_00`, `round_00_best`."""
        with Session(self, workdir) as session:
            if not session.finished(0):
                initialize(session.network, self.seed, self.initializer)
                session.save_ticket("initial")
                session.train(0)
