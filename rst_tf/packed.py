"""A binary network in about as many bytes as it holds information, as a file and in memory.

For a network whose kept weights are +g or -g in each kernel, g being the kernel's own gain:
masks, signs, gains, and every other variable as it is. The file:

    RSTB | format (1 byte) | SHA-256 of all else | length of header (4) | header | masks | signs
    | values

The header is deflated JSON and says how to build the network; `entropy_coding` says what the masks
are; signs are one bit per kept weight, or absent where a seed gives them; values are the gains and
then the leftovers. Every bit is under the checksum.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rst_tf import sealed
from rst_tf.entropy_coding import Code, decode, encode
from rst_tf.files import write_bytes
from rst_tf.initializers import Seed
from rst_tf.ticket import Entry, Ticket

MAGIC = b"RSTB"
FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class PackedKernel:
    """One kernel, in a bit per mask entry and a bit per kept weight.

    Args:
        name: For people.
        shape: Kernel shape.
        mask_shape: Shape of the mask, 1 along the axes that a group spans.
        mask: The mask in C order, eight entries a byte (`np.packbits`).
        signs: Signs of the kept weights in C order, packed likewise, 1 is negative; None where a
            seed gives them.
        gain: Magnitude of every kept weight, at least 0.
    """

    name: str
    shape: tuple[int, ...]
    mask_shape: tuple[int, ...]
    mask: np.ndarray
    signs: np.ndarray | None
    gain: np.float32

    @classmethod
    def of(cls, name: str, kernel: np.ndarray, mask: np.ndarray) -> "PackedKernel":
        """Packs a kernel.

        Args:
            name: For people.
            kernel: Float array.
            mask: Bool array that broadcasts to it.

        Raises:
            ValueError: The kept weights have several magnitudes.
        """
        weights = kernel[np.broadcast_to(mask, kernel.shape)]
        gain = np.float32(np.abs(weights[0]) if weights.size else 0)
        if not (np.abs(weights) == gain).all() or not np.isfinite(gain):
            low, high = np.abs(weights).min(), np.abs(weights).max()
            raise ValueError(
                f"kernel {name!r} is not binary: the magnitudes of its kept weights go from "
                f"{low:g} to {high:g}; a packed model holds +-one number per kernel"
            )
        signs = np.packbits(np.signbit(weights))
        return cls(name, kernel.shape, mask.shape, np.packbits(mask), signs, gain)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        entries = math.prod(self.mask_shape)
        group = self.size // entries if entries else 0
        return group * int(np.unpackbits(self.mask, count=entries).sum())

    @property
    def nbytes(self) -> int:
        """Bytes of mask, signs and gain."""
        return self.mask.nbytes + -(-self.kept // 8) + self.gain.nbytes

    def unpacked_mask(self) -> np.ndarray:
        """The mask: bool, of its own shape."""
        bits = np.unpackbits(self.mask, count=math.prod(self.mask_shape))
        return bits.view(bool).reshape(self.mask_shape)

    def formed(self) -> np.ndarray:
        """The kernel, float32, 0 where pruned."""
        kept = np.broadcast_to(self.unpacked_mask(), self.shape)
        kernel = np.zeros(self.shape, np.float32)
        negative = np.unpackbits(self.signs, count=int(np.count_nonzero(kept))).view(bool)
        kernel[kept] = np.where(negative, -self.gain, self.gain)
        return kernel


@dataclasses.dataclass(frozen=True, eq=False)
class PackedModel:
    """A packed binary model: what its file holds.

    Args:
        kernels: One per masked kernel, in traversal order.
        leftovers: Values of every other variable (biases, normalisation), in order.
        network: How to build the network, as `models.build` takes it.
        seed: What the kernels are drawn from where they hold no signs, or None.
    """

    kernels: tuple[PackedKernel, ...]
    leftovers: tuple[np.ndarray, ...]
    network: Mapping[str, Any]
    seed: Seed | None = None

    @classmethod
    def of(
        cls,
        network,
        *,
        description: Mapping[str, Any] | None = None,
        weights: Literal["stored"] | Seed = "stored",
    ) -> "PackedModel":
        """Packs a network as it is now.

        Args:
            network: Keras model with masked layers, its kept weights +-one number per kernel.
            description: How to build it, as `models.build` takes it; if None, Keras' JSON, which
                any functional model has and which is longer.
            weights: `stored` holds a sign per kept weight; a `Seed` holds the seed the kernels
                were drawn from, if they still are what it gives.

        Raises:
            ValueError: The network has no masks, a kernel is not binary, or not the seed's.
            RuntimeError: A mask is not what its scores ask for.
        """
        from rst_tf.models import describe_model
        from rst_tf.traversal import masked_kernels

        description = _without_search(description or describe_model(network))
        if weights == "stored":
            description = _without_gain(description)  # which the packed kernels have in them
        ticket = Ticket.of(network, weights=weights, description=description)
        kernels = [_packed(masked) for masked in masked_kernels(network)]
        return cls(tuple(kernels), ticket.leftovers, description, ticket.seed)

    def __repr__(self) -> str:
        """One line: kept weights, and bytes in memory."""
        total = sum(kernel.size for kernel in self.kernels)
        kept = sum(kernel.kept for kernel in self.kernels)
        return f"PackedModel(kept {kept:,} of {total:,}, {self.nbytes:,} bytes in memory)"

    @property
    def nbytes(self) -> int:
        """Bytes of masks, signs, gains and leftovers, unpacked from the file but not formed."""
        parts = [kernel.nbytes for kernel in self.kernels]
        return sum(parts) + sum(value.nbytes for value in self.leftovers)

    def ticket(self) -> Ticket:
        """The same as a ticket, whose kernels are formed; pruned weights are 0, or the seed's."""
        entries = [
            Entry(k.name, k.shape, k.unpacked_mask(), None if self.seed else k.formed())
            for k in self.kernels
        ]
        return Ticket(tuple(entries), self.leftovers, self.network, self.seed)

    def build(self):
        """The Keras model, masked, with the logits of the one that was packed.

        Raises:
            ValueError: The description fits no network, or the seed gives other weights.
        """
        return self.ticket().build()

    def inference(self) -> "PackedNetwork":
        """The network as a function that keeps its kernels packed.

        The Keras model is there while this works.
        """
        return PackedNetwork(self.build())

    def save(self, path: str | Path) -> None:
        """Writes the file, whole or not at all."""
        codes, masks = encode([kernel.unpacked_mask() for kernel in self.kernels])
        signs = b"" if self.seed else b"".join(k.signs.tobytes() for k in self.kernels)
        stored = [np.array([k.gain for k in self.kernels]), *map(np.asarray, self.leftovers)]
        values = sealed.packed(stored)
        size = sum(math.prod(kernel.mask_shape) for kernel in self.kernels)
        masks += bytes(max(0, -(-size // sealed.ENTRIES_PER_BYTE) - len(masks)))
        kernels = [
            [k.name, k.shape, k.mask_shape, code]
            for k, code in zip(self.kernels, codes, strict=True)
        ]
        header = {"kernels": kernels, "masks": len(masks), "values": sealed.kinds_of(stored)}
        header |= {"network": self.network, "seed": self.seed and dataclasses.asdict(self.seed)}
        body = b"".join([sealed.header_bytes(header), masks, signs, values])
        head = MAGIC + bytes([FORMAT])
        write_bytes(path, head + sealed.digest(head, body) + body)

    @classmethod
    def load(cls, path: str | Path) -> "PackedModel":
        """Reads a file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no packed model, is damaged, or is of a newer format.
        """
        try:
            return _read(Path(path).read_bytes())
        except FileNotFoundError:
            raise
        except sealed.DAMAGE as error:
            raise ValueError(f"{path} is not a packed model, or is damaged: {error}") from error


class PackedNetwork:
    """A network whose kernels stay packed: each is formed when its layer is called, and dropped.

    A function from images [n, ...] to logits [n, classes], NumPy arrays, on the CPU or where
    TensorFlow puts them. It calls layer by layer; `tf.function` would hold every kernel.

    Attributes:
        nbytes: Bytes of what is kept between calls.
        largest: Bytes of the largest kernel, which are taken on top during a call.
    """

    def __init__(self, network):
        """Takes the masked kernels out of a network, which is of no other use afterwards."""
        from rst_tf.ticket import leftovers_of
        from rst_tf.traversal import masked_kernels

        kernels, self._network = {}, network
        others = sum(v.numpy().nbytes for v in leftovers_of(network))
        for masked in masked_kernels(network):
            kernels[id(masked.layer), masked.attribute] = _packed(masked)
        for masked in masked_kernels(network):
            _take_out(masked)
        self._kernels = _Formed(kernels)
        self.nbytes = others + sum(kernel.nbytes for kernel in kernels.values())
        self.largest = max(4 * kernel.size for kernel in kernels.values())

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits of the images."""
        from rst_tf.layers import formed

        outside = formed.__dict__.get("kernels", {})
        formed.kernels = self._kernels
        try:
            return self._network(images, training=False).numpy()
        finally:
            formed.kernels = outside


class _Formed:
    """What masked layers look their kernels up in; forms the one that is asked for."""

    def __init__(self, kernels: Mapping[tuple[int, str], PackedKernel]):
        self._kernels = kernels

    def get(self, key: tuple[int, str]):
        return self._kernels[key].formed() if key in self._kernels else None


def _packed(masked) -> PackedKernel:
    """A masked kernel as its layer sees it."""
    return PackedKernel.of(masked.name, masked.effective().numpy(), masked.mask.numpy() > 0)


def _without_search(description):
    """A description by Keras' JSON, its layers with fixed masks in place of searched ones."""
    fixed = {"search": False, "density": 1.0, "allocation": "layerwise"}
    return _changed(description, lambda each: fixed if fixed.keys() <= each.keys() else {})


def _without_gain(description):
    return _changed(
        description, lambda each: {"gain": "none"} if each.get("gain") == "mean" else {}
    )


def _changed(tree, change: Callable[[Mapping], Mapping]):
    """A tree of lists and dictionaries, with changes to the dictionaries."""
    if isinstance(tree, list):
        return [_changed(each, change) for each in tree]
    if not isinstance(tree, Mapping):
        return tree
    return {name: _changed(each, change) for name, each in tree.items()} | change(tree)


def _take_out(masked) -> None:
    """Frees the variables of a masked kernel: no reference to them is left in its layer."""
    layer = masked.layer
    for variable in (masked.kernel, masked.mask):
        layer._untrack_variable(variable)
    stored = f"_{masked.attribute}"
    setattr(layer, stored, None)  # of a variable, Keras would collect garbage at every deletion
    delattr(layer, stored)
    del layer.masked[masked.attribute]


def _read(file: bytes) -> PackedModel:
    head, checksum, body = file[:5], file[5:37], file[37:]
    if head[:4] != MAGIC:
        raise ValueError("it does not start as one")
    if head[4:] > bytes([FORMAT]):
        raise ValueError(f"format {head[4]} is newer than this program's {FORMAT}")
    if head != MAGIC + bytes([FORMAT]) or checksum != sealed.digest(head, body):
        raise ValueError("the checksum does not match")
    header, start = sealed.split_header(body)
    names, shapes, mask_shapes, codes = zip(*header["kernels"], strict=True)
    sizes = [sealed.size_of(shape) for shape in mask_shapes]
    sealed.check_entries(sizes, len(body))
    codes = [Code(*(sealed.size_of([number]) for number in code)) for code in codes]
    groups = [sealed.size_of(s) // n if n else 0 for s, n in zip(shapes, sizes, strict=True)]
    end = start + sealed.size_of([header["masks"]])
    masks = decode(body[start:end], sizes, codes)
    seed = header["seed"] and Seed(**header["seed"])
    signs = []
    for code, group in zip(codes, groups, strict=True):
        length = 0 if seed else -(-code.kept * group // 8)
        signs.append(None if seed else np.frombuffer(body[end : end + length], np.uint8))
        end += length
    gains, *leftovers = sealed.unpacked(body[end:], header["values"])
    kernels = [
        PackedKernel(name, tuple(shape), tuple(mask_shape), np.packbits(mask), bits, gain)
        for name, shape, mask_shape, mask, bits, gain in zip(
            names, shapes, mask_shapes, masks, signs, gains, strict=True
        )
    ]
    return PackedModel(tuple(kernels), tuple(leftovers), header["network"], seed)
