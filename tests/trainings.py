"""Small runs of every experiment that trains, for the tests."""

import csv

from experiments.dense_training import DenseTraining
from experiments.iterative_pruning import IterativePruning
from rst_tf import FGSM, PGD, Adversarial, Mixed, Natural, Trades
from rst_tf.data import Data
from rst_tf.models import MLP, Conv
from rst_tf.optimizers import SGD, Adam
from rst_tf.schedules import Steps

QUICK = {
    "data": Data(train_limit=100),
    "network": MLP(hidden=(12,), use_bias=True),
    "objective": Adversarial(PGD(0.1, steps=2)),
    "optimizer": SGD(learning_rate=0.05, schedule=Steps(), weight_decay=1e-3),
    "batch_size": 20,
    "train_steps": 6,
    "eval_every": 4,
    "eval_limit": 30,
    "seed": 5,
    "jit": "off",  # compiling would take most of the time
}
TABLE = {
    "dense": DenseTraining(**QUICK),
    "natural": DenseTraining(**{**QUICK, "objective": Natural(), "optimizer": Adam()}),
    "conv": DenseTraining(**{**QUICK, "network": Conv(2, 0.05), "objective": Mixed(FGSM(0.1))}),
    "reset": IterativePruning(**QUICK, rounds=2, rate=(0.5, 0.25)),
    "reinit": IterativePruning(**QUICK, rounds=2, rewind="reinit"),
    "continued": IterativePruning(
        **{**QUICK, "objective": Trades(PGD(0.1, steps=2))}, rounds=2, rewind="continued"
    ),
    "rewound": IterativePruning(**QUICK, rounds=2, rewind_step=3),
    "one-shot": IterativePruning(**QUICK, rounds=1, density=0.1, allocation="global"),
    "density": IterativePruning(**QUICK, rounds=2, density=0.09, criterion="random"),
    "counted": IterativePruning(**QUICK, rounds=2, rate=(0.3,), count="floor", criterion="random"),
    "augmented": DenseTraining(
        **{
            **QUICK,
            "data": Data(train_limit=100, augment="crop_flip", pad=2),
            "evaluation_attack": FGSM(0.3),
            "initializer": "kaiming_normal",
        }
    ),
    "published": IterativePruning(
        **{
            **QUICK,
            "objective": Adversarial(PGD(0.1, steps=2, label="predicted")),
            "eval_every": 2,
        },
        eval_schedule="published",
        rounds=2,
        count="plus_one",
        rewind_step="end",
    ),
    "regularised": DenseTraining(**QUICK, l1=0.01, eval_at=(3,)),
    "no pruning": IterativePruning(**QUICK, rounds=0),
}


def read(workdir):
    with (workdir / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def files(workdir):
    """What must not depend on interruptions, by name."""
    kept = [*(workdir / "tickets").iterdir(), *(workdir / "correct").iterdir()]
    kept += [workdir / "results.csv", workdir / "costs.json"]
    return {str(file.relative_to(workdir)): file.read_bytes() for file in sorted(kept)}
