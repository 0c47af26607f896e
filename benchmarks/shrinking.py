"""What leaving pruned channels out saves: one network masked, with zeros in place, and shrunk.

    python -m benchmarks.shrinking                                  cResNet18, half the channels
    python -m benchmarks.shrinking --network=vgg --density=.25 --batch=1

The forms of the network give the same logits and take turns; two of them have their normalisations
folded into the kernels. Channels are pruned by the size of their filters: all of a VGG, of residual
blocks those inside. The last form is another network, with as many weights left as the shrunk one,
anywhere in the kernels: element-wise zeros give no speed, and this is the measure of that.
"""

import argparse
import os
import time

from benchmarks import machine

FORMS = ("masked", "zeros in place", "folded", "shrunk", "shrunk, folded", "zeros anywhere")


def main() -> None:
    """Prints milliseconds per batch, multiply-adds, weights, and the ratios."""
    options = _options()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    programs = {form: _Program(form, options) for form in FORMS}
    print(f"{machine.describe()}; {options.network}, density of channels {options.density}")
    with machine.load_of_others() as others:
        found = machine.take_turns(programs, options.turns)
    print(f"{'':18}{'ms/batch':>10}{'lowest':>9}{'weights':>13}{'multiply-adds':>16}")
    for form, turns in found.items():
        notes = turns[0].notes
        lowest = min(turn.step_ms for turn in turns)
        print(
            f"{form:18}{machine.median_ms(turns):10.2f}{lowest:9.2f}{notes['weights']:13,.0f}"
            f"{notes['operations'] / 1e9:14.4f} G"
        )
    shrunk, operations = found["shrunk"], {f: t[0].notes["operations"] for f, t in found.items()}
    for form in (form for form in FORMS if form != "shrunk"):
        ratio = machine.median_ms(found[form]) / machine.median_ms(shrunk)
        print(
            f"{form} : shrunk = {ratio:.2f} in time, in multiply-adds "
            f"{operations[form] / operations['shrunk']:.2f}"
        )
    print(f"batches of {options.batch}; others used {others():.1%} of the machine")


class _Program:
    """One form of the network at work, in a process of its own."""

    def __init__(self, form: str, options):
        self._form, self._options = form, options

    def __call__(self, pipe) -> None:
        """Passes batches through it, turn by turn."""
        import tensorflow as tf

        import rst_tf as rst
        from rst_tf.folding import folded

        options = self._options
        network = network_of(self._form, options.network, options.density)
        counted = rst.operations(network)
        weights = sum(layer.weights for layer in counted.layers)
        if "folded" in self._form:
            network = folded(network)
        run = tf.function(lambda x: network(x, training=False))
        images = tf.random.uniform((options.batch, *network.input_shape[1:]))
        rows, inner, columns = machine.PRODUCT
        a, b = tf.random.uniform((rows, inner)), tf.random.uniform((inner, columns))
        turns = machine.Turns(pipe, lambda: tf.matmul(a, b))
        while True:
            turns.begin()
            run(images)
            started = time.perf_counter()
            for _ in range(options.steps):
                run(images)
            each = (time.perf_counter() - started) / options.steps * 1e3
            turns.end(each, weights=weights, operations=counted.dense)


def network_of(form: str, name: str, density: float):
    """One of FORMS of a network for 32x32 images, before it is folded; always the same channels."""
    import rst_tf as rst
    from rst_tf import models
    from rst_tf.channels import prune_channels

    network = models.ARCHITECTURES[name]().build((32, 32, 3), 10, models.masked_parts())
    rst.initialize(network, 0, "kaiming_normal")
    whole = rst.Ticket.of(network)
    prune_channels(network, density, "filter")
    if form == "zeros anywhere":
        left = sum(layer.weights for layer in rst.operations(rst.shrunk(network)).layers)
        of = sum(layer.weights for layer in rst.operations(network).layers)
        whole.prune(left / of).apply(network)
    if form == "masked":
        return network
    return rst.shrunk(network) if "shrunk" in form else rst.baked(network)


def _options():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shrinking", description=__doc__)
    parser.add_argument("--network", default="resnet", help="registered name (resnet)")
    parser.add_argument("--density", type=float, default=0.5, help="of channels (.5)")
    parser.add_argument("--batch", type=int, default=100, help="images at once (100)")
    parser.add_argument("--turns", type=int, default=10, help="turns of each form (10)")
    parser.add_argument("--steps", type=int, default=5, help="batches timed in a turn (5)")
    options = parser.parse_args()
    for name in ("batch", "turns", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1; received {getattr(options, name)}")
    if not 0 < options.density < 1:
        parser.error(f"--density must be in (0, 1); received {options.density}")
    return options


if __name__ == "__main__":
    main()
