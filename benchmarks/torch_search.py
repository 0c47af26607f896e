"""The search step in eager PyTorch: as the published code writes it, and as fast as it goes."""

import time
from collections.abc import Callable

from benchmarks import machine
from benchmarks.search_step import (
    DECAY,
    DENSITY,
    EPSILON,
    LONE,
    MOMENTUM,
    RATE,
    STEP_SIZE,
    WARM,
)


def published(pipe, batch: int, attack_steps: int, steps: int, threads: int) -> None:
    """Every forward sorts the scores of every layer; attack steps make their gradients too."""
    _work(pipe, batch, steps, threads, lambda torch: _published_step(torch, attack_steps), False)


def best(
    pipe, batch: int, attack_steps: int, steps: int, threads: int, channels_last: bool
) -> None:
    """Masks once a step by selection, kernels formed once, gradients of the input alone."""

    def make(torch):
        return _best_step(torch, attack_steps, channels_last)

    _work(pipe, batch, steps, threads, make, channels_last)


def _network(torch, convolution: Callable):
    """cResNet18: a post-activation ResNet18 for 32x32 without affine normalisation."""
    nn = torch.nn
    F = nn.functional

    def norm(channels):
        return nn.BatchNorm2d(channels, affine=False)

    class Block(nn.Module):
        def __init__(self, before, channels, stride):
            super().__init__()
            self.conv1, self.norm1 = convolution(before, channels, 3, stride), norm(channels)
            self.conv2, self.norm2 = convolution(channels, channels, 3, 1), norm(channels)
            self.shortcut = nn.Identity()
            if before != channels:
                self.shortcut = nn.Sequential(
                    convolution(before, channels, 1, stride), norm(channels)
                )

        def forward(self, x):
            y = F.relu(self.norm1(self.conv1(x)))
            return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))

    blocks, before = [], 64
    for channels in (64, 128, 256, 512):
        blocks += [Block(before, channels, 1 if before == channels else 2)]
        blocks += [Block(channels, channels, 1)]
        before = channels
    return nn.Sequential(
        convolution(3, 64, 3, 1),
        norm(64),
        nn.ReLU(),
        *blocks,
        nn.AvgPool2d(4),
        convolution(512, 10, 1, 1),
        nn.Flatten(),
    )


def _convolution(torch, weight_of: Callable) -> Callable:
    """A convolution over a frozen signed constant; `weight_of(self)` masks it."""
    nn = torch.nn

    class Convolution(nn.Conv2d):
        def __init__(self, inputs, outputs, size, stride):
            super().__init__(inputs, outputs, size, stride, size // 2, bias=False)
            self.scores = nn.Parameter(torch.empty_like(self.weight))
            nn.init.kaiming_uniform_(self.scores, a=5**0.5)
            constant = (2 / (inputs * size * size)) ** 0.5
            self.weight = nn.Parameter(self.weight.detach().sign() * constant, requires_grad=False)

        def forward(self, x):
            return nn.functional.conv2d(x, weight_of(self), None, self.stride, self.padding)

    return Convolution


def _published_step(torch, attack_steps: int) -> Callable:
    from torch.nn.functional import cross_entropy

    class Subset(torch.autograd.Function):
        @staticmethod
        def forward(context, scores):
            mask = scores.clone()
            _, order = scores.flatten().sort()
            removed = int((1 - DENSITY) * scores.numel())
            flat = mask.flatten()
            flat[order[:removed]], flat[order[removed:]] = 0, 1
            return flat.view_as(mask)

        @staticmethod
        def backward(context, gradient):
            return gradient

    convolution = _convolution(torch, lambda layer: layer.weight * Subset.apply(layer.scores.abs()))
    model = _network(torch, convolution)
    sgd = _sgd(torch, model)

    def step(x, y):
        delta = torch.empty_like(x).uniform_(-EPSILON, EPSILON)
        delta = torch.clamp(x + delta, 0, 1) - x
        for _ in range(attack_steps):
            delta.requires_grad_()
            cross_entropy(model(x + delta), y).backward()
            moved = torch.clamp(delta.detach() + STEP_SIZE * delta.grad.sign(), -EPSILON, EPSILON)
            delta = torch.clamp(x + moved, 0, 1) - x
        loss = cross_entropy(model(x + delta), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()

    return step


def _best_step(torch, attack_steps: int, channels_last: bool) -> Callable:
    from torch.nn.functional import cross_entropy

    convolution = _convolution(torch, lambda layer: layer.formed)
    model = _network(torch, convolution)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    layers = [module for module in model.modules() if hasattr(module, "scores")]
    sgd = _sgd(torch, model)

    @torch.no_grad()
    def refresh():
        for layer in layers:
            size = layer.scores.abs()
            removed = int((1 - DENSITY) * size.numel())
            threshold = size.flatten().kthvalue(removed).values if removed else -1
            layer.mask = (size > threshold).to(size.dtype)

    def form(gradients):
        for layer in layers:
            with torch.no_grad():
                formed = layer.weight * layer.mask
            layer.formed = formed.requires_grad_() if gradients else formed

    refresh()

    def step(x, y):
        low, high = (x - EPSILON).clamp_(0, 1), (x + EPSILON).clamp_(0, 1)
        x_adv = torch.empty_like(x).uniform_(-EPSILON, EPSILON).add_(x).clamp_(0, 1)
        form(gradients=False)
        for _ in range(attack_steps):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(model(x_adv), y), x_adv)
            x_adv = torch.clamp(x_adv.detach().add_(gradient.sign_(), alpha=STEP_SIZE), low, high)
        form(gradients=True)
        loss = cross_entropy(model(x_adv), y)
        formed = torch.autograd.grad(loss, [layer.formed for layer in layers])
        with torch.no_grad():
            for layer, gradient in zip(layers, formed, strict=True):
                layer.scores.grad = gradient * layer.weight * layer.scores.sign()
        sgd.step()
        refresh()

    return step


def _sgd(torch, model):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, RATE, momentum=MOMENTUM, weight_decay=DECAY)


def _work(pipe, batch: int, steps: int, threads: int, make: Callable, channels_last: bool) -> None:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = torch.rand(1280, 3, 32, 32)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (1280,))
    count, side, channels = LONE
    x = torch.rand(count, channels, side, side)
    lone = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).requires_grad_(False)
    if channels_last:
        x, lone = (item.to(memory_format=torch.channels_last) for item in (x, lone))
    turns, step = machine.Turns(pipe, lambda: lone(x)), make(torch)

    def run(number):
        for row in torch.randint(0, 1280, (number, batch)):
            step(images[row], labels[row])

    while True:
        turns.begin()
        run(WARM)
        started = time.perf_counter()
        run(steps)
        turns.end((time.perf_counter() - started) / steps * 1e3)
