"""Several networks attacked at once: an attacker that does not know which one will answer."""

from collections.abc import Callable


class Average:
    """What an attack climbs to raise the mean loss of several networks at every step.

    Its gradient is the mean of theirs: the expectation over a defence's random choice (Athalye et
    al. 2018, expectation over transformation).

    Args:
        logits: From images [n, ...] to logits [networks, n, classes].
        weights: Probability of each network, float32 [networks]; equal if None.
    """

    def __init__(self, logits: Callable, weights=None):
        self._logits, self.weights = logits, weights

    def __call__(self, x):
        """Logits of x, [networks, n, classes]."""
        return self._logits(x)


def weights_of(logits: Callable):
    """The weights of the networks behind a callable, or None."""
    return logits.weights if isinstance(logits, Average) else None
