"""Point by point: `pyautoattack`, the published code, and ours on one and the same Keras model.

    python -m benchmarks.autoattack_agreement                       a robust network on digits
    python -m benchmarks.autoattack_agreement --model=mnist --data=npz:mnist.npz
    python -m benchmarks.autoattack_agreement --model=undefended --data=npz:cifar10.npz --points=50
    python -m benchmarks.autoattack_agreement --model=network.keras --data=cifar10 --epsilon=8/255

PyTorch sees the Keras model as a function whose gradient TensorFlow computes. `mnist` and
`undefended` are the two networks in pyautoattack's wheel: a robust one that hides its gradients a
little, and a ResNet18 on CIFAR-10 that any attack must bring to 0. Needs
`pip install '.[reference]'`, which is PyTorch and `pyautoattack`.
"""

import argparse
import importlib.util
import os
import pathlib
import sys
import time

import numpy as np

EPSILONS = {"digits": 0.15, "mnist": 0.3, "undefended": 8 / 255}
_DIGITS = pathlib.Path(__file__).parent.parent / "tests" / "fixtures" / "aa_digits_fixture.npz"


def main() -> None:
    """Runs both and prints the table of agreement, McNemar's test and what ours noticed."""
    options = _options()
    for package in ("torch", "pyautoattack"):
        if importlib.util.find_spec(package) is None:
            sys.exit(f"autoattack_agreement: {package} is missing; pip install '.[reference]'")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import rst_tf as rst
    from rst_tf.analysis.estimates import mcnemar

    model, (x, y) = _model(options.model), _points(options)
    epsilon = options.epsilon or EPSILONS[options.model]
    started = time.perf_counter()
    ours = rst.AutoAttack(epsilon).run(model, x, y, seed=options.seed, batch_size=options.batch)
    middle = time.perf_counter()
    theirs = _reference(model, x, y, epsilon, options.seed, options.batch)
    ended = time.perf_counter()
    only_ours = int((ours.robust & ~theirs).sum())
    only_theirs = int((~ours.robust & theirs).sum())
    print(f"{options.model}: {len(y)} points, L-inf {epsilon:.4g}, clean {ours.accuracy:.2%}")
    print(f"ours         {ours.robust_accuracy:.2%} robust  {middle - started:7.1f} s")
    print(f"pyautoattack {theirs.mean():.2%} robust  {ended - middle:7.1f} s")
    print(
        f"agree on {(ours.robust == theirs).sum()} points; robust for ours alone {only_ours}, for"
    )
    p = mcnemar(only_ours, only_theirs)
    print(f"pyautoattack alone {only_theirs}; McNemar's exact test: p = {p:.3g}")
    for number, name in enumerate(ours.attacks):
        print(f"  after {name:8} {ours.after(number):.2%}")
    for finding in ours.findings:
        print(f"  {finding.level}: {finding.check}: {finding.text}")


def _reference(model, x, y, epsilon: float, seed: int, batch: int) -> np.ndarray:
    """Which points the published code leaves, bool [n]."""
    import logging

    import tensorflow as tf
    import torch
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)

    def call(images):
        return model(images, training=False) if hasattr(model, "layers") else model(images)

    forward = tf.function(call, reduce_retracing=True)

    @tf.function(reduce_retracing=True)
    def back(images, upstream):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = call(images)
        return tape.gradient(logits, images, upstream)

    class Logits(torch.autograd.Function):
        @staticmethod
        def forward(context, images):
            context.images = tf.constant(images.detach().permute(0, 2, 3, 1).numpy())
            return torch.tensor(forward(context.images).numpy())

        @staticmethod
        def backward(context, upstream):
            gradient = back(context.images, tf.constant(upstream.numpy())).numpy()
            return torch.tensor(gradient).permute(0, 3, 1, 2)

    class Module(torch.nn.Module):
        def forward(self, images):
            return Logits.apply(images)

    images, labels = torch.tensor(x).permute(0, 3, 1, 2).contiguous(), torch.tensor(y).long()
    attack = AutoAttack(Module(), norm="Linf", eps=epsilon, seed=seed)
    x_adv = attack.run_standard_evaluation(images, labels, batch_size=batch)[0]
    found = [forward(tf.constant(part)).numpy() for part in _parts(x_adv, batch)]
    return np.concatenate(found).argmax(1) == y


def _parts(x_adv, batch: int):
    images = x_adv.permute(0, 2, 3, 1).numpy()
    for first in range(0, len(images), batch):
        yield images[first : first + batch]


