"""A robustness report: what it holds, and its file."""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rst_tf.analysis.estimates import Interval, wilson
from rst_tf.attacks.outcome import Finding, Outcome
from rst_tf.files import write_bytes
from rst_tf.robustness import wording
from rst_tf.robustness.checked import Checked

SCHEMA = 1
_LEVELS = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """Losses on a grid around some points, for a picture; see `curves.LossSurface`.

    Attributes:
        offsets: Of rows and columns, in [0, 1] units, [grid].
        losses: [points, grid, grid]; rows go along the gradient.
    """

    offsets: np.ndarray
    losses: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class RobustnessReport:
    """What a list of attacks left of a network, and what is needed to judge and repeat it.

    `print(report)` shows its table; `verdict` is its one line.

    Attributes:
        name: Of the network.
        norm: Of the ball: linf or l2.
        epsilon: Radius of the ball, in [0, 1] units.
        version: Of the list of attacks: standard, plus, rand or custom.
        seed: Of the attacks.
        outcome: What the list did, example by example; without its images.
        more_seeds: Robust accuracy of the same list by other seeds; empty if none was tried.
        alone: By name of an attack that was tried on its own: which examples it left, bool [n].
        checks: What the battery came to; empty if it was not run.
        points: Numbers of the examples that the checks, the curve and the norms are of, [m].
        curve: Radii and the accuracy under APGD in a ball of each, two lists; None if not drawn.
        minimum_norms: At which FAB broke each of `points`, [m]: 0 where the clean image is wrong,
            infinite where nothing was found; None if not looked for.
        surface: Losses around some points; None if not looked at.
        model: Kind, weights, density and fingerprint of the network.
        data: Number, shape and fingerprint of the examples.
        machine: Versions and devices.
        facts: What the caller told: dataset, architecture, authors, ...
        deviations: How this departs from a standard evaluation, a line each.
        seconds: Wall time of everything.
        configurations: Of each attack, every setting, as plain values; empty if not recorded.
    """

    name: str
    norm: str
    epsilon: float
    version: str
    seed: int
    outcome: Outcome
    more_seeds: Mapping[str, float]
    alone: Mapping[str, np.ndarray]
    checks: tuple[Checked, ...]
    points: np.ndarray
    curve: tuple[list[float], list[float]] | None
    minimum_norms: np.ndarray | None
    surface: Surface | None
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    machine: Mapping[str, Any]
    facts: Mapping[str, Any]
    deviations: tuple[str, ...]
    seconds: float
    configurations: tuple[Mapping[str, Any], ...] = ()

    def __len__(self) -> int:
        return len(self.outcome.broken_by)

    def __str__(self) -> str:
        return wording.text(self)

    @property
    def accuracy(self) -> float:
        """Share of clean images classified right."""
        return self.outcome.accuracy

    @property
    def robust_accuracy(self) -> float:
        """Share that withstood every attack of the list: the worst case, example by example."""
        return self.outcome.robust_accuracy

    @property
    def interval(self) -> Interval:
        """95 % Wilson interval of the robust accuracy, for the finite number of examples."""
        return wilson(self.robust_accuracy, len(self))

    @property
    def best_known(self) -> float:
        """The lowest robust accuracy known: of the list and of what was tried alone, together."""
        held = self.outcome.robust.copy()
        for flags in self.alone.values():
            held &= flags
        return float(held.mean())

    @property
    def seed_spread(self) -> float | None:
        """Standard deviation of the robust accuracy over attack seeds; None of a single one."""
        if not self.more_seeds:
            return None
        return statistics.stdev([self.robust_accuracy, *self.more_seeds.values()])

    @property
    def median_norm(self) -> float | None:
        """Of the minimum norms; None if they were not looked for."""
        return None if self.minimum_norms is None else float(np.median(self.minimum_norms))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What checks noticed, errors first."""
        noticed = [
            Finding(check.check, check.level, check.text)
            for check in self.checks
            if check.level in ("warning", "error")
        ]
        return tuple(
            sorted([*self.outcome.findings, *noticed], key=lambda f: _LEVELS.index(f.level))
        )

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Those after which the robust accuracy is but an upper bound."""
        return tuple(f for f in self.findings if f.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Those to be explained beside the number."""
        return tuple(f for f in self.findings if f.level == "warning")

    @property
    def verdict(self) -> str:
        """One line: clean, robust, flags."""
        return wording.verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them; `of_dict` reads them back."""
        low, high = self.interval
        outcome, configurations = self.outcome, self.configurations
        return {
            "schema_version": SCHEMA,
            "name": self.name,
            "threat": {
                "norm": self.norm,
                "epsilon": self.epsilon,
                "box": [0.0, 1.0],
                "knowledge": "white box",
                "goal": "untargeted",
            },
            "version": self.version,
            "seed": self.seed,
            "summary": {
                "examples": len(self),
                "accuracy": self.accuracy,
                "robust_accuracy": self.robust_accuracy,
                "interval": [low, high],
                "best_known": self.best_known,
                "reliable": not self.errors,
                "verdict": self.verdict,
            },
            "attacks": [
                {
                    "name": name,
                    "settings": outcome.described[i],
                    **({"configuration": dict(configurations[i])} if configurations else {}),
                    "seconds": outcome.seconds[i],
                    "forward_passes": outcome.passes[i][0],
                    "gradient_passes": outcome.passes[i][1],
                    "broken": int((outcome.broken_by == i).sum()),
                    "left": outcome.after(i),
                }
                for i, name in enumerate(outcome.attacks)
            ],
            "largest": outcome.largest,
            "correct": outcome.correct.astype(int).tolist(),
            "broken_by": outcome.broken_by.tolist(),
            "labels": outcome.labels.tolist(),
            "margins": _with_nulls(outcome.margins),
            "more_seeds": dict(self.more_seeds),
            "alone": {name: flags.astype(int).tolist() for name, flags in self.alone.items()},
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "findings": [dataclasses.asdict(finding) for finding in outcome.findings],
            "points": self.points.tolist(),
            "curve": self.curve and {"epsilon": self.curve[0], "accuracy": self.curve[1]},
            "fab_norm": _with_nulls(self.minimum_norms),
            "surface": self.surface
            and {
                "offsets": self.surface.offsets.tolist(),
                "losses": _rounded(self.surface.losses),
            },
            "model": dict(self.model),
            "data": dict(self.data),
            "machine": dict(self.machine),
            "facts": dict(self.facts),
            "deviations": list(self.deviations),
            "seconds": self.seconds,
        }

    def robustbench(self) -> dict[str, Any]:
        """The entry of a RobustBench model file, with density and counts of weights added.

        Percentages are texts of two decimals and epsilon is text, as there; what the caller did
        not tell is empty.
        """
        told = {
            key: self.facts.get(key, "")
            for key in ("link", "authors", "dataset", "venue", "training", "mask_rule")
        }
        robust = f"{100 * self.robust_accuracy:.2f}"
        entry = {
            "link": told["link"],
            "name": self.name,
            "authors": told["authors"],
            "additional_data": bool(self.facts.get("additional_data", False)),
            "number_forward_passes": int(self.facts.get("number_forward_passes", 1)),
            "dataset": told["dataset"],
            "venue": told["venue"],
            "architecture": wording.architecture(self),
            "eps": wording.radius(self.epsilon),
            "clean_acc": f"{100 * self.accuracy:.2f}",
            "reported": str(self.facts.get("reported", robust)),
            "autoattack_acc": robust,
            "unreliable": bool(self.errors),
            "norm": self.norm,
            "n_examples": len(self),
            "version": self.version,
            "density": self.facts.get("density", self.model.get("density")),
            "params_total": self.model.get("parameters"),
            "params_nonzero": self.model.get("nonzero"),
            "mask_rule": told["mask_rule"],
            "training": told["training"],
            "training_seeds": list(self.facts.get("training_seeds", ())),
            "fingerprint": self.model.get("fingerprint"),
        }
        if self.best_known < self.robust_accuracy:
            entry["external"] = f"{100 * self.best_known:.2f}"
        return entry

    def save(self, path: str | Path) -> None:
        """Writes it as JSON."""
        text = json.dumps(self.to_dict(), allow_nan=False, separators=(",", ":"))
        write_bytes(path, text.encode() + b"\n")

    def save_robustbench(self, path: str | Path) -> None:
        """Writes the entry of `robustbench` as JSON."""
        text = json.dumps(self.robustbench(), allow_nan=False, indent=2)
        write_bytes(path, text.encode() + b"\n")

    @staticmethod
    def load(path: str | Path) -> "RobustnessReport":
        """Reads what `save` wrote.

        Raises:
            ValueError: It is not that, or what it says does not fit together.
        """
        from rst_tf.robustness.reading import of_file

        return of_file(path)

    def save_html(self, path: str | Path) -> None:
        """Writes it as one self-contained page."""
        from rst_tf.robustness.page import html

        write_bytes(path, html(self).encode())


def _with_nulls(values: np.ndarray | None) -> list[float | None] | None:
    """Numbers as JSON has them, float32 in as few digits as tell it apart."""
    if values is None:
        return None
    return [float(str(v)) if math.isfinite(v) else None for v in values]


def _rounded(values: np.ndarray) -> Sequence:
    return [[[float(f"{v:.5g}") for v in row] for row in grid] for grid in values.tolist()]
