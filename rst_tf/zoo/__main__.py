"""Shows the entries of the zoo, or evaluates one again.

python -m rst_tf.zoo          what there is
python -m rst_tf.zoo NAME     its card, and the same numbers measured here
"""

import os
import sys

from rst_tf.quiet import start_tensorflow
from rst_tf.zoo.shelf import load, names


def main(arguments: list[str]) -> None:
    """Prints the cards, or one card and what is measured now."""
    for name in arguments or names():
        print(load(name).card, flush=True)
    if arguments:
        start_tensorflow()
    for name in arguments:
        found = load(name).evaluate()
        robust = found.robust_accuracy
        attacked = "" if robust is None else f", {robust:.2%} under the same attack"
        print(f"{name}, measured here: {found.accuracy:.2%} clean{attacked}")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"rst_tf.zoo: error: {error}")
