"""The house keeps its order: who imports whom, what loads when, what the papers on the wall say."""

import ast
import dataclasses
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import setuptools

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted(
    path for folder in ("rst_tf", "experiments", "flags") for path in (ROOT / folder).rglob("*.py")
)
STUBS = [ROOT / "run_experiments.py", ROOT / "run_analysis.py"]

# A module may import only from its own rank or from above it (design: an arrow points downwards).
RANKS = (
    {"registry", "random", "initializers", "schedules", "optimizers", "normalization", "quiet"}
    | {"files", "published_2019", "cluster", "entropy_coding", "npz", "older_tickets"}
    | {"sealed"},
    {"strategies"},
    {"masks", "layer_densities"},
    {"topology", "flying_bird"},
    {"layers", "traversal", "keras_optimizers", "binary_connect"},
    {"surgery", "ticket", "ticket_file", "ticket_set", "tensorboard", "multiply_adds", "shrinking"}
    | {"weight_averaging", "folding"}
    | {"early_bird", "channels", "sparsity", "overlap"},
    {"attacks"},
    {"objectives", "carried_noise", "distillation"},
    {"trainer"},
    {"callbacks"},
    {"models", "data"},
    {"evaluation"},
    {"first_masks", "_saliency"},
    {"dynamic_sparsity", "sparse_trainer"},
    {"transfer"},
    {"switch"},
    {"artefacts", "artefact_formats", "portable", "packed", "footprint"},
    {"analysis"},
    {"switch_evaluation"},
    {"robustness"},
    {"robust_report"},
    {"robustifying"},
    {"zoo"},
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def name_of(path):
    return str(path.relative_to(ROOT))


def part(module):
    """`rst_tf.attacks.pgd.PGD` -> `attacks`."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else ""


@pytest.mark.parametrize("path", SOURCES + STUBS, ids=name_of)
def test_the_library_imports_no_experiment_and_flags_stay_at_the_door(path):
    top = name_of(path).split("/")[0]
    for module in imports(path):
        root = module.split(".")[0]
        assert top != "rst_tf" or root not in ("experiments", "flags"), module
        assert top != "experiments" or root != "flags", module
        assert top == "flags" or path in STUBS or not module.startswith("absl.flags"), module
        assert module != "absl.flags" or top == "flags" or path in STUBS
        assert name_of(path) != "run_analysis.py" or root != "experiments", module


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if name_of(p).startswith("rst_tf/")], ids=name_of
)
def test_imports_follow_the_arrows(path):
    own = path.relative_to(ROOT / "rst_tf").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imports(path, top_level_only=True):
        if module.startswith("rst_tf.") and part(module) in RANK:
            assert RANK[part(module)] <= RANK[own], f"{own} imports {module}"


def run(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


CHEAP = {
    "import rst_tf": "import rst_tf",
    "every configuration": (
        "from experiments.experiment import EXPERIMENTS; list(EXPERIMENTS);"
        "from rst_tf.registry import _REGISTRY_OF; [list(r) for r in _REGISTRY_OF.values()]"
    ),
    "analysis": "import rst_tf.analysis.report",
    "leaderboard": "import rst_tf.robustness.leaderboard, rst_tf.robustness.report",
    "zoo": "import rst_tf.zoo.add; rst_tf.zoo.names()",
}


@pytest.mark.parametrize("name", CHEAP)
def test_loads_neither_tensorflow_nor_keras(name):
    heavy = "[m for m in ('tensorflow', 'keras', 'keras_tuner') if m in sys.modules]"
    assert run(f"import sys; {CHEAP[name]}; print({heavy})").strip() == "[]"


def test_every_public_name_is_there():
    import rst_tf

    for name in dir(rst_tf):
        assert getattr(rst_tf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'maskd'"):
        _ = rst_tf.maskd


def configurations():
    from experiments.experiment import EXPERIMENTS
    from rst_tf import attacks, first_masks, flying_bird, models, objectives, optimizers, schedules

    for registry in (
        EXPERIMENTS,
        attacks.ATTACKS,
        models.ARCHITECTURES,
        objectives.OBJECTIVES,
        optimizers.OPTIMIZERS,
        schedules.SCHEDULES,
        flying_bird.TOPOLOGIES,
        first_masks.FIRST_MASKS,
    ):
        yield from registry.values()


@pytest.mark.parametrize("cls", list(configurations()), ids=lambda c: c.__name__)
def test_every_configuration_is_frozen(cls):
    assert cls.__dataclass_params__.frozen and dataclasses.is_dataclass(cls)


def test_only_the_library_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    include = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = setuptools.find_packages(ROOT, include=include)
    assert packages and all(p == "rst_tf" or p.startswith("rst_tf.") for p in packages)
    folders = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "rst_tf").rglob("*.py")}
    assert set(packages) == folders


def test_the_zoos_entries_are_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["rst_tf.zoo"]
    zoo = ROOT / "rst_tf" / "zoo"
    assert patterns == ["entries/*.json", "entries/*.npz"]
    assert {path.suffix for path in (zoo / "entries").iterdir()} <= {".json", ".npz", ".md"}


def test_architecture_names_every_module_and_no_other():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in SOURCES:
        if path.name != "__init__.py":
            assert path.name in text, f"ARCHITECTURE.md does not mention {name_of(path)}"
    there = {path.name for path in PLAIN}
    for name in re.findall(r"\b[a-z_]+\.py\b", text):
        assert name in there, f"ARCHITECTURE.md mentions {name}, which is not there"


ENDINGS = {".py", ".md", ".toml", ".txt", ".yaml"}
SHOWN = ROOT.glob("[!.]*")  # no environment, which has a hundred thousand files
PLAIN = [path for top in SHOWN for path in (top, *top.rglob("*")) if path.suffix in ENDINGS]


@pytest.mark.parametrize("path", PLAIN, ids=name_of)
def test_no_file_names_a_place_of_one_machine(path):
    assert not re.search(r"(^|[\s\"'=(`])/(root|work|home|tmp)/", path.read_text())


def test_readme_and_ci_run_the_same_test_command():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"```bash\n(.*?)```", readme, re.S)
    assert "python -m pytest" in commands[1] and "run_experiments.py" in commands[0]
    assert "README.md" in (ROOT / ".ci" / "run").read_text()
