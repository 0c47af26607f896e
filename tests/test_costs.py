"""What trainings cost: passes of an example, multiply-adds of a run, the file that tells them."""

import dataclasses

import keras
import pytest
import tensorflow as tf
from networks import easy_data, small
from trainings import QUICK, TABLE

import rst_tf as rst
from experiments import training
from experiments.companion import Companion
from experiments.dense_training import DenseTraining
from experiments.distillation import Distillation
from experiments.iterative_pruning import IterativePruning
from experiments.scratch_tickets import ScratchTickets
from experiments.sparse_training import SparseTraining
from experiments.training import Session
from rst_tf import APGD, FGSM, PGD, RobustTrainer, Ticket, batches
from rst_tf.analysis import costs
from rst_tf.data.sources import from_arrays
from rst_tf.flying_bird import FlyingBird
from rst_tf.objectives import OBJECTIVES, Adversarial, Fast, Free, Mixed, Natural, Trades

X, Y = easy_data(16)
SPLIT = from_arrays(X, Y, X[:4], Y[:4], x_valid=X[:4], y_valid=Y[:4]).train
PGD_3 = PGD(0.1, steps=3)
PASSES = {  # forward alone, pairs of an attack, pairs of the training
    Natural(): (0, 0, 1),
    Adversarial(FGSM(0.1)): (0, 1, 1),
    Adversarial(PGD_3): (0, 3, 1),
    Adversarial(PGD(0.1, steps=2, restarts=2, iterate="best", label="predicted")): (3, 4, 1),
    Adversarial(APGD(0.1, steps=4, restarts=2), norm_mode="batch"): (0, 10, 1),
    Mixed(PGD_3): (0, 3, 2),
    Trades(PGD_3): (1, 3, 2),
    Free(0.1, repeats=3): (0, 0, 3),
    Fast(0.1): (0, 1, 1),
    Fast(0.1, beta=2.0): (0, 1, 2),
}


def counted(network):
    """Rows that pass forward and back through a network from now on."""
    layer, rows = network.layers[-1], {"forward": 0, "back": 0}
    call = layer.call

    @tf.custom_gradient
    def noted(x):
        def gradient(upstream):
            rows["back"] += len(upstream)
            return upstream

        return tf.identity(x), gradient

    def counting(x, *args, **kwargs):
        rows["forward"] += len(x)
        return noted(call(x, *args, **kwargs))

    layer.call = counting
    return rows


def test_the_table_has_every_objective():
    assert {type(objective) for objective in PASSES} == set(OBJECTIVES.values())


@pytest.mark.parametrize("objective", PASSES, ids=[type(each).__name__ for each in PASSES])
def test_passes_are_those_that_a_training_makes(objective):
    """Counted in the network while it is trained, example by example."""
    trainer = RobustTrainer(small(), objective)
    trainer.compile(keras.optimizers.SGD(0.1), run_eagerly=True, jit_compile=False)
    if objective.keeps_noise:
        trainer.keep_noise(len(X), X.shape[1:])
    elif objective.carries_noise:
        trainer.carry_noise((8, *X.shape[1:]))
    data = batches(SPLIT, 8, seed=0, steps=2, places=objective.keeps_noise)
    rows = counted(trainer.network)
    for batch in data:  # `fit` also looks once at what the network returns
        trainer.train_step(batch)
    passes = objective.passes(classes=4)
    assert passes == PASSES[objective]
    assert rows["back"] == 16 * passes.pairs
    attack = objective.training_attack
    looks = attack.trials + 1 if isinstance(attack, APGD) else 0  # what no try of it costs
    assert rows["forward"] == 16 * (passes.forward + passes.pairs + looks)


def test_units_of_the_published_tables():
    pgd = PGD(8 / 255, steps=10)
    found = [o.passes(10).in_forward for o in (Natural(), Fast(0.1), Adversarial(pgd))]
    assert found == [3, 6, 33]


# ---------------------------------------------------------------- runs


class Thinning(Companion):
    """Keeps half of what was kept, at two steps of a round, and may end it there."""

    name = "thinning"

    def __init__(self, ends=None):
        super().__init__()
        self.ends = ends

    def stops(self):
        return {2, 5}

    def at(self, step):
        network = self.session.network
        Ticket.of(network).prune(rate=0.5).apply(network)
        self.finished = step == self.ends


PLAIN = {**QUICK, "objective": Natural(), "train_steps": 7}


def sparse(growth):
    return SparseTraining(**PLAIN, topology=FlyingBird(update_every=2, growth=growth))


RUNS = {  # settings, what goes along, and the steps of which pruned weights' gradients are needed
    "rounds": (IterativePruning(**PLAIN, rounds=1, rewind_step=3), [], ()),
    "attacked": (TABLE["conv"], [], ()),
    "partial batches": (DenseTraining(**{**PLAIN, "batch_size": 30}), [], ()),
    "masks change": (DenseTraining(**PLAIN), [Thinning()], ()),
    "ended early": (DenseTraining(**PLAIN), [Thinning(ends=5)], ()),
    "search": (ScratchTickets(**PLAIN, density=0.2, stage_count=2), [], range(1, 8)),
    "regrown by gradients": (sparse("gradient"), [], (2, 4, 6)),
    "regrown by momentum": (sparse("momentum"), [], range(1, 8)),
}


