"""Keras layers whose kernel is multiplied by a stored mask.

A mixin enters at one seam: the attribute from which a Keras layer reads its kernel. Reading it
gives `kernel * mask`; the stored kernel is never changed by pruning. With `search=True` the kernel
is frozen, `scores` are trained, and the mask keeps the weights with the largest |score|.
"""

import threading
from collections.abc import Sequence
from typing import get_args

import keras
import numpy as np
from keras import ops

from rst_tf import masks

_package = keras.saving.register_keras_serializable(package="rst_tf")
formed = threading.local()
"""Where `traversal.kernels_formed_once` puts `kernel * mask`, per thread, as `formed.kernels`."""


class MaskedVariable:
    """One kernel of a masked layer with its mask and, in a search, its scores.

    Attributes:
        name: `layer name/kernel`.
        kernel: The stored variable, never zeroed.
        mask: Float variable of 0 and 1, of the kernel's shape with 1 along the axes of a group.
        scores: Trainable variable of the mask's shape, or None.
    """

    def __init__(self, layer, attribute, kernel, mask, scores, spatial_axes, output_axes):
        self.layer, self.attribute = layer, attribute
        self.kernel, self.mask, self.scores = kernel, mask, scores
        self.spatial_axes, self.output_axes = spatial_axes, output_axes

    @property
    def name(self) -> str:
        """Layer and attribute, for people."""
        return f"{self.layer.name}/{self.attribute}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Kernel shape."""
        return tuple(self.kernel.shape)

    @property
    def size(self) -> int:
        """Number of groups."""
        return int(np.prod(self.mask.shape))

    @property
    def pooled(self) -> bool:
        """In a search: whether one threshold for the network chooses how many are kept."""
        return self.scores is not None and self.layer.allocation != "layerwise"

    @property
    def kept(self) -> int:
        """In a search: how many groups the density keeps, or a common threshold now does."""
        if self.pooled:
            return int(np.sum(self.mask.numpy()))
        return masks.count(self.size, self.layer.density, self.layer.count)

    def effective(self):
        """`kernel * mask`, signs alone if there is a gain; in a search, straight-through."""
        if self.scores is None:
            value = self.kernel * self.mask
        else:
            value = masks.straight_through(self.kernel, self.mask, self.scores)
        return self.layer.seen(value, self.mask)

    def refresh(self, static: bool = True):
        """In a search: forms the mask anew from the scores; `traversal.refresh_masks` does all.

        Args:
            static: As in `masks.select_in_graph`; needed where XLA compiles the call.

        Returns:
            The new mask.
        """
        kept = masks.count(self.size, self.layer.density, self.layer.count)
        mask = masks.select_in_graph(self.scores.value, kept, static=static)
        self.mask.assign(mask)
        return mask

    def check(self) -> None:
        """Raises RuntimeError if the stored mask is not the one that the scores ask for."""
        if self.scores is not None:
            wrong = self._out_of_order() if self.pooled else self._unasked()
            if wrong:
                raise RuntimeError(
                    f"mask of {self.name} differs from its scores in {wrong} places: the scores "
                    "moved without a refresh; train with RobustTrainer or call refresh()"
                )

    def _unasked(self) -> int:
        wanted = masks.select(self.scores.numpy(), self.kept)
        return int((wanted != (self.mask.numpy() > 0)).sum())

    def _out_of_order(self) -> int:
        """Scores that a common threshold passed over though a smaller one is kept."""
        size, mask = np.abs(self.scores.numpy()), self.mask.numpy() > 0
        return int((size[~mask] > size[mask].min(initial=np.inf)).sum())


