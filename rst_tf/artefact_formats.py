"""The formats of `export`: how each is written, and how its own runtime runs what was written."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from rst_tf.registry import unknown

Name = Literal["keras", "saved_model", "litert", "onnx", "packed"]
Run = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Format:
    """One format.

    Args:
        suffix: Of its file; empty where the artefact is a folder.
        write: Writes a plain Keras model to a path that does not exist.
        load: What its runtime makes of the path: a function from images [n, ...] to outputs
            [n, ...], NumPy arrays, for any n.
        packages: What it needs that the library itself does not.
        masked: Whether it is written from the masked network and read by this library, in place of
            a plain copy that is read without it.
        memory: Bytes that what is at the path keeps in memory between calls, where that differs
            from a float32 per weight.
    """

    suffix: str
    write: Callable[..., None]
    load: Callable[[Path], Run]
    packages: tuple[str, ...] = ()
    masked: bool = False
    memory: Callable[[Path], int] | None = None


def _write_keras(model, path: Path) -> None:
    model.save(path)


def _load_keras(path: Path) -> Run:
    import keras
    import tensorflow as tf

    model = keras.models.load_model(path, compile=False)
    run = tf.function(lambda x: model(x, training=False), input_signature=_signature(model))
    return lambda x: run(x).numpy()


def _write_saved_model(model, path: Path) -> None:
    import keras

    archive = keras.export.ExportArchive()  # model.export stores every weight twice: keras#23553
    forward = functools.partial(model, training=False)
    archive.add_endpoint("serve", forward, input_signature=_signature(model))
    archive.write_out(path, verbose=False)


def _load_saved_model(path: Path) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return lambda x: loaded.serve(x).numpy()


def _write_litert(model, path: Path) -> None:
    import tensorflow as tf

    standard = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}  # what every device has
    model.export(path, format="litert", verbose=False, target_spec=standard)


def _load_litert(path: Path) -> Run:
    import tensorflow as tf

    run = tf.lite.Interpreter(model_path=str(path)).get_signature_runner()
    (image,), (logits,) = run.get_input_details(), run.get_output_details()
    return lambda x: run(**{image: x})[logits]


def _write_onnx(model, path: Path) -> None:
    signature = _signature(model)  # without it Keras refuses a model that was never called
    model.export(path, format="onnx", verbose=False, input_signature=signature)


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image, *lost = [given.name for given in session.get_inputs()]
    if lost:
        raise ValueError(f"constants of the network became inputs: {', '.join(lost)}")
    return lambda x: session.run(None, {image: x})[0]


def _write_packed(network, path: Path, **options) -> None:
    from rst_tf.packed import PackedModel

    PackedModel.of(network, **options).save(path)


def _load_packed(path: Path) -> Run:
    from rst_tf.packed import PackedModel

    return PackedModel.load(path).inference()


def _packed_memory(path: Path) -> int:
    from rst_tf.packed import PackedModel

    return PackedModel.load(path).nbytes


def _signature(model) -> list:
    import tensorflow as tf

    image = model.inputs[0]
    return [tf.TensorSpec(image.shape, image.dtype, "image")]


FORMATS: Mapping[str, Format] = {
    "keras": Format(".keras", _write_keras, _load_keras),
    "saved_model": Format("", _write_saved_model, _load_saved_model),
    "litert": Format(".tflite", _write_litert, _load_litert),
    "onnx": Format(".onnx", _write_onnx, _load_onnx, ("onnx", "tf2onnx", "onnxruntime")),
    "packed": Format(".rstb", _write_packed, _load_packed, masked=True, memory=_packed_memory),
}


def known(name: str) -> str:
    """The name of a format; ValueError if there is none of this name."""
    if name not in FORMATS:
        raise ValueError(unknown("format", name, list(FORMATS)))
    return name


def usable(name: str) -> Format:
    """The format of a name; ValueError if there is none or one of its packages is missing."""
    format = FORMATS[known(name)]
    missing = [package for package in format.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"format={name!r} needs {', '.join(missing)}: pip install rst-tf[export]")
    return format
