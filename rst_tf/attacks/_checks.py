"""What is wrong with a model, or with numbers, before they are believed."""

import numpy as np
import tensorflow as tf

from rst_tf import random
from rst_tf.attacks._geometry import NORMS
from rst_tf.attacks._graph_checks import dynamic, quantised
from rst_tf.attacks._losses import value_and_gradient
from rst_tf.attacks.outcome import Finding

_CALLS = 5
_DIFFERENCE = 1e-4  # of logits scaled to length 1, as the reference code
_BY_SQUARE = 0.002  # of all images, as the reference code
PROBABILITIES = Finding(
    "probabilities",
    "warning",
    "the model returns probabilities; their logarithms were attacked, whose gradient is lost where "
    "a probability rounds to 0: pass the model without its softmax",
)


def are_probabilities(outputs: np.ndarray) -> bool:
    """Whether outputs [n, classes] are a softmax's: between 0 and 1, rows that sum to 1."""
    sums = outputs.sum(-1)
    return outputs.min() > -1e-5 and outputs.max() < 1 + 1e-5 and np.abs(sums - 1).max() < 1e-5


def model(logits, x: np.ndarray, randomised: bool) -> list[Finding]:
    """Checks on a first batch of images.

    Args:
        logits: From images to logits.
        x: Images [n, ...].
        randomised: Whether the model is meant to answer at random.
    """
    found = [] if randomised else _random(logits, x) or _by_batch(logits, x)
    spec = tf.TensorSpec([None, *x.shape[1:]], tf.float32)
    traced = tf.function(lambda images: logits(images), [spec], autograph=False)
    graph = traced.get_concrete_function().graph
    definition, images = graph.as_graph_def(), graph.inputs[0].op.name
    return found + dynamic(definition) + quantised(definition, images)


def _random(logits, x) -> list[Finding]:
    """Whether the same images get other logits at the next call."""
    outputs = [_scaled(logits(x)) for _ in range(_CALLS)]
    apart = max(np.linalg.norm(a - b, axis=-1).max() for a in outputs for b in outputs)
    if apart <= _DIFFERENCE:
        return []
    text = (
        f"logits of the same images differ by up to {apart:.2g} of their length from call to call"
    )
    return [Finding("randomised", "error", f"{text}; use version='rand'")]


def _by_batch(logits, x) -> list[Finding]:
    """Whether an image's logits depend on the images beside it."""
    if len(x) < 2:
        return []
    part = max(1, len(x) // 2)
    apart = np.linalg.norm(_scaled(logits(x))[..., :part, :] - _scaled(logits(x[:part])), axis=-1)
    if apart.max() <= _DIFFERENCE:
        return []
    text = f"logits change by up to {apart.max():.2g} of their length with the images beside them"
    return [Finding("batch", "error", f"{text}; is it called with training=True?")]


def without_gradient(logits, images, classes: int):
    """A traced function: at which images [n, ...] of labels [n] losses have no gradient at all.

    It gives bool [losses, n], for DLR and cross-entropy, or with two classes cross-entropy alone.
    Misclassified images do not count: DLR is constant where the label ranks third.

    Args:
        logits: From images to logits.
        images: Their `TensorSpec`.
        classes: Number of logits.
    """
    from rst_tf.attacks import _losses as losses

    climbed = [losses.difference_of_logits_ratio] if classes > 2 else []

    @tf.function(input_signature=[images, tf.TensorSpec([None], tf.int32)], autograph=False)
    def flat(x, y):
        found = []
        for loss in (*climbed, losses.cross_entropy):
            _, gradient, z = value_and_gradient(logits, lambda z, loss=loss: loss(z, y), x)
            found.append((NORMS["linf"].size(gradient) == 0) & ~losses.defeated(z, y))
        return tf.stack(found)

    return flat


def zero_gradients(flat, x, y, size: int) -> list[Finding]:
    """How many images, all classified right, give a gradient attack nothing to start from.

    Looked at beside the clean image, at 1e-3 of noise, as where an attack begins.

    Args:
        flat: What `without_gradient` gave.
        x: Images [n, ...].
        y: Labels [n].
        size: Images at a time.
    """
    counts = 0
    for at in range(0, len(x), size):
        part = x[at : at + size]
        noise = random.example_uniform(at, np.arange(len(part)), x.shape[1:])
        images = np.clip(part + 1e-3 * (2 * noise.numpy() - 1), 0, 1)
        counts += flat(images, y[at : at + size]).numpy().sum(axis=1)
    if not np.any(counts):
        return []
    text = f"no gradient of cross-entropy at {counts[-1]}"
    if len(counts) > 1:
        text = f"no gradient of DLR at {counts[0]}, of cross-entropy at {counts[-1]}"
    level = "error" if counts[-1] > 0.01 * len(x) else "warning"
    text += f" of {len(x)} images: such attacks cannot move them"
    return [Finding("zero gradient", level, text)]


def square_beats(names, clean: float, after) -> list[Finding]:
    """Whether Square, without gradients, broke what attacks with gradients could not.

    Args:
        names: Attacks in order.
        clean: Accuracy.
        after: Robust accuracy after each attack.
    """
    if "square" not in names or len(names) < 2:
        return []
    at = list(names).index("square")
    others = [clean, *(share for number, share in enumerate(after) if number != at)]
    gap = min(others) - after[at]
    if gap <= _BY_SQUARE:
        return []
    text = f"Square, without gradients, broke {gap:.1%} more of all images than the others together"
    return [Finding("square", "warning", f"{text}: their gradients may be masked")]


def _scaled(outputs) -> np.ndarray:
    outputs = np.asarray(outputs, np.float64)
    return outputs / (np.linalg.norm(outputs, axis=-1, keepdims=True) + 1e-10)
