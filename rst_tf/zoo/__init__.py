"""Tickets of our own runs, each with a card: what it is, how it was made, how robust it is.

`names()` lists them, `load(name)` opens one, `python -m rst_tf.zoo NAME` evaluates one, and
`python -m rst_tf.zoo.add` makes one of a finished run. The files are part of the package.
"""

from rst_tf.zoo.shelf import Card, ZooEntry, evaluate, load, names

__all__ = ["Card", "ZooEntry", "evaluate", "load", "names"]
