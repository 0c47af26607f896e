"""One adversarial step of the binary search over cResNet34, through `fit`, against eager PyTorch.

    python -m benchmarks.binary_search                           # batch 32, PGD-3
    python -m benchmarks.binary_search --batch=128 --only=rst_tf --attack_steps=10   # fast, refresh

21.3 million scores over frozen signs, 1 % of them kept, allocated by size (p = .1), logits
normalised; PGD that gives back the worst point it visited. Beside it ours with the objective
`fast`, one step from perturbations that are kept: what it costs is told in forward-backward pairs,
each the part of a PGD step that its attack steps and its update share equally. See
`benchmarks.search_step`, with which this program shares all but the network.
"""

import functools
import importlib.util
import sys

from benchmarks import machine, search_step

SEARCH = search_step.Search(
    depth=34,
    density=0.01,
    power=0.1,
    initializer="binary",
    scale=0.01,
    fan="none",
    normalized_logits=True,
    scored=True,
    gate=4.0,
    lean=False,
)
FAST_GATE = 3.0


def main() -> None:
    """Measures and prints; exits with 1 below a gate, with 3 on a machine too busy to tell."""
    options = search_step.parsed("binary_search", __doc__)
    if importlib.util.find_spec("torch") is None:
        sys.exit("binary_search: PyTorch is not installed; pip install torch==2.13.0")
    size = {name: getattr(options, name) for name in ("batch", "attack_steps", "steps", "threads")}
    fast = functools.partial(search_step.ours, search=SEARCH, fast=True, **size)
    judged = functools.partial(_judged, attack_steps=options.attack_steps)
    sys.exit(search_step.measure(SEARCH, options, {"rst_tf, fast": fast}, judged))


def _judged(found: dict, search: search_step.Search, attack_steps: int) -> bool:
    """As the other search; and what a step of `fast` costs."""
    passed = search_step.judge(found, search)
    fast, mine = (machine.median_ms(found[name]) for name in ("rst_tf, fast", "rst_tf, fit"))
    pairs = fast * (attack_steps + 1) / mine
    print(
        f"A step of fast takes {fast:.0f} ms: {pairs:.2f} forward-backward pairs (gate: "
        f"{FAST_GATE}), {mine / fast:.2f} times as fast as PGD-{attack_steps}."
    )
    return passed and pairs <= FAST_GATE


if __name__ == "__main__":
    main()
