"""What every experiment is: a configuration that runs in a folder."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from rst_tf.registry import Registry, choices


class RunError(RuntimeError):
    """A run that cannot go on; its message is one line for the user."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A method with all its settings; the fields are its flags.

    `read` gives the experiment that flags over presets describe, for one that starts others; it is
    None unless a program knows how.
    """

    read: ClassVar[Callable[[Sequence[str]], "Experiment"] | None] = None

    def run(self, workdir: Path) -> None:
        """Runs in `workdir`; what is already finished there is skipped.

        Raises:
            RunError: The folder belongs to another configuration, or the run cannot go on.
        """
        raise NotImplementedError


EXPERIMENTS = choices(Experiment, Registry("experiment", "experiments"))
