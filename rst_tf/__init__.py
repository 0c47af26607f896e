"""rst_tf: sparse, adversarially robust subnetworks for Keras 3 on TensorFlow.

Public names are loaded when first used, so that `import rst_tf` is cheap.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "masked": "surgery",
    "baked": "surgery",
    "with_logits": "surgery",
    "shrunk": "shrinking",
    "left_dense": "surgery",
    "MaskedDense": "layers",
    "MaskedConv1D": "layers",
    "MaskedConv2D": "layers",
    "MaskedDepthwiseConv2D": "layers",
    "MaskedSeparableConv2D": "layers",
    "MaskedEinsumDense": "layers",
    "BinaryDense": "binary_connect",
    "BinaryConv2D": "binary_connect",
    "BinaryDepthwiseConv2D": "binary_connect",
    "BinaryActivation": "binary_connect",
    "prune_once": "first_masks",
    "RandomMasks": "first_masks",
    "Magnitude": "first_masks",
    "SNIP": "first_masks",
    "GraSP": "first_masks",
    "SynFlow": "first_masks",
    "sparsity_report": "sparsity",
    "mask_overlap": "overlap",
    "masked_kernels": "traversal",
    "operations": "multiply_adds",
    "Operations": "multiply_adds",
    "set_density": "traversal",
    "prune_channels": "channels",
    "EarlyBird": "early_bird",
    "StopAtEarlyBird": "callbacks",
    "Normalization": "normalization",
    "initialize": "initializers",
    "Ticket": "ticket",
    "Seed": "initializers",
    "FGSM": "attacks.fgsm",
    "PGD": "attacks.pgd",
    "APGD": "attacks.apgd",
    "FAB": "attacks.fab",
    "Square": "attacks.square",
    "CarliniWagner": "attacks.carlini_wagner",
    "Transferred": "attacks.transferred",
    "AutoAttack": "attacks.autoattack",
    "Natural": "objectives",
    "Adversarial": "objectives",
    "Mixed": "objectives",
    "Trades": "objectives",
    "Free": "objectives",
    "Fast": "objectives",
    "Teachers": "distillation",
    "WeightAverage": "weight_averaging",
    "RobustTrainer": "trainer",
    "accuracy": "evaluation",
    "robust_accuracy": "evaluation",
    "evaluate": "evaluation",
    "transfer_matrix": "transfer",
    "TransferMatrix": "transfer",
    "Switch": "switch",
    "switch_robustness": "switch_evaluation",
    "export": "artefacts",
    "PackedModel": "packed",
    "robustify": "robustifying",
    "sparsely": "sparse_trainer",
    "DynamicSparsity": "dynamic_sparsity",
    "FlyingBird": "flying_bird",
    "FlyingBirdPlus": "flying_bird",
    "Static": "flying_bird",
    "report": "robustness.report",
    "RobustnessReport": "robustness.report",
    "compare": "robustness.comparing",
    "Data": "data",
    "batches": "data",
}
_MODULES = ("attacks", "callbacks", "data", "evaluation", "initializers", "layers", "masks")
_MODULES += ("models", "objectives", "optimizers", "random", "schedules", "surgery", "ticket")
_MODULES += ("trainer", "zoo")

__all__ = [*_HOME]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"rst_tf.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"rst_tf.{name}")
    raise AttributeError(f"module 'rst_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
