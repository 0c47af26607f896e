"""Laws of learning from teachers beside labels."""

import functools
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small
from trainings import QUICK

from experiments.dense_training import DenseTraining
from experiments.distillation import Distillation
from experiments.experiment import RunError
from experiments.training import Session
from rst_tf import (
    FGSM,
    PGD,
    Adversarial,
    Fast,
    Free,
    Mixed,
    Natural,
    RobustTrainer,
    Teachers,
    Ticket,
    Trades,
    initialize,
)
from rst_tf.data import Data, batches
from rst_tf.objectives import Outcome


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Reading the images anew would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Data, "load", functools.cache(Data.load))
        yield


ATTACK = PGD(0.1, steps=2)
OBJECTIVES = [
    Natural(),
    Natural(label_smoothing=0.1),
    Adversarial(ATTACK),
    Mixed(ATTACK),
    Trades(ATTACK),
    Free(0.1),
    Fast(0.1),
]
MIXES = [(1, 0.3, 1.0), (2, 0.5, 2.0), (1, 1.0, 4.0)]  # teachers, weight, temperature
CASES = [(each, *MIXES[1]) for each in OBJECTIVES] + [(OBJECTIVES[2], *mix) for mix in MIXES[::2]]


def network(seed):
    built = small()
    initialize(built, seed, "kaiming_normal")
    return built


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def softened(loss, student, teachers, weight, t):
    """The formula, in NumPy."""
    soft = 0
    for teacher in teachers:
        p, q = softmax(teacher / t), softmax(student / t)
        soft = soft + (p * np.log(p / q)).sum(-1) / len(teachers)
    return (1 - weight) * loss + weight * t**2 * soft


@pytest.mark.parametrize(("objective", "number", "weight", "t"), CASES, ids=str)
def test_the_loss_is_the_formula_on_what_is_trained_on(objective, number, weight, t):
    x, y = easy_data(12)
    x_adv = np.clip(x + 0.05, 0, 1) if objective.training_attack else None
    student, teachers = network(0), [network(n + 1) for n in range(number)]
    outcome = objective.loss(student, x, x_adv, y)
    found = Teachers(teachers, weight, t).taught(outcome, x, x_adv)
    seen = x if x_adv is None else x_adv
    answers = [np.asarray(teacher(seen)) for teacher in teachers]
    expected = softened(np.asarray(outcome.loss), np.asarray(student(seen)), answers, weight, t)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-4, atol=1e-6)
    assert found[1:] == outcome[1:]


def test_a_teacher_that_agrees_adds_nothing():
    x, y = easy_data(12)
    student = network(0)
    outcome = Natural().loss(student, x, None, y)
    found = Teachers([student], 0.4, 3.0).taught(outcome, x, None)
    np.testing.assert_allclose(found.loss, 0.6 * outcome.loss, atol=1e-6)


