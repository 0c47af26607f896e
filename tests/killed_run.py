"""Runs a small experiment in a child process that is killed five times, then lets it finish.

The children are forked from one process that has imported everything, before TensorFlow has
started a thread. Prints how each child ended.
"""

import dataclasses
import os
import random
import signal
import sys
import time

import trainings

from experiments import checkpoint
from experiments.training import Session
from experiments.workdir import Workdir

RUN = dataclasses.replace(trainings.TABLE["reset"], rounds=1)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def inside_a_checkpoint() -> None:
    """The next write of a checkpoint stops half-way."""
    from rst_tf import files

    fsync, saves = os.fsync, checkpoint.save

    def dying(stream):
        os.ftruncate(stream, os.fstat(stream).st_size // 2)
        fsync(stream)
        die()

    def save(*args):
        files.os.fsync = dying
        saves(*args)

    checkpoint.save = save


def before_a_row() -> None:
    """The ticket and correct/ are renamed into place, and the row is not written any more."""
    record, calls = Workdir.record, []

    def dying(workdir, rows):
        calls.append(rows)
        if len(calls) == 2:
            die()
        record(workdir, rows)

    Workdir.record = dying


def child(folder, fault=None) -> tuple[int, int]:
    """Process number, and a pipe that gets a byte when the training begins."""
    begun, begin = os.pipe()
    pid = os.fork()
    if pid:
        return pid, begun
    train = Session.train

    def announced(*args, **options):
        os.write(begin, b".")
        train(*args, **options)

    Session.train = announced
    try:
        if fault:
            fault()
        RUN.run(folder)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def ended(pid) -> None:
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    print("killed" if killed else "finished" if status == 0 else f"failed {status}", flush=True)


def main(folder) -> None:
    rng = random.Random(2019)
    for fault in (None, inside_a_checkpoint, None, before_a_row, None):
        pid, begun = child(folder, fault)
        if fault is None:
            os.read(begun, 1)
            time.sleep(rng.uniform(0, 3))
            os.kill(pid, signal.SIGKILL)
        ended(pid)
    ended(child(folder)[0])


if __name__ == "__main__":
    main(sys.argv[1])
