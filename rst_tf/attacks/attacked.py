"""What is attacked: a Keras model, a SavedModel, a file or a callable, as functions to logits."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rst_tf.attacks._average import Average
from rst_tf.attacks.attack import logits_of
from rst_tf.attacks.outcome import Finding

_TINY = 1e-37  # above the smallest normal float32, so that its logarithm is finite


class Attacked(NamedTuple):
    """A model as attacks see it.

    Attributes:
        logits: From images [n, ...] to logits [n, classes]: judges what an attack found.
        climbed: The same up to rounding, with less work: what an attack asks again and again.
        findings: What was changed of the model.
    """

    logits: Callable
    climbed: Callable
    findings: list[Finding]


def attacked(model) -> Attacked:
    """A model as functions to logits, and what was changed for it.

    A Keras model answers in inference mode. A softmax that its structure shows is taken off, and
    masks are multiplied into kernels, as in the model that is shipped (these are copies, of the
    weights as they are now); what is climbed has its normalisations folded into the kernels. Of a
    SavedModel the endpoint `serve` or `serving_default` is taken.

    Args:
        model: Keras model, loaded SavedModel, callable; or the path of a `.keras` file or of a
            SavedModel's folder.

    Raises:
        ValueError: It is none of these, or the path holds no model.
    """
    import keras

    if isinstance(model, str | Path):
        model = load(model)
    if isinstance(model, keras.Model):
        return _keras(model)
    endpoint = _endpoint(model)
    return Attacked(endpoint, endpoint, [])


def load(path: str | Path):
    """The model of a `.keras` file or a SavedModel's folder."""
    import keras
    import tensorflow as tf

    path = Path(path)
    if path.is_dir() and (path / "saved_model.pb").exists():
        return tf.saved_model.load(str(path))
    if path.is_file() and path.suffix == ".keras":
        for module in ("layers", "normalization", "binary_connect"):
            importlib.import_module(f"rst_tf.{module}")  # the layers that the file may hold
        return keras.models.load_model(path, compile=False)
    there = "is not one" if path.exists() else "does not exist"
    raise ValueError(
        f"model must be the path of a .keras file or a SavedModel's folder; received "
        f"{str(path)!r}, which {there}"
    )


def _keras(model) -> Attacked:
    from rst_tf.folding import folded
    from rst_tf.surgery import baked, ends_in_softmax, with_logits
    from rst_tf.traversal import masked_layers, walk

    found = []
    if ends_in_softmax(model):
        model = with_logits(model)
        found.append(Finding("probabilities", "note", "the model's last softmax was taken off"))
    if masked_layers(model) and _clonable(model):
        model = baked(model)
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in walk(model)):
        found.append(
            Finding(
                "precision",
                "warning",
                "the model computes in half precision, whose gradients round to 0 early",
            )
        )
    return Attacked(logits_of(model), logits_of(folded(model)), found)


def _clonable(model) -> bool:
    from rst_tf.surgery import check_clonable

    try:
        check_clonable(model, "attack")
    except ValueError:
        return False
    return True


def _endpoint(model) -> Callable:
    if hasattr(model, "signatures") and not callable(model):
        if hasattr(model, "serve"):
            return lambda x: model.serve(x)  # which keeps the model, whose variables it reads
        if "serving_default" in model.signatures:
            return _by_name(model)
        raise ValueError(
            "model is a SavedModel without an endpoint serve or serving_default; received one "
            f"with {sorted(model.signatures)}; pass the function that returns logits"
        )
    logits = logits_of(model)
    return logits if isinstance(logits, Average) else _converted(logits)


def _converted(function) -> Callable:
    """A graph of somebody's own function, whose `if` and `for` may look at tensors."""
    import tensorflow as tf

    graph = tf.function(function, reduce_retracing=True)
    return lambda x: graph(x)


def _by_name(model) -> Callable:
    """The default signature, which takes and gives tensors by name, as a function of one tensor."""
    signature = model.signatures["serving_default"]
    (argument,) = signature.structured_input_signature[1]
    (output,) = signature.structured_outputs
    return lambda x, _owner=model: signature(**{argument: x})[output]


def logarithms(probabilities: Callable) -> Callable:
    """Logits of a model that gives probabilities: their logarithms, exact until they round to 0."""
    import tensorflow as tf

    return lambda x: tf.math.log(tf.maximum(tf.cast(probabilities(x), tf.float32), _TINY))
