"""A plan before a long run: a few steps are measured, and hours, memory and disk follow."""

import math
import resource
import shutil
import time
from collections.abc import Sequence

import keras
import numpy as np

from experiments._stepping import calls
from experiments.training import STEPS_PER_CALL, Session
from rst_tf.ticket import Ticket

_SECONDS = 3.0  # of measuring, about


def plan(session: Session, tickets: Sequence[Ticket], trials: int = 1) -> str:
    """What a run would take, as a text.

    Args:
        session: Of the experiment, without a folder.
        tickets: What each round starts with, the dense one first; none if nothing is pruned.
        trials: Number of runs.
    """
    rounds = max(1, len(tickets))
    step, measured = _seconds_per_step(session)
    evaluation = _seconds_per_evaluation(session)
    evaluations = len(session.evaluation_steps(0))
    training = rounds * session.total * step
    judging = rounds * evaluations * evaluation
    stored = _bytes(session.network.variables)
    trainer = session.trainer()
    carried = 0 if trainer.noise is None else trainer.noise.numpy().nbytes
    averaged = stored if session.settings.average_from is not None else 0
    state = stored + averaged + _bytes(trainer.optimizer.variables) + carried
    disk = trials * ((2 * rounds + 1) * stored + state)
    total = trials * (training + judging)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = [
        f"rounds    {rounds} of {session.total:,} steps of {session.settings.batch_size} images"
        + (f", {trials} trials" if trials > 1 else ""),
        f"time      {duration(total)}: {1000 * step:.2f} ms a step ({measured} measured), "
        f"{evaluations} evaluations of {evaluation:.2f} s a round",
        f"memory    {_size(peak)} at the peak of measuring",
        f"disk      {_size(disk)} at most, in tickets of {_size(stored)} and a checkpoint of "
        f"{_size(state)}; {_size(shutil.disk_usage('.').free)} free",
    ]
    return "\n".join([*lines, *_table(tickets)])


def _table(tickets: Sequence[Ticket]) -> list[str]:
    """Weights kept by round and layer."""
    if not tickets:
        return []
    names = [entry.name for entry in tickets[0].entries]
    width = max(11, *(len(name) + 2 for name in names))
    lines = ["", "round  density %        kept" + "".join(f"{name:>{width}}" for name in names)]
    for number, ticket in enumerate(tickets):
        layers = "".join(f"{kept:{width},}" for kept in ticket.kept_by_layer().values())
        lines.append(f"{number:5}  {100 * ticket.density:9.3f}  {ticket.kept:10,}{layers}")
    return lines


class _Clock(keras.callbacks.Callback):
    """The time at the end of each call."""

    def __init__(self):
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())


def _seconds_per_step(session: Session) -> tuple[float, int]:
    """Seconds of a training step, and how many steps that was measured on."""
    trainer = session.trainer()
    clock = _Clock()
    session.fit(trainer, 0, [1, 1, 1], [clock])
    rough = clock.times[-1] - clock.times[-2]
    number = min(200, max(1, int(_SECONDS / rough)))
    clock = _Clock()
    sizes = [1, *calls(0, number, [], STEPS_PER_CALL)]
    session.fit(trainer, 0, sizes, [clock])
    return (clock.times[-1] - clock.times[0]) / number, number


def _seconds_per_evaluation(session: Session) -> float:
    """Seconds of evaluating both splits, from one batch."""
    size, part = session.evaluate.batch_size, session.evaluated["valid"]
    batch = part.select(np.arange(min(size, len(part))))
    session.evaluate(batch)
    started = time.perf_counter()
    session.evaluate(batch)
    each = (time.perf_counter() - started) / size
    return each * sum(map(len, session.evaluated.values()))


def _bytes(variables) -> int:
    return sum(4 * math.prod(variable.shape) for variable in variables)


def _size(count: int) -> str:
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value >= 1000:
            value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds, minutes, or hours and minutes."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} seconds"
    return f"{minutes} minutes" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
