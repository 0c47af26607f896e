"""What Square tries: a start, and one change of one window per query (Andriushchenko et al. 2020).

Where a window lies and how large it is are the same for all images of a query and a function of
(key, query) alone; so is the colour of an L-inf window. Stripes and the colours of L2 windows
belong to the example.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from rst_tf import random
from rst_tf.attacks._geometry import NORMS, like

_TINY = 1e-12
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def fractions(queries: int, first: float, rescale: bool) -> np.ndarray:
    """The share of an image's pixels inside the window, per query, float64 [queries].

    Args:
        queries: Number of queries.
        first: The share up to query 10; it halves after the queries 10, 50, 200, 500, ...
        rescale: Spread the halvings, made for 10,000 queries, over so many.
    """
    query = np.arange(queries)
    if rescale:
        query = (query / queries * 10000).astype(int)
    return first / 2.0 ** np.searchsorted(_HALVINGS, query)


def sides(shares: np.ndarray, height: int, width: int, odd: bool = False) -> np.ndarray:
    """Side of the square window of each query, in pixels, int32; halves are rounded to even.

    Args:
        shares: As `fractions` gives them.
        height: Of the images.
        width: Of the images.
        odd: Windows of the L2 attack: at least 3, and odd where they fit.
    """
    side = np.rint(np.sqrt(shares * height * width)).astype(np.int32)
    side = np.maximum(side, 3 if odd else 1)
    if odd:
        side += 1 - side % 2
    return np.minimum(side, min(height, width))


def pyramid(rows: int, columns: int) -> np.ndarray:
    """Steps that rise to the middle of rows x columns pixels, of length 1."""
    middle = np.array([rows // 2, columns // 2]).reshape(2, 1, 1)
    away = np.abs(np.indices((rows, columns)) - middle).max(0)
    terms = (np.arange(max(middle.max(), 0) + 1) + 1.0) ** -2
    heights = np.cumsum(terms[::-1])[::-1][away]
    return heights / np.linalg.norm(heights)


def bump(side: int) -> np.ndarray:
    """A pyramid over the upper half and one of the other sign below, float32, of length 1."""
    both = np.concatenate([pyramid(side // 2, side), -pyramid(side - side // 2, side)])
    return (both / np.linalg.norm(both)).astype(np.float32)


def tiles(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bumps that the L2 attack starts with, five from top to bottom where they fit.

    Returns:
        The number of each pixel's tile, int [height, width], 0 also between and beside the tiles;
        and the bumps, all standing and all lying, float32 [height, width], 0 beside the tiles.
        Tiles that reach past an edge are cut.
    """
    side = max(height // 5, 1)
    offset = max(height - 5 * side, 0) // 2
    axes = [np.divmod(np.arange(n) - offset, side) for n in (height, width)]
    (row, down), (column, across) = axes
    here = (row >= 0) & (row < height // side), (column >= 0) & (column < width // side)
    inside = here[0][:, np.newaxis] & here[1]
    number = np.where(inside, row[:, np.newaxis] * (width // side) + column, 0)
    shape = bump(side)
    return number, *(s[down][:, across] * np.float32(inside) for s in (shape, shape.T))


def paste(image, patch, row, column):
    """Images [n, h, w, c] with a patch [n, a, b, c] in place of what was there."""
    below, right = row + tf.shape(patch)[1], column + tf.shape(patch)[2]
    band = image[:, row:below]
    band = tf.concat([band[:, :, :column], patch, band[:, :, right:]], 2)
    whole = tf.concat([image[:, :row], band, image[:, below:]], 1)
    whole.set_shape(image.shape)
    return whole


@dataclasses.dataclass(frozen=True)
class Corners:
    """L-inf: vertical stripes, then squares, every pixel at a corner of its ball and box.

    Attributes:
        epsilon: Radius of the ball.
        sides: Side of each query's square, in pixels, int32 [queries].
        rows: Its first row, int32 [queries].
        columns: Its first column, int32 [queries].
        colours: Up or down for each channel, -1 or 1, float32 [queries, channels].
        stripes: Up or down at the start, -1 or 1, float32 [n, 1, width, channels].
    """

    epsilon: float
    sides: np.ndarray
    rows: tf.Tensor
    columns: tf.Tensor
    colours: tf.Tensor
    stripes: tf.Tensor

    @classmethod
    def drawn(cls, epsilon, shares, shape, key, index) -> "Corners":
        """Those of a key; `shares` as from `fractions`, `shape` of one image."""
        height, width, channels = shape
        side = sides(shares, height, width)
        noise = random.example_uniform(random.fold(key, 0), tf.range(len(side)), (2 + channels,))
        stripes = random.example_uniform(random.fold(key, 1), index, (1, width, channels))
        return cls(
            epsilon,
            side,
            _below(noise[:, 0], height - side),
            _below(noise[:, 1], width - side),
            _signs(noise[:, 2:]),
            _signs(stripes),
        )

    def start(self, x):
        """The first images to try."""
        return self._corner(x, self.stripes)

    def change(self, query, best, x, index):
        """What to try instead of the best images so far."""
        del index
        side, row, column, colour = (
            tf.gather(table, query) for table in (self.sides, self.rows, self.columns, self.colours)
        )
        inside = x[:, row : row + side, column : column + side]
        return paste(best, self._corner(inside, colour), row, column)

    def _corner(self, x, sign):
        return tf.clip_by_value(x + self.epsilon * sign, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Bumps:
    """L2: a grid of bumps, then what one window holds is moved into another, with a bump added.

    Attributes:
        epsilon: Radius of the ball.
        sides: Side of each query's windows, in pixels, int32 [queries].
        places: Uniform numbers, float32 [queries, 5]: where the two windows lie, and whether the
            bump stands or lies.
        turns: Uniform numbers, one per tile of the start, float32 [tiles].
        key: Of the colours of each example and query.
        colours: Signs of the tiles at the start, float32 [n, tiles, channels].
    """

    epsilon: float
    sides: np.ndarray
    places: tf.Tensor
    turns: tf.Tensor
    key: tf.Tensor
    colours: tf.Tensor

    @classmethod
    def drawn(cls, epsilon, shares, shape, key, index) -> "Bumps":
        """As `Corners.drawn`."""
        height, width, channels = shape
        side = sides(shares, height, width, odd=True)
        count = int(tiles(height, width)[0].max()) + 1
        colours = random.example_uniform(random.fold(key, 1), index, (count, channels))
        one = tf.zeros([1], tf.int32)
        return cls(
            epsilon,
            side,
            random.example_uniform(random.fold(key, 0), tf.range(len(side)), (5,)),
            random.example_uniform(random.fold(key, 2), one, (count,))[0],
            random.fold(key, 3),
            _signs(colours),
        )

    def start(self, x):
        """The first images to try: a bump in each tile of a grid of five by five or more."""
        number, standing, lying = tiles(*x.shape[1:3])
        shape = tf.where(tf.gather(self.turns, number) > 0.5, lying, standing)
        delta = shape[:, :, tf.newaxis] * tf.gather(self.colours, number, axis=1)
        return self._at_radius(x, delta)

    def change(self, query, best, x, index):
        """What to try instead of the best images so far."""
        height, width, channels = x.shape[1:]
        side, place = tf.gather(self.sides, query), tf.gather(self.places, query)
        rows = _below(place[0:3:2], height - side)
        columns = _below(place[1:4:2], width - side)
        delta = best - x
        old = delta[:, rows[0] : rows[0] + side, columns[0] : columns[0] + side]
        rest = paste(delta, tf.zeros_like(old), rows[0], columns[0])
        other = rest[:, rows[1] : rows[1] + side, columns[1] : columns[1] + side]
        unused = tf.maximum(self.epsilon**2 - tf.reduce_sum(delta**2, [1, 2, 3], True), 0.0)
        budget = unused / channels + _square(old) + _square(other)
        signs = _signs(
            random.example_uniform(random.fold(self.key, query), index, (1, 1, channels))
        )
        new = self._bump(query, place[4]) * signs + old / (_TINY + tf.sqrt(_square(old)))
        new = new / (_TINY + tf.sqrt(_square(new))) * tf.sqrt(budget)
        rest = paste(rest, tf.zeros_like(other), rows[1], columns[1])
        return self._at_radius(x, paste(rest, new, rows[0], columns[0]))

    def _bump(self, query, turn):
        """The bump of a query, [side, side, 1]."""
        values, kind = np.unique(self.sides, return_inverse=True)
        shapes = [lambda side=side: tf.constant(bump(side)) for side in values.tolist()]
        shape = tf.switch_case(tf.gather(tf.constant(kind, tf.int32), query), shapes)
        return tf.where(turn > 0.5, tf.transpose(shape), shape)[:, :, tf.newaxis]

    def _at_radius(self, x, delta):
        length = NORMS["l2"].size(delta)
        return tf.clip_by_value(x + delta / like(length + _TINY, x) * self.epsilon, 0.0, 1.0)


MOVES = {"linf": Corners, "l2": Bumps}


def _below(uniform, most):
    """floor(uniform * most), int32: 0 to most - 1, so the last place is never drawn."""
    return tf.cast(tf.floor(uniform * tf.cast(most, tf.float32)), tf.int32)


def _signs(uniform):
    return tf.sign(2 * uniform - 1)


def _square(part):
    """Sum of squares of each example and channel, [n, 1, 1, channels]."""
    return tf.reduce_sum(part**2, [1, 2], True)
