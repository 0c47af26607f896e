"""Export: a network as a file that its own runtime loads, checked against it and measured."""

import contextlib
import dataclasses
import gzip
import io
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from rst_tf.artefact_formats import FORMATS, Name, Run, usable
from rst_tf.footprint import Footprint
from rst_tf.initializers import Seed
from rst_tf.quiet import quiet

_TOLERANCE = 1e-5
_WARM_UP = 5


@dataclasses.dataclass(frozen=True)
class Artefact:
    """What was exported.

    Args:
        format: keras, saved_model, litert, onnx or packed.
        path: The file; for saved_model the folder.
        bytes: Size of the file, or of all files in the folder.
        gzip_bytes: Size after gzip at level 9, of a folder as a tar archive.
        weights: Number of weights in kernels and other variables of rank 2 or more, biases apart.
        zeros: How many of them are exactly 0.
        max_difference: Largest absolute difference from the network's outputs.
        latency_ms: Median time for one image on the CPU, in milliseconds, by the runtime's default.
        memory: Bytes that its weights keep in memory between calls, where the format tells; packed.
    """

    format: str
    path: Path
    bytes: int
    gzip_bytes: int
    weights: int
    zeros: int
    max_difference: float
    latency_ms: float
    memory: int | None = None

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


def size_table(footprint: Footprint, artefacts: Sequence[Artefact]) -> str:
    """Packed artefacts beside what the same weights take otherwise, for a terminal."""
    row = "{:<52}{:>14}{:>14}".format
    f = footprint
    known = [
        ("float32, every weight", f.float32, f.float32),
        ("int8, every weight", f.int8, f.int8),
        *((a.path.name, a.bytes, a.memory) for a in artefacts if a.memory is not None),
        ("entropy of the masks, a sign per kept weight", f.bound, f.bound),
        ("entropy of the masks, signs from a seed", f.bound_of_seed, f.bound_of_seed),
    ]
    lines = [row(f"{f.weights:,} weights, {f.kept:,} kept", "bytes on disk", "in memory")]
    return "\n".join(lines + [row(name, f"{a:,}", f"{b:,}") for name, a, b in known])


def export(
    network,
    path: str | Path,
    format: Name = "keras",
    *,
    sample: np.ndarray | None = None,
    seed: int = 0,
    latency_runs: int = 30,
    overwrite: bool = False,
    shrink: bool = False,
    description: Mapping | None = None,
    weights: Seed | None = None,
) -> Artefact:
    """Writes a network for its runtime, loads it there and compares.

    All runtimes but that of `packed` know nothing of rst_tf. For them masks become zeros, and
    `rst_tf.Normalization` becomes `keras.layers.BatchNormalization` with the same outputs at
    inference. LiteRT files use standard operations only. While it works, nothing that other
    libraries print reaches the terminal.

    Args:
        network: Sequential or functional Keras model of one input and one output, masked or not.
        path: Where to write: a file in .keras, .tflite (litert), .onnx or .rstb (packed), a folder
            for saved_model. Nothing is left there if the export fails.
        format: keras, saved_model, litert, onnx (`pip install rst-tf[export]`), or packed: a
            binary network in a bit per kept weight and the entropy of its masks, for
            `PackedModel.load`.
        sample: Images [n, ...] on which outputs are compared; eight random ones in [0, 1] if None.
        seed: Of the random images.
        latency_runs: Number of runs behind the median time, at least 1.
        overwrite: Replace what is at `path`, if it is of the same format.
        shrink: Leave out channels without effect, as `shrunk` does; not for packed.
        description: For packed: how to build the network, as `PackedModel.of` takes it.
        weights: For packed: the seed that the kernels were drawn from, in place of their signs.

    Raises:
        ValueError: Unknown format, a path that does not fit or exists, a network that is a trainer,
            subclassed or cannot be converted, or for packed is not binary, or with `shrink` has no
            channel without effect, or outputs that differ by more than 1e-5 times
            max(1, largest |output|), for the sample's batch size or another; or a package that the
            format needs is not installed.
    """
    from rst_tf.portable import count_weights, portable

    path = Path(path)
    _check(path, format, latency_runs, overwrite)
    kind = FORMATS[format]
    given = {"description": description, "weights": weights}
    packing = {name: value for name, value in given.items() if value is not None}
    if packing and not kind.masked:
        names = " and ".join(packing)
        raise ValueError(f"{names} is for format='packed'; received format={format!r}")
    if shrink and kind.masked:
        raise ValueError(f"shrink is not for format={format!r}, which holds masks; received True")
    model = portable(network)
    if shrink:
        model = _smaller(model)
    images = _images(model, sample, seed)
    with _beside(path) as folder, quiet():
        made = Path(folder) / path.name
        with _failing_as(f"format={format!r}: the network cannot be written"):
            kind.write(network if kind.masked else model, made, **packing)
        difference, latency = _tried(made, format, network, images, latency_runs)
        size, packed = _size(made), len(gzip.compress(_content(made), 9, mtime=0))
        memory = kind.memory(made) if kind.memory else None
        _put(made, path)
    return Artefact(format, path, size, packed, *count_weights(model), difference, latency, memory)


