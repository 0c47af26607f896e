"""The entries of the zoo: `NAME.npz`, a ticket, and `NAME.json`, its card."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rst_tf.registry import from_dict, unknown
from rst_tf.ticket import Ticket

ENTRIES = Path(__file__).parent / "entries"


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of a ticket of the zoo.

    Args:
        name: Of the entry.
        experiment: The run's whole configuration, as plain values.
        dataset: Fingerprint, shape, classes and numbers of examples of its data.
        command: The command that trained it.
        round: Round of the run.
        step: Its first step with the highest validation measure, where the ticket was taken.
        density: Fraction of the masked weights kept, in (0, 1].
        kept: Number of weights kept.
        attack: Configuration of the attack of the robust numbers, as plain values, or None.
        attack_words: The same in words.
        seed: Keys the attack's random starts.
        test_examples: Number of test images behind the next two.
        accuracy: Fraction of them classified right, in [0, 1].
        robust_accuracy: Fraction classified right under the attack, or None.
        valid_accuracy: As `accuracy`, on the validation images that chose the step.
        valid_robust_accuracy: As `robust_accuracy`, on those.
        bytes: Size of the ticket's file.
        sha256: Of the ticket's file.
    """

    name: str
    experiment: Mapping[str, Any]
    dataset: Mapping[str, Any]
    command: str
    round: int
    step: int
    density: float
    kept: int
    attack: Mapping[str, Any] | None
    attack_words: str | None
    seed: int
    test_examples: int
    accuracy: float
    robust_accuracy: float | None
    valid_accuracy: float
    valid_robust_accuracy: float | None
    bytes: int
    sha256: str

    def __str__(self) -> str:
        """A few lines: what it is and how robust."""
        robust = ""
        if self.attack is not None:
            robust = f", {self.robust_accuracy:.2%} under {self.attack_words}"
        return "\n".join(
            (
                f"{self.name}: {self.experiment['network']['name']} on "
                f"{self.experiment['data']['source']} by {self.experiment['name']}",
                f"  density {self.density:.4g}, {self.kept:,} weights kept, {self.bytes:,} bytes",
                f"  {self.test_examples:,} test images: {self.accuracy:.2%} clean{robust}",
                f"  {self.command}",
            )
        )


class Images(NamedTuple):
    """Test images of an entry.

    Args:
        x: Images [n, ...] in [0, 1].
        y: Integer labels [n].
        index: Identities of the examples, [n].
        of_the_card: Whether they are those that the card's numbers are about.
    """

    x: np.ndarray
    y: np.ndarray
    index: np.ndarray
    of_the_card: bool


@dataclasses.dataclass(frozen=True, eq=False)
class ZooEntry:
    """A ticket of the zoo.

    Args:
        card: What is known of it.
        path: The ticket's file.
    """

    card: Card
    path: Path

    @functools.cached_property
    def ticket(self) -> Ticket:
        """The ticket.

        Raises:
            ValueError: The file is not the one that the card describes, or is damaged.
        """
        if hashlib.sha256(self.path.read_bytes()).hexdigest() != self.card.sha256:
            raise ValueError(f"{self.path} is not the file of the card of {self.card.name!r}")
        return Ticket.load(self.path)

    @property
    def attack(self):
        """The attack of the card's robust numbers, or None."""
        from rst_tf.attacks import Attack

        return self.card.attack and from_dict(Attack, self.card.attack)

    def network(self):
        """The Keras model of logits, built, with weights and masks in place."""
        return self.ticket.build()

    def images(self, data: str | None = None) -> Images:
        """Images to test on, divided and limited as those behind the card's numbers.

        Args:
            data: Where to read them, as `Data.source`: `npz:PATH`, a name of TensorFlow Datasets,
                ...; the card's own source if not given, and then they must be the card's images.

        Raises:
            ValueError: The data are not here, do not fit the network, or, without `data`, are not
                what the run was tested on.
        """
        from rst_tf.data import Data

        card, own = self.card, from_dict(Data, self.card.experiment["data"])
        if data is None:
            _is_here(own.source, card.name)
        source = own.source if data is None else data
        splits = _read(dataclasses.replace(own, source=source))
        if splits.shape != (shape := tuple(card.dataset["shape"])):
            raise ValueError(
                f"data must be images of shape {shape}, as {card.name!r} takes; received "
                f"{splits.shape} from {source}"
            )
        same = splits.fingerprint == card.dataset["fingerprint"]
        if not same and data is None:
            raise ValueError(
                f"{source} is not the data of {card.name!r}; its fingerprint is "
                f"{splits.fingerprint}; --data={source} evaluates it all the same"
            )
        test = splits.test.limited(min(card.test_examples, len(splits.test)))
        return Images(*test.arrays(), test.index, same)

    def test_images(self, data: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images in [0, 1], labels and identities; see `images`."""
        return self.images(data)[:3]

    def evaluate(self, x=None, y=None, index=None, *, data: str | None = None):
        """Clean and robust accuracy under the card's attack; an `Evaluation`.

        Args:
            x: Images [n, ...] in [0, 1]; the card's test images if not given.
            y: Integer labels [n].
            index: Identities of the examples, [n], which key the attack's random starts; 0..n-1
                if not given.
            data: Where to read images instead; see `images`.

        Raises:
            ValueError: Only one of x and y was given, or data beside them; see also `images` and
                `Evaluator`.
        """
        from rst_tf.evaluation import Evaluator

        if (x is None) != (y is None):
            raise ValueError(f"give both x and y, or none; received {'y' if x is None else 'x'}")
        if x is not None and data is not None:
            raise ValueError(f"give x and y, or data; received both, data={data!r}")
        images = self.test_images(data) if x is None else (x, y, index)
        return Evaluator(self.network(), self.attack, seed=self.card.seed)(*images)


def _read(data):
    """The splits of a `Data`; all training images where there are fewer than its limit."""
    splits = dataclasses.replace(data, train_limit=None).load()
    if data.train_limit is None or data.train_limit > len(splits.train):
        return splits
    return dataclasses.replace(
        splits, train=splits.train.limited(data.train_limit, data.split_seed)
    )


def _is_here(source: str, name: str) -> None:
    kind, _, place = source.partition(":")
    if kind in ("npz", "folder") and not Path(place).expanduser().exists():
        raise ValueError(
            f"data must be given: {name!r} was tested on {source}, which is not here "
            "(--data=npz:PATH reads it elsewhere, --data=NAME takes TensorFlow Datasets)"
        )


def names(folder: Path = ENTRIES) -> list[str]:
    """The names of all entries."""
    return sorted(path.stem for path in folder.glob("*.json"))


def load(name: str, folder: Path = ENTRIES) -> ZooEntry:
    """Opens an entry: `load(name).network()`, `.ticket`, `.card`, `.evaluate(x, y)`.

    Raises:
        ValueError: There is no such entry, or its card is damaged.
    """
    known = names(folder)
    if name not in known:
        raise ValueError(unknown("zoo entry", name, known))
    path = folder / f"{name}.json"
    try:
        card = Card(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no card of the zoo: {error}") from error
    return ZooEntry(card, folder / f"{name}.npz")


def evaluate(name: str, x=None, y=None, *, data: str | None = None):
    """Clean and robust accuracy of an entry under its card's attack; see `ZooEntry.evaluate`."""
    return load(name).evaluate(x, y, data=data)
