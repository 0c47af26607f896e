"""What a round costs, added up with the masks as they are at each step."""

from collections.abc import Iterable, Sequence

from experiments.companion import Companion
from rst_tf.analysis import costs
from rst_tf.files import write_bytes


class Costs(Companion):
    """A companion of every round: writes its entry of costs.json at every evaluation.

    It has to come before other companions: what a step cost is told by the masks before they
    change. A search whose masks move at every step is taken to cost what its masks cost whenever
    it is looked at: the number kept is the same in each layer, or with a common threshold about.

    Args:
        first_step: Steps of the round that count as done already.
        events: Steps at which masks may change.
        others: The other companions of the round, which may change them too.
    """

    name = "costs"

    def __init__(self, first_step: int, events: Iterable[int], others: Sequence[Companion]):
        super().__init__()
        self.first, self._events, self._others = first_step, events, others

    def begin(self, session, trainer, round_number):
        """See `Companion.begin`."""
        from rst_tf.multiply_adds import operations
        from rst_tf.traversal import masked_layers

        super().begin(session, trainer, round_number)
        self._operations = operations(session.network, session.splits.shape)
        layers = masked_layers(session.network)
        self._searched = any(m.scores is not None for x in layers for m in x.masked.values())
        self._passes = session.settings.objective.passes(session.splits.classes)
        taught = session.settings.distillation.teachers
        teachers = session.teachers.networks if taught else ()
        self._taught = sum(operations(each, session.splits.shape).sparse for each in teachers)

    def restore(self, step, notes):
        """See `Companion.restore`."""
        del step
        fresh = {"step": self.first, "training": 0, "training_dense": 0, "inference_best": None}
        self.notes = dict(notes or fresh | {"best": -1.0})

    def stops(self):
        """Wherever masks may change."""
        return {*self._events}.union(*(other.stops() for other in self._others))

    def at(self, step):
        """Adds what the steps since the last look cost."""
        self._add(step, self._counted())

    def evaluated(self, step, found):
        """Writes the file; the ticket that is the best so far is chosen as `Watch` does."""
        counted, session = self._counted(), self.session
        self._add(step, counted)
        valid = found["valid"]
        attacked = valid["robust_accuracy"] is not None
        score = valid["robust_accuracy" if attacked else "accuracy"]
        asked = session.settings.may_be_best(step, session.steps_per_epoch)
        if asked and score > self.notes["best"]:
            self.notes |= {"best": score, "inference_best": counted.sparse}
        self._write(step, counted)

    def _counted(self):
        return self._operations.recounted(self.session.network)

    def _add(self, step: int, counted) -> None:
        last, self.notes["step"] = self.notes["step"], step
        images = self._images(step) - self._images(last)
        units, taught = images * self._passes.in_forward, images * self._taught
        pruned = counted.dense - counted.sparse
        full = self._passes.training * self._with_all_gradients(last, step)
        self.notes["training"] += units * counted.sparse + full * pruned + taught
        self.notes["training_dense"] += units * counted.dense + taught

    def _with_all_gradients(self, first: int, last: int) -> int:
        """Images in the steps after `first` until `last` that gave pruned weights a gradient."""
        steps = set(range(first + 1, last + 1))
        if not self._searched:
            steps &= set().union(*(other.regrowth(first, last) for other in self._others))
        return sum(self._images(step) - self._images(step - 1) for step in steps)

    def _images(self, step: int) -> int:
        """Images in the batches before a step; the last batch of an epoch may be smaller."""
        session = self.session
        epochs, batches = divmod(step, session.steps_per_epoch)
        return epochs * len(session.splits.train) + batches * session.settings.batch_size

    def _write(self, step: int, counted) -> None:
        folder = self.session.workdir.path
        known = {n: cost for n, cost in (costs.read(folder) or {}).items() if n < self.round}
        known[self.round] = costs.Cost(
            round=self.round,
            steps=step - self.first,
            examples=self._images(step) - self._images(self.first),
            forward_passes=self._passes.forward,
            attack_passes=self._passes.attack,
            training_passes=self._passes.training,
            training=self.notes["training"],
            training_dense=self.notes["training_dense"],
            inference_last=counted.sparse,
            inference_best=self.notes["inference_best"],
            inference_dense=counted.dense,
        )
        write_bytes(folder / costs.FILE, costs.text(known).encode())
