"""The same training step in eager PyTorch: as published codes write it, and as fast as it goes."""

import itertools
import time
from collections.abc import Callable

from benchmarks import machine
from benchmarks.dense_pgd import (
    ATTACK_STEPS,
    BATCH,
    EPSILON,
    EXAMPLES,
    RATE,
    STEP_SIZE,
    WARM,
    WIDTHS,
)


def published(pipe, steps: int, threads: int) -> None:
    """Masks in every forward; every attack step makes the gradients of the weights as well."""
    _work(pipe, steps, threads, _published_step)


def best(pipe, steps: int, threads: int) -> None:
    """Masks once per attack, gradients of the input alone, one batch of 120, fused Adam."""
    _work(pipe, steps, threads, _best_step)


def _published_step(torch) -> Callable:
    from torch.nn import functional as F

    class Masked(torch.nn.Linear):
        def __init__(self, inputs, outputs):
            super().__init__(inputs, outputs, bias=False)
            self.register_buffer("mask", torch.ones_like(self.weight))

        def forward(self, x):
            return F.linear(x, self.weight * self.mask)

    model = torch.nn.Sequential(
        torch.nn.Flatten(),
        Masked(*WIDTHS[:2]),
        torch.nn.ReLU(),
        Masked(*WIDTHS[1:3]),
        torch.nn.ReLU(),
        Masked(*WIDTHS[2:]),
    )
    adam = torch.optim.Adam(model.parameters(), lr=RATE)

    def step(x, y):
        x_adv = torch.clamp(x + torch.empty_like(x).uniform_(-EPSILON, EPSILON), 0, 1)
        for _ in range(ATTACK_STEPS):
            x_adv.requires_grad_()
            F.cross_entropy(model(x_adv), y).backward()
            moved = x_adv.detach() + STEP_SIZE * x_adv.grad.sign()
            x_adv = torch.clamp(torch.min(torch.max(moved, x - EPSILON), x + EPSILON), 0, 1)
        adam.zero_grad()
        loss = 0.5 * F.cross_entropy(model(x), y) + 0.5 * F.cross_entropy(model(x_adv), y)
        loss.backward()
        adam.step()

    return step


def _best_step(torch) -> Callable:
    from torch.nn.functional import cross_entropy, linear, relu

    layers = [torch.nn.Linear(*pair, bias=False) for pair in itertools.pairwise(WIDTHS)]
    weights = [layer.weight for layer in layers]
    masks = [torch.ones_like(weight) for weight in weights]
    adam = torch.optim.Adam(weights, lr=RATE, fused=True)

    def step(x, y):
        x = x.view(BATCH, WIDTHS[0])
        with torch.no_grad():
            first, second, third = (w * m for w, m in zip(weights, masks, strict=True))
            low, high = (x - EPSILON).clamp_(0, 1), (x + EPSILON).clamp_(0, 1)
            x_adv = torch.empty_like(x).uniform_(-EPSILON, EPSILON).add_(x).clamp_(0, 1)
        for _ in range(ATTACK_STEPS):
            x_adv.requires_grad_()
            logits = linear(relu(linear(relu(linear(x_adv, first)), second)), third)
            (gradient,) = torch.autograd.grad(cross_entropy(logits, y, reduction="sum"), x_adv)
            x_adv = torch.clamp(x_adv.detach().add_(gradient.sign_(), alpha=STEP_SIZE), low, high)
        first, second, third = (w * m for w, m in zip(weights, masks, strict=True))
        hidden = relu(linear(torch.cat((x, x_adv)), first))
        logits = linear(relu(linear(hidden, second)), third)
        loss = cross_entropy(logits, torch.cat((y, y)))
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        adam.step()

    return step


def _work(pipe, steps: int, threads: int, make: Callable) -> None:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = torch.rand(EXAMPLES, 28, 28, 1)
    labels = torch.randint(0, WIDTHS[-1], (EXAMPLES,))
    rows, inner, columns = machine.PRODUCT
    a, b = torch.rand(rows, inner), torch.rand(inner, columns)
    turns, step = machine.Turns(pipe, lambda: a @ b), make(torch)

    def run(count):
        for row in torch.randint(0, EXAMPLES, (count, BATCH)):
            step(images[row], labels[row])

    while True:
        turns.begin()
        run(WARM)
        started = time.perf_counter()
        run(steps)
        turns.end((time.perf_counter() - started) / steps * 1e3)
