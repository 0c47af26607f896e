"""One training of a sparse network: how its masks begin, times what changes them (Flying Bird)."""

import dataclasses
import json

from experiments.companion import Companion
from experiments.experiment import EXPERIMENTS, RunError
from experiments.training import Session, Training
from rst_tf import masks
from rst_tf.files import write_bytes
from rst_tf.first_masks import FirstMasks, RandomMasks
from rst_tf.flying_bird import FlyingBird, Topology
from rst_tf.initializers import initialize
from rst_tf.random import subseed
from rst_tf.schedules import steps_of
from rst_tf.ticket import Ticket


@EXPERIMENTS.register("sparse_training")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseTraining(Training):
    """Train a sparse network from its first step on, its masks fixed or changing.

    Pruned weights are 0 throughout, and so is what the optimiser remembers of them. Each update of
    the masks is a line of `topology.jsonl`.

    Args:
        density: Fraction of the weights kept at the start, in (0, 1].
        start: How the first masks are made: at random with densities by layer (igq, erk, uniform
            or given), or pruned by a score (magnitude, snip, grasp, synflow).
        topology: What changes them: static, nothing; flying_bird, prune and grow as many;
            flying_bird_plus, more of either as evaluations ask.
    """

    density: float = 0.2
    start: FirstMasks = RandomMasks()
    topology: Topology = FlyingBird()

    def __post_init__(self):
        super().__post_init__()
        masks.check_density(self.density)

    def masked_network(self, splits):
        """See `Training.masked_network`; a training without an update is refused before it."""
        from rst_tf.data import steps_per_epoch

        epoch = steps_per_epoch(len(splits.train), self.batch_size)
        self.topology.rates(steps_of(self.train_steps, epoch, "train_steps"), epoch)
        return super().masked_network(splits)

    def plan(self, trials=1):
        """See `Training.plan`; with the weights that each layer keeps at the start."""
        from experiments._planning import plan

        session = Session(self, None)
        self._begin(session)
        return plan(session, [Ticket.of(session.network, weights="none")], trials)

    def run(self, workdir):
        """One round; the ticket `initial` holds the first masks and all initial weights."""
        with Session(self, workdir) as session:
            if not session.finished(0):
                if session.workdir.ticket("initial").exists():
                    session.load_ticket("initial").apply(session.network, weights=True)
                else:
                    self._begin(session)
                    session.save_ticket("initial")
                session.train(0, companions=[Rewired(self.topology)])

    def _begin(self, session: Session) -> None:
        initialize(session.network, self.seed, self.initializer)
        self.start.apply(
            session.network,
            self.density,
            seed=subseed(self.seed, "start")[0],
            batches=session.splits.train,
            objective=self.objective,
        )


class Rewired(Companion):
    """Changes masks at the steps of a topology, and writes `topology.jsonl`.

    Args:
        topology: When, how much and which.
    """

    name = "topology"

    def __init__(self, topology: Topology):
        super().__init__()
        self.topology = topology

    def begin(self, session, trainer, round_number):
        """See `dynamic_sparsity.Rewiring`."""
        from rst_tf.dynamic_sparsity import Rewiring

        super().begin(session, trainer, round_number)
        self._rewiring = Rewiring(
            self.topology,
            trainer,
            session.total,
            session.steps_per_epoch,
            subseed(session.settings.seed, "topology")[0],
        )
        self.variables = self._rewiring.variables
        self.notes = {"gaps": [], "losses": []}

    def restore(self, step, notes):
        """What evaluations found until this step, and the file as it was."""
        super().restore(step, notes)
        self._rewiring.gaps, self._rewiring.losses = self.notes["gaps"], self.notes["losses"]
        here = (self.round, -1 if notes is None else step)
        self._updates = [u for u in self._recorded() if (u["round"], u["step"]) <= here]
        self._write()

    def stops(self):
        """The steps at which masks change."""
        return set(self._rewiring.rates)

    def regrowth(self, first, last):
        """All steps where growth remembers more than the last gradient, else those of updates."""
        if self.topology.memory is None:
            return ()
        steps = range(first + 1, last + 1)
        return steps if self.topology.memory else self.stops() & {*steps}

    def at(self, step):
        """The update."""
        self._updates.append({"round": self.round, **self._rewiring.update(step)})
        self._write()

    def evaluated(self, step, found):
        """Listens; the first evaluation, before any training, has nothing to say."""
        from rst_tf.dynamic_sparsity import gap_and_loss

        if self.topology.listens and "train" in found:
            self._rewiring.heard(*gap_and_loss(found["train"], found["valid"]))

    @property
    def _file(self):
        return self.session.workdir.path / "topology.jsonl"

    def _recorded(self) -> list[dict]:
        if not self._file.exists():
            return []
        try:
            return [json.loads(line) for line in self._file.read_text().splitlines()]
        except ValueError as error:
            raise RunError(f"{self._file} is damaged: {error}") from error

    def _write(self) -> None:
        lines = [json.dumps(update) + "\n" for update in self._updates]
        if lines or self._file.exists():
            write_bytes(self._file, "".join(lines).encode())
