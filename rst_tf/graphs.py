"""Graphs that a job traced, let go when it ends.

A graph with a custom gradient (the straight-through estimate of a mask has one, Keras' training
step has others) is entered into a registry of TensorFlow, which holds it, and with it the network's
variables, as long as the process lives.
"""

import contextlib
import gc
from collections.abc import Iterator

from tensorflow.python.framework.ops import gradient_registry  # no public name


@contextlib.contextmanager
def let_go() -> Iterator[None]:
    """On leaving, drops what was traced within from TensorFlow's registry, and collects garbage.

    What was traced within can still be called, but no gradient can be taken of it any more.
    """
    before = set(gradient_registry.list())
    try:
        yield
    finally:
        for name in set(gradient_registry.list()) - before:
            if name.startswith("CustomGradient-"):
                del gradient_registry._registry[name]
        gc.collect()
