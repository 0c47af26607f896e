"""AutoAttack (Croce and Hein 2020): a fixed list of attacks without anything to tune."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from rst_tf.attacks.attack import Attack, Norm, check_examples
from rst_tf.attacks.named import VERSIONS, name_of, named
from rst_tf.attacks.outcome import Outcome

Version = Literal["standard", "plus", "rand", "custom"]


@dataclasses.dataclass(frozen=True)
class AutoAttack:
    """Attacks in order, each on the images that withstood those before.

    ```python
    outcome = rst.AutoAttack(epsilon=8 / 255).run(model, x, y)
    print(outcome.robust_accuracy, outcome.warnings)
    ```

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        version: standard (APGD on cross-entropy, targeted APGD, targeted FAB, Square), plus (more
            restarts and untargeted ones too), rand (for randomised models: two APGD whose
            gradients are means of 20), or custom.
        attacks: The list of a custom version: names as `apgd-ce` or `pgd:steps=100:restarts=5`, or
            `Attack` objects of the same epsilon and norm.
    """

    epsilon: float
    norm: Norm = "linf"
    version: Version = "standard"
    attacks: tuple[str | Attack, ...] = ()

    def __post_init__(self):
        Attack(self.epsilon, self.norm)  # refuses what no attack takes
        if self.version not in (*VERSIONS, "custom"):
            known = ", ".join([*VERSIONS, "custom"])
            raise ValueError(f"version must be one of {known}; received {self.version!r}")
        if (self.version == "custom") != bool(self.attacks):
            raise ValueError(
                "attacks belong to version='custom', which needs some; received "
                f"version={self.version!r}, attacks={self.attacks!r}"
            )
        self.listed()

    def listed(self) -> tuple[Attack, ...]:
        """The attacks in order, for a network of 10 or more classes."""
        texts = self.attacks or VERSIONS[self.version]
        return tuple(self._one(item) for item in texts)

    def _one(self, item) -> Attack:
        if isinstance(item, str):
            try:
                return named(item, self.epsilon, self.norm)
            except ValueError as error:
                raise ValueError(f"attacks holds {item!r}: {error}") from error
        if not isinstance(item, Attack):
            raise ValueError(f"attacks must be names or Attack objects; received {item!r}")
        if (item.epsilon, item.norm) != (self.epsilon, self.norm):
            raise ValueError(
                f"attacks must have epsilon={self.epsilon!r} and norm={self.norm!r}, for one "
                f"robust accuracy is of one ball; received {item}, norm={item.norm!r}"
            )
        return item

    def run(
        self,
        model,
        x,
        y,
        *,
        seed: int = 0,
        batch_size: int = 250,
        index=None,
        state: str | Path | None = None,
        progress: Callable[[str], None] | bool = True,
        images: bool = True,
    ) -> Outcome:
        """Attacks a model.

        All randomness is a function of (seed, index, attack, try), so neither the order of the
        images nor the batch size changes a result beyond rounding.

        Args:
            model: Keras model, loaded SavedModel, callable from images to logits, or the path of a
                `.keras` file or a SavedModel's folder; or what `against` gave.
            x: Images [n, ...] in [0, 1].
            y: Integer labels [n], or one-hot [n, classes].
            seed: Integer.
            batch_size: Images attacked at a time.
            index: Identities of the examples, distinct integers [n]; 0..n-1 if not given.
            state: File that keeps what is done; an interrupted run goes on from it.
            progress: True shows it on stderr; or what takes its lines.
            images: Keep the images that broke the model.

        Raises:
            ValueError: Images outside [0, 1], wrong labels, logits that are not finite on clean
                images; the state of another run.
        """
        from rst_tf.attacks._attacker import Attacker
        from rst_tf.attacks._survivors import Survivors

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; received batch_size={batch_size!r}")
        x, y = np.asarray(x, np.float32), integer_labels(y)
        check_examples(x, y)
        attacker = model if isinstance(model, Attacker) else self.against(model, x[:batch_size])
        if attacker.auto != self:
            raise ValueError(f"model was prepared for another list, {attacker.auto}")
        survivors = Survivors(
            attacker, x, y, seed=seed, batch_size=batch_size, index=index, progress=progress
        )
        return survivors.run(state, images)

    def against(self, model, images):
        """A model prepared for many runs: each attack is traced in the first of them only.

        Args:
            model: As `run` takes it.
            images: A first batch [n, ...] in [0, 1], on which the model is looked at.
        """
        from rst_tf.attacks._attacker import Attacker

        return Attacker(self, model, np.asarray(images, np.float32))

    def titles(self) -> tuple[str, ...]:
        """Names of the attacks in order; a name that comes twice is numbered."""
        plain = [name_of(attack) for attack in self.listed()]
        return tuple(
            f"{name}#{plain[: i + 1].count(name)}" if plain.count(name) > 1 else name
            for i, name in enumerate(plain)
        )


def integer_labels(y) -> np.ndarray:
    """Labels [n], also of one-hot rows [n, classes]."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1 and np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all():
        return y.argmax(1)
    return y
