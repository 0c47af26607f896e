"""Weight averaging along a round: from a step on, what is evaluated and kept is the mean."""

import contextlib

from experiments.companion import Companion

_BATCHES = 100  # for the statistics of normalisation


class Averaging(Companion):
    """Adds the weights to a running mean at certain steps, and shows it to evaluations and tickets.

    The training itself goes on from its own weights; only what listens to evaluations, as Flying
    Bird+ does, hears those of the mean. Statistics of normalisation are estimated
    anew whenever the mean is shown: the plain mean over the first batches of the training, as they
    are augmented but not attacked, at most a hundred and at most an epoch.

    Args:
        first: The first step whose weights count, at least 1.
        every: Steps between those that follow.
    """

    name = "averaging"

    def __init__(self, first: int, every: int):
        super().__init__()
        self.first, self.every = first, every

    def begin(self, session, trainer, round_number):
        """See `Companion.begin`.

        Raises:
            ValueError: The network searches, or there are several devices.
        """
        import tensorflow as tf

        from rst_tf.weight_averaging import WeightAverage

        super().begin(session, trainer, round_number)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError("average_from works on one device only")
        self._average = WeightAverage(session.network)
        self.variables = self._average.variables

    def restore(self, step, notes):
        """See `Companion.restore`."""
        super().restore(step, notes)
        self._average.count = self.notes.setdefault("count", 0)

    def stops(self):
        """The steps whose weights count."""
        return set(range(self.first, self.session.total + 1, self.every))

    def at(self, step):
        """Counts the weights of this step."""
        self._average.add()
        self.notes["count"] = self._average.count

    def shown(self):
        """The mean, once there is one."""
        if not self._average.count:
            return contextlib.nullcontext()
        return self._average.shown(self._images())

    def _images(self):
        number = min(_BATCHES, self.session.steps_per_epoch)
        return (x["image"] for x, _ in self.session.batches(0, number))
