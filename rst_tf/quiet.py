"""Starts TensorFlow without its greetings, which no log level of 2.21 switches off."""

import os
import sys
import tempfile


def start_tensorflow() -> None:
    """Imports TensorFlow and compiles a trifle; what C++ prints meanwhile is shown only on error.

    Devices, oneDNN and XLA announce themselves once per process, on the standard error stream,
    past Python and `TF_CPP_MIN_LOG_LEVEL`.
    """
    sys.stderr.flush()
    stream = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf

            tf.function(tf.negative, jit_compile=True)(tf.zeros(1))
        except BaseException:
            said.seek(0)
            os.write(stream, said.read())
            raise
        finally:
            os.dup2(stream, 2)
            os.close(stream)