class Look(keras.callbacks.Callback):
    """Takes down what the masks let pass before every step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(rst.operations(self.model.network).sparse)


@pytest.fixture(scope="module", params=RUNS)
def finished(request, tmp_path_factory):
    """A run's folder, its settings, by round its steps as (images, multiply-adds), and `full`."""
    folder, rounds, fit = tmp_path_factory.mktemp("run"), [], Session.fit
    settings, companions, full = RUNS[request.param]

    def looked_at(session, trainer, first, sizes, callbacks):
        look = Look()
        fit(session, trainer, first, sizes, [look, *callbacks])
        batches = session.batches(first, first + len(look.seen))
        rounds.append([(len(y), seen) for (_, y), seen in zip(batches, look.seen, strict=True)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "fit", looked_at)
        patch.setattr(training, "STEPS_PER_CALL", 1)
        patch.setattr(Session, "train", accompanied(companions))
        settings.run(folder)
    return folder, settings, rounds, full


def accompanied(more):
    train = Session.train
    return lambda *given, companions=(), **options: train(
        *given, companions=[*companions, *more], **options
    )


def test_a_training_costs_what_its_masks_let_pass_at_every_step(finished):
    folder, settings, rounds, full = finished
    found, dense = costs.read(folder), rst.operations(Ticket.load(ticket_of(folder, 0)).build())
    passes = settings.objective.passes(10)
    assert sorted(found) == list(range(len(rounds)))
    for cost, steps in zip(found.values(), rounds, strict=True):
        images = sum(n for n, _ in steps)
        sparse = passes.in_forward * sum(n * f for n, f in steps)
        needed = [steps[step - 1] for step in full]
        more = passes.training * sum(n * (dense.dense - f) for n, f in needed)
        assert (cost.steps, cost.examples) == (len(steps), images)
        assert cost.training == sparse + more
        assert cost.training_dense == passes.in_forward * images * dense.dense


def test_tickets_cost_what_their_masks_let_pass(finished):
    folder = finished[0]
    for number, cost in costs.read(folder).items():
        last = rst.operations(Ticket.load(ticket_of(folder, number)).build())
        best = rst.operations(Ticket.load(ticket_of(folder, number, "_best")).build())
        assert cost.inference_last == last.sparse and cost.inference_best == best.sparse
        assert cost.inference_dense == last.dense
        assert cost.last_fraction == last.fraction and cost.best_fraction == best.fraction


def ticket_of(folder, number, which=""):
    return folder / "tickets" / f"round_{number:02d}{which}.npz"


def test_teachers_cost_their_answers(tmp_path):
    """As many multiply-adds more as each image takes through the teachers, kept or not."""
    TABLE["natural"].run(tmp_path / "teacher")
    taught = Distillation((str(tmp_path / "teacher"),) * 2)
    dataclasses.replace(TABLE["natural"], distillation=taught).run(tmp_path / "student")
    alone, found = (costs.read(tmp_path / name)[0] for name in ("teacher", "student"))
    more = 2 * found.examples * alone.inference_best
    assert found.training - alone.training == found.training_dense - alone.training_dense == more


# ---------------------------------------------------------------- the file


def cost(round=0, **numbers):
    names = ("steps", "examples", "forward_passes", "attack_passes", "training_passes")
    known = dict.fromkeys(names, 1) | {"training": 20, "training_dense": 100}
    known |= {"inference_last": 2, "inference_best": 4, "inference_dense": 8}
    return costs.Cost(round, **known | numbers)


def test_what_is_written_is_read_with_what_was_spent_before(tmp_path):
    rounds = {n: cost(n, training=20 + n) for n in range(3)}
    assert costs.read(tmp_path) is None
    (tmp_path / "costs.json").write_text(costs.text(rounds))
    found = costs.read(tmp_path)
    assert [found[n].spent for n in found] == [20, 41, 63]
    assert found[2].spent_fraction == 0.63 and found[2].training_fraction == 0.22
    assert (found[0].last_fraction, found[0].best_fraction) == (0.25, 0.5)
    assert costs.text(found) == costs.text(rounds)


def test_fractions_before_anything_was_done(tmp_path):
    first = cost(training=0, training_dense=0, inference_best=None)
    (tmp_path / "costs.json").write_text(costs.text({0: first}))
    found = costs.read(tmp_path)[0]
    assert found.spent_fraction is found.training_fraction is found.best_fraction is None


def test_what_was_spent_is_not_known_where_a_round_does_not_tell(tmp_path):
    (tmp_path / "costs.json").write_text(costs.text({0: cost(0), 2: cost(2)}))
    found = costs.read(tmp_path)
    assert (found[0].spent, found[2].spent, found[2].spent_fraction) == (20, None, None)
    assert found[2].training_fraction == 0.2


DAMAGE = {
    "cut off": lambda text: text[:40],
    "no rounds": lambda text: "{}",
    "not a count": lambda text: text.replace('"training": 20', '"training": 2.5'),
    "negative": lambda text: text.replace('"examples": 1', '"examples": -1'),
    "a name": lambda text: text.replace('"steps"', '"step"'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line_with_the_file(name, tmp_path):
    (tmp_path / "costs.json").write_text(DAMAGE[name](costs.text({0: cost()})))
    with pytest.raises(ValueError, match=r"costs\.json is damaged: "):
        costs.read(tmp_path)
