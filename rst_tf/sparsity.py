"""`sparsity_report(model)`: what every kernel of a network keeps."""

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class KernelSparsity:
    """What one kernel keeps.

    Args:
        name: Layer and kernel, for people.
        shape: Of the kernel.
        kept: Weights that its mask keeps; without a mask, those that are not exactly 0.
        nonzero: Weights that its layer sees as something else than exactly 0.
        masked: Whether it has a mask.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    nonzero: int
    masked: bool

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def density(self) -> float:
        """Fraction kept."""
        return self.kept / self.weights


@dataclasses.dataclass(frozen=True)
class SparsityReport:
    """What a network keeps, kernel by kernel; print it for a table.

    Args:
        kernels: Every variable of rank 2 or more that is no bias, those with masks first, each in
            the network's order.
    """

    kernels: tuple[KernelSparsity, ...]

    @property
    def weights(self) -> int:
        """Weights of all kernels."""
        return sum(kernel.weights for kernel in self.kernels)

    @property
    def kept(self) -> int:
        """Kept weights of all kernels."""
        return sum(kernel.kept for kernel in self.kernels)

    @property
    def nonzero(self) -> int:
        """Weights of all kernels that are not exactly 0."""
        return sum(kernel.nonzero for kernel in self.kernels)

    @property
    def density(self) -> float:
        """Fraction kept of all weights, those without a mask among them."""
        return self.kept / self.weights

    @property
    def masked_density(self) -> float | None:
        """Fraction kept of the weights that have a mask; None if there are none."""
        own = [kernel for kernel in self.kernels if kernel.masked]
        return sum(k.kept for k in own) / sum(k.weights for k in own) if own else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, densities with them, as JSON takes them."""
        rows = [
            {
                **dataclasses.asdict(kernel),
                "shape": list(kernel.shape),
                "weights": kernel.weights,
                "density": kernel.density,
            }
            for kernel in self.kernels
        ]
        names = ("weights", "kept", "nonzero", "density", "masked_density")
        return {"kernels": rows, **{name: getattr(self, name) for name in names}}

    def __str__(self) -> str:
        mixed = self.masked_density is not None
        rows = [
            (k.name if k.masked or not mixed else f"{k.name} *", "x".join(map(str, k.shape)), k)
            for k in self.kernels
        ]
        width = max(len(name) for name, *_ in [("total",), *rows])
        line = f"{{:<{width}}}{{:>18}}{{:>13}}{{:>13}}{{:>10}}{{:>13}}".format
        lines = [line("kernel", "shape", "weights", "kept", "density", "not 0")]
        for name, shape, own in [*rows, ("total", "", self)]:
            counts = (f"{own.weights:,}", f"{own.kept:,}", f"{own.density:.4f}")
            lines.append(line(name, shape, *counts, f"{own.nonzero:,}"))
        if self.masked_density is None:
            lines.append("no kernel has a mask: kept is what is not 0")
        elif not all(kernel.masked for kernel in self.kernels):
            lines.append(f"* without a mask; of the others {self.masked_density:.4f} are kept")
        return "\n".join(lines)


def sparsity_report(model) -> SparsityReport:
    """What a network keeps: by its masks, and without masks by weights that are exactly 0.

    Args:
        model: Built Keras model, with masked layers or without any.

    Raises:
        ValueError: The model is not built, or has no kernels.
    """
    from rst_tf.traversal import masked_kernels, masked_layers

    if not model.built:
        raise ValueError(f"model {model.name!r} is not built; call it once or give an Input first")
    own = masked_kernels(model) if masked_layers(model) else []
    found = [_of_mask(masked) for masked in own]
    covered = {id(v) for masked in own for v in (masked.kernel, masked.mask, masked.scores)}
    for variable in model.weights:
        if id(variable) not in covered and len(variable.shape) > 1 and variable.name != "bias":
            found.append(_of_zeros(variable))
    if not found:
        raise ValueError(f"model {model.name!r} has no kernels")
    return SparsityReport(tuple(found))


def _of_mask(masked) -> KernelSparsity:
    mask = masked.mask.numpy() > 0
    kept = int(mask.sum()) * math.prod(masked.shape) // mask.size
    return KernelSparsity(masked.name, masked.shape, kept, _nonzero(masked.effective()), True)


def _of_zeros(variable) -> KernelSparsity:
    nonzero = _nonzero(variable)
    return KernelSparsity(variable.path, tuple(variable.shape), nonzero, nonzero, False)


def _nonzero(values) -> int:
    return int(np.count_nonzero(np.asarray(values)))
