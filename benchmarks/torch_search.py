"""The search step in eager PyTorch: as the published code writes it, and as fast as it goes."""

import time
from collections.abc import Callable

from benchmarks import machine
from benchmarks.search_step import (
    BLOCKS,
    DECAY,
    EPSILON,
    LONE,
    MOMENTUM,
    RATE,
    STEP_SIZE,
    WARM,
    Search,
)
from rst_tf import masks


def published(
    pipe, search: Search, batch: int, attack_steps: int, steps: int, threads: int
) -> None:
    """Every forward sorts the scores of every layer; attack steps make their gradients too."""

    def make(torch):
        return _published_step(torch, search, attack_steps)

    _work(pipe, batch, steps, threads, make, False)


def best(
    pipe,
    search: Search,
    batch: int,
    attack_steps: int,
    steps: int,
    threads: int,
    channels_last: bool,
) -> None:
    """Masks once a step by selection, kernels formed once, gradients of the input alone."""

    def make(torch):
        return _best_step(torch, search, attack_steps, channels_last)

    _work(pipe, batch, steps, threads, make, channels_last)


def _network(torch, search: Search, convolution: Callable):
    """A post-activation ResNet for 32x32 without affine normalisation."""
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
    for number, channels in zip(BLOCKS[search.depth], (64, 128, 256, 512), strict=True):
        blocks += [Block(before, channels, 1 if before == channels else 2)]
        blocks += [Block(channels, channels, 1) for _ in range(number - 1)]
        before = channels
    network = nn.Sequential(
        convolution(3, 64, 3, 1),
        norm(64),
        nn.ReLU(),
        *blocks,
        nn.AvgPool2d(4),
        convolution(512, 10, 1, 1),
        norm(10) if search.normalized_logits else nn.Identity(),
        nn.Flatten(),
    )
    layers = [module for module in network.modules() if hasattr(module, "scores")]
    sizes = [layer.scores.numel() for layer in layers]
    densities = masks.adaptive_densities(sizes, search.density, search.power)
    for layer, size, density in zip(layers, sizes, densities, strict=True):
        layer.removed = int((1 - density) * size)
    return network, layers


def _convolution(torch, search: Search, weight_of: Callable) -> Callable:
    """A convolution over frozen signs; `weight_of(self)` masks it."""
    nn = torch.nn

    class Convolution(nn.Conv2d):
        def __init__(self, inputs, outputs, size, stride):
            super().__init__(inputs, outputs, size, stride, size // 2, bias=False)
            self.scores = nn.Parameter(torch.empty_like(self.weight))
            fan = inputs * size * size
            bound = search.scale / (fan**0.5 if search.fan == "all" else 1)
            nn.init.uniform_(self.scores, -bound, bound)
            constant = 1 if search.initializer == "binary" else (2 / fan) ** 0.5
            self.weight = nn.Parameter(self.weight.detach().sign() * constant, requires_grad=False)

        def forward(self, x):
            return nn.functional.conv2d(x, weight_of(self), None, self.stride, self.padding)

    return Convolution


def _published_step(torch, search: Search, attack_steps: int) -> Callable:
    from torch.nn.functional import cross_entropy

    class Subset(torch.autograd.Function):
        @staticmethod
        def forward(context, scores, removed):
            mask = scores.clone()
            _, order = scores.flatten().sort()
            flat = mask.flatten()
            flat[order[:removed]], flat[order[removed:]] = 0, 1
            return flat.view_as(mask)

        @staticmethod
        def backward(context, gradient):
            return gradient, None

    def weight_of(layer):
        return layer.weight * Subset.apply(layer.scores.abs(), layer.removed)

    model, _ = _network(torch, search, _convolution(torch, search, weight_of))
    sgd = _sgd(torch, model)

    def step(x, y):
        delta = torch.empty_like(x).uniform_(-EPSILON, EPSILON)
        delta = torch.clamp(x + delta, 0, 1) - x
        worst, worst_loss = delta.clone(), torch.zeros(len(x))
        for _ in range(attack_steps):
            delta.requires_grad_()
            losses = cross_entropy(model(x + delta), y, reduction="none")
            losses.mean().backward()
            if search.scored:
                higher = losses.detach() > worst_loss
                worst[higher], worst_loss[higher] = delta.detach()[higher], losses.detach()[higher]
            moved = torch.clamp(delta.detach() + STEP_SIZE * delta.grad.sign(), -EPSILON, EPSILON)
            delta = torch.clamp(x + moved, 0, 1) - x
        delta = worst if search.scored else delta
        loss = cross_entropy(model(x + delta), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()

    return step


def _best_step(torch, search: Search, attack_steps: int, channels_last: bool) -> Callable:
    from torch.nn.functional import cross_entropy

    convolution = _convolution(torch, search, lambda layer: layer.formed)
    model, layers = _network(torch, search, convolution)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    sgd = _sgd(torch, model)

    @torch.no_grad()
    def refresh():
        for layer in layers:
            size = layer.scores.abs()
            threshold = size.flatten().kthvalue(layer.removed).values if layer.removed else -1
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
        worst, worst_loss = x_adv, torch.zeros(len(x))
        for _ in range(attack_steps):
            x_adv.requires_grad_()
            losses = cross_entropy(model(x_adv), y, reduction="none")
            (gradient,) = torch.autograd.grad(losses.sum(), x_adv)
            if search.scored:
                higher = losses.detach() > worst_loss
                worst = torch.where(higher[:, None, None, None], x_adv.detach(), worst)
                worst_loss = torch.maximum(losses.detach(), worst_loss)
            x_adv = torch.clamp(x_adv.detach().add_(gradient.sign_(), alpha=STEP_SIZE), low, high)
        x_adv = worst if search.scored else x_adv
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

    imported_mb = machine.peak_mb()
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
        turns.end((time.perf_counter() - started) / steps * 1e3, imported_mb=imported_mb)
