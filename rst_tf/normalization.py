"""Batch normalisation as the published systems define it, over TensorFlow's fused operation.

Momentum 0.9, epsilon 1e-5, biased variance to normalise and unbiased variance in the running
statistics (as PyTorch); Keras' layer differs in all three and takes about three times as long.
"""

import contextlib
import threading
from collections.abc import Iterator

import keras
import tensorflow as tf

_mode = threading.local()


@contextlib.contextmanager
def statistics_held() -> Iterator[None]:
    """Within this context a call with `training=True` leaves running statistics alone."""
    _mode.held = True
    try:
        yield
    finally:
        _mode.held = False


@keras.saving.register_keras_serializable(package="rst_tf")
class Normalization(keras.layers.Layer):
    """Batch normalisation over all axes but the last.

    Args:
        affine: Learn a scale and an offset per channel.
        momentum: Weight of the old value in the running statistics, in [0, 1].
        epsilon: Added to the variance, above 0.

    Under a `tf.distribute` strategy the statistics are those of the global batch.
    """

    def __init__(self, affine=True, momentum=0.9, epsilon=1e-5, **kwargs):
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1]; received momentum={momentum!r}")
        if epsilon <= 0:
            raise ValueError(f"epsilon must be above 0; received epsilon={epsilon!r}")
        super().__init__(**kwargs)
        self.affine, self.momentum, self.epsilon = affine, momentum, epsilon

    def build(self, input_shape):
        """Adds gamma and beta if affine, and the running statistics."""
        shape = (input_shape[-1],)
        if self.affine:
            self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
            self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        frozen = {"trainable": False, "autocast": False, "aggregation": "mean"}
        self.moving_mean = self.add_weight(
            name="moving_mean", shape=shape, initializer="zeros", **frozen
        )
        self.moving_variance = self.add_weight(
            name="moving_variance", shape=shape, initializer="ones", **frozen
        )

    def call(self, inputs, training=False):
        """Normalises with the batch's statistics if `training`, else with the running ones."""
        x = tf.cast(inputs, tf.float32)
        if not training:
            y = self._scaled(x, self.moving_mean, self.moving_variance)
        elif _replicas() > 1 or len(x.shape) != 4:
            y = self._from_moments(x)
        else:
            y = self._fused(x)
        return tf.cast(y, self.compute_dtype)

    def _gains(self, x):
        if self.affine:
            return tf.cast(self.gamma, tf.float32), tf.cast(self.beta, tf.float32)
        return tf.ones(x.shape[-1]), tf.zeros(x.shape[-1])

    def _scaled(self, x, mean, variance):
        gamma, beta = self._gains(x)
        scale = gamma * tf.math.rsqrt(tf.convert_to_tensor(variance) + self.epsilon)
        return x * scale + (beta - tf.convert_to_tensor(mean) * scale)

    def _fused(self, x):
        gamma, beta = self._gains(x)
        result = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=gamma,
            offset=beta,
            mean=tf.zeros(0),
            variance=tf.zeros(0),
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            data_format="NHWC",
            is_training=True,
        )
        self._update(result.batch_mean, result.batch_variance)  # this variance is the unbiased one
        return result.y

    def _from_moments(self, x):
        axes = list(range(len(x.shape) - 1))
        n = tf.cast(tf.size(x) / x.shape[-1], tf.float32)
        sums = [n, tf.reduce_sum(x, axes), tf.reduce_sum(tf.square(x), axes)]
        if _replicas() > 1:
            sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)
        n, total, squares = sums
        mean = total / n
        variance = tf.maximum(squares / n - tf.square(mean), 0.0)
        self._update(mean, variance * n / tf.maximum(n - 1, 1.0))
        return self._scaled(x, mean, variance)

    def _update(self, mean, variance):
        if _mode.__dict__.get("held", False):
            return
        keep = self.momentum
        self.moving_mean.assign(keep * self.moving_mean + (1 - keep) * tf.stop_gradient(mean))
        self.moving_variance.assign(
            keep * self.moving_variance + (1 - keep) * tf.stop_gradient(variance)
        )

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape

    def get_config(self):
        """Constructor arguments."""
        return {
            **super().get_config(),
            "affine": self.affine,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }


def _replicas() -> int:
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync
