import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from networks import NETWORKS, easy_data, images, small

import rst_tf as rst
from rst_tf import models
from rst_tf.artefact_formats import FORMATS
from rst_tf.artefacts import export, table
from rst_tf.initializers import initialize
from rst_tf.normalization import Normalization
from rst_tf.objectives import Natural
from rst_tf.quiet import quiet
from rst_tf.ticket import Ticket
from rst_tf.trainer import RobustTrainer

PLAIN = [name for name, kind in FORMATS.items() if not kind.masked]  # packed: test_packed.py
every_format = pytest.mark.parametrize("format", PLAIN)


def architecture(network, shape):
    def build():
        net = network.build(shape, 10, models.masked_parts())
        initialize(net, 0, "glorot_uniform")
        return net

    return build


def user():
    """A user's own model, with rst_tf's normalisation of moved statistics in three places."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((14, 14, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = Normalization()(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    x = Normalization(affine=False, epsilon=1e-3)(x)
    x = keras.layers.Dense(24)(keras.layers.Flatten()(x))
    model = keras.Model([image], [keras.layers.Dense(5)(Normalization()(x))])
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "kernel" not in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return rst.masked(model)


MEMBERS = {
    "lenet5": architecture(models.LeNet5(), (28, 28, 1)),
    "user": user,
    "mlp": architecture(models.MLP(), (28, 28, 1)),
    "conv": architecture(models.Conv(depth=2, width=0.25), (16, 16, 3)),
    "resnet": architecture(
        models.ResNet(width=1 / 16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.2)), (16, 16, 3)
    ),
    "mobilenet_v2": architecture(models.MobileNetV2(width=1 / 8), (16, 16, 3)),
    **{name: lambda name=name: rst.masked(NETWORKS[name]()) for name in NETWORKS},
}
DENSITIES = (1.0, 0.1)
FAST = ("lenet5", "user")
every_member = pytest.mark.parametrize(
    "member", [pytest.param(m, marks=() if m in FAST else pytest.mark.slow) for m in MEMBERS]
)

RUN_ALL = """
import sys
sys.modules["rst_tf"] = None
import pathlib
import keras, numpy as np, onnxruntime, tensorflow as tf

def lite(path):
    run = tf.lite.Interpreter(str(path)).get_signature_runner()
    (name,) = run.get_input_details()
    return lambda x: list(run(**{name: x}).values())[0]

def served(path):
    loaded = tf.saved_model.load(path)  # its variables live as long as it does
    return lambda x: loaded.serve(x)

def onnx(path):
    session = onnxruntime.InferenceSession(str(path))
    return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]

loaders = {
    "keras": lambda path: keras.models.load_model(path, compile=False),
    "saved_model": served,
    "litert": lite,
    "onnx": onnx,
}
for sample in pathlib.Path(sys.argv[1]).glob("*/sample.npy"):
    x = np.load(sample)
    for path in (p for p in sample.parent.iterdir() if p.stem in loaders):
        run = loaders[path.stem](path)
        np.savez(sample.parent / f"out_{path.stem}", *[np.asarray(run(x[:n])) for n in (6, 1, 3)])
