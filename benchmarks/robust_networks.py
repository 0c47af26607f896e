"""Two small networks, trained against attacks, in Keras and the same in PyTorch."""

from pathlib import Path

import numpy as np

NAMES = ("conv", "resnet")
EPSILON = 0.1


def network(name: str):
    """The Keras network for 28x28x1 images and 10 classes, untrained.

    conv: 4x4 convolutions of 16 and 32 channels at stride 2, then 100, 10 (Wong & Kolter 2018).
    resnet: a ResNet18 of an eighth of the width.
    """
    import keras

    from rst_tf.models import ResNet

    if name == "resnet":
        return ResNet(18, width=0.125).build((28, 28, 1), 10)
    layers = [keras.Input((28, 28, 1))]
    for channels in (16, 32):
        layers += [
            keras.layers.ZeroPadding2D(1),
            keras.layers.Conv2D(channels, 4, 2, activation="relu", name=f"conv_{channels}"),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(100, "relu", name="hidden")]
    return keras.Sequential([*layers, keras.layers.Dense(10, name="output")])


def points(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of the embedded MNIST digits that the networks were not trained on, and labels."""
    splits = _splits()
    parts = [splits.test.arrays(), splits.valid.arrays()]
    x, y = (np.concatenate(pair)[:count] for pair in zip(*parts, strict=True))
    return x.astype(np.float32), y


def train(name: str, path: Path, epochs: int) -> None:
    """Trains with PGD-5 at `EPSILON` on the embedded digits; writes the variables to a file."""
    import keras

    import rst_tf as rst

    keras.utils.set_random_seed(0)
    model = network(name)
    objective = rst.Adversarial(rst.PGD(EPSILON, steps=5))
    trainer = rst.RobustTrainer(model, objective)
    trainer.compile(keras.optimizers.Adam(2e-3))
    train, batch = _splits().train, 100
    steps = len(train) // batch
    batches = rst.batches(train, batch, seed=0, steps=epochs * steps)
    trainer.fit(batches, steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0)
    np.savez(path, **{_key(v): v.numpy() for v in model.variables})


def in_keras(name: str, path: Path):
    """The trained Keras network."""
    model = network(name)
    with np.load(path) as values:
        for variable, value in zip(model.variables, values.values(), strict=True):
            variable.assign(value)
    return model


def in_torch(name: str, path: Path):
    """The same network as a PyTorch module for images [n, 1, 28, 28]."""
    import torch

    with np.load(path) as file:
        values = {key: torch.tensor(value) for key, value in file.items()}
    module = _conv(values) if name == "conv" else _resnet(values)
    return module.eval()


def _splits():
    from rst_tf.data import Data

    return Data().load()


def _conv(values):
    from torch import nn

    layers = []
    for before, channels in ((1, 16), (16, 32)):
        layers += [_filled_conv(values, f"conv_{channels}", before, channels, 4, 2), nn.ReLU()]
    hidden, output = (_filled_linear(values, name) for name in ("hidden", "output"))
    return nn.Sequential(*layers, _flatten_as_keras(), hidden, nn.ReLU(), output)


def _flatten_as_keras():
    """Rows, columns, channels, as the weights of the next layer expect them."""
    from torch import nn

    class Flatten(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    return Flatten()


def _resnet(values):
    from torch import nn

    def normalized_conv(name, before, channels, size, stride):
        norm = nn.BatchNorm2d(channels, eps=1e-5)
        for own, theirs in (
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
        ):
            getattr(norm, own).data.copy_(values[f"{name}_norm/{theirs}"])
        return nn.Sequential(_filled_conv(values, name, before, channels, size, stride), norm)

    class Block(nn.Module):
        def __init__(self, name, before, channels, stride):
            super().__init__()
            self.first = normalized_conv(f"{name}_conv_1", before, channels, 3, stride)
            self.second = normalized_conv(f"{name}_conv_2", channels, channels, 3, 1)
            self.shortcut = nn.Identity()
            if before != channels:
                self.shortcut = normalized_conv(f"{name}_shortcut", before, channels, 1, stride)

        def forward(self, x):
            y = nn.functional.relu(self.first(x))
            return nn.functional.relu(self.second(y) + self.shortcut(x))

    layers, before = [normalized_conv("stem", 1, 8, 3, 1), nn.ReLU()], 8
    for stage, channels in enumerate((8, 16, 32, 64), 1):
        for number in (1, 2):
            stride = 2 if stage > 1 and number == 1 else 1
            layers.append(Block(f"stage_{stage}_block_{number}", before, channels, stride))
            before = channels
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *pool, _filled_linear(values, "output"))


def _filled_conv(values, name, before, channels, size, stride):
    from torch import nn

    bias = values.get(f"{name}/bias")
    layer = nn.Conv2d(before, channels, size, stride, (size - 1) // 2, bias=bias is not None)
    layer.weight.data.copy_(values[f"{name}/kernel"].permute(3, 2, 0, 1))
    if bias is not None:
        layer.bias.data.copy_(bias)
    return layer


def _filled_linear(values, name):
    from torch import nn

    kernel, bias = values[f"{name}/kernel"], values.get(f"{name}/bias")
    layer = nn.Linear(*kernel.shape, bias=bias is not None)
    layer.weight.data.copy_(kernel.T)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return layer


def _key(variable) -> str:
    """Layer and variable, without the names around them."""
    return "/".join(variable.path.split("/")[-2:])
