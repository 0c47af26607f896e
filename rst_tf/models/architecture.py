"""What every architecture is, and how a network is described in a file."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from rst_tf.registry import Registry, choices, to_dict


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layer classes a network is built from.

    Args:
        dense: Class of fully connected layers.
        conv2d: Class of convolutions.
        normalization: Class of normalisation layers.
    """

    dense: Callable
    conv2d: Callable
    normalization: Callable


def plain_parts() -> Layers:
    """Keras' own dense and convolutional layers."""
    import keras

    from rst_tf.normalization import Normalization

    return Layers(keras.layers.Dense, keras.layers.Conv2D, Normalization)


def masked_parts(**options) -> Layers:
    """Masked layers; options as `MaskedKernel` takes them: granularity, search, density, count."""
    from rst_tf import layers
    from rst_tf.normalization import Normalization

    return Layers(
        functools.partial(layers.MaskedDense, **options),
        functools.partial(layers.MaskedConv2D, **options),
        Normalization,
    )


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A family of networks for images [height, width, channels] in [0, 1]."""

    def build(self, input_shape: tuple[int, ...], classes: int, parts: Layers | None = None):
        """A built Keras model of logits.

        Args:
            input_shape: (height, width, channels).
            classes: Number of logits, at least 2.
            parts: Layer classes; `plain_parts()` if not given.

        Raises:
            ValueError: The shape is too small for the network, or classes below 2.
        """
        import keras

        if classes < 2:
            raise ValueError(f"classes must be at least 2; received classes={classes!r}")
        if len(input_shape) != 3 or min(input_shape) < 1:
            raise ValueError(
                "input_shape must be (height, width, channels); received "
                f"input_shape={tuple(input_shape)}"
            )
        images = keras.Input(tuple(input_shape), name="image")
        logits = self.connect(images, classes, parts or plain_parts())
        name = ARCHITECTURES.name_of(type(self))
        return keras.Model(images, logits, name=name)

    def connect(self, images, classes: int, parts: Layers):
        """Logits of the images; what a new architecture defines."""
        raise NotImplementedError


ARCHITECTURES = choices(Architecture, Registry("network", "rst_tf.models"))


def describe(
    architecture: Architecture, input_shape: tuple[int, ...], classes: int, **options
) -> dict[str, Any]:
    """How to build a masked network again, as plain values: what `build` takes and tickets hold."""
    return {
        "architecture": to_dict(architecture),
        "input_shape": list(input_shape),
        "classes": classes,
        "masks": options,
    }


def describe_model(network) -> dict[str, Any]:
    """A description of any functional or Sequential masked model, through Keras' JSON."""
    return {"keras": json.loads(network.to_json())}


def build(description: Mapping[str, Any]):
    """The masked network of a description.

    Raises:
        ValueError: The description names an unknown architecture or argument.
    """
    import keras

    if "keras" in description:
        from rst_tf import layers, normalization  # noqa: F401  (their classes must be registered)

        return keras.models.model_from_json(json.dumps(description["keras"]))
    arguments = dict(description["architecture"])
    name = arguments.pop("name")
    known = {field.name for field in dataclasses.fields(ARCHITECTURES[name])}
    if set(arguments) - known:
        raise ValueError(f"network {name!r} has no arguments {sorted(set(arguments) - known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    architecture = ARCHITECTURES[name](**values)
    parts = masked_parts(**description["masks"])
    return architecture.build(tuple(description["input_shape"]), description["classes"], parts)


def scaled(channels: int, width: float) -> int:
    """A number of channels times a width factor, rounded, at least 1."""
    if not width > 0:
        raise ValueError(f"width must be above 0; received width={width!r}")
    return max(1, round(channels * width))
