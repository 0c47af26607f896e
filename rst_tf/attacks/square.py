"""Square: random search without gradients (Andriushchenko et al. 2020, arXiv 1912.00049)."""

import dataclasses
from typing import Literal

from rst_tf.attacks._average import weights_of
from rst_tf.attacks.attack import ATTACKS, Tries

_STREAM = 0x59A2E


@ATTACKS.register("square")
@dataclasses.dataclass(frozen=True)
class Square(Tries):
    """Changes one window of the image per query and keeps what lowers the margin.

    It asks the model for logits only, so it shows where gradients mislead other attacks. Where
    and how large a window is, all images of a query share. Images have rank 4; XLA is of no use,
    for the images that are still right become fewer.

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        queries: Changes tried per restart, at least 1; each is a forward pass.
        p_init: Share of the image that the first windows cover, in (0, 1].
        restarts: Independent runs.
        rescale: Spread the schedule of window sizes, made for 10,000 queries, over all queries.
        loss: What a change must improve: margin, or ce (cross-entropy).
    """

    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    rescale: bool = False
    loss: Literal["margin", "ce"] = "margin"

    def __post_init__(self):
        super().__post_init__()
        for name in ("queries", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; received {getattr(self, name)!r}")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init must be in (0, 1]; received {self.p_init!r}")
        if self.loss not in ("margin", "ce"):
            raise ValueError(f"loss must be margin or ce; received {self.loss!r}")

    def check_shape(self, shape):
        """It needs images [n, height, width, channels]."""
        if len(shape) != 3:
            raise ValueError(
                f"Square needs images [n, height, width, channels]; received shape {(None, *shape)}"
            )

    @property
    def trials(self) -> int:
        """See `Attack.trials`."""
        return self.restarts

    def passes(self, classes):
        """The start and the queries."""
        return self.queries + 1, 0

    def attempt(self, logits, x, y, seed, index, trial):
        """The images that one run breaks; the clean image where it breaks none."""
        from rst_tf import random
        from rst_tf.attacks._geometry import chosen
        from rst_tf.attacks._windows import MOVES, fractions

        self.check_shape(tuple(x.shape[1:]))
        key = random.fold(random.fold(seed, _STREAM), trial)
        shares = fractions(self.queries, self.p_init, self.rescale)
        moves = MOVES[self.norm].drawn(self.epsilon, shares, tuple(x.shape[1:]), key, index)
        found, margins = self.search(logits, x, y, index, moves)
        return chosen(margins > 0, x, found)

    def search(self, logits, x, y, index, moves):
        """The best images of one run, and how far they are right.

        Args:
            logits: Callable from images to logits.
            x: Images [n, height, width, channels].
            y: Labels, int32 [n].
            index: Identities of the examples [n].
            moves: What to try: `_windows.Corners` or `_windows.Bumps`.

        Returns:
            Images like x, and their margins (z_y minus the highest other logit), float32 [n].
        """
        import tensorflow as tf

        from rst_tf.attacks._geometry import chosen

        judge = self._judge(logits)

        def query(i, best, loss, margin, x, y, index):
            tried = moves.change(i, best, x, index)
            new_loss, new_margin = judge(tried, y)
            lower = new_loss < loss
            better = (margin > 0) & (lower | (new_margin <= 0))
            best = chosen(better, tried, best)
            loss = tf.where((margin > 0) & lower, new_loss, loss)
            return i + 1, best, loss, tf.where(better, new_margin, margin)

        def worthwhile(i, best, loss, margin):
            """Queries left, and at least 15 of 16 images that still need them."""
            del best, loss
            right = tf.math.count_nonzero(margin > 0, dtype=tf.int32)
            return (i < self.queries) & (16 * right > 15 * tf.size(margin))

        def on_those_left(i, best, loss, margin):
            left = tf.where(margin > 0)
            state = [tf.gather_nd(part, left) for part in (best, loss, margin)]
            given = [tf.gather_nd(part, left) for part in (x, y, index)]
            i, *state = tf.while_loop(worthwhile, lambda i, *s: query(i, *s, *given), (i, *state))
            whole = zip((best, loss, margin), state, strict=True)
            return i, *(tf.tensor_scatter_nd_update(old, left, new) for old, new in whole)

        best = moves.start(x)
        start = (tf.constant(0), best, *judge(best, y))
        _, best, _, margin = tf.while_loop(
            lambda i, best, loss, margin: (i < self.queries) & tf.reduce_any(margin > 0),
            on_those_left,
            start,
        )
        return best, margin

    def _judge(self, logits):
        """Images and labels to losses and margins; a loss is better the lower it is."""
        from rst_tf.attacks import _losses as losses

        weights = weights_of(logits)

        def judge(x, y):
            z = logits(x)
            margin = -losses.margin(z, y, weights)
            return (-losses.cross_entropy(z, y, weights) if self.loss == "ce" else margin), margin

        return judge
