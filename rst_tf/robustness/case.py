"""A network, points, and attacks tried on them: what curves and checks are computed from."""

from collections.abc import Callable

import numpy as np

from rst_tf.attacks.attack import Attack
from rst_tf.attacks.outcome import DRAWS, ROBUST, WRONG


class Case:
    """Attacks on some points of a set; what two checks ask for is computed once.

    Args:
        logits: From images to logits.
        x: Images, float32 [n, ...] in [0, 1].
        y: Integer labels [n].
        epsilon: Radius of the ball, in [0, 1] units.
        norm: Of the ball: linf or l2.
        broken_by: What the list of attacks did to these points, as in `Outcome`.
        attacks: Names of that list.
        index: Identities of the points, [n]; 0..n-1 if not given.
        seed: Keys everything random.
        batch_size: Points at a time.
        twin: Logits of an undefended network of the same classes, or None.
        random: The network is randomised.
    """

    def __init__(
        self,
        logits: Callable,
        x: np.ndarray,
        y: np.ndarray,
        epsilon: float,
        norm: str,
        *,
        broken_by: np.ndarray,
        attacks: tuple[str, ...],
        index: np.ndarray | None = None,
        seed: int = 0,
        batch_size: int = 250,
        twin: Callable | None = None,
        random: bool = False,
    ):
        self.logits, self.twin, self.random = logits, twin, random
        self.x, self.y = np.asarray(x, np.float32), np.asarray(y, np.int32)
        self.index = np.arange(len(y)) if index is None else np.asarray(index)
        self.epsilon, self.norm, self.seed = float(epsilon), norm, seed
        self.broken_by, self.attacks = np.asarray(broken_by), tuple(attacks)
        self.batch_size = min(batch_size, len(y))
        self.classes = int(logits(self.x[:1]).shape[-1])
        self._measures: dict = {}
        self._left: dict = {}
        self._known: dict = {}

    def __len__(self) -> int:
        return len(self.y)

    def at(self, rows: np.ndarray) -> "Case":
        """The same network on some of the points, by number; what is known of all is kept."""
        part = Case(
            self.logits,
            self.x[rows],
            self.y[rows],
            self.epsilon,
            self.norm,
            broken_by=self.broken_by[rows],
            attacks=self.attacks,
            index=self.index[rows],
            seed=self.seed,
            batch_size=self.batch_size,
            twin=self.twin,
            random=self.random,
        )
        part._left = {key: held[rows] for key, held in self._left.items()}
        return part

    @property
    def correct(self) -> np.ndarray:
        """Classified right without an attack, bool [n]."""
        return self.broken_by != WRONG

    @property
    def robust(self) -> np.ndarray:
        """Withstood the whole list of attacks, bool [n]."""
        return self.broken_by == ROBUST

    @property
    def whole(self) -> float:
        """The radius of a ball that holds every image."""
        return 1.0 if self.norm == "linf" else float(np.sqrt(self.x[0].size))

    def apgd(self, loss: str = "ce", *, steps: int = 100, epsilon: float | None = None, **options):
        """The gradient attack of the list, with a loss and a length of its own.

        Against a randomised network its gradients are means, as those of the version rand.
        """
        from rst_tf.attacks.apgd import APGD

        radius = self.epsilon if epsilon is None else epsilon
        eot = {"eot": DRAWS} if self.random else {}
        return APGD(radius, self.norm, steps=steps, loss=loss, **eot, **options)

    def withstands(
        self,
        attack: Attack,
        *,
        seed: int | None = None,
        scale: float = 1.0,
        by_twin: bool = False,
        among: np.ndarray | None = None,
    ) -> np.ndarray:
        """Which points are classified right with and without an attack, bool [n].

        Args:
            attack: Tried on its own.
            seed: The case's if not given.
            scale: What logits are multiplied by while the attack looks at them.
            by_twin: The attack looks at the twin instead, and its images are tried here.
            among: Points to try, bool [n]; all that are right without an attack if not given.
        """
        seed = self.seed if seed is None else seed
        key = (attack, seed, scale, by_twin)
        if among is None and key in self._left:
            return self._left[key]
        held = self.correct.copy() if among is None else self.correct & among
        attack = attack.fitted(self.classes)
        measure = self._measure(attack, scale, by_twin)
        for trial in range(attack.trials):
            for rows in self.batches(held):
                held[rows] = measure(rows, seed, trial)
        if among is None:
            self._left[key] = held
        return held

    def once(self, function: Callable, *arguments):
        """`function(case, *arguments)`, computed the first time it is asked for."""
        key = (function, *arguments)
        if key not in self._known:
            self._known[key] = function(self, *arguments)
        return self._known[key]

    def share(self, flags: np.ndarray) -> float:
        """Of all points."""
        return float(np.mean(flags))

    def batches(self, among: np.ndarray):
        """Row numbers of the points meant, a batch at a time."""
        rows = np.flatnonzero(among)
        for first in range(0, len(rows), self.batch_size):
            yield rows[first : first + self.batch_size]

    def traced(self, function: Callable) -> Callable:
        """`function(x, y, index, seed, trial)` as one graph.

        It is then called with row numbers, a seed and the number of a try.
        """
        import tensorflow as tf

        specs = [tf.TensorSpec([None, *self.x.shape[1:]], tf.float32)]
        specs += [tf.TensorSpec([None], kind) for kind in (tf.int32, tf.int64)]
        specs += [tf.TensorSpec([], kind) for kind in (tf.int64, tf.int32)]
        # As a concrete function it is not counted among those that are traced again and again.
        graph = tf.function(function, input_signature=specs).get_concrete_function()

        def call(rows: np.ndarray, seed: int, trial: int = 0):
            values = (self.x[rows], self.y[rows], self.index[rows], seed, trial)
            given = [tf.constant(v, s.dtype) for v, s in zip(values, specs, strict=True)]
            return tf.nest.map_structure(lambda t: t.numpy(), graph(*given))

        return call

    def _measure(self, attack: Attack, scale: float, by_twin: bool) -> Callable:
        if (attack, scale, by_twin) not in self._measures:
            import tensorflow as tf

            looked_at = self.twin if by_twin else self.logits
            seen = looked_at if scale == 1 else lambda x: scale * tf.cast(looked_at(x), tf.float32)

            def right(x, y, index, seed, trial):
                x_adv = attack.attempt(seen, x, y, seed, index, trial)
                return tf.argmax(self._judge(x_adv), -1, output_type=tf.int32) == y

            self._measures[attack, scale, by_twin] = self.traced(right)
        return self._measures[attack, scale, by_twin]

    def _judge(self, x):
        """What an answer is told by: logits; the sum of several calls' if they are random."""
        import tensorflow as tf

        if not self.random:
            return self.logits(x)
        total = tf.zeros([tf.shape(x)[0], self.classes])
        return tf.while_loop(
            lambda i, _: i < DRAWS,
            lambda i, z: (i + 1, z + tf.cast(self.logits(x), tf.float32)),
            (tf.constant(0), total),
        )[1]
