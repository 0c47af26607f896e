"""What every architecture is, and how a network is described in a file."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from rst_tf.masks import Allocation, Count, Gain, Granularity, check_choice
from rst_tf.registry import Registry, choices, to_dict

Weights = Literal["real", "binary", "stochastic"]
Activations = Literal["real", "binary"]


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layer classes a network is built from.

    Args:
        dense: Class of fully connected layers.
        conv2d: Class of convolutions.
        depthwise_conv2d: Class of depthwise convolutions.
        normalization: Class of normalisation layers.
        activation: Class of activations that are layers of their own.
        input_parts: Parts of the layer at the input where they differ from these.
        output_parts: Parts of the classifier where they differ from these.
    """

    dense: Callable
    conv2d: Callable
    depthwise_conv2d: Callable
    normalization: Callable
    activation: Callable
    input_parts: "Layers | None" = None
    output_parts: "Layers | None" = None

    @property
    def first(self) -> "Layers":
        """What the layer at the input is made from."""
        return self.input_parts or self

    @property
    def last(self) -> "Layers":
        """What the classifier is made from."""
        return self.output_parts or self


def plain_parts() -> Layers:
    """Keras' own dense and convolutional layers."""
    import keras

    from rst_tf.normalization import Normalization

    plain = keras.layers
    return Layers(plain.Dense, plain.Conv2D, plain.DepthwiseConv2D, Normalization, plain.ReLU)


def masked_parts(
    *,
    granularity: Granularity = "element",
    search: bool = False,
    density: float = 1.0,
    count: Count = "nearest",
    allocation: Allocation = "layerwise",
    gain: Gain = "none",
    dense_first: bool = False,
    dense_last: bool = False,
    weights: Weights = "real",
    activations: Activations = "real",
) -> Layers:
    """Masked layers; the options of a mask are those of `MaskedKernel`.

    The masks of a classifier are element-wise where granularity is filter: a filter of it is a
    class, and a class without its filter would have the logit 0 for every image.

    Args:
        granularity: What one mask entry covers: element, row, kernel or filter.
        search: Freeze the kernels and train scores instead.
        density: In a search, the fraction of each kernel kept, in (0, 1].
        count: In a search, how the density becomes a number.
        allocation: In a search, layerwise, or one threshold for all: global, global_floor.
        gain: none, or mean: signs times the mean magnitude of what each layer keeps.
        dense_first: In a search, leave the layer at the input out: its mask stays one, and having
            no scores it stays as it was initialised.
        dense_last: Likewise the classifier.
        weights: real; binary, layers see the signs of what is trained; or stochastic, signs that
            are drawn at each pass of a training (see `binary_connect`).
        activations: real, or binary: signs in place of ReLU, where these are layers of their own.

    Raises:
        ValueError: A layer is left out where there is no search, or weights are binary where there
            is one or where they have a gain.
    """
    check_choice(weights, get_args(Weights), "weights")
    check_choice(activations, get_args(Activations), "activations")
    for name, dense in (("dense_first", dense_first), ("dense_last", dense_last)):
        if dense and not search:
            raise ValueError(f"{name} has an effect only with search=True; received {name}=True")
    searched = {"search": search, "density": density, "count": count, "allocation": allocation}
    classifier = "element" if granularity == "filter" else granularity
    common = {"granularity": granularity, "gain": gain}
    ending = common | {"granularity": classifier} | ({} if dense_last else searched)
    made = functools.partial(_masked, weights, activations)
    return dataclasses.replace(
        made(**common, **searched),
        input_parts=made(**common) if dense_first else None,
        output_parts=made(**ending),
    )


def _masked(weights: Weights, activations: Activations, **options) -> Layers:
    import keras

    from rst_tf import binary_connect, layers
    from rst_tf.normalization import Normalization

    kinds = (layers.MaskedDense, layers.MaskedConv2D, layers.MaskedDepthwiseConv2D)
    if weights != "real":
        kinds = tuple(binary_connect.BINARY_CLASS.values())
        options |= {"stochastic": weights == "stochastic"}
    kinds = (functools.partial(kind, **options) for kind in kinds)
    binary = activations == "binary"
    return Layers(
        *kinds, Normalization, binary_connect.BinaryActivation if binary else keras.layers.ReLU
    )


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A family of networks for images [height, width, channels] in [0, 1].

    A subclass defines `connect`. It makes the layer at the input from `parts.first` and the
    classifier from `parts.last`.

    Args:
        mean: Subtracted from each channel of the images by the network's first layer; empty leaves
            images as they are, one number is for all channels.
        std: What the channels are then divided by, above 0; as many numbers as in `mean`.
    """

    mean: tuple[float, ...] = dataclasses.field(default=(), kw_only=True)
    std: tuple[float, ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self):
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std must be given together, of one length; received mean={self.mean} "
                f"and std={self.std}"
            )
        if any(not deviation > 0 for deviation in self.std):
            raise ValueError(f"std must be above 0; received std={self.std}")

    def build(self, input_shape: tuple[int, ...], classes: int, parts: Layers | None = None):
        """A built Keras model of logits.

        Args:
            input_shape: (height, width, channels).
            classes: Number of logits, at least 2.
            parts: Layer classes; `plain_parts()` if not given.

        Raises:
            ValueError: The shape is too small for the network or has other channels than `mean`,
                or classes below 2.
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
        parts = parts or plain_parts()
        logits = self.connect(self._normalised(images), classes, parts)
        name = ARCHITECTURES.name_of(type(self))
        network = keras.Model(images, logits, name=name)
        if parts.activation is not keras.layers.ReLU:
            _check_activations(network, parts.activation)
        return network

    def _normalised(self, images):
        """(images - mean) / std, as a scale and an offset: constants that every format keeps."""
        import keras

        if not self.mean:
            return images
        channels = images.shape[-1]
        if len(self.mean) not in (1, channels):
            raise ValueError(
                f"mean must have one number, or one for each of {channels} channels; "
                f"received mean={self.mean}"
            )
        scale = [1 / deviation for deviation in self.std]
        offset = [-mean / deviation for mean, deviation in zip(self.mean, self.std, strict=True)]
        return keras.layers.Rescaling(scale, offset, name="channels")(images)

    def connect(self, images, classes: int, parts: Layers):
        """Logits of the images; what a new architecture defines."""
        raise NotImplementedError


def _check_activations(network, wanted: type) -> None:
    if not any(isinstance(layer, wanted) for layer in network.layers):
        raise ValueError(
            "activations=binary needs a network whose activations follow a normalisation, such as "
            f"resnet or vgg; received network={network.name}"
        )


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
        from rst_tf import (  # noqa: F401  (their classes must be registered)
            binary_connect,
            layers,
            normalization,
        )

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
