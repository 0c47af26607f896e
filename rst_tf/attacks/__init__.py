"""Attacks: each a frozen dataclass that is callable. `ATTACKS` maps names to classes."""

from rst_tf.attacks.apgd import APGD
from rst_tf.attacks.attack import ATTACKS, Attack
from rst_tf.attacks.carlini_wagner import CarliniWagner
from rst_tf.attacks.fab import FAB
from rst_tf.attacks.fgsm import FGSM
from rst_tf.attacks.pgd import PGD
from rst_tf.attacks.square import Square
from rst_tf.attacks.transferred import Transferred

__all__ = ["APGD", "ATTACKS", "FAB", "FGSM", "PGD", "Attack", "CarliniWagner", "Square"]
__all__ += ["Transferred"]
