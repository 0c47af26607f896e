"""Laws of packed binary models: the same logits, about as many bytes as there is information."""

import dataclasses
import gc
import json
import math
import weakref

import keras
import numpy as np
import pytest
from networks import NETWORKS, images, small

import rst_tf as rst
from rst_tf import models
from rst_tf.artefacts import export, size_table
from rst_tf.entropy_coding import entropy
from rst_tf.footprint import Footprint
from rst_tf.initializers import Seed, initialize
from rst_tf.packed import FORMAT, MAGIC, PackedKernel, PackedModel, PackedNetwork
from rst_tf.ticket import Ticket, leftovers_of
from rst_tf.traversal import masked_kernels

SEED = Seed(3, "signed_constant")
NORMAL = Seed(3, "kaiming_normal")
IMAGE = (12, 12, 3)


def described(architecture, **masks):
    def build():
        description = models.describe(architecture, IMAGE, 5, **masks)
        return models.build(description), description

    return build


def own(name):
    return lambda: (rst.masked(NETWORKS[name]()), None)


RESNET = models.ResNet(width=1 / 32, affine=False, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.2))
MEMBERS = {
    "conv": described(models.Conv(depth=2, width=0.1)),
    "whole kernels": described(models.Conv(depth=2, width=0.1), granularity="kernel"),
    "whole filters": described(models.Conv(depth=2, width=0.1), granularity="filter"),
    "found by a search": lambda: (
        models.Conv(depth=2, width=0.1).build(
            IMAGE, 5, models.masked_parts(search=True, density=0.2)
        ),
        None,
    ),
    "signs at their mean": described(models.Conv(depth=2, width=0.1), gain="mean"),
    "and searched": lambda: (
        models.Conv(depth=2, width=0.1).build(
            IMAGE, 5, models.masked_parts(search=True, density=0.2, gain="mean")
        ),
        None,
    ),
    "a user's": own("functional"),
    "used twice": own("shared"),
    "resnet": described(RESNET),
}
SEEDS = {member: SEED for member in MEMBERS} | {
    "signs at their mean": NORMAL,
    "and searched": NORMAL,
}
every_member = pytest.mark.parametrize("member", MEMBERS)


def binary(member, density=0.3):
    """A network of +-constants with random masks and moved statistics, and its description."""
    net, description = MEMBERS[member]()
    initialize(net, SEEDS[member].seed, SEEDS[member].initializer)
    rng = np.random.default_rng(0)
    for variable in leftovers_of(net):
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    if masked_kernels(net)[0].scores is None:
        Ticket.of(net).prune(density, criterion="random").apply(net)
    return net, description


def effective(net):
    return [np.asarray(masked.effective()) for masked in masked_kernels(net)]


