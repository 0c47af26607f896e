"""Standard AutoAttack against `pyautoattack`, the published code, on the same weights and points.

    python -m benchmarks.autoattack                            # a small convolutional network
    python -m benchmarks.autoattack --network=resnet --points=200
    python -m benchmarks.autoattack --network=resnet --turns=0    # 1,000 points, first runs alone

Both networks are trained with PGD first (a minute or two). Each program is a process of its own and
they take turns, each turn a whole AutoAttack; the first one of ours traces its graphs and is told
apart. Where there are only first runs, they stand for the later ones too. Needs
`pip install '.[reference]'`, which is PyTorch and `pyautoattack`.
"""

import argparse
import functools
import importlib.util
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

from benchmarks import machine
from benchmarks.robust_networks import EPSILON, NAMES

BUSY = 0.05
_PRODUCT = (128, 16, 16)
"""Images, side and channels of the lone 3x3 convolution whose rate measures the machine."""


def main() -> None:
    """Measures and prints; exits with 1 below a gate, with 3 on a machine too busy to tell."""
    options = _options()
    for package in ("torch", "pyautoattack"):
        if importlib.util.find_spec(package) is None:
            sys.exit(f"autoattack: {package} is missing; pip install '.[reference]'")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # before any process imports TensorFlow
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "weights.npz")
        _apart(options.network, path, options.epochs)
        common = {
            "name": options.network,
            "path": path,
            "count": options.points,
            "batch": options.batch,
            "threads": options.threads,
        }
        programs = {
            "rst_tf": functools.partial(ours, **common),
            "pyautoattack": functools.partial(theirs, **common),
        }
        print(
            f"{machine.describe()}; {options.network}, {options.points} points, epsilon "
            f"{EPSILON}, batches of {options.batch}; {options.turns} turns"
        )
        with machine.load_of_others() as others:
            found = machine.take_turns(programs, 1 + options.turns, warm=False)
    passed = _print(found, options)
    print(f"Other programs used {100 * others():.0f} % of the machine meanwhile.")
    if others() > BUSY:
        print("Nothing is judged: run it again alone.")
        sys.exit(3)
    sys.exit(not passed)


def ours(pipe, name: str, path: pathlib.Path, count: int, batch: int, threads: int) -> None:
    """AutoAttack on the Keras network; the first run traces."""
    import tensorflow as tf

    import rst_tf as rst
    from benchmarks import robust_networks

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    model = robust_networks.in_keras(name, path)
    x, y = robust_networks.points(count)
    auto = rst.AutoAttack(EPSILON)
    images, side, channels = _PRODUCT
    one = tf.random.uniform((images, side, side, channels))
    kernel = tf.random.uniform((3, 3, channels, channels))
    turns = machine.Turns(pipe, lambda: tf.nn.conv2d(one, kernel, 1, "SAME"))
    attacker = None
    while True:
        turns.begin()
        before = _resident_mb()
        started = time.perf_counter()
        attacker = attacker or auto.against(model, x[:batch])
        outcome = auto.run(attacker, x, y, batch_size=batch, progress=False)
        seconds = time.perf_counter() - started
        notes = {"robust": outcome.robust_accuracy, "before_mb": before}
        notes |= {f"ms {n}": 1e3 * s for n, s in zip(outcome.attacks, outcome.seconds, strict=True)}
        turns.end(1e3 * seconds, **notes)


def theirs(pipe, name: str, path: pathlib.Path, count: int, batch: int, threads: int) -> None:
    """The published code on the PyTorch twin."""
    import logging

    import torch
    from pyautoattack import AutoAttack

    from benchmarks import robust_networks

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    model = robust_networks.in_torch(name, path)
    x, y = robust_networks.points(count)
    images, labels = torch.tensor(x).permute(0, 3, 1, 2).contiguous(), torch.tensor(y).long()
    _check_twin(model, robust_networks.in_keras(name, path), images, x)
    count, side, channels = _PRODUCT
    one, kernel = torch.rand(count, channels, side, side), torch.rand(channels, channels, 3, 3)
    turns = machine.Turns(pipe, lambda: torch.nn.functional.conv2d(one, kernel, padding=1))
    while True:
        turns.begin()
        before = _resident_mb()
        started = time.perf_counter()
        attack = AutoAttack(model, norm="Linf", eps=EPSILON, seed=0)
        x_adv = attack.run_standard_evaluation(images, labels, batch_size=batch)[0]
        seconds = time.perf_counter() - started
        with torch.no_grad():
            robust = float((model(x_adv).argmax(1) == labels).float().mean())
        turns.end(1e3 * seconds, robust=robust, before_mb=before)


def _check_twin(module, model, images, x) -> None:
    import numpy as np
    import torch

    with torch.no_grad():
        apart = np.abs(module(images[:64]).numpy() - np.asarray(model(x[:64], training=False)))
    if apart.max() > 1e-3:
        raise RuntimeError(f"the PyTorch twin is another network: logits differ by {apart.max()}")


def _apart(name: str, path: pathlib.Path, epochs: int) -> None:
    """Trains in a process of its own, whose memory is then gone."""
    from benchmarks import robust_networks

    context = multiprocessing.get_context("spawn")
    process = context.Process(target=robust_networks.train, args=(name, path, epochs))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit("autoattack: training failed; its error is above")


def _print(found: dict, options) -> bool:
    first = {name: turns[0].step_ms for name, turns in found.items()}
    later = {name: machine.median_ms(turns[1:] or turns) for name, turns in found.items()}
    print(f"{'':14}{'seconds':>9}{'first run':>11}{'robust':>9}{'over start, MB':>16}")
    for name, turns in found.items():
        over = max(turn.peak_mb for turn in turns) - turns[0].notes["before_mb"]
        robust = 100 * turns[-1].notes["robust"]
        seconds = f"{later[name] / 1e3:9.1f}{first[name] / 1e3:11.1f}"
        print(f"{name:14}{seconds}{robust:8.1f}%{over:16,.0f}")
    notes = found["rst_tf"][-1].notes
    attacks = {n[3:]: ms for n, ms in notes.items() if n.startswith("ms ")}
    print(
        "Ours, seconds by attack: " + ", ".join(f"{n} {ms / 1e3:.1f}" for n, ms in attacks.items())
    )
    steady = later["pyautoattack"] / later["rst_tf"]
    whole = later["pyautoattack"] / first["rst_tf"]
    if options.turns:
        print(f"pyautoattack takes {steady:.2f} times as long as ours once traced (gate: 1).")
    print(f"It takes {whole:.2f} times as long as our first run (gate at 1,000 points: 1).")
    return steady > 1 and (whole > 1 or options.points < 1000)


def _resident_mb() -> float:
    """Memory of this process now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _options():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoattack", description=__doc__)
    parser.add_argument("--network", choices=NAMES, default="conv")
    parser.add_argument("--points", type=int, default=1000, help="images, at most 1000")
    parser.add_argument("--batch", type=int, default=250, help="images at a time (250)")
    parser.add_argument("--epochs", type=int, default=10, help="of the training (10)")
    parser.add_argument("--turns", type=int, default=2, help="turns after the first (2)")
    parser.add_argument(
        "--threads", type=int, default=machine.cores(), help="of either program (all cores)"
    )
    options = parser.parse_args()
    for name in ("points", "batch", "epochs", "turns", "threads"):
        least = 0 if name == "turns" else 1
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}; received {getattr(options, name)}")
    if options.points > 1000:
        parser.error(f"--points must be at most 1000; received {options.points}")
    return options


if __name__ == "__main__":
    main()
