"""Shows the entries of the zoo, or evaluates one again.

python -m rst_tf.zoo                          what there is
python -m rst_tf.zoo NAME                     its card, and the same numbers measured here
python -m rst_tf.zoo NAME --data=npz:PATH     the same on images from elsewhere, or --data=mnist
"""

import argparse
import os
import sys

from rst_tf.quiet import start_tensorflow
from rst_tf.zoo.shelf import load, names


def main(arguments: list[str]) -> None:
    """Prints the cards, or one card and what is measured now."""
    parser = argparse.ArgumentParser("rst_tf.zoo", description=__doc__.partition("\n")[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help="entries to evaluate")
    parser.add_argument(
        "--data", help="where the images are: npz:PATH, mnist, ...; see Data.source"
    )
    given = parser.parse_args(arguments)
    if given.data is not None and not given.names:
        raise ValueError(f"data has an effect only with a NAME; received data={given.data!r}")
    for name in given.names or names():
        print(load(name).card, flush=True)
    if given.names:
        start_tensorflow()
    for name in given.names:
        _evaluate(name, given.data)


def _evaluate(name: str, data: str | None) -> None:
    entry = load(name)
    images = entry.images(data)
    found = entry.evaluate(*images[:3])
    robust = found.robust_accuracy
    attacked = "" if robust is None else f", {robust:.2%} under the same attack"
    print(f"{name}, measured here: {found.accuracy:.2%} clean{attacked}")
    if not images.of_the_card:
        print(
            f"  on {len(images.y):,} test images of {data}, which are not those of the card: "
            "other ones, or in another order"
        )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"rst_tf.zoo: error: {error}")
