"""The workers of a training on several machines: who they are, that all are there, who is gone."""

import contextlib
import dataclasses
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterable

PATIENCE = 1800.0  # seconds that a worker waits for others: to start, and at every exchange
HEARTBEAT = 60.0  # seconds after which a silent worker is taken to be gone
_JOBS = ("chief", "worker")  # in TensorFlow's order
_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", ...}}'


class ClusterError(RuntimeError):
    """A worker is not there, or not any more; its message is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers, and which of them this process is.

    Args:
        workers: Name and address of each: `("worker 0", "host0:2222")`; the first one is in charge.
        own: Place of this process in `workers`.
    """

    workers: tuple[tuple[str, str], ...]
    own: int

    @classmethod
    def from_environment(cls) -> "Cluster":
        """What the environment variable TF_CONFIG says.

        Raises:
            ValueError: It is not there, or does not describe two or more workers and this one.
        """
        text = os.environ.get("TF_CONFIG")
        if not text:
            raise ValueError(f"strategy=multiworker needs TF_CONFIG, such as {_EXAMPLE}")
        try:
            config = json.loads(text)
            jobs = {str(name): list(addresses) for name, addresses in config["cluster"].items()}
            task = (str(config["task"]["type"]), int(config["task"]["index"]))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"TF_CONFIG must be like {_EXAMPLE}; received {text}") from error
        other = sorted(jobs.keys() - set(_JOBS))
        if other:
            raise ValueError(f"TF_CONFIG: the jobs can be chief and worker; received {other[0]}")
        tasks = [(job, i, where) for job in _JOBS for i, where in enumerate(jobs.get(job, []))]
        for job, i, where in tasks:
            if not re.fullmatch(r".+:\d+", str(where)):
                raise ValueError(f"TF_CONFIG: {job} {i} needs host:port; received {where!r}")
        places = [(job, i) for job, i, _ in tasks]
        if len(tasks) < 2 or task not in places:
            raise ValueError(
                "TF_CONFIG must name at least two workers, and one of them as this task; received "
                f"{len(tasks)}, and task {task[0]} {task[1]}"
            )
        return cls(tuple((f"{job} {i}", where) for job, i, where in tasks), places.index(task))

    def jobs(self) -> dict[str, int]:
        """How many workers each job has, the one in charge first."""
        names = [name.split()[0] for name, _ in self.workers]
        return {job: names.count(job) for job in dict.fromkeys(names)}

    def name(self, number: int) -> str:
        """Name and address of a worker, for messages."""
        return "{} ({})".format(*self.workers[number])

    def missing(self) -> list[int]:
        """The other workers that do not answer at their addresses."""
        return self._silent(self._others)

    def meet(self, patience: float) -> None:
        """Waits until every worker has answered once; answers at the own address meanwhile.

        Raises:
            ClusterError: One did not within `patience` seconds, or the own port is taken.
        """
        port = int(self.workers[self.own][1].rpartition(":")[2])
        try:
            listening = socket.create_server(("", port), backlog=4 * len(self.workers))
        except OSError as error:
            raise ClusterError(f"{self.name(self.own)}: port {port} is taken: {error}") from error
        missing, begun, told = self.missing(), time.monotonic(), False
        with contextlib.closing(listening):
            while missing:
                waited, names = time.monotonic() - begun, self._names(missing)
                if waited > patience:
                    raise ClusterError(
                        f"{names} did not start within {patience:.0f} s; start the same command "
                        "there, with a TF_CONFIG of its own"
                    )
                if waited > 3 and not told:
                    print(f"waiting for {names}, {patience:.0f} s at most", file=sys.stderr)
                    told = True
                time.sleep(0.2)
                missing = self._silent(missing)

    def loss(self, message: str) -> ClusterError:
        """The error for a training that TensorFlow ended with this message."""
        tasks = re.findall(r"/job:(\w+)/(?:replica:0/)?task:(\d+)", message)
        named = {f"{job} {i}" for job, i in tasks} - {self.workers[self.own][0]}
        lost = [i for i, (name, _) in enumerate(self.workers) if name in named] or self.missing()
        what = (
            f"{self._names(lost)} is gone" if lost else f"no word from {self._names(self._others)}"
        )
        return ClusterError(
            f"{what}; the same command on every worker goes on from the last checkpoint"
        )

    @property
    def _others(self) -> list[int]:
        return [number for number in range(len(self.workers)) if number != self.own]

    def _silent(self, numbers: Iterable[int]) -> list[int]:
        return [number for number in numbers if not _answers(self.workers[number][1])]

    def _names(self, numbers: Iterable[int]) -> str:
        return ", ".join(map(self.name, numbers))


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True
