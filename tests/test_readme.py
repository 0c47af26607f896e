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


def test_the_readmes_example_runs_as_it_stands(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    code, replaced = re.subn(r"keras\.applications\..*", lambda _: SMALL, code)
    code, shortened = re.subn(r"epochs=\d+", "epochs=1", code)
    assert replaced == 1 and shortened == 1
    (tmp_path / "example.py").write_text(DATA + code)
    done = subprocess.run(
        [sys.executable, "example.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"ticket.npz", "robust_sparse.keras", "robust_sparse.tflite"} <= {
        path.name for path in tmp_path.iterdir()
    }
