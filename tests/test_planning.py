"""What --dry_run says, and how a training is cut into calls."""

import dataclasses
import re

import numpy as np
import pytest
from trainings import TABLE

from experiments._stepping import calls

CALLS = {
    "no stop": ((0, 50, [], 20), [20, 20, 10]),
    "stops within calls": ((0, 50, [21, 30], 20), [20, 1, 9, 20]),
    "resumed": ((7, 20, [4, 7, 10], 20), [3, 10]),
    "stop at the end": ((0, 40, [40], 20), [20, 20]),
    "stops beyond": ((0, 5, [99], 20), [5]),
    "single steps": ((0, 3, [1, 2], 1), [1, 1, 1]),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_end_on_every_stop(name):
    (first, last, stops, most), expected = CALLS[name]
    sizes = calls(first, last, stops, most)
    assert sizes == expected
    ends = set(first + np.cumsum(sizes))
    assert {stop for stop in stops if first < stop <= last} <= ends and max(ends) == last
    assert max(sizes) <= most


def test_a_plan_tells_what_a_run_does(tmp_path):
    """Steps, trials, kept weights by round and layer; the run afterwards keeps just these."""
    run = TABLE["reset"]
    text = run.plan(trials=4)
    assert "3 of 6 steps of 20 images, 4 trials" in text
    assert "3 evaluations of" in text
    run.run(tmp_path)
    from rst_tf import Ticket

    for number in range(3):
        ticket = Ticket.load(tmp_path / "tickets" / f"round_{number:02d}.npz")
        kept = [f"{n:,}" for n in (ticket.kept, *ticket.kept_by_layer().values())]
        line = rf"^ +{number} +{100 * ticket.density:.3f} +{' +'.join(kept)}$"
        assert re.search(line, text, re.MULTILINE), text


def test_a_plan_costs_what_is_measured(monkeypatch):
    """Hours are rounds x (steps x time of a step + evaluations x time of one) x trials."""
    from experiments import _planning

    monkeypatch.setattr(_planning, "_seconds_per_step", lambda session: (50.0, 3))
    monkeypatch.setattr(_planning, "_seconds_per_evaluation", lambda session: 20.0)
    assert "time      36 minutes: 50000.00 ms a step" in TABLE["reset"].plan(trials=2)
    assert "time      6 minutes" in dataclasses.replace(TABLE["reset"], rounds=0).plan()


def test_a_plan_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TABLE["dense"].plan()
    assert not list(tmp_path.iterdir())