def _smaller(model):
    from rst_tf.shrinking import shrunk

    small = shrunk(model)
    if small.count_params() == model.count_params():
        raise ValueError(
            "shrink has no effect, for no channel of the network is zero or unread for all images; "
            "received shrink=True"
        )
    return small


def _check(path: Path, format: str, latency_runs: int, overwrite: bool) -> None:
    kind = usable(format)
    others = {other.suffix for other in FORMATS.values()} - {kind.suffix}
    if path.suffix in others if not kind.suffix else path.suffix != kind.suffix:
        wanted = f"end in {kind.suffix!r}" if kind.suffix else "be a folder"
        raise ValueError(f"path must {wanted} for format={format!r}; received path={str(path)!r}")
    if path.exists() and not overwrite:
        raise ValueError(f"path={str(path)!r} exists; overwrite=True replaces it")
    if path.exists() and not (path if kind.suffix else path / "saved_model.pb").is_file():
        raise ValueError(f"path={str(path)!r} is not of format={format!r} and is not replaced")
    if latency_runs < 1:
        raise ValueError(f"latency_runs must be at least 1; received latency_runs={latency_runs!r}")


def _images(model, sample: np.ndarray | None, seed: int) -> np.ndarray:
    """The images to compare on, of the network's type and shape, at least one."""
    image = model.inputs[0]
    shape = tuple(image.shape[1:])
    if sample is None:
        if None in shape:
            raise ValueError(f"sample is needed: the network takes images of any size, {shape}")
        sample = np.random.default_rng(seed).random((8, *shape))
    sample = np.asarray(sample, image.dtype)
    fits = sample.ndim == len(shape) + 1 and len(sample) > 0
    if not fits or any(n not in (None, m) for n, m in zip(shape, sample.shape[1:], strict=True)):
        raise ValueError(f"sample must be images [n, *{shape}]; received shape {sample.shape}")
    return sample


def _tried(made: Path, format: str, network, images: np.ndarray, runs: int) -> tuple[float, float]:
    """Largest difference from the network's outputs, and the median milliseconds for one image."""
    import keras
    import tensorflow as tf

    reference = keras.Model(network.inputs[0], network.outputs[0])  # no list, no dictionary
    first = images[:1]
    batches = [images, first if len(images) > 1 else images.repeat(2, axis=0)]
    with tf.device("CPU:0"):  # a GPU's TensorFloat-32 is coarser than the tolerance
        with _failing_as(f"format={format!r}: what was written does not run"):
            run = FORMATS[format].load(made)
            found = [run(batch) for batch in batches]
        expected = [reference(batch, training=False).numpy() for batch in batches]
        difference = max(map(_difference, expected, found, [format] * len(found)))
        return difference, _latency_ms(run, first, runs)


def _difference(expected: np.ndarray, found: np.ndarray, format: str) -> float:
    if found.shape != expected.shape:
        raise ValueError(f"format={format!r} gives {found.shape} in place of {expected.shape}")
    difference = float(np.abs(found - expected).max())
    allowed = _TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:  # not a number is not close either
        raise ValueError(
            f"format={format!r} gives outputs that differ by {difference:.2e}, more than "
            f"{allowed:.2e}"
        )
    return difference


def _latency_ms(run: Run, image: np.ndarray, runs: int) -> float:
    times = []
    for _ in range(_WARM_UP + runs):
        start = time.perf_counter()
        run(image)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[_WARM_UP:])


def _size(made: Path) -> int:
    files = made.rglob("*") if made.is_dir() else [made]
    return sum(file.stat().st_size for file in files if file.is_file())


def _content(made: Path) -> bytes:
    """The file, or the folder as a tar archive without owners and dates."""
    if made.is_file():
        return made.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in sorted(made.rglob("*")):
            entry = tarfile.TarInfo(str(file.relative_to(made)))
            if file.is_file():
                entry.size = file.stat().st_size
                archive.addfile(entry, io.BytesIO(file.read_bytes()))
    return buffer.getvalue()


def _beside(path: Path) -> tempfile.TemporaryDirectory:
    """A temporary folder on the file system of a path, from where a file can be renamed to it."""
    home = next(parent for parent in path.absolute().parents if parent.exists())
    return tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=home)


def _put(made: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():  # which a rename does not replace; it goes with the temporary folder
        os.replace(path, made.with_name(f"{path.name}.replaced"))
    os.replace(made, path)


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    """Turns whatever an exporter or a runtime raises into one line."""
    try:
        yield
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{what}: {first}") from error
