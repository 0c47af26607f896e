"""Two networks on the same images under the same attacks: who is right where, and is it chance?"""

import dataclasses
import math
from typing import Any

from rst_tf.analysis import printing
from rst_tf.analysis.estimates import NORMAL_95, Interval, mcnemar
from rst_tf.robustness import wording
from rst_tf.robustness.record import RobustnessReport


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two reports, paired image by image.

    Attributes:
        names: Of the networks.
        threat: The ball.
        attacks: The list.
        examples: Number of images.
        both: Images that both networks withstand.
        only_first: Images that only the first does.
        only_second: Images that only the second does.
        clean: The difference of clean accuracies.
        unreliable: Names of networks whose number is but an upper bound.
        same_list: Whether both met the same list of attacks and the same seed.
    """

    names: tuple[str, str]
    threat: str
    attacks: str
    examples: int
    both: int
    only_first: int
    only_second: int
    clean: float
    unreliable: tuple[str, ...]
    same_list: bool

    @property
    def difference(self) -> float:
        """Robust accuracy of the first minus that of the second."""
        return (self.only_first - self.only_second) / self.examples

    @property
    def interval(self) -> Interval:
        """95 % interval of the difference, by the images on which exactly one is right.

        (b - c)/n +- 1.96 sqrt(b + c - (b - c)^2 / n) / n (Wald's, for paired fractions).
        """
        b, c, n = self.only_first, self.only_second, self.examples
        half = NORMAL_95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
        return self.difference - half, self.difference + half

    @property
    def p_value(self) -> float:
        """Of the exact McNemar test that both are right equally often."""
        return mcnemar(self.only_first, self.only_second)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **dataclasses.asdict(self),
            "difference": self.difference,
            "interval": list(self.interval),
            "p_value": self.p_value,
        }

    def __str__(self) -> str:
        return printing.text(self.columns(), self.notes())

    def columns(self) -> list[printing.Column]:
        """A line per network, the difference below."""
        total = self.examples
        held = [self.both + self.only_first, self.both + self.only_second]
        shares = [f"{100 * count / total:.1f}" for count in held]
        alone = [str(self.only_first), str(self.only_second), ""]
        low, high = (f"{100 * value:+.1f}" for value in self.interval)
        return [
            printing.Column("", "network", (*self.names, "difference")),
            printing.Column("", "robust accuracy", (*shares, f"{100 * self.difference:+.1f}")),
            printing.Column("", "only this", tuple(alone)),
            printing.Column("", "95 % interval", ("", "", f"{low} to {high}")),
            printing.Column("", "McNemar p", ("", "", f"{self.p_value:.2g}")),
        ]

    def notes(self) -> list[str]:
        """What a reader must know."""
        said = [
            f"{self.attacks} on the same {self.examples:,} images; {self.threat}. Clean accuracy "
            f"differs by {100 * self.clean:+.1f} points.",
            "One training of each: the spread over training seeds is not in this interval.",
        ]
        if not self.same_list:
            said.append("The two met different lists of attacks, or the same with other seeds.")
        for name in self.unreliable:
            said.append(f"Of {name} the number is an upper bound, unreliable: see its report.")
        return said


def compare(first: RobustnessReport, second: RobustnessReport) -> Comparison:
    """Compares two networks on the images that both reports are of.

    Raises:
        ValueError: The reports are of other images, of another norm or epsilon.
    """
    for what in ("norm", "epsilon"):
        here, there = getattr(first, what), getattr(second, what)
        if here != there:
            raise ValueError(f"{what} must be equal in both reports; received {here} and {there}")
    if first.data["fingerprint"] != second.data["fingerprint"]:
        raise ValueError(
            "reports must be of the same images in the same order; received "
            f"{first.data['count']} with fingerprint {first.data['fingerprint'][:12]} and "
            f"{second.data['count']} with {second.data['fingerprint'][:12]}"
        )
    a, b = first.outcome.robust, second.outcome.robust
    same = (first.outcome.described, first.seed) == (second.outcome.described, second.seed)
    return Comparison(
        (first.name, second.name),
        wording.ball(first.norm, first.epsilon),
        wording.listed(first),
        len(first),
        int((a & b).sum()),
        int((a & ~b).sum()),
        int((b & ~a).sum()),
        first.accuracy - second.accuracy,
        tuple(report.name for report in (first, second) if report.errors),
        same,
    )
