"""What a report is about: the network, the images, and what they were computed with."""

import hashlib
import platform
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
