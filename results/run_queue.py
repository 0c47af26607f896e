"""Continues whatever long runs of results/queue.yaml are unfinished, in order.

python results/run_queue.py              runs what is left
python results/run_queue.py --dry_run    says what is left
python results/run_queue.py --jobs=2     two runs at a time, each on one thread

Every run is resumable, so the command may die at any time; the same command goes on. What a page
needs of a finished run (config.json, results.csv, correct/, timing.csv, and its best ticket where
the page says `tickets: true`) is copied into results/: commit it, and the run is not needed any
more.
"""

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from absl import app, flags

HERE = Path(__file__).resolve().parent
DRY = flags.DEFINE_bool("dry_run", False, "Only say what is left.")
JOBS = flags.DEFINE_integer(
    "jobs", 1, "Runs at a time; more than one gives each a single thread.", 1
)
ONLY = flags.DEFINE_string("only", "", "Only runs whose page/name/seed contains this text.")

KEPT = ("config.json", "results.csv", "timing.csv", "correct")
KEPT += ("report.json", "robustbench.json", "costs.json", "topology.jsonl", "early_bird.jsonl")
KEPT += ("transfer.csv", "switch.csv", "transfer.json", "transfer.png")


@dataclasses.dataclass(frozen=True)
class Run:
    """One command of the queue.

    Args:
        page: Folder of results/ that it belongs to.
        name: Its name there.
        seed: Its seed.
        arguments: Command line of run_experiments.py without seed and workdir; `{seed}` in it is
            the seed.
        tickets: Keep the best ticket of its last round.
    """

    page: str
    name: str
    seed: int
    arguments: tuple[str, ...]
    tickets: bool = False

    @property
    def title(self) -> str:
        """How status lines call it."""
        return f"{self.page}/{self.name}/seed_{self.seed}"

    @property
    def workdir(self) -> Path:
        """Where it runs."""
        return Path("runs", "queue", self.page, self.name, f"seed_{self.seed}")

    @property
    def result(self) -> Path:
        """What is kept of it."""
        return HERE / self.page / "runs" / self.name / f"seed_{self.seed}"

    @property
    def marker(self) -> Path:
        """Holds the command lines that were finished, one per line."""
        return self.result / "finished.txt"

    def done(self) -> bool:
        """Whether this very command line has finished, here or in an earlier checkout."""
        lines = self.marker.read_text().splitlines() if self.marker.exists() else []
        return shlex.join(self.arguments) in lines

    def work(self, threads: int | None) -> bool:
        """Runs it to its end; False if it failed."""
        workdir = [f"--seed={self.seed}", f"--workdir={self.workdir}"]
        arguments = [word.replace("{seed}", str(self.seed)) for word in self.arguments]
        command = [sys.executable, "run_experiments.py", *arguments, *workdir]
        environment = dict(os.environ)
        if threads:
            environment |= {"TF_NUM_INTRAOP_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        self.workdir.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        _say(f"{self.title}: started")
        with (self.workdir / "log").open("a") as log:
            code = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
        minutes = (time.monotonic() - started) / 60
        if code:
            _say(f"{self.title}: stopped with exit code {code}; see {self.workdir / 'log'}")
            return False
        self.keep()
        _say(f"{self.title}: finished after {minutes:.1f} minutes")
        return True

    def keep(self) -> None:
        """Copies what a page needs."""
        self.result.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            source = self.workdir / name
            if source.is_dir():
                shutil.copytree(source, self.result / name, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy2(source, self.result / name)
        for ticket in sorted(self.workdir.glob("tickets/round_*_best.npz"))[-1:]:
            if self.tickets:
                shutil.copy2(ticket, self.result / "ticket.npz")
        with self.marker.open("a") as marker:
            marker.write(shlex.join(self.arguments) + "\n")


class Folder:
    """What works in one folder does so one after the other, and not after a failure."""

    def __init__(self):
        self._lock, self._sound = threading.Lock(), True

    def work(self, run: Run, threads: int | None) -> bool:
        """Runs it, unless something failed in this folder before."""
        with self._lock:
            self._sound = self._sound and run.work(threads)
            return self._sound


def read(path: Path) -> list[Run]:
    """The runs of a queue file: seed 1 of everything before seed 2, then what comes later."""
    queue = yaml.safe_load(path.read_text())
    first = [run for seed in queue["seeds"] for run in _runs(queue, "runs", seed)]
    later = [run for seed in queue["seeds"] for run in _runs(queue, "later", seed)]
    return [*first, *later]


def _runs(queue: dict, section: str, seed: int) -> list[Run]:
    found = []
    for page, content in queue["pages"].items():
        for entry in content.get(section, ()):
            if seed in entry.get("seeds", queue["seeds"]):
                parts = [
                    content.get("common", "") if entry.get("common", True) else "",
                    content["variants"].get(entry.get("variant"), ""),
                    entry["flags"],
                ]
                tickets = content.get("tickets", False)
                found.append(Run(page, entry["name"], seed, _overridden(parts), tickets))
    return found


def _overridden(parts: list[str]) -> tuple[str, ...]:
    """The flags of all parts; what a later part sets is left out of the earlier ones."""
    words: list[str] = []
    for part in parts:
        own = shlex.split(part)
        names = {word.partition("=")[0] for word in own}
        words = [word for word in words if word.partition("=")[0] not in names] + own
    return tuple(words)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M')} {text}", flush=True)


def main(argv: list[str]) -> None:
    """Runs what is left, JOBS at a time; runs in one folder wait for each other."""
    if argv[1:]:
        sys.exit(f"run_queue: error: unexpected argument {argv[1]!r}")
    os.chdir(HERE.parent)
    runs = [run for run in read(HERE / "queue.yaml") if ONLY.value in run.title]
    for run in runs:
        print(f"{'done' if run.done() else 'left':5} {run.title} {shlex.join(run.arguments[-3:])}")
    if DRY.value:
        return
    left = [run for run in runs if not run.done()]
    folders = {run.workdir: Folder() for run in left}
    threads = 1 if JOBS.value > 1 else None
    with ThreadPoolExecutor(JOBS.value) as pool:
        results = list(pool.map(lambda run: folders[run.workdir].work(run, threads), left))
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    app.run(main)
