"""The README's code, run on a small model."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
SMALL = """keras.Sequential([
    keras.Input((12, 12, 3)), keras.layers.Conv2D(4, 3, activation="relu"),
    keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")])"""
DATA = """
import numpy as np
x_test, y_test = np.random.rand(20, 12, 12, 3).astype("float32"), np.arange(20) % 10
import tensorflow as tf
train = valid = tf.data.Dataset.from_tensor_slices((x_test, y_test)).batch(10)
"""


def run(code, folder):
    (folder / "example.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "example.py"],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_readmes_example_runs_as_it_stands(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    code, replaced = re.subn(r"keras\.applications\..*", lambda _: SMALL, code)
    code, shortened = re.subn(r"epochs=\d+", "epochs=1", code)
    assert replaced == 1 and shortened == 1
    run(DATA + code, tmp_path)
    assert {"ticket.npz", "robust_sparse.keras", "robust_sparse.tflite"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_the_readmes_search_and_switch_run_as_they_stand(tmp_path):
    text = (ROOT / "README.md").read_text()
    search = re.search(r"```\n(from rst_tf.models import ResNet.*?)```", text, re.S)[1]
    switch = re.search(r"```\n(print\(rst.transfer_matrix.*?)```", text, re.S)[1]
    changes = {
        "ResNet(18, affine=False)": "Conv(2, 0.05, use_bias=False)",
        "import ResNet": "import Conv",
        "32, 32, 3": "12, 12, 3",
        "epochs=160": "epochs=1",
    }
    for old, new in changes.items():
        assert old in search
        search = search.replace(old, new)
    between = """
tickets = [ticket, ticket.prune(0.02, criterion="random")]
attack = rst.PGD(epsilon=8/255, steps=2)
net = ticket.build()
"""
    between = between.replace("ticket.prune", "rst.Ticket.of(ticket.build()).prune")
    printed = run("import rst_tf as rst" + DATA + search + between + switch, tmp_path)
    assert printed.strip() and (tmp_path / "ticket.npz").stat().st_size < 20_000
