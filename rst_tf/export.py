"""Export: a network as a file that its own runtime loads without rst_tf, checked and measured."""

import contextlib
import dataclasses
import gzip
import io
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rst_tf.export_formats import FORMATS, Format, Name, Run, quiet
from rst_tf.registry import unknown

_TOLERANCE = 1e-5
_WARM_UP = 5


@dataclasses.dataclass(frozen=True)
class Artefact:
    """What was exported.

    Args:
        format: keras, saved_model, litert or onnx.
        path: The file; for saved_model the folder.
        bytes: Size of the file, or of all files in the folder.
        gzip_bytes: Size after gzip at level 9, of a folder as a tar archive.
        weights: Number of weights in kernels and other variables of rank 2 or more, biases apart.
        zeros: How many of them are exactly 0.
        max_difference: Largest absolute difference from the network's outputs.
        latency_ms: Median time for one image, in milliseconds, with the runtime's own settings.
    """

    format: str
    path: Path
    bytes: int
    gzip_bytes: int
    weights: int
    zeros: int
    max_difference: float
    latency_ms: float

    @property
    def density(self) -> float:
        """Fraction of the weights that are not 0."""
        return (self.weights - self.zeros) / self.weights if self.weights else 1.0

    def __str__(self) -> str:
        return (
            f"{self.path} ({self.format}): {self.bytes:,} bytes, {self.gzip_bytes:,} with gzip, "
            f"density {self.density:.4g} ({self.weights - self.zeros:,} of {self.weights:,}), "
            f"max difference {self.max_difference:.1e}, {self.latency_ms:.2f} ms per image"
        )


def table(artefacts: Sequence[Artefact]) -> str:
    """Artefacts side by side, for a terminal: at most 92 columns."""
    row = "{:<12}{:<22}{:>13}{:>13}{:>10}{:>12}{:>10}".format
    lines = [row("format", "file", "bytes", "gzip", "density", "difference", "ms/image")]
    for a in artefacts:
        name = a.path.name if len(a.path.name) < 22 else f"…{a.path.name[-20:]}"
        sizes = f"{a.bytes:,}", f"{a.gzip_bytes:,}", f"{a.density:.4f}"
        lines.append(row(a.format, name, *sizes, f"{a.max_difference:.1e}", f"{a.latency_ms:.2f}"))
    return "\n".join(lines)


def export(
    network,
    path: str | Path,
    format: Name = "keras",
    *,
    sample: np.ndarray | None = None,
    seed: int = 0,
    latency_runs: int = 30,
    overwrite: bool = False,
) -> Artefact:
    """Writes a network for a runtime that knows nothing of rst_tf, loads it there and compares.

    Masks become zeros; `rst_tf.Normalization` becomes `keras.layers.BatchNormalization` with the
    same outputs at inference. LiteRT files use standard operations only. While it works, nothing
    that other libraries print reaches the terminal.

    Args:
        network: Sequential or functional Keras model of one input and one output, masked or not.
        path: Where to write: a file in .keras, .tflite (litert) or .onnx, a folder for saved_model.
            Nothing is left there if the export fails.
        format: keras, saved_model, litert, or onnx (`pip install rst-tf[export]`).
        sample: Images [n, ...] on which outputs are compared; eight random ones in [0, 1] if None.
        seed: Of the random images.
        latency_runs: Number of runs behind the median time, at least 1.
        overwrite: Replace what is at `path`, if it is of the same format.

    Raises:
        ValueError: Unknown format, a path that does not fit or exists, a network that is a trainer,
            subclassed or cannot be converted, or outputs that differ by more than 1e-5 times
            max(1, largest |output|), for the sample's batch size or another.
        ImportError: A package of the format is not installed.
    """
    if format not in FORMATS:
        raise ValueError(unknown("format", format, list(FORMATS)))
    kind, path = FORMATS[format], Path(path)
    _check_path(path, format, kind, overwrite)
    if latency_runs < 1:
        raise ValueError(f"latency_runs must be at least 1; received latency_runs={latency_runs!r}")
    if kind.missing:
        raise ImportError(
            f"format={format!r} needs {', '.join(kind.missing)}: pip install rst-tf[export]"
        )
    model = portable(network)
    images = _images(model, sample, seed)
    with _beside(path) as folder, quiet():
        made = folder / path.name
        with _failing_as(f"format={format!r}: the network cannot be written"):
            kind.write(model, made)
        with _failing_as(f"format={format!r}: what was written does not run"):
            run = kind.load(made)
            difference = _difference(network, run, images, format)
        weights, zeros = _weights(model)
        latency = _latency_ms(run, images[:1], latency_runs)
        sizes = _size(made), len(gzip.compress(_content(made), 9, mtime=0))
        _put(made, path)
    return Artefact(format, path, *sizes, weights, zeros, difference, latency)


def portable(network):
    """A plain copy of a network that needs Keras only: baked, without rst_tf.Normalization.

    Raises:
        ValueError: The network is a trainer, subclassed, of several inputs or outputs, of a fixed
            batch size, or has another layer of rst_tf's.
    """
    import keras

    from rst_tf.layers import masked_layers, walk
    from rst_tf.surgery import baked
    from rst_tf.trainer import RobustTrainer

    if isinstance(network, RobustTrainer):
        raise ValueError("network is a RobustTrainer; export trainer.network")
    plain_kinds = keras.Sequential | keras.src.models.Functional
    if not isinstance(network, plain_kinds) or not network.built or masked_layers(network):
        network = baked(network)  # which refuses what cannot be copied
    pairs = []

    def convert(layer):
        pairs.append((layer, _plain_layer(layer)))
        return pairs[-1][1]

    copy = keras.models.clone_model(network, clone_function=convert, recursive=True)
    for old, new in pairs:
        for source, target in zip(walk(old), walk(new), strict=True):
            store = {}
            source.save_own_variables(store)
            target.load_own_variables(store)
    for layer in walk(copy):
        if type(layer).__module__.partition(".")[0] == "rst_tf":
            kind = type(layer).__name__
            raise ValueError(f"layer {layer.name!r} could not be loaded without rst_tf: {kind}")
    return _of_one_tensor(copy)
