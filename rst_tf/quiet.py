"""Keeps what TensorFlow and converters print off the terminal; no log level of 2.21 does."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallows what is printed, from Python or C++; an error has it as a note.

    It holds for the whole process: another thread's output is lost as well.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.ExitStack() as stack:
        heard = stack.enter_context(tempfile.TemporaryFile())
        text = stack.enter_context(open(os.dup(heard.fileno()), "w", buffering=1))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stdout(text))
        stack.enter_context(contextlib.redirect_stderr(text))
        for number in (1, 2):
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(heard.fileno(), number)
        try:
            yield
        except Exception as error:
            heard.seek(0)
            error.add_note(heard.read().decode(errors="replace")[-4000:])
            raise


def start_tensorflow() -> None:
    """Imports TensorFlow and compiles a trifle: devices, oneDNN and XLA greet once per process."""
    with quiet():
        import tensorflow as tf

        tf.function(tf.negative, jit_compile=True)(tf.zeros(1))
    for handler in logging.getLogger("tensorflow").handlers:  # made where stderr was swallowed
        if isinstance(handler, logging.StreamHandler):
            handler.stream = sys.stderr
