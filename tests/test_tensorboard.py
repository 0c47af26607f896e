import numpy as np
import pytest
from networks import NETWORKS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rst_tf import Ticket, masked
from rst_tf.models import MLP, masked_parts
from rst_tf.tensorboard import Board, mask_picture

SHAPES = {(20, 7): (7, 20), (3, 3, 4, 6): (12, 18), (784, 300): (256, 256), (3, 4, 6): (4, 18)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
def test_a_mask_picture_has_the_masks_mean_and_fits(shape, kept):
    mask = np.random.default_rng(0).uniform(size=shape) < kept
    picture = mask_picture(mask)
    assert picture.shape == SHAPES[shape]
    assert picture.mean() == pytest.approx(mask.mean(), abs=0.01)
    assert picture.min() >= 0 and picture.max() <= 1


def test_a_picture_shows_each_kernel_in_its_place():
    mask = np.zeros((3, 3, 2, 4), bool)
    mask[..., 1, 2] = True
    expected = np.zeros((6, 12))
    expected[3:6, 6:9] = 1
    np.testing.assert_array_equal(mask_picture(mask), expected)


def scalar(accumulator, tag):
    event = accumulator.Tensors(tag)[0]
    return event.step, float(np.frombuffer(event.tensor_proto.tensor_content, "float32")[0])


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator.Tags()["tensors"], accumulator


@pytest.mark.parametrize("name", NETWORKS)
def test_density_and_picture_of_every_layer(name, tmp_path):
    network = masked(NETWORKS[name]())
    ticket = Ticket.of(network).prune(0.3)
    ticket.apply(network)
    Board(tmp_path).masks(network, 2)
    tags, accumulator = events(tmp_path / "masks")
    for entry in ticket.entries:
        assert f"mask/{entry.name}" in tags
        assert scalar(accumulator, f"density/{entry.name}") == (2, pytest.approx(entry.mask.mean()))
    assert scalar(accumulator, "density/network") == (2, pytest.approx(ticket.density))


def test_kept_weights_by_pixel_where_the_first_layer_reads_pixels(tmp_path):
    Board(tmp_path).masks(MLP(hidden=(5,)).build((6, 6, 2), 3, masked_parts()), 0)
    assert "kept_per_pixel/hidden_1/kernel" in events(tmp_path / "masks")[0]


def test_settings_and_scalars(tmp_path):
    board = Board(tmp_path)
    board.settings({"seed": 3, "attack": {"name": "pgd", "step_size": None}})
    board.scalars("round_00/valid", 7, {"accuracy": 0.5, "robust_accuracy": None})
    tags, accumulator = events(tmp_path / "round_00" / "valid")
    assert tags == ["accuracy"] and scalar(accumulator, "accuracy") == (7, 0.5)
    text = b"".join(f.read_bytes() for f in (tmp_path / "settings").iterdir())
    assert b"attack.name" in text and b"seed" in text
