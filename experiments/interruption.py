"""SIGTERM and Ctrl-C: asked to stop, a run saves where it is and leaves."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from experiments.experiment import RunError

_HANDLED = (signal.SIGTERM, signal.SIGINT)


class Interrupted(RunError):
    """A run that was asked to stop, and has saved.

    Args:
        number: The signal.
        where: What was saved, for the message.
    """

    def __init__(self, number: int, where: str):
        name = signal.Signals(number).name
        super().__init__(f"{name}: stopped and saved at {where}; the same command continues")
        self.exit_code = 128 + number


class Wish:
    """Whether somebody asked to stop, and by which signal."""

    number: int | None = None


@contextlib.contextmanager
def stop_wishes() -> Iterator[Wish]:
    """Takes down the first SIGTERM or Ctrl-C instead of dying of it; the second kills as ever.

    Only the main thread can handle signals: anywhere else nothing is taken down.
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.getsignal(number) for number in _HANDLED}

    def note(number, frame):
        wish.number = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in _HANDLED:
        signal.signal(number, note)
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
