"""Iterative pruning of adversarially trained networks (Frankle & Carbin 2019; Cosentino 2019)."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.experiment import EXPERIMENTS
from experiments.training import Session, Training
from rst_tf import masks
from rst_tf.initializers import initialize
from rst_tf.random import subseed
from rst_tf.schedules import steps_of
from rst_tf.ticket import Ticket


@EXPERIMENTS.register("iterative_pruning")
@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativePruning(Training):
    """Train, prune, rewind, train again: `rounds` times after the dense round.

    Args:
        rounds: Rounds of pruning after the dense one; 0 prunes nothing, 1 is one-shot.
        rate: Fraction of the surviving weights pruned each round, in [0, 1): one number, or one per
            layer for `allocation=layerwise`.
        density: Instead of `rate`: the fraction kept after the last round, reached by equal rates.
        criterion: Importance of a weight: magnitude or random.
        allocation: layerwise, each layer its own rate; global, one threshold for all; or
            global_floor, which leaves every layer a tenth of its share.
        count: How a fraction becomes a number of weights: nearest, rst, plus_one or floor.
        rewind: Weights at the start of a round: reset to those of `rewind_step`, reinit (drawn
            anew), or continued.
        rewind_step: With `rewind=reset`, the step of the dense round to go back to, in steps or
            epochs; 0 is the initial weights. `end` is the final weights, with every round of full
            length: what the code of the 2019 paper did, and the paper does not say.
        masks_from: Folder of a finished run whose masks are taken round by round in place of
            pruning; with `rewind=reinit` this is the control of Frankle & Carbin.
    """

    rounds: int = 5
    rate: tuple[float, ...] = (0.2,)
    density: float | None = None
    criterion: str = "magnitude"
    allocation: str = "layerwise"
    count: Literal["nearest", "rst", "plus_one", "floor"] = "nearest"
    rewind: Literal["reset", "reinit", "continued"] = "reset"
    rewind_step: int | str = dataclasses.field(
        default=0, metadata={"only_with": {"rewind": "reset"}}
    )
    masks_from: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.rounds < 0:
            raise ValueError(f"rounds must be at least 0; received rounds={self.rounds!r}")
        if self.rewind not in ("reset", "reinit", "continued"):
            raise ValueError(f"rewind must be reset, reinit or continued; received {self.rewind!r}")
        if self.rewind_step not in (0, "0") and self.rewind != "reset":
            raise ValueError(f"rewind_step has an effect only with rewind=reset, not {self.rewind}")
        if self.density is not None:
            masks.check_density(self.density)
            if self.rounds == 0:
                raise ValueError("density has no effect with rounds=0")
        for rate in self.rate:
            if not 0 <= rate < 1:
                raise ValueError(f"rate must be in [0, 1); received rate={self.rate!r}")
        if len(self.rate) > 1 and (self.allocation != "layerwise" or self.density is not None):
            raise ValueError(
                "rate takes one number per layer only with allocation=layerwise and no density; "
                f"received rate={self.rate}"
            )
        masks.CRITERIA[self.criterion]
        masks.ALLOCATIONS[self.allocation]

    def may_grow(self):
        """More rounds go on from the last, unless each one's density depends on their number."""
        return () if self.density is not None else ("rounds",)

    def plan(self, trials=1):
        """See `Training.plan`; with the weights that each round keeps."""
        from experiments._planning import plan

        session = Session(self, None)
        self._check_network(session)
        tickets = [Ticket.of(session.network)]
        for number in range(1, self.rounds + 1):
            tickets.append(self._masks(tickets[-1], number))
        return plan(session, tickets, trials)

    def run(self, workdir):
        """The rounds; each leaves the tickets `round_NN` and `round_NN_best`."""
        with Session(self, workdir, self.rounds) as session:
            self._check_network(session)
            step = self._rewind_step(session)
            if not session.workdir.ticket("initial").exists():
                initialize(session.network, self.seed, self.initializer)
                session.save_ticket("initial")
            for number in range(self.rounds + 1):
                if session.finished(number):
                    continue
                first = self._prepare(session, number, step)
                events = {step: lambda _: session.save_ticket("rewind")} if step else {}
                session.train(number, first, events if number == 0 else None)

    def _prepare(self, session: Session, number: int, step: int) -> int:
        """Masks and weights at the start of a round; gives the step that it starts from."""
        if number == 0:
            session.load_ticket("initial").apply(session.network, weights=True)
            return 0
        previous = session.load_ticket(f"round_{number - 1:02d}")
        if self.rewind == "reset":
            start = "round_00" if self.rewind_step == "end" else "rewind" if step else "initial"
            session.load_ticket(start).apply(session.network, weights=True)
        elif self.rewind == "reinit":
            seed, _ = subseed(self.seed, "reinit", number)
            initialize(session.network, seed, self.initializer)
        else:
            previous.apply(session.network, weights=True)
        self._masks(previous, number).apply(session.network)
        return step if self.rewind == "reset" else 0

    def _masks(self, previous: Ticket, number: int) -> Ticket:
        if self.masks_from is not None:
            return Ticket.load(self._foreign_ticket(number))
        rate = self.rate[0] if len(self.rate) == 1 else self.rate
        if self.density is not None:
            fraction = {"density": self.density ** (number / self.rounds)}
        else:
            fraction = {"rate": rate}
        return previous.prune(
            **fraction,
            criterion=self.criterion,
            allocation=self.allocation,
            count=self.count,
            seed=subseed(self.seed, "prune", number)[0],
        )

    def _rewind_step(self, session: Session) -> int:
        if self.rewind_step in (0, "0", "end"):
            return 0
        step = steps_of(self.rewind_step, session.steps_per_epoch, "rewind_step")
        if step >= session.total:
            raise ValueError(
                f"rewind_step must be below train_steps={session.total}; received {step}"
            )
        return step

    def _foreign_ticket(self, number: int) -> Path:
        return Path(self.masks_from) / "tickets" / f"round_{number:02d}.npz"

    def _check_network(self, session: Session) -> None:
        """What can be wrong only with this network, said before hours of training."""
        from rst_tf.traversal import masked_kernels

        layers = len(masked_kernels(session.network))
        if len(self.rate) not in (1, layers):
            raise ValueError(
                f"rate needs 1 number or {layers} (one per masked layer); received {self.rate}"
            )
        for number in range(1, self.rounds + 1) if self.masks_from else ():
            if not self._foreign_ticket(number).exists():
                raise ValueError(f"masks_from: there is no {self._foreign_ticket(number)}")
