"""A robustness report on a network that is there: of a run, a file, the zoo, or a random switch."""

import contextlib
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Literal

from experiments.experiment import EXPERIMENTS, Experiment
from experiments.finished import ticket_file
from experiments.workdir import Workdir
from rst_tf.attacks.autoattack import AutoAttack, Version
from rst_tf.data import Data
from rst_tf.registry import from_dict, to_dict


@EXPERIMENTS.register("evaluation")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Experiment):
    """A network under AutoAttack, with checks for masked gradients.

    Leaves report.json, report.html and robustbench.json, an entry as RobustBench has them;
    `run_analysis.py --leaderboard` collects reports.

    Args:
        source: What is attacked: folder of a finished run (its best ticket of the last round), a
            ticket file, a `.keras` file, a SavedModel's folder, or `zoo:NAME`. Several tickets of
            one initialisation are a random switch, and want `version=rand`.
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        version: AutoAttack's list: standard, plus, rand (for randomised models) or custom.
        attacks: A custom list, as `apgd-ce,pgd:steps=100:restarts=5,square`.
        data: Images, of which the test split is used; none takes those of the run or of the zoo.
        limit: So many test images, a fixed stratified draw; none takes all.
        battery: Also look for signs of masked gradients, which takes about as long again.
        alone: Also try every attack of the list on all images, on its own.
        more_seeds: Run the list by these attack seeds too, to tell how much chance is in the
            number, which remains that of `seed`.
        twin: Undefended network for the check of transferred attacks, named as `source`.
        name: What tables call it; empty takes it from the source.
        batch_size: Images at a time.
        seed: Of the attacks.
    """

    source: tuple[str, ...]
    epsilon: float
    norm: Literal["linf", "l2"] = "linf"
    version: Version = "standard"
    attacks: tuple[str, ...] = ()
    data: Data | None = None
    limit: int | None = 1000
    battery: bool = True
    alone: bool = False
    more_seeds: tuple[int, ...] = ()
    twin: str | None = None
    name: str = ""
    batch_size: int = 250
    seed: int = 0

    def __post_init__(self):
        if not self.source:
            raise ValueError("source must name a network; received none")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; received {self.batch_size!r}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1; received {self.limit!r}")
        if len({self.seed, *self.more_seeds}) <= len(self.more_seeds):
            raise ValueError(
                "more_seeds must differ from each other and from seed; received "
                f"more_seeds={self.more_seeds}, seed={self.seed}"
            )
        AutoAttack(self.epsilon, self.norm, self.version, self.attacks)

    def run(self, workdir):
        """Attacks, unless the report is there; prints it."""
        from rst_tf.robustness.report import RobustnessReport, report

        model = network_of(self.source)
        data = self.data or data_of(self.source[0])
        splits = data.load()
        test = splits.test.limited(self.limit)
        dataset = {"fingerprint": splits.fingerprint, "test_examples": len(test)}
        with contextlib.closing(Workdir(workdir, self._as_in(workdir), dataset)) as claimed:
            file, entry = claimed.path / "report.json", claimed.path / "robustbench.json"
            if file.exists():
                made = RobustnessReport.load(file)
            else:
                x, y = test.arrays()
                print(f"{workdir}: {len(x):,} images, epsilon {self.epsilon:.4g}", file=sys.stderr)
                made = report(
                    model,
                    x,
                    y,
                    self.epsilon,
                    self.norm,
                    version=self.version,
                    attacks=self.attacks,
                    battery=self.battery,
                    alone=self.alone,
                    more_seeds=self.more_seeds,
                    twin=self.twin and network_of((self.twin,)),
                    seed=self.seed,
                    batch_size=self.batch_size,
                    index=test.index,
                    name=self.name or self._title(),
                    dataset=data.source,
                    subset=self._subset(len(splits.test)),
                    facts=facts_of(self.source),
                    state=claimed.path / "state.npz",
                )
                made.save_html(claimed.path / "report.html")
                made.save(file)
                (claimed.path / "state.npz").unlink(missing_ok=True)
            if not entry.exists():
                made.save_robustbench(entry)
            print(made)
            print(f"\nWritten to {claimed.path}: report.json, report.html and robustbench.json")

    def _as_in(self, workdir) -> dict[str, Any]:
        """The settings as a folder has them that another version made with the same ones."""
        try:
            there = json.loads(Path(workdir, "config.json").read_text())["experiment"]
            return there if from_dict(Evaluation, there) == self else to_dict(self)
        except (OSError, ValueError, LookupError, TypeError):
            return to_dict(self)

    def _subset(self, count: int) -> dict[str, Any]:
        """How the images were chosen among those of the test split."""
        if self.limit is None:
            return {"split": "test", "of": count, "rule": "all"}
        drawn = {"limit": self.limit, "rule": "stratified", "seed": 0}
        return {"split": "test", "of": count, **drawn}

    def plan(self, trials: int = 1) -> str:
        """What a run would take if every image withstood everything, from passes measured now."""
        from experiments._planning import duration

        model = network_of(self.source)
        test = (self.data or data_of(self.source[0])).load().test.limited(self.limit)
        auto = AutoAttack(self.epsilon, self.norm, self.version, self.attacks)
        x, y = test.arrays(min(self.batch_size, len(test)))
        attacker = auto.against(model, x)
        costs = [(a.trials * f, a.trials * g) for a, (f, g) in attacker.passes()]
        forward, back = _seconds_of_passes(attacker.climbed, x, y)
        forwards, gradients = (sum(column) * trials for column in zip(*costs, strict=True))
        batches = math.ceil(len(test) / self.batch_size)
        times = 1 + len(self.more_seeds) + self.alone
        seconds = times * batches * (forwards * forward + gradients * back)
        names = zip(auto.titles(), costs, strict=True)
        listed = ", ".join(f"{name} {f:,} + {g:,}" for name, (f, g) in names)
        return (
            f"images    {len(test):,}, {batches} batches of up to {self.batch_size}\n"
            f"passes    an image, forward + forward and back: {listed}\n"
            f"time      {duration(seconds)} at most: {1000 * forward:.1f} ms forward, "
            f"{1000 * back:.1f} ms forward and back a batch"
            + (f"; the list {times} times" if times > 1 else "")
            + ("; the checks take about as long again" if self.battery else "")
        )

    def _title(self) -> str:
        names = [_name_of(source) for source in self.source]
        return names[0] if len(names) == 1 else f"switch of {len(names)}"


def _name_of(source: str) -> str:
    """What tables call a network: its entry, its file, or the run whose ticket it is."""
    if source.startswith("zoo:"):
        return source.removeprefix("zoo:")
    path = Path(source)
    if path.suffix not in (".npz", ".keras"):
        return path.name
    if path.stem != "ticket" and not path.stem.startswith("round_"):
        return path.stem
    run = path.parent.parent if path.parent.name == "tickets" else path.parent
    return "/".join((run.parent.name, run.name)) if run.name.startswith("seed_") else run.name


def _seconds_of_passes(logits, x, y) -> tuple[float, float]:
    """Of a batch: a pass forward, and one forward and back to the images."""
    import tensorflow as tf

    from rst_tf.attacks._losses import cross_entropy, value_and_gradient

    forward = tf.function(lambda images: logits(images))
    back = tf.function(
        lambda images, labels: value_and_gradient(
            logits, lambda z: cross_entropy(z, labels), images
        )[1]
    )
    images, labels = tf.constant(x), tf.constant(y, tf.int32)
    return _best_of(lambda: forward(images)), _best_of(lambda: back(images, labels))


def _best_of(work, repeats: int = 5) -> float:
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def network_of(source: tuple[str, ...]):
    """The Keras model, or loaded SavedModel, that is meant.

    Raises:
        ValueError: There is none; or several that are not tickets of one initialisation.
    """
    from rst_tf import zoo
    from rst_tf.attacks.attacked import load
    from rst_tf.switch import Switch
    from rst_tf.ticket import Ticket

    if len(source) > 1:
        tickets = [Ticket.load(ticket_file(one, "source")) for one in source]
        return Switch(tickets[0].build(), tickets, per="example")
    (one,) = source
    if one.startswith("zoo:"):
        return zoo.load(one.removeprefix("zoo:")).network()
    if _is_model(one):
        return load(Path(one))
    return Ticket.load(ticket_file(one, "source")).build()


def _is_model(source: str) -> bool:
    """Whether a source is a Keras file or a SavedModel, not a ticket."""
    path = Path(source)
    return path.suffix == ".keras" or (path / "saved_model.pb").exists()


def facts_of(source: tuple[str, ...]) -> dict[str, Any]:
    """What is known of the making of a network, for a report: architecture, training, ...

    It is told by the ticket, by the card of the zoo, or by the config.json of the run that a file
    lies in. Of several tickets it is what they have in common, and the seeds of all.
    """
    each = [_facts_of(one) for one in source]
    if len(each) == 1:
        return each[0]
    found = {k: v for k, v in each[0].items() if all(facts.get(k) == v for facts in each)}
    found.pop("density", None)  # of a ticket, not of what is drawn from all
    if "architecture" in found:
        found["architecture"] += f", {len(each)} tickets"
    seeds = [seed for facts in each for seed in facts.get("training_seeds", ())]
    return found | ({"training_seeds": sorted(set(seeds))} if seeds else {})


def _facts_of(source: str) -> dict[str, Any]:
    from rst_tf import zoo
    from rst_tf.models.architecture import Architecture
    from rst_tf.robustness import facts
    from rst_tf.ticket import Ticket

    if source.startswith("zoo:"):
        entry = zoo.load(source.removeprefix("zoo:"))
        found, ticket = facts.of_training(entry.card.experiment), entry.ticket
    else:
        found = facts.of_training(_experiment_beside(Path(source)) or {})
        ticket = None if _is_model(source) else Ticket.load(ticket_file(source, "source"))
    if ticket is not None:
        found["density"] = ticket.density
        described = (ticket.network or {}).get("architecture")
        if described:
            found["architecture"] = facts.in_words(Architecture, described)
    return found


def data_of(source: str) -> Data:
    """The data of the run, or of the entry of the zoo, that a network is from.

    Raises:
        ValueError: That cannot be told, or they are not here.
    """
    from rst_tf import zoo

    if source.startswith("zoo:"):
        data = from_dict(Data, zoo.load(source.removeprefix("zoo:")).card.experiment["data"])
    else:
        data = _data_beside(Path(source))
    kind, _, place = data.source.partition(":")
    if kind in ("npz", "folder") and not Path(place).exists():
        raise ValueError(
            f"data must be given: {source!r} was trained on {data.source}, which is not here "
            "(--data=mnist takes TensorFlow Datasets)"
        )
    return data


def _data_beside(path: Path) -> Data:
    experiment = _experiment_beside(path)
    if experiment is None:
        raise ValueError(f"data must be given: it is not told beside {str(path)!r} what they were")
    return from_dict(Data, experiment["data"])


def _experiment_beside(path: Path) -> dict[str, Any] | None:
    """The configuration of the run that a file or a folder is of, if it tells its data."""
    for folder in (path, path.parent, path.parent.parent):
        try:
            experiment = json.loads((folder / "config.json").read_text())["experiment"]
            from_dict(Data, experiment["data"])
        except (OSError, ValueError, LookupError, TypeError):
            continue
        return experiment
    return None
