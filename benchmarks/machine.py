"""Around a measurement: programs that take turns, the machine's own rate, its load."""

import contextlib
import multiprocessing
import os
import pathlib
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

PRODUCT = (60, 784, 300)
"""Rows, inner size and columns of the product whose rate measures the machine."""


class Turn(NamedTuple):
    """One turn of one program.

    Attributes:
        step_ms: Milliseconds per step.
        product_ms: Milliseconds of the lone operation that measures the machine, best of 20.
        peak_mb: The most memory that the process ever held.
        notes: What else the program has to say.
    """

    step_ms: float
    product_ms: float
    peak_mb: float
    notes: dict[str, float]


class Turns:
    """A program's side of taking turns: it works only between `begin` and `end`.

    Args:
        pipe: To the process that gives the turns.
        product: Runs the lone operation once, in the program's own framework.
    """

    def __init__(self, pipe, product: Callable[[], None]):
        self._pipe, self._product = pipe, product

    def begin(self) -> None:
        """Waits for the turn."""
        self._pipe.recv()

    def end(self, step_ms: float, **notes: float) -> None:
        """Reports a turn, after the lone operation was run 20 times."""
        self._pipe.send(Turn(step_ms, best_ms(self._product), peak_mb(), notes))


def peak_mb() -> float:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def best_ms(work: Callable[[], object], repeats: int = 20) -> float:
    """Shortest of `repeats` runs, in milliseconds."""
    return min(_seconds(work) for _ in range(repeats)) * 1e3


def take_turns(
    programs: dict[str, Callable], turns: int, warm: bool = True
) -> dict[str, list[Turn]]:
    """Runs programs side by side, one working at a time; every second round goes backwards.

    Args:
        programs: By name, functions of a pipe that can be sent to a fresh process; each makes a
            `Turns` of it, then begins and ends a turn again and again.
        turns: How often each works.
        warm: Before that, each works once uncounted: it traces, compiles, warms up.

    Raises:
        RuntimeError: A program ended early; its own error is on the terminal.
    """
    fresh = multiprocessing.get_context("spawn")
    found = {name: [] for name in programs}
    pipes, processes = {}, []
    try:
        for name, program in programs.items():
            pipes[name], theirs = fresh.Pipe()
            processes.append(fresh.Process(target=program, args=(theirs,), daemon=True))
            processes[-1].start()
            theirs.close()
        for number in range(-1 if warm else 0, turns):
            for name in list(programs)[:: -1 if number % 2 else 1]:
                try:
                    pipes[name].send(None)
                    turn = pipes[name].recv()
                except (EOFError, BrokenPipeError):
                    raise RuntimeError(f"{name!r} ended early; its error is above") from None
                if number >= 0:
                    found[name].append(turn)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return found


def median_ms(turns: list[Turn]) -> float:
    """Milliseconds per step, the median of the turns."""
    return statistics.median(turn.step_ms for turn in turns)


def product_gflops(turns: list[Turn]) -> float:
    """Rate of the lone product, of its best run in any turn."""
    rows, inner, columns = PRODUCT
    return 2 * rows * inner * columns / min(turn.product_ms for turn in turns) / 1e6


@contextlib.contextmanager
def load_of_others() -> Iterator[Callable[[], float]]:
    """A function that gives, after the context, the share of all cores that others used, or NaN."""
    share = [float("nan")]
    before, own = _cpu_seconds(), sum(os.times()[:4])
    yield lambda: share[0]
    after, own = _cpu_seconds(), sum(os.times()[:4]) - own  # children count once they are joined
    if before and after and after[1] > before[1]:
        share[0] = max(0.0, (after[0] - before[0] - own) / (after[1] - before[1]))


def describe() -> str:
    """Processor and cores, as far as the system tells."""
    model = "unknown processor"
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":")[1].strip()
    return f"{model}, {cores()} cores"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _cpu_seconds() -> tuple[float, float] | None:
    """Busy and all CPU seconds of the machine since it started, or None where /proc is not."""
    try:
        first = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0]
    except OSError:
        return None
    ticks = [int(value) / os.sysconf("SC_CLK_TCK") for value in first.split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
