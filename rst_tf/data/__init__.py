"""Data: where images come from, how they are split, and how they reach the network in batches."""

from rst_tf.data.config import Data as Data
from rst_tf.data.pipeline import batches as batches
from rst_tf.data.pipeline import evaluation_batches as evaluation_batches
from rst_tf.data.pipeline import steps_per_epoch as steps_per_epoch
from rst_tf.data.sources import from_arrays as from_arrays
from rst_tf.data.splits import Split as Split
from rst_tf.data.splits import Splits as Splits
