"""Laws of robust overfitting: what is measured on training images, and what is said of best and
last."""

import dataclasses

import pytest
from trainings import TABLE, files, read

from experiments.training import Session
from rst_tf import Ticket
from rst_tf.evaluation import Evaluator

# ---------------------------------------------------------------- the split `unaugmented`

MEASURED = 40
RUN = dataclasses.replace(TABLE["augmented"], eval_train=MEASURED)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run that evaluates training images, and the same without."""
    root = tmp_path_factory.mktemp("runs")
    RUN.run(root / "with")
    TABLE["augmented"].run(root / "without")
    return root / "with", root / "without"


def test_training_images_are_measured_at_every_evaluation(both):
    rows = read(both[0])
    for split in ("test", "unaugmented"):
        assert [int(row["step"]) for row in rows if row["split"] == split] == [0, 4, 6]


def test_they_are_training_images_as_they_are_under_the_attack_of_evaluations(both):
    network = Ticket.load(both[0] / "tickets" / "round_00.npz").build()
    splits = RUN.data.load()
    part = splits.train.limited(MEASURED)
    assert set(part.index) <= set(splits.train.index)
    found = Evaluator(network, RUN.judged_by, seed=RUN.seed)(part)
    row = next(r for r in read(both[0]) if (r["step"], r["split"]) == ("6", "unaugmented"))
    assert row["attack"] == str(RUN.evaluation_attack)
    assert float(row["accuracy"]) == pytest.approx(found.accuracy)
    assert float(row["robust_accuracy"]) == pytest.approx(found.robust_accuracy)


def test_measuring_them_changes_nothing_else(both):
    kept = [[row for row in read(run) if row["split"] != "unaugmented"] for run in both]
    assert kept[0] == kept[1]
    one, other = (files(run) for run in both)
    assert one.pop("results.csv") != other.pop("results.csv")
    assert one == other


def test_as_many_as_there_are():
    session = Session(dataclasses.replace(RUN, eval_train=10**6), None)
    assert len(session.evaluated["unaugmented"]) == len(session.splits.train)


def test_none_is_no_number():
    with pytest.raises(ValueError, match="eval_train must be at least 1; received eval_train=0"):
        dataclasses.replace(RUN, eval_train=0)