"""


@dataclasses.dataclass(frozen=True)
class Made:
    """One member at one density in all formats, and what a fresh process made of the files."""

    ticket: Ticket
    artefacts: dict
    expected: np.ndarray
    found: dict


def make(folder, member, density):
    net = MEMBERS[member]()
    ticket = Ticket.of(net)
    if density < 1:
        ticket = ticket.prune(density)
        ticket.apply(net)
    artefacts = {
        name: export(net, folder / f"{name}{FORMATS[name].suffix}", name, latency_runs=1)
        for name in PLAIN
    }
    x = images(6, net.inputs[0].shape[1:], seed=5)
    np.save(folder / "sample.npy", x)
    return Made(ticket, artefacts, net.predict(x, verbose=0), {})


def make_all(top, members):
    made = {(m, d): make(top / f"{m}_{d}", m, d) for m in members for d in DENSITIES}
    run = [sys.executable, "-c", RUN_ALL, str(top)]
    subprocess.run(run, cwd=top, check=True, env={"TF_CPP_MIN_LOG_LEVEL": "2"})
    for (member, density), it in made.items():
        for name in PLAIN:
            with np.load(top / f"{member}_{density}" / f"out_{name}.npz") as out:
                it.found[name] = list(out.values())
    return made


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("fast"), FAST)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("slow"), [m for m in MEMBERS if m not in FAST])


@pytest.fixture
def made(request):
    """Gives a member at a density; the members of a group share one fresh process."""
    return lambda m, d: request.getfixturevalue("fast" if m in FAST else "slow")[m, d]


@every_format
@every_member
@pytest.mark.parametrize("density", DENSITIES)
def test_outputs_are_the_networks_in_a_process_without_rst_tf(made, member, density, format):
    it = made(member, density)
    bound = 1e-5 * max(1, np.abs(it.expected).max())
    for outputs, n in zip(it.found[format], (6, 1, 3), strict=True):
        np.testing.assert_allclose(outputs, it.expected[:n], rtol=0, atol=bound)
    assert it.artefacts[format].max_difference <= bound
    assert it.artefacts[format].latency_ms > 0


@every_format
@every_member
@pytest.mark.parametrize("density", DENSITIES)
def test_zeros_are_the_pruned_weights(made, member, density, format):
    ticket, artefact = made(member, density).ticket, made(member, density).artefacts[format]
    total = sum(int(np.prod(entry.shape)) for entry in ticket.entries)
    assert (artefact.weights, artefact.zeros) == (total, total - ticket.kept)
    assert artefact.density == ticket.density


@every_format
@every_member
def test_zeros_shrink_the_compressed_size_only(made, member, format):
    dense, sparse = (made(member, density).artefacts[format] for density in DENSITIES)
    files = [sparse.path, *sparse.path.rglob("*")]
    assert sparse.bytes == sum(f.stat().st_size for f in files if f.is_file())
    assert sparse.bytes == pytest.approx(dense.bytes, rel=0.05, abs=4000)
    saved = dense.gzip_bytes - sparse.gzip_bytes
    assert saved > 0.5 * 4 * sparse.zeros  # four bytes each, less the cost of saying where
    assert sparse.gzip_bytes < sparse.bytes


@every_format
@every_member
def test_every_weight_is_stored_once(made, member, format):
    if member in ("resnet", "mobilenet_v2"):
        pytest.skip("so narrow that the names of the layers outweigh the weights")
    artefact = made(member, 1.0).artefacts[format]
    assert artefact.bytes < 4 * artefact.weights + 150_000


def test_table_fits_the_terminal(made):
    artefacts = made("lenet5", 0.1).artefacts.values()
    far = [dataclasses.replace(a, path=a.path.with_name("x" * 80), bytes=10**9) for a in artefacts]
    lines = table([*artefacts, *far]).splitlines()
    assert len(lines) == 9 and max(map(len, lines)) < 100
    for artefact, line in zip(artefacts, lines[1:], strict=False):
        assert line.startswith(artefact.format) and f"{artefact.gzip_bytes:,}" in line
        assert f"{artefact.bytes:,} bytes" in str(artefact)


@every_format
def test_exporting_prints_nothing(format, tmp_path, capfd, recwarn):
    export(small(), tmp_path / f"a{FORMATS[format].suffix}", format, latency_runs=1)
    assert capfd.readouterr() == ("", "") and not recwarn.list


def adapted():
    layers = [keras.layers.Normalization(axis=(1, -1), invert=invert) for invert in (False, True)]
    layers[0].adapt(5 * images(20, (6, 6, 2)))
    layers[1].adapt(3 * images(20, (6, 6, 2)))
    image = keras.Input((6, 6, 2))
    x = keras.layers.Flatten()(layers[1](layers[0](image)))
    return keras.Model(image, keras.layers.Dense(3)(x))


def of_dictionaries():
    x = image = keras.Input((6, 6, 2), name="image")
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    return keras.Model({"image": image}, {"logits": keras.layers.Dense(3)(x)})


@every_format
@pytest.mark.parametrize(
    "build", [adapted, of_dictionaries, NETWORKS["sequential"], NETWORKS["nested"]]
)
def test_plain_models_are_exported_too(build, format, tmp_path):
    model, path = build(), tmp_path / f"a{FORMATS[format].suffix}"
    one = images(1, model.inputs[0].shape[1:])
    artefact = export(model, path, format, sample=one, latency_runs=1)
    assert (artefact.zeros, artefact.density) == (0, 1.0)


@every_format
def test_what_is_there_stays_unless_it_may_be_replaced(format, tmp_path):
    path = tmp_path / f"new/a{FORMATS[format].suffix}"
    first = export(small(units=8), path, format, latency_runs=1)
    with pytest.raises(ValueError, match="exists; overwrite=True"):
        export(small(), path, format)
    assert sum(f.stat().st_size for f in [path, *path.rglob("*")] if f.is_file()) == first.bytes
    second = export(small(units=64), path, format, latency_runs=1, overwrite=True)
    assert second.bytes > first.bytes and list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_no_saved_model_is_never_replaced(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/precious.txt").write_text("42")
    for name, format in (("results", "saved_model"), ("results/precious.txt", "saved_model")):
        with pytest.raises(ValueError, match="is not of format='saved_model'"):
            export(small(), tmp_path / name, format, overwrite=True)
    assert (tmp_path / "results/precious.txt").read_text() == "42"


def contents(folder):
    return {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def halfway(model, path):
    path.mkdir()
    (path / "half").write_text("half")
    raise RuntimeError("disk on fire\nand more")


def shifted(load):
    return lambda path: lambda x: load(path)(x) + 1e-4


def one_image_only(load):
    return lambda path: lambda x: load(path)(x[:1]) if len(x) > 1 else load(path)(x)


def undefined(load):
    return lambda path: lambda x: load(path)(x) * np.nan


FAILURES = {
    "half written": (lambda f: {"write": halfway}, "cannot be written: disk on fire$"),
    "other outputs": (
        lambda f: {"load": shifted(f.load)},
        "differ by 1.00e-04, more than",
    ),
    "batch of one": (lambda f: {"load": one_image_only(f.load)}, r"\(1, 4\) in place of \(8, 4\)"),
    "not a number": (lambda f: {"load": undefined(f.load)}, "differ by nan"),
}


@every_format
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("there", [False, True])
def test_a_failed_export_changes_nothing(format, failure, there, tmp_path, monkeypatch):
    path = tmp_path / f"new/a{FORMATS[format].suffix}"
    net = small()
    initialize(net, 0, "glorot_uniform")
    if there:
        export(net, path, format, latency_runs=1)
    before = contents(tmp_path)
    change, message = FAILURES[failure]
    broken = dataclasses.replace(FORMATS[format], **change(FORMATS[format]))
    monkeypatch.setitem(FORMATS, format, broken)
    with pytest.raises(ValueError, match=message) as error:
        export(net, path, format, overwrite=True)
    assert f"format={format!r}" in str(error.value)
    assert contents(tmp_path) == before


def subclassed():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    model = Mine()
    model(np.zeros((1, 4), "float32"))
    return model


def two_inputs():
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], keras.layers.Dense(3)(keras.layers.Add()([a, b])))


def fixed_batch():
    image = keras.Input((4,), batch_size=2)
    return keras.Model(image, keras.layers.Dense(3)(image))


def of_unknown_layer():
    cls = type("Odd", (keras.layers.Layer,), {"__module__": "rst_tf.odd", "call": lambda s, x: x})
    image = keras.Input((4,))
    return keras.Model(image, keras.layers.Dense(3)(cls(name="odd_one")(image)))


def any_size():
    image = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    return keras.Model(image, keras.layers.Dense(3)(x))


def trainer():
    return RobustTrainer(small(), Natural())


def constant_in_a_layer():
    class Shift(keras.layers.Layer):
        def build(self, shape):
            self.shift = keras.ops.ones((4,))

        def call(self, x):
            return x + self.shift

    image = keras.Input((4,))
    return keras.Model(image, keras.layers.Dense(3)(Shift()(image)))


def test_an_onnx_file_that_wants_more_than_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not run: constants of the network became inputs"):
        export(constant_in_a_layer(), tmp_path / "a.onnx", "onnx")


REFUSED = [
    (trainer, {}, "export trainer.network"),
    (subclassed, {}, "Sequential and functional models; received Mine"),
    (two_inputs, {}, "one input and one output; received 2 and 1"),
    (fixed_batch, {}, "takes 2 images at a time"),
    (of_unknown_layer, {}, r"'odd_one' \(Odd\) has no plain Keras layer"),
    (any_size, {}, "sample is needed"),
    (any_size, {"sample": np.zeros((2, 8, 8, 1))}, r"received shape \(2, 8, 8, 1\)"),
    (small, {"sample": np.zeros((0, 6, 6, 1))}, r"received shape \(0, 6, 6, 1\)"),
    (small, {"latency_runs": 0}, "received latency_runs=0"),
    (small, {"format": "tflite"}, "unknown format 'tflite'.*known: keras, litert"),
    (small, {"format": "savedmodel"}, "did you mean 'saved_model'"),
    (small, {"format": "onnx"}, "must end in '.onnx' for format='onnx'; received path=.*a.keras"),
    (small, {"format": "saved_model"}, "must be a folder"),
]


@pytest.mark.parametrize(("build", "options", "message"), REFUSED)
def test_refusals_name_the_reason(build, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(build(), tmp_path / "a.keras", **options)
    assert not list(tmp_path.iterdir())


def test_a_sample_gives_the_size_where_the_network_takes_any(tmp_path):
    export(any_size(), tmp_path / "a.onnx", "onnx", sample=images(2, (8, 9, 3)), latency_runs=1)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    broken = dataclasses.replace(FORMATS["onnx"], packages=("onnx", "no_such_package"))
    monkeypatch.setitem(FORMATS, "onnx", broken)
    with pytest.raises(ValueError, match=r"needs no_such_package: pip install rst-tf\[export\]"):
        export(small(), tmp_path / "a.onnx", "onnx")


def test_quiet_keeps_what_was_said_for_the_error(capfd):
    with pytest.raises(RuntimeError) as error, quiet():
        print("from Python")
        subprocess.run(["sh", "-c", "echo from below >&2"], check=True)
        raise RuntimeError
    assert error.value.__notes__ == ["from Python\nfrom below\n"]
    print("heard again")
    assert capfd.readouterr() == ("heard again\n", "")


@pytest.fixture
def finished(tmp_path):
    """The tickets of a run: two finished rounds, and a third that was interrupted."""
    description = models.describe(models.MLP(hidden=(16,)), (6, 6, 1), 4)
    net = models.build(description)
    initialize(net, 0, "glorot_uniform")
    for name, density in {
        "initial": 1.0,
        "round_00_best": 1.0,
        "round_00": 1.0,
        "round_01_best": 0.5,
        "round_01": 0.4,
        "round_02_best": 0.2,
    }.items():
        ticket = Ticket.of(net, description=description)
        ticket.prune(density).save(tmp_path / f"run/tickets/{name}.npz")
    return tmp_path / "run"


def experiment(**fields):
    from experiments.export import Export

    return Export(**{"formats": ("keras",), "latency_runs": 1, **fields})


CHOICES = [
    ({}, "round_01_best"),
    ({"which": "last"}, "round_01"),
    ({"round": 0}, "round_00_best"),
    ({"round": 0, "which": "last"}, "round_00"),
]


@pytest.mark.parametrize(("fields", "name"), CHOICES)
def test_the_experiment_takes_the_ticket_it_is_told(finished, fields, name):
    expected = finished / f"tickets/{name}.npz"
    assert experiment(source=str(finished), **fields).ticket() == expected
    assert experiment(source=str(expected)).ticket() == expected


def test_the_experiment_leaves_files_and_a_report_without_times(finished, tmp_path, capfd):
    settings = experiment(source=str(finished), formats=tuple(PLAIN))
    for _ in range(2):  # the same folder again is no error
        settings.run(tmp_path / "out")
    names = {"network.keras", "network.tflite", "network.onnx", "saved_model"}
    there = {p.name for p in (tmp_path / "out").iterdir()}
    assert there == names | {"export.json", "config.json", ".lock"}
    report = json.loads((tmp_path / "out/export.json").read_text())
    assert report["ticket"].endswith("round_01_best.npz") and len(report["sha256"]) == 64
    assert {a["path"] for a in report["artefacts"]} == names
    assert all(a["density"] == 0.5 and a["zeros"] == 320 for a in report["artefacts"])
    assert "latency" not in str(report)
    out, err = capfd.readouterr()
    assert "network.tflite" in out and "Zeros shrink the compressed file" in out and err == ""


def test_the_exported_network_is_the_tickets(finished, tmp_path):
    settings = experiment(source=str(finished))
    settings.run(tmp_path / "out")
    x, _ = easy_data(5)
    loaded = keras.models.load_model(tmp_path / "out/network.keras")
    expected = Ticket.load(settings.ticket()).build()(x)
    np.testing.assert_allclose(loaded(x), expected, atol=1e-5)


WRONG = [
    ({"round": 2}, r"round=2 is not finished in .*; there: 0, 1$"),
    ({"round": -1}, "round must be at least 0"),
    ({"which": "worst"}, "which must be best or last"),
    ({"formats": ("tflite",)}, "unknown format 'tflite'"),
    ({"formats": ("keras", "keras")}, "each format once"),
    ({"formats": ()}, "each format once"),
    ({"latency_runs": 0}, "latency_runs must be at least 1"),
    ({"source": "nowhere"}, "source='nowhere' does not exist"),
    ({"source": "."}, r"source='\.' has no finished round"),
    ({"source": "run/tickets/round_00.npz", "round": 0}, "only where source is the folder"),
    ({"source": "run/tickets/round_00.npz", "which": "last"}, "only where source is the folder"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_the_experiment_says_what_is_wrong(finished, fields, message, monkeypatch, tmp_path):
    monkeypatch.chdir(finished.parent)
    with pytest.raises(ValueError, match=message):
        experiment(**{"source": "run", **fields}).run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_round_without_its_best_ticket_is_named(finished):
    (finished / "tickets/round_01_best.npz").unlink()
    with pytest.raises(ValueError, match=r"there is no .*round_01_best\.npz; which=last"):
        experiment(source=str(finished)).ticket()
