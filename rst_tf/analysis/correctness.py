"""Which test examples a run's networks were right about: correct/round_NN.npz, read strictly."""

import dataclasses
import zipfile
import zlib
from pathlib import Path

import numpy as np

from rst_tf.analysis.runs import Run, some_steps

_DAMAGE = (OSError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True, eq=False)
class Correct:
    """The answers of one network, in the order of the examples' identities.

    Args:
        index: Identities of the test examples, int64 [n], ascending.
        accuracy: Whether the clean image was right, bool [n].
        robust_accuracy: The same of the attacked image; None without an attack.
    """

    index: np.ndarray
    accuracy: np.ndarray
    robust_accuracy: np.ndarray | None


def load(run: Run, round: int, step: int) -> Correct | None:
    """The answers of a run's network at one step of a round; None if the run kept none.

    Raises:
        ValueError: The file is damaged, has not this step, or contradicts results.csv.
    """
    path = run.workdir / "correct" / f"round_{round:02d}.npz"
    if not path.is_file():
        return None
    arrays = _arrays(path)
    steps, index = arrays["steps"].tolist(), arrays["index"]
    if step not in steps:
        raise ValueError(f"{path}: no step {step}, but {some_steps(steps, step)}")
    order = np.argsort(index, kind="stable")
    if len(np.unique(index)) < len(index):
        raise ValueError(f"{path}: an example occurs twice")
    row, found = run.at(round, step).test, {}
    for name, key in (("accuracy", "clean"), ("robust_accuracy", "robust")):
        recorded = getattr(row, name)
        if (recorded is None) != (key not in arrays):
            raise ValueError(
                f"{path}: {key} and results.csv's {name} must be both there or both not"
            )
        if recorded is None:
            continue
        right = np.unpackbits(arrays[key][steps.index(step)], count=len(index)).astype(bool)
        if abs(right.mean() - recorded) > 1e-6:
            raise ValueError(
                f"{path}: step {step} has {name} {right.mean():.6g}, results.csv {recorded:.6g}"
            )
        found[name] = right[order]
    return Correct(index[order], found["accuracy"], found.get("robust_accuracy"))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        shape = (len(arrays["steps"]), -(-len(arrays["index"]) // 8))
        for name in ("clean", "robust"):
            if name in arrays and (arrays[name].shape, arrays[name].dtype) != (shape, np.uint8):
                raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}")
        if not len(arrays["index"]) or "clean" not in arrays:
            raise ValueError("no examples")
        return arrays
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged: {error}") from error
