"""What a report is about: the network, the images, and what they were computed with."""

import hashlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np


def of_model(model) -> dict[str, Any]:
    """Class, weights and fingerprint of a model; of a plain callable nothing but what it is.

    `density` is the fraction kept of the masked kernels, and of a network without masks the
    fraction of its kernels (rank 2 or more) that is not 0. `fingerprint` hashes all variables,
    masks among them.
    """
    import keras

    from rst_tf.switch import Switch

    if isinstance(model, Switch):  # whose weights at rest are those of its first ticket
        found = _of_network(model)
        names = f"{model.network.name}, {len(model.tickets)} tickets"
        return {"kind": "Switch", "architecture": names, "fingerprint": found["fingerprint"]}
    if isinstance(model, keras.Model):
        return _of_network(model)
    values = [np.asarray(v) for v in getattr(model, "variables", ())]
    if not values:
        return {"kind": type(model).__name__}
    return {"kind": type(model).__name__, **_counts(values), "fingerprint": hashed(values)}


def _of_network(model) -> dict[str, Any]:
    from rst_tf.traversal import masked_layers

    masked = [m for layer in masked_layers(model) for m in layer.masked.values()]
    own = {id(v) for m in masked for v in (m.kernel, m.mask, m.scores) if v is not None}
    # Counters and the states of random generators are integers, and change when a model is called.
    states = [v for v in model.variables if "int" not in v.dtype or id(v) in own]
    rest = [np.asarray(v) for v in states if id(v) not in own]
    kernels = [np.asarray(m.effective()) for m in masked]
    found = {"kind": type(model).__name__, "architecture": model.name, **_counts(kernels + rest)}
    if masked:
        kept = sum(float(np.broadcast_to(m.mask.numpy(), m.shape).sum()) for m in masked)
        found["density"] = kept / sum(k.size for k in kernels)
    return found | {"masked": bool(masked), "fingerprint": hashed(map(np.asarray, states))}


def _counts(values) -> dict[str, Any]:
    kernels = [v for v in values if v.ndim > 1]
    found = {
        "parameters": int(sum(v.size for v in values)),
        "nonzero": int(sum(np.count_nonzero(v) for v in values)),
    }
    if kernels:
        weights = sum(v.size for v in kernels)
        found["density"] = float(sum(np.count_nonzero(v) for v in kernels) / weights)
    return found


_MASKS = ("rounds", "rate", "density", "granularity", "criterion", "pruning", "allocation", "power")
_MASKS += ("count", "gain", "rewind", "start", "topology", "weights_from", "masks_from")
"""Settings of experiments that say how masks are found."""
_SIZES = {"depth", "width", "hidden", "attack.steps"}
"""Settings that are told even where they are at their defaults."""


def of_training(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration of a run tells of its network, as a report's `facts`.

    Args:
        experiment: As plain values; one of another version tells what it has.

    Returns:
        Those that are known of: architecture, training (the objective), mask_rule,
        training_seeds.
    """
    from rst_tf.first_masks import FirstMasks
    from rst_tf.flying_bird import Topology
    from rst_tf.models.architecture import Architecture
    from rst_tf.objectives import Objective

    found: dict[str, Any] = {}
    if experiment.get("network"):
        found["architecture"] = in_words(Architecture, experiment["network"])
    if experiment.get("objective"):
        kinds = [k for k in ("weights", "activations") if experiment.get(k) == "binary"]
        said = [in_words(Objective, experiment["objective"]), *(f"{k}=binary" for k in kinds)]
        found["training"] = ", ".join(said)
    masks = {name: experiment[name] for name in _MASKS if experiment.get(name) not in (None, [])}
    for name, base in (("start", FirstMasks), ("topology", Topology)):
        if isinstance(masks.get(name), Mapping):
            masks[name] = in_words(base, masks[name])
    if masks:
        found["mask_rule"] = _called(experiment.get("name", ""), masks)
    if "seed" in experiment and found:
        found["training_seeds"] = [experiment["seed"]]
    return found


def in_words(base: type, chosen: Mapping[str, Any]) -> str:
    """A choice in one text: its name, sizes, and what is not at its default, as flags name it.

    Args:
        base: What is chosen among: Objective, Architecture, ...
        chosen: As plain values; settings that this version does not know are told as they are.
    """
    from rst_tf.analysis.settings import flat
    from rst_tf.registry import at_default, from_dict, to_dict

    try:
        made = from_dict(base, chosen)
        settings, usual = to_dict(made), set(at_default(made)) - _SIZES
    except (ValueError, TypeError):
        settings, usual = dict(chosen), set()
    name = settings.pop("name", "")
    told = {
        path: value
        for path, value in flat(settings)
        if value is not None and not usual & {path, *_above(path)}
    }
    return _called(name, told)


def _above(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _called(name: str, settings: Mapping[str, Any]) -> str:
    from rst_tf.analysis.settings import scalar

    told = ", ".join(f"{key}={scalar(value)}" for key, value in settings.items())
    return f"{name}({told})" if told else name


def of_points(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Number, shape and fingerprint of images and labels."""
    images, labels = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(y, np.int64)
    return {"count": len(y), "shape": list(x.shape[1:]), "fingerprint": hashed([images, labels])}


def of_machine() -> dict[str, Any]:
    """Versions, devices, and the settings that can change bits."""
    import keras
    import tensorflow as tf

    import rst_tf

    return {
        "rst_tf": rst_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.system(),
        "devices": [d.device_type for d in tf.config.list_logical_devices()],
        "dtype": keras.config.dtype_policy().name,
        "tf32": bool(tf.config.experimental.tensor_float_32_execution_enabled()),
        "xla": bool(tf.config.optimizer.get_jit()),
    }


def hashed(arrays) -> str:
    """SHA-256 of arrays, their shapes and types."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