def _points(options) -> tuple[np.ndarray, np.ndarray]:
    if options.model == "digits":
        with np.load(_DIGITS) as file:
            return file["x"][: options.points], file["y"][: options.points]
    from rst_tf.data import Data

    test = Data(source=options.data).load().test
    first = test.select(np.arange(min(options.points, len(test))))
    x, y = first.arrays()
    return x, y.astype(np.int64)


def _model(name: str):
    if name == "digits":
        return _digits()
    if name == "mnist":
        return _mnist()
    if name == "undefended":
        return _undefended()
    import keras

    return keras.models.load_model(name, compile=False)


def _digits():
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, "relu"),
            layers.Dense(10),
        ]
    )
    with np.load(_DIGITS) as file:
        model.set_weights([file[f"w{i}"] for i in range(8)])
    return model


def _mnist():
    """The network of the wheel's TensorFlow example, without its softmax."""
    import h5py
    import keras

    layers = keras.layers
    names = ("c1", "c2", None, "c3", "c4", None, "flat", "d1", "d2")
    made = []
    for name in names:
        if name is None:
            made.append(layers.MaxPooling2D())
        elif name == "flat":
            made.append(layers.Flatten())
        elif name.startswith("c"):
            made.append(layers.Conv2D(16, 3, padding="same", activation="relu", name=name))
        else:
            last = name == "d2"
            made.append(layers.Dense(10 if last else 256, None if last else "relu", name=name))
    model = keras.Sequential([keras.Input((28, 28, 1)), *made])
    with h5py.File(_in_wheel("tf_model.weight.h5")) as file:
        for layer in model.layers:
            if layer.weights:
                group = file[f"clf/{layer.name}/clf/{layer.name}"]
                layer.set_weights([np.array(group["kernel:0"]), np.array(group["bias:0"])])
    return model


def _undefended():
    """The wheel's ResNet18 in our own architecture, whose classifier has no bias: added after."""
    import torch

    from rst_tf.models import ResNet

    network = ResNet(18).build((32, 32, 3), 10)
    values = torch.load(_in_wheel("model_test.pt"), map_location="cpu")
    values = {name.removeprefix("module."): v.numpy() for name, v in values.items()}
    network.get_layer("output").set_weights([values["linear.weight"].T])
    pairs = {"stem": ("conv1", "bn1")}
    for stage in range(1, 5):
        for block in (1, 2):
            own, theirs = f"stage_{stage}_block_{block}", f"layer{stage}.{block - 1}"
            for number in (1, 2):
                pairs[f"{own}_conv_{number}"] = (f"{theirs}.conv{number}", f"{theirs}.bn{number}")
            pairs[f"{own}_shortcut"] = (f"{theirs}.shortcut.0", f"{theirs}.shortcut.1")
    for own, (conv, norm) in pairs.items():
        if f"{conv}.weight" in values:
            kernel = values[f"{conv}.weight"].transpose(2, 3, 1, 0)
            network.get_layer(own).set_weights([kernel])
            layer = network.get_layer(f"{own}_norm")
            named = {"gamma": "weight", "beta": "bias"}
            named |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
            for variable in layer.variables:
                variable.assign(values[f"{norm}.{named[variable.name]}"])
    bias = values["linear.bias"]
    return lambda images: network(images, training=False) + bias


def _in_wheel(name: str) -> pathlib.Path:
    package = importlib.util.find_spec("pyautoattack")
    return pathlib.Path(package.origin).parent / "examples" / name


def _number(text: str) -> float:
    above, slash, below = text.partition("/")
    return float(above) / float(below) if slash else float(above)


def _options():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.autoattack_agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="digits", help="digits, mnist, undefended or a .keras")
    parser.add_argument("--data", default="mnist", help="as --data of run_experiments.py")
    parser.add_argument("--points", type=int, default=360, help="test images (360)")
    parser.add_argument("--batch", type=int, default=250, help="images at a time (250)")
    parser.add_argument("--seed", type=int, default=0, help="of either program (0)")
    parser.add_argument("--epsilon", type=_number, help="as 0.3 or 8/255")
    options = parser.parse_args()
    for name in ("points", "batch"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1; received {getattr(options, name)}")
    if options.model not in EPSILONS and options.epsilon is None:
        parser.error(f"--epsilon is needed for --model={options.model}")
    return options


if __name__ == "__main__":
    main()