def test_teachers_are_neither_trained_nor_differentiated():
    x, _ = easy_data(12)
    x, teacher = tf.constant(x), network(1)
    student = tf.constant(np.random.default_rng(0).normal(size=(12, 4)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        outcome = Outcome(tf.zeros(12), clean=student)
        loss = Teachers([teacher]).taught(outcome, x, None).loss
    gradients = tape.gradient(loss, [x, *teacher.trainable_variables])
    assert gradients == [None] * len(gradients)


def trained(objective, teachers, steps=6, learning_rate=0.01):
    x, y = easy_data(64)
    trainer = RobustTrainer(network(0), objective, seed=3, teachers=teachers)
    trainer.compile(keras.optimizers.SGD(learning_rate), jit_compile=False)
    trainer.fit(x, y, batch_size=16, epochs=steps, shuffle=False, verbose=0)
    return trainer


def test_a_training_changes_the_student_alone():
    teacher = network(1)
    before = [v.numpy() for v in teacher.variables]
    trainer = trained(Adversarial(FGSM(0.05)), Teachers([teacher]))
    assert all(map(np.array_equal, before, [v.numpy() for v in teacher.variables]))
    assert not {id(v) for v in trainer.variables} & {id(v) for v in teacher.variables}
    assert len(trainer.optimizer.variables) < 20


def test_a_student_comes_to_answer_like_its_teacher():
    x, _ = easy_data(64)
    teacher = network(1)
    after = trained(Natural(), Teachers([teacher], 1.0, 1.0), steps=30, learning_rate=0.5).network
    answers = [softmax(np.asarray(each(x))) for each in (teacher, network(0), after)]
    before, after = (np.abs(answer - answers[0]).mean() for answer in answers[1:])
    assert after < 0.5 * before


# ---------------------------------------------------------------- as an option of a training


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Folders as runs leave them: on the same images, on other ones; and a ticket of others."""
    root = tmp_path_factory.mktemp("teachers")
    for name, limit in (("natural", 100), ("elsewhere", 90)):
        run = DenseTraining(**{**QUICK, "data": Data(train_limit=limit)})
        with Session(run, root / name) as session:
            for seed, ticket in enumerate(("round_00", "round_00_best")):
                initialize(session.network, seed)
                session.save_ticket(ticket)
    other = small()
    described = {"keras": json.loads(other.to_json())}
    Ticket.of(other, description=described).save(root / "small.npz")
    return root


def student(*sources, **options):
    return DenseTraining(**QUICK, distillation=Distillation(tuple(map(str, sources)), **options))


def test_a_run_is_what_the_library_does_by_hand(teachers, tmp_path):
    """The best ticket of a folder, and a file; weight and temperature reach the training."""
    file = teachers / "natural" / "tickets" / "round_00.npz"
    run = student(teachers / "natural", file, weight=0.7, temperature=3.0)
    run.run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert len(config["dataset"]["teachers"]) == 2
    initial, last = (
        Ticket.load(tmp_path / "tickets" / f"{name}.npz") for name in ("initial", "round_00")
    )
    best = Ticket.load(teachers / "natural" / "tickets" / "round_00_best.npz")
    network = initial.build()
    answering = Teachers([best.build(), Ticket.load(file).build()], 0.7, 3.0)
    trainer = RobustTrainer(network, run.objective, seed=run.seed, teachers=answering)
    trainer.compile(run.optimizer.build(6), jit_compile=False)
    train = batches(run.data.load().train, run.batch_size, seed=run.seed, steps=6)
    trainer.fit(train, verbose=0, shuffle=False)
    for one, other in zip(Ticket.of(network).entries, last.entries, strict=True):
        np.testing.assert_allclose(one.kernel, other.kernel, atol=1e-6)


def test_without_teachers_nothing_is_new(splits):
    assert student() == DenseTraining(**QUICK)
    assert student().distillation.load(splits) is None


def test_other_teachers_are_another_configuration(teachers, tmp_path):
    folder = shutil.copytree(teachers / "natural", tmp_path / "teacher")
    with Session(student(folder), tmp_path / "student"):
        pass
    tickets = folder / "tickets"
    shutil.copy(tickets / "round_00.npz", tickets / "round_00_best.npz")
    with pytest.raises(RunError, match="was made by another configuration"):
        Session(student(folder), tmp_path / "student")


REFUSED = {
    "no folder": (lambda t: student(t / "nothing"), "distillation.teachers=.* does not exist"),
    "other images": (
        lambda t: student(t / "small.npz"),
        r"small.npz is made for images \(6, 6, 1\) of 4 classes; the data have \(28, 28, 1\)",
    ),
    "another split": (
        lambda t: student(t / "elsewhere"),
        "elsewhere was trained on other images or another split",
    ),
    "weight": (lambda t: student(t, weight=0.0), r"weight must be in \(0, 1\]; received weight=0"),
    "temperature": (
        lambda t: student(t, temperature=0.0),
        "temperature must be above 0; received temperature=0.0",
    ),
    "weight of none": (
        lambda t: student(weight=0.3),
        "weight has no effect without teachers; received weight=0.3",
    ),
    "no networks": (lambda t: Teachers([]), "networks must be at least one teacher"),
}


@pytest.fixture(scope="module")
def splits():
    return QUICK["data"].load()


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_teachers_are_refused_before_a_run(name, teachers, splits):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make(teachers).distillation.load(splits)


def test_a_round_under_other_settings_may_go_without(teachers):
    session = Session(student(teachers / "natural"), None)
    assert session.trainer().teachers is session.teachers is not None
    with session.changed(distillation=Distillation()):
        assert session.trainer().teachers is None
