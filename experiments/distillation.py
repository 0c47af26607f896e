"""Self-distillation as an option of every training: teachers are runs that are finished."""

import dataclasses
import hashlib
import json
from pathlib import Path

from experiments.finished import ticket_file
from rst_tf.distillation import Teachers
from rst_tf.ticket import Ticket


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Answers of finished networks, learned beside the labels (Chen et al. 2021).

    Args:
        teachers: Folders of finished runs, of which the best ticket of the last round is taken, or
            ticket files, on the same images; Chen et al. took one trained naturally and one
            trained on attacked images. Empty: no distillation.
        weight: Of the teachers in the loss, all together, in (0, 1]; the objective has the rest.
        temperature: What all logits are divided by, above 0; its square multiplies the teachers'
            part.
    """

    teachers: tuple[str, ...] = ()
    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self):
        Teachers([None], self.weight, self.temperature)  # a wrong number raises now
        for name in ("weight", "temperature"):
            value = getattr(self, name)
            if not self.teachers and value != getattr(Distillation, name):
                raise ValueError(f"{name} has no effect without teachers; received {name}={value}")

    def files(self) -> list[Path]:
        """The teachers' tickets.

        Raises:
            ValueError: There is none where a setting says.
        """
        return [ticket_file(source, "distillation.teachers") for source in self.teachers]

    def digests(self) -> list[str]:
        """SHA-256 of the teachers' tickets."""
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files()]

    def load(self, splits) -> Teachers | None:
        """The teachers of students on these images; None without any.

        Args:
            splits: `rst_tf.data.Splits`.

        Raises:
            ValueError: A teacher is missing, or made for other images or classes.
        """
        if not self.teachers:
            return None
        networks = [
            _network(source, file, splits)
            for source, file in zip(self.teachers, self.files(), strict=True)
        ]
        return Teachers(networks, self.weight, self.temperature)


def _network(source: str, file: Path, splits):
    network = Ticket.load(file).build()
    made_for = (tuple(network.input_shape[1:]), network.output_shape[-1])
    if made_for != (tuple(splits.shape), splits.classes):
        raise ValueError(
            f"distillation.teachers: {source} is made for images {made_for[0]} of {made_for[1]} "
            f"classes; the data have {tuple(splits.shape)} and {splits.classes}"
        )
    if _fingerprint(file) not in (None, splits.fingerprint):
        raise ValueError(
            f"distillation.teachers: {source} was trained on other images or another split of "
            "them, and may know those of validation"
        )
    network.trainable = False
    return network


def _fingerprint(file: Path) -> str | None:
    """Of the images of the run that a ticket lies in, if that can be told."""
    config = file.parent.parent / "config.json"
    try:
        return json.loads(config.read_text())["dataset"]["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
