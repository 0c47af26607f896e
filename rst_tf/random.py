"""Stateless randomness: every random number is a function of (seed, stream, indices).

Two families. The NumPy family makes what a ticket must be able to rebuild on another machine:
raw Philox integers, mapped to numbers by operations that IEEE 754 defines exactly (+ - * / sqrt),
so the bits do not depend on a maths library. The graph family makes noise inside a
`tf.function`, per example, by an integer hash, so it does not depend on batch order or size.
"""

import hashlib

import numpy as np

RECIPE = 1
"""Version of the NumPy family. Numbers of one version never change; tests hold golden hashes."""

_WICHURA = (  # AS 241, Applied Statistics 37 (1988): numerator and denominator, highest power first
    (
        (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853)
        + (45921.953931549871457, 13731.693765509461125, 1971.5909503065514427)
        + (133.14166789178437745, 3.3871328727963666080),
        (5226.4952788528545610, 28729.085735721942674, 39307.895800092710610)
        + (21213.794301586595867, 5394.1960214247511077, 687.18700749205790830)
        + (42.313330701600911252, 1.0),
    ),
    (
        (7.74545014278341407640e-4, 2.27238449892691845833e-2, 0.241780725177450611770)
        + (1.27045825245236838258, 3.64784832476320460504, 5.76949722146069140550)
        + (4.63033784615654529590, 1.42343711074968357734),
        (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2)
        + (0.148103976427480074590, 0.689767334985100004550, 1.67638483018380384940)
        + (2.05319162663775882187, 1.0),
    ),
    (
        (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3)
        + (2.65321895265761230930e-2, 0.296560571828504891230, 1.78482653991729133580)
        + (5.46378491116411436990, 6.65790464350110377720),
        (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5)
        + (7.86869131145613259100e-4, 1.48753612908506148525e-2, 0.136929880922735805310)
        + (0.599832206555887937690, 1.0),
    ),
)


def raw(n: int, seed: int, stream: str, *indices: int) -> np.ndarray:
    """`n` uint64 values of the Philox generator keyed by `(seed, stream, indices)`."""
    text = "/".join(map(str, ("rst_tf", RECIPE, int(seed), stream, *map(int, indices))))
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Philox(key=key).random_raw(n)


def uniform(shape: tuple[int, ...], seed: int, stream: str, *indices: int) -> np.ndarray:
    """Float64 values in the open interval (0, 1), symmetric about 1/2."""
    integers = raw(int(np.prod(shape)), seed, stream, *indices) >> np.uint64(12)
    return ((integers.astype(np.float64) + 0.5) * 2.0**-52).reshape(shape)


def normal(shape: tuple[int, ...], seed: int, stream: str, *indices: int) -> np.ndarray:
    """Float64 standard normal values, by Wichura's inverse of the distribution function."""
    p = uniform(shape, seed, stream, *indices)
    q = p - 0.5
    centre = q * _rational(0, 0.180625 - q * q)
    tail = np.sqrt(-_log(np.where(q < 0, p, 1 - p)))
    outer = np.where(tail <= 5, _rational(1, tail - 1.6), _rational(2, tail - 5))
    return np.where(np.abs(q) <= 0.425, centre, np.where(q < 0, -outer, outer))


def permutation(n: int, seed: int, stream: str, *indices: int) -> np.ndarray:
    """A random order of 0..n-1, int64."""
    return np.argsort(raw(n, seed, stream, *indices), kind="stable")


def subseed(seed: int, stream: str, *indices: int) -> tuple[int, int]:
    """Two integers in [0, 2**31) to seed TensorFlow's stateless operations."""
    first, second = raw(2, seed, stream, *indices) >> np.uint64(33)
    return int(first), int(second)


def mix(values: np.ndarray) -> np.ndarray:
    """A bijective hash of uint32 values (Wellons' `lowbias32`)."""
    h = np.asarray(values, np.uint32)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
    return h ^ (h >> np.uint32(16))


def mix_in_graph(values):
    """`mix` for an integer tensor; returns uint32 of the same shape."""
    import tensorflow as tf

    def shifted(x, bits):
        return tf.bitwise.right_shift(x, tf.constant(bits, tf.uint32))

    h = _as_uint32(values)
    h = (h ^ shifted(h, 16)) * tf.constant(0x7FEB352D, tf.uint32)
    h = (h ^ shifted(h, 15)) * tf.constant(0x846CA68B, tf.uint32)
    return h ^ shifted(h, 16)


def fold(seed, number):
    """A new uint32 key from a key and an integer: tensors or Python integers, same shape rules.

    `fold(fold(7, step), index)` keys the noise of example `index` at `step`.
    """
    import tensorflow as tf

    golden = tf.constant(0x9E3779B9, tf.uint32)
    return mix_in_graph(_as_uint32(seed) ^ mix_in_graph(_as_uint32(number) + golden))


def example_uniform(key, index, shape):
    """Noise for a batch, one stream per example, independent of the batch around it.

    Args:
        key: Integer key (Python or scalar tensor), for example `fold(seed, step)`.
        index: Integer tensor [n], the identity of each example.
        shape: Static shape of one example.

    Returns:
        Float32 tensor [n, *shape], uniform in the open interval (0, 1).
    """
    import tensorflow as tf

    keys = fold(key, index)[:, tf.newaxis]
    cells = tf.constant(mix(np.arange(int(np.prod(shape)), dtype=np.uint32)))
    bits = tf.bitwise.right_shift(mix_in_graph((cells ^ keys) + keys), tf.constant(9, tf.uint32))
    noise = (tf.cast(bits, tf.float32) + 0.5) * 2.0**-23
    return tf.reshape(noise, (-1, *shape))


def example_normal(key, index, shape):
    """As `example_uniform`, but standard normal."""
    import tensorflow as tf

    return tf.math.ndtri(example_uniform(key, index, shape))


def _rational(piece: int, x: np.ndarray) -> np.ndarray:
    numerator, denominator = _WICHURA[piece]
    return np.polyval(numerator, x) / np.polyval(denominator, x)


def _log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm from exact operations only: 2 artanh((m-1)/(m+1)) + e log 2."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < np.sqrt(0.5)
    mantissa = np.where(small, 2 * mantissa, mantissa)
    exponent = exponent - small
    s = (mantissa - 1) / (mantissa + 1)
    series = np.polyval([1 / k for k in range(25, 0, -2)], s * s)
    return 2 * s * series + exponent * 0.6931471805599453


def _as_uint32(value):
    import tensorflow as tf

    if isinstance(value, int | np.integer):
        return tf.constant(int(value) & 0xFFFFFFFF, tf.uint32)
    return value if value.dtype == tf.uint32 else tf.cast(tf.cast(value, tf.int64), tf.uint32)