@pytest.mark.parametrize("held", ["signs", "seed"])
@every_member
def test_a_file_gives_back_the_bits(member, held, tmp_path):
    net, description = binary(member)
    weights = SEEDS[member] if held == "seed" else "stored"
    packed = PackedModel.of(net, description=description, weights=weights)
    packed.save(tmp_path / "a.rstb")
    again = PackedModel.load(tmp_path / "a.rstb")
    again.save(tmp_path / "again.rstb")
    assert (tmp_path / "again.rstb").read_bytes() == (tmp_path / "a.rstb").read_bytes()
    assert again.nbytes == packed.nbytes and repr(again) == repr(packed)
    built, x = again.build(), images(5)
    for a, b in zip(effective(net), effective(built), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(leftovers_of(net), leftovers_of(built), strict=True):
        np.testing.assert_array_equal(a, b)
    expected = net(x, training=False).numpy()
    np.testing.assert_array_equal(built(x, training=False), expected)
    inference = again.inference()
    assert inference.nbytes == packed.nbytes
    for n in (5, 1):
        np.testing.assert_array_equal(inference(x[:n]), net(x[:n], training=False))


def test_kernels_are_held_packed_only():
    net, _ = binary("resnet")
    held = [weakref.ref(v) for m in masked_kernels(net) for v in (m.kernel, m.mask)]
    others, weights = leftovers_of(net), sum(kernel.size for kernel in effective(net))
    kept = sum(int((kernel != 0).sum()) for kernel in effective(net))
    inference = PackedNetwork(net)
    gc.collect()
    assert not [ref for ref in held if ref() is not None]
    assert len(net.variables) == len(others)
    statistics = sum(v.numpy().nbytes for v in others)
    kernels = len(held) // 2
    rounded = 6 * kernels  # a gain, and the last byte of mask and signs
    assert 0 <= inference.nbytes - statistics - (weights + kept) / 8 <= rounded
    assert inference.largest == 4 * max(kernel.size for kernel in effective(binary("resnet")[0]))
    inference(images(1))
    with pytest.raises(AttributeError):
        net(images(1))


# How large: at most 1.10 times masks and signs, with statistics and what a header takes.

RESNET_18 = [(3, 3, 3, 64)] + [(3, 3, 64, 64)] * 4
for c in (64, 128, 256):
    RESNET_18 += [(3, 3, c, 2 * c), (3, 3, 2 * c, 2 * c), (1, 1, c, 2 * c)]
    RESNET_18 += [(3, 3, 2 * c, 2 * c)] * 2
RESNET_18 += [(512, 10)]
LAYERS = {"resnet_18": RESNET_18, "dense": [(784, 300), (300, 100), (100, 10)]}


def of_shapes(shapes, density, seed=None):
    rng, kernels = np.random.default_rng(0), []
    for place, shape in enumerate(shapes):
        mask = rng.random(shape, np.float32) < density
        signs = rng.random(shape, np.float32) < 0.5
        kernel = np.where(signs, np.float32(0.25), np.float32(-0.25))
        kernels.append(PackedKernel.of(f"stage_{place}_conv/kernel", kernel, mask))
    statistics = [rng.normal(size=2 * shape[-1]).astype(np.float32) for shape in shapes]
    network = models.describe(models.ResNet(), (32, 32, 3), 10)
    return PackedModel(tuple(kernels), tuple(statistics), network, seed)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("density", [0.01, 0.05, 0.3, 1.0])
def test_a_file_is_near_the_entropy(layers, density, tmp_path):
    model = of_shapes(LAYERS[layers], density)
    model.save(tmp_path / "a.rstb")
    kept = sum(kernel.kept for kernel in model.kernels)
    bits = sum(entropy(kernel.size, kernel.kept) for kernel in model.kernels) + kept
    statistics = sum(value.nbytes for value in model.leftovers)
    header = 350 + 18 * len(model.kernels)
    size = (tmp_path / "a.rstb").stat().st_size
    assert bits / 8 + 0.9 * statistics <= size <= 1.10 * bits / 8 + statistics + header


def test_a_seed_takes_the_place_of_the_signs(tmp_path):
    net, description = binary("conv", density=0.5)
    sizes = []
    for weights in ("stored", SEED):
        PackedModel.of(net, description=description, weights=weights).save(tmp_path / "a.rstb")
        sizes.append((tmp_path / "a.rstb").stat().st_size)
    kept = Ticket.of(net).kept
    assert sizes[0] - sizes[1] == pytest.approx(kept / 8, abs=150)  # a seed's names and hash


# What is damaged is refused.


def a_file(folder, **changes):
    model = of_shapes([(3, 3, 2, 3), (12, 4)], 0.3)
    dataclasses.replace(model, **changes).save(folder / "a.rstb")
    return folder / "a.rstb"


def test_every_flipped_bit_is_noticed(tmp_path):
    path = a_file(tmp_path, network={})
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        wrong = bytearray(whole)
        wrong[place // 8] ^= 1 << place % 8
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match="is not a packed model, or is damaged"):
            PackedModel.load(path)


DAMAGE = {
    "empty": lambda file: b"",
    "cut": lambda file: file[:-1],
    "longer": lambda file: file + b"\0",
    "start only": lambda file: file[:40],
    "a ticket": lambda file: b"PK\3\4" + file,
    "newer": lambda file: MAGIC + bytes([FORMAT + 1]) + file[5:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused(damage, tmp_path):
    path = a_file(tmp_path)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ValueError, match="is not a packed model, or is damaged"):
        PackedModel.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.rstb"):
        PackedModel.load(tmp_path / "nowhere.rstb")


def test_a_seed_that_gives_other_weights_is_refused(tmp_path):
    net, description = binary("conv")
    packed = PackedModel.of(net, description=description, weights=SEED)
    other = dataclasses.replace(packed, seed=dataclasses.replace(packed.seed, seed=4))
    with pytest.raises(ValueError, match="gives other weights"):
        other.build()
    with pytest.raises(ValueError, match="use weights='stored'"):
        PackedModel.of(net, weights=Seed(4, "signed_constant"))


KERNELS = {
    "two magnitudes": ([1.0, -2.0, 1.0], "from 1 to 2"),
    "a zero": ([1.0, 0.0, -1.0], "from 0 to 1"),
    "not a number": ([np.nan, np.nan, np.nan], "from nan to nan"),
    "no number": ([np.inf, -np.inf, np.inf], "from inf to inf"),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_not_binary_is_refused(kernel):
    values, message = KERNELS[kernel]
    values = np.array([*values, 7.0], np.float32)
    with pytest.raises(ValueError, match=f"'k' is not binary: the magnitudes .* {message}"):
        PackedKernel.of("k", values, np.array([True, True, True, False]))


@pytest.mark.parametrize("mask", [np.zeros(5, bool), np.ones(5, bool), np.eye(5, dtype=bool)[2]])
@pytest.mark.parametrize("gain", [0.0, 1.0, 1e-30])
def test_a_kernel_is_formed_as_it_was(mask, gain):
    kernel = np.float32(gain) * np.array([1, -1, -1, 1, -1], np.float32)
    formed = PackedKernel.of("k", kernel, mask).formed()
    assert formed.dtype == np.float32
    np.testing.assert_array_equal(formed, kernel * mask)
    np.testing.assert_array_equal(np.signbit(formed), np.signbit(kernel) & mask)


# As a format of `export`.


@every_member
def test_export_writes_it_and_compares(member, tmp_path):
    net, description = binary(member)
    options = {"description": description} if description else {}
    made = export(net, tmp_path / "a.rstb", "packed", latency_runs=1, **options)
    assert made.max_difference == 0 and made.bytes == (tmp_path / "a.rstb").stat().st_size
    assert made.memory == PackedModel.load(tmp_path / "a.rstb").nbytes
    footprint = Footprint.of(net)
    lines = size_table(footprint, [made]).splitlines()
    values = [tuple(int(n.replace(",", "")) for n in line.split()[-2:]) for line in lines[1:]]
    f = footprint.float32, footprint.int8, footprint.bound, footprint.bound_of_seed
    expected = [(n, n) for n in f]
    assert values == [*expected[:2], (made.bytes, made.memory), *expected[2:]]


def test_a_footprint_is_what_the_formulas_say():
    net, _ = binary("whole kernels")
    f = Footprint.of(net)
    masks = [np.asarray(masked.mask) for masked in masked_kernels(net)]
    others = 4 * sum(math.prod(v.shape) for v in leftovers_of(net))
    assert (f.weights, f.kernels) == (sum(k.size for k in effective(net)), len(masks))
    assert f.kept == sum(int((kernel != 0).sum()) for kernel in effective(net))
    shares = [(mask.size, mask.mean()) for mask in masks]
    bits = sum(-n * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) for n, p in shares if p < 1)
    assert f.mask_bits == pytest.approx(bits, rel=1e-6)
    assert f.float32 == 4 * f.weights + others
    assert f.int8 == f.weights + 4 * len(masks) + others
    assert f.bound == math.ceil((f.mask_bits + f.kept) / 8) + 4 * len(masks) + others
    assert f.bound_of_seed == math.ceil(f.mask_bits / 8) + others


def trained():
    net = small()
    initialize(net, 0, "glorot_uniform")
    return net


REFUSED = [
    (trained, {}, "cannot be written: kernel '.*' is not binary"),
    (NETWORKS["shared"], {}, "cannot be written: network .* has no masked layers"),
    (small, {"format": "keras", "weights": SEED}, "weights is for format='packed'; received"),
    (small, {"path": "a.keras"}, "must end in '.rstb' for format='packed'"),
]


@pytest.mark.parametrize(("build", "options", "message"), REFUSED)
def test_refusals_name_the_reason(build, options, message, tmp_path):
    path = tmp_path / options.pop("path", "a.keras" if "format" in options else "a.rstb")
    with pytest.raises(ValueError, match=message):
        export(build(), path, **{"format": "packed", **options})
    assert not list(tmp_path.iterdir())


def test_the_experiment_writes_it_from_a_tickets_seed(tmp_path, capsys):
    from experiments.export import Export

    net, description = binary("conv")
    Ticket.of(net, weights=SEED, description=description).save(tmp_path / "t.npz")
    formats = ("packed", "keras", "litert")
    Export(source=str(tmp_path / "t.npz"), formats=formats, latency_runs=1).run(tmp_path / "out")
    packed = PackedModel.load(tmp_path / "out/network.rstb")
    assert packed.seed.seed == SEED.seed and packed.network == description
    report = json.loads((tmp_path / "out/export.json").read_text())
    made = {a["format"]: a for a in report["artefacts"]}
    assert made["packed"]["memory"] == packed.nbytes and made["keras"]["memory"] is None
    assert report["footprint"]["bound"] == Footprint.of(net).bound
    out = capsys.readouterr().out
    assert "network.rstb" in out and "bytes on disk" in out


def test_a_plain_keras_model_comes_out_of_it(tmp_path):
    net, description = binary("conv")
    PackedModel.of(net, description=description).save(tmp_path / "a.rstb")
    built = PackedModel.load(tmp_path / "a.rstb").build()
    assert isinstance(built, keras.Model) and Ticket.of(built).overlap(Ticket.of(net)) == 1
