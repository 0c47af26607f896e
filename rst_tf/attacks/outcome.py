"""What a list of attacks left of a network, example by example."""

import dataclasses

import numpy as np

WRONG, ROBUST = -2, -1
DRAWS = 20
"""Calls of a randomised network whose mean counts, for gradients and for answers."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something noticed about a model or about its numbers.

    Attributes:
        check: Short name of the check: randomised, probabilities, zero gradient, ...
        level: error (the robust accuracy is not to be trusted), warning, or note.
        text: One line.
    """

    check: str
    level: str
    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """Attacks tried in order, each on the examples that withstood all before it.

    Attributes:
        attacks: Names in order, as in "apgd-ce".
        described: Each with all that differs from its defaults.
        broken_by: Per example, int [n]: -2 wrong without an attack, -1 robust, else the number of
            the attack that broke it first.
        labels: Predicted label of the image that is left, int [n].
        images: The image that broke an example, else the clean one, float32 [n, ...]; None if
            they were not kept.
        seconds: Wall time of each attack.
        passes: Of each attack over all examples, at most: passes forward alone, and passes
            forward and back.
        findings: What the checks noticed.
        largest: Largest perturbation among `images`, in the norm of the attacks.
        margins: Of the image that is left, the label's logit minus the highest other one, [n]: at
            most 0 where it is wrong, NaN where logits are not finite; of several networks, of the
            logarithms of their mean probabilities. None if not recorded.
    """

    attacks: tuple[str, ...]
    described: tuple[str, ...]
    broken_by: np.ndarray
    labels: np.ndarray
    images: np.ndarray | None
    seconds: tuple[float, ...]
    passes: tuple[tuple[int, int], ...]
    findings: tuple[Finding, ...] = ()
    largest: float = 0.0
    margins: np.ndarray | None = None

    @property
    def correct(self) -> np.ndarray:
        """Clean image classified right, bool [n]."""
        return self.broken_by != WRONG

    @property
    def robust(self) -> np.ndarray:
        """Withstood every attack, bool [n]."""
        return self.broken_by == ROBUST

    @property
    def accuracy(self) -> float:
        """Share of clean images classified right."""
        return float(self.correct.mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of images that withstood every attack."""
        return float(self.robust.mean())

    def after(self, attack: int) -> float:
        """Share of images that withstood the attacks up to this number, it included."""
        return float(((self.broken_by == ROBUST) | (self.broken_by > attack)).mean())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Errors and warnings as lines."""
        return tuple(f.text for f in self.findings if f.level != "note")