class MaskedKernel:
    """Mixin for a Keras layer: masks its kernels.

    Args:
        granularity: What one mask entry covers: element, row, kernel or filter.
        search: Freeze the kernels and train scores instead.
        density: In a search, the fraction of each kernel kept, in (0, 1].
        count: In a search, how the density becomes a number: nearest, rst, plus_one, floor.
        allocation: In a search, layerwise keeps that fraction of each kernel; global and
            global_floor keep it of all such layers together, by one threshold.
        gain: `mean` has the layer see only signs, times the mean magnitude of what is kept.
    """

    kernel_attributes: tuple[str, ...] = ("kernel",)

    def __init__(
        self,
        *args,
        granularity="element",
        search=False,
        density=1.0,
        count="nearest",
        allocation="layerwise",
        gain="none",
        **kwargs,
    ):
        masks.check_density(density)
        if density != 1 and not search:
            raise ValueError(
                f"density={density!r} has an effect only with search=True; prune a ticket instead"
            )
        masks.check_choice(allocation, get_args(masks.Allocation), "allocation")
        masks.check_choice(gain, get_args(masks.Gain), "gain")
        super().__init__(*args, **kwargs)
        self.granularity = granularity
        self.search = search
        self.density = density
        self.count = count
        self.allocation = allocation
        self.gain = gain
        self.masked: dict[str, MaskedVariable] = {}

    def add_weight(self, *args, **kwargs):
        """As in Keras; in a search all but scores are created frozen, and so stay for good."""
        if self.search and not str(kwargs.get("name")).endswith("scores"):
            kwargs["trainable"] = False
        return super().add_weight(*args, **kwargs)

    def build(self, input_shape):
        """Builds the layer, then a mask (and scores) for each kernel."""
        super().build(input_shape)
        self.masked = {name: self._add_mask(name) for name in self.kernel_attributes}
        for masked in self.masked.values():
            if masked.scores is not None:
                masked.refresh()

    def _add_mask(self, attribute: str) -> MaskedVariable:
        kernel = getattr(self, "_" + attribute)
        spatial, outputs = self.kernel_axes(attribute, kernel.shape)
        shape = masks.group_shape(kernel.shape, self.granularity, spatial, outputs)
        prefix = attribute.removesuffix("kernel")
        mask = self.add_weight(
            name=prefix + "mask",
            shape=shape,
            initializer="ones",
            trainable=False,
            aggregation="only_first_replica",
        )
        scores = None
        if self.search:
            bound = 1 / np.sqrt(np.prod(shape) / np.prod([shape[axis] for axis in outputs]))
            scores = self.add_weight(
                name=prefix + "scores",
                shape=shape,
                initializer=keras.initializers.RandomUniform(-bound, bound),
            )
        return MaskedVariable(self, attribute, kernel, mask, scores, spatial, outputs)

    def seen(self, value, mask):
        """What the layer sees of a masked kernel: itself, or signs alone if there is a gain."""
        return value if self.gain == "none" else masks.signs_at_mean(value, mask)

    def kernel_axes(self, attribute: str, shape: Sequence[int]):
        """Spatial and output axes of a kernel: output is last, the last two are channels."""
        del attribute
        rank = len(shape)
        return tuple(range(rank - 2)), (rank - 1,)

    def enable_lora(self, *args, **kwargs):
        """Not available: a low-rank update would bypass the mask."""
        raise NotImplementedError("LoRA bypasses the mask; bake the network first (rst.baked)")

    def quantize(self, *args, **kwargs):
        """Not available: quantised kernels bypass the mask."""
        raise NotImplementedError("quantise the baked network instead (rst.baked)")

    def get_config(self):
        """The layer's configuration and the mask's."""
        return {
            **super().get_config(),
            "granularity": self.granularity,
            "search": self.search,
            "density": self.density,
            "count": self.count,
            "allocation": self.allocation,
            "gain": self.gain,
        }

    def save_own_variables(self, store):
        """Stores every variable in order of creation; refuses a stale mask."""
        for masked in self.masked.values():
            masked.check()
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        """Reads what `save_own_variables` wrote."""
        keras.layers.Layer.load_own_variables(self, store)


def _kernel_seam(attribute: str) -> property:
    stored = "_" + attribute

    def read(self):
        ready = formed.__dict__.get("kernels", {}).get((id(self), attribute))
        if ready is not None:
            return ops.cast(ready, self.compute_dtype)
        masked = self.masked.get(attribute)
        return getattr(self, stored) if masked is None else masked.effective()

    def write(self, value):
        setattr(self, stored, value)

    return property(read, write, doc=f"The masked {attribute} (the stored one is `{stored}`).")


@_package
class MaskedDense(MaskedKernel, keras.layers.Dense):
    """`keras.layers.Dense` with a masked kernel; see `MaskedKernel` for the extra arguments."""

    kernel = _kernel_seam("kernel")


@_package
class MaskedConv1D(MaskedKernel, keras.layers.Conv1D):
    """`keras.layers.Conv1D` with a masked kernel; see `MaskedKernel`."""

    kernel = _kernel_seam("kernel")


@_package
class MaskedConv2D(MaskedKernel, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a masked kernel; see `MaskedKernel`."""

    kernel = _kernel_seam("kernel")


@_package
class MaskedDepthwiseConv2D(MaskedKernel, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a masked kernel; a filter is one channel's kernel."""

    kernel = _kernel_seam("kernel")

    def kernel_axes(self, attribute, shape):
        """Both trailing axes (input channel, multiplier) index outputs."""
        return (0, 1), (2, 3)


@_package
class MaskedSeparableConv2D(MaskedKernel, keras.layers.SeparableConv2D):
    """`keras.layers.SeparableConv2D` with both kernels masked."""

    kernel_attributes = ("depthwise_kernel", "pointwise_kernel")
    depthwise_kernel = _kernel_seam("depthwise_kernel")
    pointwise_kernel = _kernel_seam("pointwise_kernel")

    def kernel_axes(self, attribute, shape):
        """As a depthwise kernel, then as an ordinary one."""
        return (0, 1), ((2, 3) if attribute == "depthwise_kernel" else (3,))


@_package
class MaskedEinsumDense(MaskedKernel, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` with a masked kernel; a filter spans the contracted axes."""

    kernel = _kernel_seam("kernel")

    def kernel_axes(self, attribute, shape):
        """Output axes are those whose letter stands in the equation's result."""
        operands, result = self.equation.replace("...", "").split("->")
        letters = operands.split(",")[1]
        return (), tuple(axis for axis, letter in enumerate(letters) if letter in result)


MASKED_CLASS = {
    keras.layers.Dense: MaskedDense,
    keras.layers.Conv1D: MaskedConv1D,
    keras.layers.Conv2D: MaskedConv2D,
    keras.layers.DepthwiseConv2D: MaskedDepthwiseConv2D,
    keras.layers.SeparableConv2D: MaskedSeparableConv2D,
    keras.layers.EinsumDense: MaskedEinsumDense,
}
"""Which masked class stands for which Keras class (exact types, no subclasses)."""
