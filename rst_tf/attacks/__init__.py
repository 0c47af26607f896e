"""Attacks: each a frozen dataclass that is callable. `ATTACKS` maps names to classes."""

from rst_tf.attacks.attack import ATTACKS, Attack
from rst_tf.attacks.fgsm import FGSM
from rst_tf.attacks.pgd import PGD

__all__ = ["ATTACKS", "FGSM", "PGD", "Attack"]
