"""Laws of what is counted and drawn of a ticket's masks, on toy masks and literal formulas."""

import csv
import itertools
import math
import re

import numpy as np
import pytest
from absl.testing import flagsaver
from matplotlib.image import imread

import run_analysis
from rst_tf.analysis import mask_counts, mask_figures, masks_report, operations
from rst_tf.analysis.mask_counts import LayerMask
from rst_tf.ticket import Entry, Ticket


def layer(shape, kept, group=None, name="layer", seed=0):
    """A layer whose mask keeps so many entries at random."""
    mask = np.zeros(group or shape, bool)
    mask.ravel()[np.random.default_rng(seed).permutation(mask.size)[:kept]] = True
    return LayerMask(0, name, tuple(shape), mask)


LAYERS = {
    "conv": layer((3, 3, 4, 6), 40),
    "dense": layer((7, 5), 9),
    "one dimension": layer((3, 4, 5), 20),
    "whole kernels": layer((3, 3, 4, 6), 10, (1, 1, 4, 6)),
    "rows": layer((3, 2, 4, 6), 30, (3, 1, 4, 6)),
    "filters": layer((3, 3, 4, 6), 2, (1, 1, 1, 6)),
    "none": layer((3, 3, 2, 3), 0),
    "all": layer((3, 3, 2, 3), 54),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


@every_layer
def test_counts_are_the_loops(name):
    it = LAYERS[name]
    outputs, inputs = np.zeros(it.outputs), np.zeros(it.inputs)
    kernels = np.zeros((it.inputs, it.outputs))
    for place in itertools.product(*map(range, it.shape)):
        if it.mask[tuple(min(p, n - 1) for p, n in zip(place, it.mask.shape, strict=True))]:
            inputs[place[-2]] += 1
            outputs[place[-1]] += 1
            kernels[place[-2:]] += 1
    np.testing.assert_array_equal(mask_counts.by_channel(it, "output"), outputs)
    np.testing.assert_array_equal(mask_counts.by_channel(it, "input"), inputs)
    np.testing.assert_array_equal(mask_counts.by_kernel(it), kernels)
    expected = [(kernels == n).sum() for n in range(it.field + 1)]
    np.testing.assert_array_equal(mask_counts.kernel_histogram(it), expected)
    assert it.kept == kernels.sum()


def random_masks(it, number):
    rng = np.random.default_rng(1)
    flat = it.mask.ravel()
    for _ in range(number):
        yield LayerMask(0, "random", it.shape, rng.permutation(flat).reshape(it.mask.shape))


@every_layer
def test_random_counts_are_means_over_masks_without_replacement(name):
    it, drawn = LAYERS[name], list(random_masks(LAYERS[name], 400))
    for side in ("output", "input"):
        counts = np.array([mask_counts.by_channel(mask, side) for mask in drawn])
        ordered = -np.sort(-counts, axis=1)
        found = mask_counts.random_by_channel(it, side, draws=2000)
        slack = 5 * ordered.std(axis=0) / 20 + 5 * ordered.std(axis=0) / 44 + 1e-9
        assert (np.abs(found - ordered.mean(axis=0)) <= slack).all()
        assert found.sum() == pytest.approx(it.kept) and (np.diff(found) <= 0).all()
        empty = (counts == 0).sum(axis=1)
        slack = 5 * empty.std() / 20 + 0.02
        assert mask_counts.random_empty(it, side) == pytest.approx(empty.mean(), abs=slack)
    kernels = np.array([mask_counts.kernel_histogram(mask) for mask in drawn])
    slack = 5 * kernels.std(axis=0) / 20 + 0.02
    found = mask_counts.random_kernel_histogram(it)
    assert (np.abs(found - kernels.mean(axis=0)) <= slack).all()
    assert found.sum() == pytest.approx(it.inputs * it.outputs)
    assert found @ np.arange(it.field + 1) == pytest.approx(it.kept)


def test_the_histogram_of_random_masks_is_the_formula():
    it = layer((3, 3, 8, 16), 100)
    n, m, c = 1152, 100, math.comb
    expected = [128 * c(9, j) * c(n - 9, m - j) / c(n, m) for j in range(10)]
    np.testing.assert_allclose(mask_counts.random_kernel_histogram(it), expected, rtol=1e-8)


def test_layers_in_a_row_share_channels():
    first = LayerMask(0, "conv_1", (1, 1, 2, 4), np.zeros((1, 1, 2, 4), bool))
    first.mask[0, 0, 0, [0, 1, 2]] = True
    shortcut = LayerMask(1, "conv_shortcut", (1, 1, 2, 4), first.mask)
    second = LayerMask(2, "conv_2", (1, 1, 4, 3), np.zeros((1, 1, 4, 3), bool))
    second.mask[0, 0, [1, 2, 3, 3], [0, 0, 1, 2]] = True
    dense = LayerMask(3, "output", (6, 2), np.zeros((6, 2), bool))
    dense.mask[4, 1] = True  # at the second place of the map, channel 1
    other = LayerMask(4, "other", (5, 2), np.ones((5, 2), bool))
    one, two = mask_counts.pairs_of([first, shortcut, second, dense, other])
    assert (one.first.name, one.second.name) == ("conv_1", "conv_2")
    assert (one.written.tolist(), one.read.tolist()) == ([True] * 3 + [False], [False] + [True] * 3)
    assert (one.both, one.expected) == (2, 9 / 4)
    assert (two.second.name, two.read.tolist()) == ("output", [False, True, False])


def test_tiles_lie_where_their_channels_are():
    it = LAYERS["conv"]
    tiles = mask_figures.tiled(it)
    assert tiles.shape == (18, 12)
    for h, w, i, o in itertools.product(range(3), range(3), range(4), range(6)):
        assert tiles[3 * o + h, 3 * i + w] == it.mask[h, w, i, o]
    np.testing.assert_array_equal(mask_figures.tiled(LAYERS["dense"]), LAYERS["dense"].mask.T)


def test_operations_are_the_published_formulas():
    conv_1 = layer((3, 3, 3, 64), 1728, name="stem")
    conv_2 = layer((3, 3, 64, 128), 5000, name="conv")
    shortcut = layer((1, 1, 64, 128), 100, name="shortcut")
    dense = layer((128, 10), 70, name="output")
    estimated = operations.estimate([conv_1, conv_2, shortcut, dense], 32)
    for it, r_in, r_out, c, each in zip(
        (conv_1, conv_2, shortcut, dense),
        (3, 64, 64, 128),
        (64, 128, 128, 10),
        (3, 3, 1, 1),
        estimated,
        strict=True,
    ):
        is_dense = it is dense
        s = 1 if is_dense else 2048 // r_out
        a, b = (10, 3) if is_dense else (11, 4)
        k, products = it.kept / it.size, s**2 * c**2 * r_in * r_out
        assert each.side == s
        forward, backward = a * r_out * s**2, b * r_out * s**2
        assert each.binary == pytest.approx((k * products + forward, 3 * k * products + backward))
        update = c**2 * r_in * r_out
        assert each.full == pytest.approx(
            (2 * k * products + forward, 4 * k * products + backward + update)
        )
        assert each.dense == pytest.approx(
            (2 * products + forward, 4 * products + backward + update)
        )
    total = operations.total(estimated)
    assert total["full"] == tuple(sum(each.full[way] for each in estimated) for way in (0, 1))


SIDES = [
    (None, None),
    ({"input_shape": [28, 28, 1]}, 28),
    ({"keras": {"config": {"layers": [{"config": {"batch_shape": [None, 24, 24, 3]}}]}}}, 24),
    ({"keras": {"config": {"layers": [{"config": {"units": 3}}]}}}, None),
]


@pytest.mark.parametrize(("network", "side"), SIDES)
def test_the_images_side_is_the_descriptions(network, side):
    assert operations.image_side(network) == side


def a_ticket(shapes, density=0.1):
    entries = []
    for place, (name, shape) in enumerate(shapes.items()):
        it = layer(shape, math.ceil(density * math.prod(shape)), seed=place)
        entries.append(Entry(f"{name}/kernel", it.shape, it.mask))
    return Ticket(tuple(entries), network={"input_shape": [16, 16, 3]})


NETWORK = {
    "stem": (3, 3, 3, 8),
    "conv_1": (3, 3, 8, 16),
    "shortcut": (1, 1, 8, 16),
    "conv_2": (3, 3, 16, 16),
    "output": (16, 10),
}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    for name, density in (("round_00", 1.0), ("round_01", 0.3), ("round_01_best", 0.1)):
        a_ticket(NETWORK, density).save(folder / f"tickets/{name}.npz")
    return folder


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@flagsaver.flagsaver
def test_the_command_leaves_numbers_and_pictures(run, tmp_path, capsys):
    arguments = [f"--masks={run}", f"--out={tmp_path / 'out'}", "--mask_layers=1,4"]
    run_analysis.main(run_analysis.parse(["run_analysis.py", *arguments]))
    out = tmp_path / "out"
    printed = capsys.readouterr().out
    assert "round_01_best.npz" in printed and "conv_2" in printed
    found = {path.name for path in out.iterdir()}
    numbers = {f"{name}.csv" for name in ("masks", "channels", "kernels", "pairs", "operations")}
    drawn = ("channels", "kernels", "mask_01_conv_1", "mask_04_output", "two_layers_01_conv_1")
    pictures = {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    assert found == numbers | pictures | {"masks.md", "operations.md"}
    for name in drawn:
        assert imread(out / f"{name}.png").std() > 0.05  # something is drawn
    ticket = Ticket.load(run / "tickets/round_01_best.npz")
    assert [int(row["kept"]) for row in rows(out / "masks.csv")] == [
        int(entry.mask.sum()) for entry in ticket.entries
    ]
    counts = rows(out / "channels.csv")
    assert {row["layer"] for row in counts} == {"conv_1", "output"}
    own = [int(r["kept"]) for r in counts if (r["layer"], r["side"]) == ("conv_1", "output")]
    expected = ticket.entries[1].mask.sum(axis=(0, 1, 2))
    assert own == sorted(expected.tolist(), reverse=True)
    assert [row["second"] for row in rows(out / "pairs.csv")] == ["conv_1", "conv_2", "output"]
    assert {row["side"] for row in rows(out / "operations.csv")} == {"16", "8", "1"}


PICTURES = {
    **{name: (it, None) for name, it in LAYERS.items()},
    "larger than a page": (layer((3, 3, 400, 64), 3000), 400),
    "larger than that": (layer((2000, 30), 500), 30),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_weight_is_in_its_picture(name):
    it, _ = PICTURES[name]
    picture, unit = mask_figures._picture(it)
    assert picture.sum() == it.kept and max(picture.shape) <= mask_figures.PIXELS
    whole = mask_figures.tiled(it).shape
    assert (unit == "weight") == (picture.shape == whole)


WRONG = [
    (["--masks=nowhere"], "--masks: nowhere is no ticket file and no folder of a run"),
    (["--masks=."], r"--masks: \. has no finished round"),
    (["--masks=run/tickets/round_00.npz", "--mask_layers=7"], "positions from 0 to 4; received 7"),
    (["--masks=run", "--mask_layers=a"], "--mask_layers: expected the numbers of layers"),
    (["--mask_layers=1", "--leaderboard=x"], "--mask_layers has no effect without --masks"),
    (["--masks=run", "--families=x"], "--families has no effect without --runs"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_is_wrong_is_one_line(arguments, message, run, monkeypatch):
    monkeypatch.chdir(run.parent)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as error:
        run_analysis.main(run_analysis.parse(["run_analysis.py", *arguments]))
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)


BOTTLENECK = {"stem": (3, 3, 3, 8), "conv_3": (1, 1, 8, 32), "conv_1": (1, 1, 32, 8)}


@pytest.mark.parametrize(("network", "told"), [(NETWORK, False), (BOTTLENECK, True)])
def test_a_network_that_the_rule_does_not_fit_is_told(network, told, tmp_path, capsys):
    a_ticket(network).save(tmp_path / "t.npz")
    masks_report.write(tmp_path / "t.npz", chosen=(0,))
    assert ("the maps would grow at conv_1" in " ".join(capsys.readouterr().out.split())) == told


def test_the_last_round_is_the_one_of_the_highest_number(run):
    a_ticket(NETWORK).save(run / "tickets/round_100.npz")
    assert masks_report.ticket_file(run).name == "round_100.npz"


def test_without_out_a_file_gets_a_folder_beside_it(tmp_path, capsys):
    a_ticket({"a": (5, 4), "b": (4, 3)}).save(tmp_path / "small.npz")
    assert masks_report.write(tmp_path / "small.npz") == tmp_path / "small_masks"
    assert not (tmp_path / "small_masks/kernels.png").exists()  # no kernel has several weights
