"""The notebook: its cells parse, use public names, were run in order, and run again, smaller."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import rst_tf

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
SOURCES = ["".join(cell["source"]) for cell in CODE]
SMALL = {"IMAGES": 24, "NATURAL_EPOCHS": 1, "ROBUST_EPOCHS": 3}


def shortened(source):
    """The notebook as a program, with smaller constants in its first cell."""
    for name, value in SMALL.items():
        source, found = re.subn(rf"^{name} = \d+", f"{name} = {value}", source, flags=re.M)
        assert found == 1, name
    return source.replace("steps=20", "steps=2")


@pytest.mark.parametrize("position", range(len(CODE)))
def test_every_cell_names_only_what_is_public(position):
    for node in ast.walk(ast.parse(SOURCES[position])):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "rst" or node.attr in dir(rst_tf), node.attr
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_"), node.attr


def test_it_is_stored_as_run_from_top_to_bottom_and_small():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert outputs and not any(output["output_type"] == "error" for output in outputs)
    assert not re.search(r"(^|[\s\"'=(`])/(root|work|home|tmp)/", NOTEBOOK.read_text())
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.slow
def test_it_runs_from_an_empty_folder(tmp_path):
    (tmp_path / "tutorial.py").write_text(shortened("\n\n".join(SOURCES)))
    done = subprocess.run(
        [sys.executable, "tutorial.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for said in ("sparse, robust", "(litert)", "LiteRT: ["):
        assert said in done.stdout
    made = {path.name for path in tmp_path.iterdir()}
    assert {"sign.keras", "sign.tflite", "sign_ticket.npz", "report.html"} <= made
