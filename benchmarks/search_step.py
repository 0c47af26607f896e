"""One adversarial search step of cResNet18, through `fit`, against eager PyTorch.

    python -m benchmarks.search_step                             # batch 32, PGD-3
    python -m benchmarks.search_step --attack_steps=7
    python -m benchmarks.search_step --batch=128 --attack_steps=7 --only=rst_tf

11.2 million scores over frozen weights, 32x32x3 images, PGD (epsilon 8/255) with batch statistics
that every attack step updates, SGD with momentum .9 and decay 5e-4 on the scores, density .1. Each
form is a process of its own and they take turns. PyTorch is needed here alone.
"""

import argparse
import dataclasses
import functools
import importlib.util
import os
import statistics
import sys
import time

from benchmarks import machine

EPSILON, STEP_SIZE, RATE, MOMENTUM, DECAY = 8 / 255, 2 / 255, 0.1, 0.9, 5e-4
LONE = (32, 16, 256)
"""Batch, side and channels of the lone 3x3 convolution whose rate measures the machine."""
WARM = 1
REFRESH_GATE = 0.02
BUSY = 0.05
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched.

    Args:
        depth: Of the ResNet, 18 or 34.
        density: Fraction kept of all weights.
        power: Of the adaptive allocation; 1 keeps the same fraction in each layer.
        initializer: Of the frozen weights: signed_constant or binary.
        scale: Bound of the initial scores.
        fan: Which layers have it divided by sqrt(fan_in): all or none.
        normalized_logits: One more normalisation, on the logits.
        scored: The attack returns the worst point that it visited, not its last one.
        gate: How many times faster than the published form the step has to be.
        lean: Whether it may not take more memory than PyTorch.
    """

    depth: int = 18
    density: float = 0.1
    power: float = 1.0
    initializer: str = "signed_constant"
    scale: float = 1.0
    fan: str = "all"
    normalized_logits: bool = False
    scored: bool = False
    gate: float = 5.0
    lean: bool = True

    def layers(self) -> list[tuple[int, int]]:
        """Of every kernel for 32x32x3: multiplications per image, weights."""
        found = [(32 * 32 * 27 * 64, 27 * 64)]
        side, before = 32, 64
        for blocks, channels in zip(BLOCKS[self.depth], (64, 128, 256, 512), strict=True):
            side = 32 * 64 // channels
            for number in range(2 * blocks):
                weights = 9 * channels * (before if number == 0 else channels)
                found.append((side * side * weights, weights))
            if before != channels:
                found.append((side * side * before * channels, before * channels))
            before = channels
        return [*found, (5120, 5120)]

    def flops(self, batch: int, attack_steps: int) -> float:
        """Floating-point operations of a step's convolutions, 2 per multiplication and addition.

        An attack step is one pass forward and one back to the input; the search step one forward,
        one back to the input of every layer but the first, and one to the kernels.
        """
        per_image = sum(multiplications for multiplications, _ in self.layers())
        first = self.layers()[0][0]
        return 2 * batch * ((2 * attack_steps + 3) * per_image - first)

    def flops_text(self, batch: int, attack_steps: int) -> str:
        """The same as a line."""
        million = sum(m for m, _ in self.layers()) / 1e6
        return (
            f"{self.flops(batch, attack_steps) / 1e9:.0f} G floating-point operations a step: "
            f"2B ((2K + 3) M - F), B={batch} images, K={attack_steps} attack steps, "
            f"M={million:.1f} million multiplications an image, F those of the first layer"
        )

    def built(self):
        """The network and its trained scores as the library makes them."""
        import rst_tf as rst
        from rst_tf.models import ResNet, masked_parts

        parts = masked_parts(search=True, density=self.density, count="rst")
        model = ResNet(self.depth, affine=False, normalized_logits=self.normalized_logits)
        network = model.build((32, 32, 3), 10, parts)
        rst.initialize(network, 0, self.initializer, self.scale, self.fan)
        rst.set_density(network, self.density, None if self.power == 1 else self.power)
        return network


def main() -> None:
    """Measures and prints; exits with 1 below a gate, with 3 on a machine too busy to tell."""
    options = parsed("search_step", __doc__)
    if importlib.util.find_spec("torch") is None:
        sys.exit("search_step: PyTorch is not installed; pip install torch==2.13.0")
    sys.exit(measure(Search(), options))


def measure(search: Search, options, further: dict | None = None, verdict=None) -> int:
    """Our form and PyTorch's take turns; the exit status.

    Args:
        search: What is searched.
        options: What was asked for on the command line.
        further: By name, more programs of ours that take turns with them, before PyTorch's.
        verdict: Prints what was found and says whether it is enough; `judge` by default.
    """
    from benchmarks import torch_search

    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # before any process imports TensorFlow
    size = {name: getattr(options, name) for name in ("batch", "attack_steps", "steps", "threads")}
    size["search"] = search
    programs = {
        "rst_tf, fit": functools.partial(ours, **size),
        **(further or {}),
        "PyTorch, published form": functools.partial(torch_search.published, **size),
        "PyTorch, best form": functools.partial(torch_search.best, channels_last=False, **size),
        "PyTorch, best form, channels last": functools.partial(
            torch_search.best, channels_last=True, **size
        ),
    }
    programs = {name: work for name, work in programs.items() if options.only in name}
    print(
        f"{machine.describe()}; batch {options.batch}, PGD-{options.attack_steps}; "
        f"{options.turns} turns of {options.steps} steps\n"
        f"{search.flops_text(options.batch, options.attack_steps)}"
    )
    with machine.load_of_others() as others:
        found = machine.take_turns(programs, options.turns)
    _print_table(found, search, options)
    passed = (verdict or judge)(found, search)
    print(f"Other programs used {100 * others():.0f} % of the machine meanwhile.")
    if others() > BUSY:
        print("Nothing is judged: run it again alone.")
        return 3
    return int(not passed)


def ours(
    pipe,
    search: Search,
    batch: int,
    attack_steps: int,
    steps: int,
    threads: int,
    fast: bool = False,
) -> None:
    """The search as a user writes it, with a callback that waits for its turn.

    Args:
        pipe: Gives the turns.
        search: What is searched.
        batch: Images per step.
        attack_steps: Steps of PGD.
        steps: Steps timed in a turn.
        threads: Of TensorFlow.
        fast: Train with one step from perturbations that are kept, in place of PGD.
    """
    import keras
    import tensorflow as tf

    import rst_tf as rst
    from rst_tf.data import batches
    from rst_tf.traversal import refresh_masks

    imported_mb = machine.peak_mb()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    network = search.built()
    ball = {"epsilon": EPSILON, "step_size": STEP_SIZE}
    if fast:
        objective = rst.Fast(**ball, norm_mode="update")
    else:
        iterate = "scored" if search.scored else "last"
        attack = rst.PGD(**ball, steps=attack_steps, iterate=iterate)
        objective = rst.Adversarial(attack, norm_mode="update")
    trainer = rst.RobustTrainer(network, objective)
    trainer.compile(rst.optimizers.SGD(RATE, momentum=MOMENTUM, weight_decay=DECAY).build(1))
    kernels = rst.masked_kernels(network)

    @tf.function
    def refresh():
        refresh_masks(kernels, static=False)

    images, side, channels = LONE
    x = tf.random.uniform((images, side, side, channels))
    kernel = tf.random.uniform((3, 3, channels, channels))

    class TakesTurns(keras.callbacks.Callback):
        """Waits before the first step of a turn, starts the clock after it is warm."""

        def __init__(self):
            super().__init__()
            self.turns = machine.Turns(pipe, lambda: tf.nn.conv2d(x, kernel, 1, "SAME"))

        def on_train_begin(self, logs=None):
            self.turns.begin()

        def on_train_batch_end(self, step, logs=None):
            done = (step + 1) % (WARM + steps)
            if done == 0:
                milliseconds = (time.perf_counter() - self.started) / steps * 1e3
                refresh_ms = machine.best_ms(refresh, 5)
                in_use = tf.config.experimental.get_memory_info("CPU:0")["peak"] / 2**20
                notes = {"imported_mb": imported_mb, "in_use_mb": in_use}
                self.turns.end(milliseconds, refresh_ms=refresh_ms, **notes)
                self.turns.begin()
            elif done == WARM:
                self.started = time.perf_counter()

    images = _random_images()
    train = batches(images, batch, seed=1, places=fast)
    if fast:
        trainer.keep_noise(len(images), (32, 32, 3))
    trainer.fit(train, steps_per_epoch=2**30, shuffle=False, verbose=0, callbacks=[TakesTurns()])


def _random_images():
    import numpy as np

    from rst_tf.data import from_arrays

    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (1280, 32, 32, 3), np.uint8)
    labels = np.arange(1280) % 10
    few = images[:100], labels[:100]
    return from_arrays(images, labels, *few, x_valid=few[0], y_valid=few[1]).train


def _lone_gflops(turns: list[machine.Turn]) -> float:
    images, side, channels = LONE
    operations = 2 * images * side * side * 9 * channels * channels
    return operations / min(turn.product_ms for turn in turns) / 1e6


def _print_table(found: dict, search: Search, options) -> None:
    print(
        f"{'':36}{'ms/step':>9}{'GFLOP/s':>9}{'lone conv':>11}{'share':>7}{'peak MB':>9}"
        f"{'imports':>9}"
    )
    for name, turns in found.items():
        ms = machine.median_ms(turns)
        attack_steps = 1 if "fast" in name else options.attack_steps
        rate = search.flops(options.batch, attack_steps) / ms / 1e6
        lone = _lone_gflops(turns)
        peak = max(turn.peak_mb for turn in turns)
        imported = turns[0].notes["imported_mb"]
        print(
            f"{name:36}{ms:9.0f}{rate:9.0f}{lone:11.0f}{100 * rate / lone:6.0f}%{peak:9,.0f}"
            f"{imported:9,.0f}"
        )


def judge(found: dict, search: Search) -> bool:
    """Prints the ratios beside their gates; whether they hold."""
    mine, *others = (turns for name, turns in found.items() if "fast" not in name)
    refresh = statistics.median(turn.notes["refresh_ms"] for turn in mine)
    share = refresh / machine.median_ms(mine)
    print(
        f"Refreshing all masks: {refresh:.0f} ms, {100 * share:.1f} % of our step "
        f"(gate at batch 128: {100 * REFRESH_GATE:.0f} %)."
    )
    in_use = max(turn.notes["in_use_mb"] for turn in mine)
    print(f"TensorFlow's tensors of our process took {in_use:,.0f} MB at most at a time.")
    if not others:
        return share < REFRESH_GATE
    published, *best = (machine.median_ms(turns) / machine.median_ms(mine) for turns in others)
    mine_mb, *others_mb = (max(t.peak_mb for t in turns) for turns in (mine, *others))
    print(f"Against PyTorch's published form: {published:.2f} (gate: {search.gate}).")
    print(f"Against PyTorch's best form: {min(best):.2f} (gate: 1).")
    beyond = [
        max(turn.peak_mb - turn.notes["imported_mb"] for turn in turns) for turns in (mine, *others)
    ]
    print(
        f"Peak memory against PyTorch's forms, least of them: {mine_mb / min(others_mb):.2f} "
        f"(gate of search_step: 1); beyond what imports take: {beyond[0] / min(beyond[1:]):.2f}."
    )
    lean = not search.lean or mine_mb <= min(others_mb)
    return published >= search.gate and min(best) >= 1 and lean


def parsed(program: str, about: str):
    """The options that both programs have."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}", description=about)
    parser.add_argument("--batch", type=int, default=32, help="images per step (32)")
    parser.add_argument("--attack_steps", type=int, default=3, help="steps of PGD (3)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each form (5)")
    parser.add_argument("--steps", type=int, default=2, help="steps timed in a turn (2)")
    parser.add_argument("--only", default="", help="only forms whose name contains this")
    parser.add_argument(
        "--threads", type=int, default=machine.cores(), help="of every form (all cores)"
    )
    options = parser.parse_args()
    for name in ("batch", "attack_steps", "turns", "steps", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1; received {getattr(options, name)}")
    if options.only not in "rst_tf, fit" and options.only:
        parser.error("--only must leave our own form; received --only=" + options.only)
    return options


if __name__ == "__main__":
    main()
