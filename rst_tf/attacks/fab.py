"""FAB: the nearest adversarial example (Croce & Hein 2020, arXiv 1907.02044)."""

import dataclasses

from rst_tf.attacks.attack import ATTACKS, Tries, check_logits, checked_batch, logits_of

_STREAM = 0xFAB
_MOST_CLASSES = 100


@ATTACKS.register("fab")
@dataclasses.dataclass(frozen=True)
class FAB(Tries):
    """Walks along the decision boundary, linearised at every step, and back towards the image.

    It looks for the smallest perturbation that is misclassified; epsilon only says which of them
    count, and how far away a random start lies. The first restart starts at the image and draws
    nothing.

    Args:
        epsilon: Radius of the ball around the image, in [0, 1] units; 8/255 is accepted as text.
        norm: Of the ball: linf, or l2 over all pixels of an image.
        steps: Steps of one try, at least 1.
        targets: Number of classes aimed at one after the other, from the second likeliest on
            (FAB-T); 0 for all at once, at the cost of a gradient per class and step.
        restarts: Independent runs, for each target; all but the first start at random.
        overshoot: Factor on the way to the boundary, at least 1.
        backward: Part of the perturbation that is kept after a step that was misclassified,
            in (0, 1).
        alpha_max: Largest weight of the step that starts at the image instead, in [0, 1].
    """

    steps: int = 100
    targets: int = 0
    restarts: int = 1
    overshoot: float = 1.05
    backward: float = 0.9
    alpha_max: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        bounds = {
            "steps": (self.steps >= 1, "at least 1"),
            "targets": (self.targets >= 0, "at least 0"),
            "restarts": (self.restarts >= 1, "at least 1"),
            "overshoot": (self.overshoot >= 1, "at least 1"),
            "backward": (0 < self.backward < 1, "in (0, 1)"),
            "alpha_max": (0 <= self.alpha_max <= 1, "in [0, 1]"),
        }
        for name, (holds, where) in bounds.items():
            if not holds:
                raise ValueError(f"{name} must be {where}; received {getattr(self, name)!r}")

    @property
    def trials(self) -> int:
        """See `Attack.trials`."""
        return self.restarts * max(self.targets, 1)

    def fitted(self, classes: int) -> "FAB":
        """With at most classes - 1 targets; untargeted, at most 100 classes are accepted."""
        if not self.targets and classes > _MOST_CLASSES:
            raise ValueError(
                f"targets must be above 0 for {classes} classes (a gradient of each class at each "
                f"step is meant for at most {_MOST_CLASSES}); received targets=0"
            )
        return dataclasses.replace(self, targets=min(self.targets, classes - 1))

    def passes(self, classes):
        """Each step a gradient (of all classes where none is aimed at) and a look at the result."""
        return self.steps + 1, self.steps * (1 if self.targets else classes)

    def attempt(self, logits, x, y, seed, index, trial):
        """The nearest misclassified image of one try; the clean one if none lies in the ball."""
        from rst_tf.attacks._geometry import chosen

        found, size = self.walk(logits, x, y, seed, index, trial)
        return chosen(size > self.epsilon, x, found)

    def closest(self, model, x, y, *, seed=0, index=None):
        """The nearest misclassified image over all tries, at whatever distance.

        Like the attack itself it is meant to be traced, in a `tf.function`.

        Args:
            model: As for calling the attack, and so are x, y, seed and index.
            x: Images [n, ...] in [0, 1].
            y: Integer labels [n].
            seed: Integer or scalar tensor.
            index: Identities of the examples, integers [n]; 0..n-1 if not given.

        Returns:
            Images like x, and the size of their perturbation, float32 [n]: 0 where the image
            itself is misclassified, infinite (with the image itself) where nothing was found.
        """
        import tensorflow as tf

        from rst_tf.attacks._geometry import chosen

        check_logits(model)
        x, y = checked_batch(x, y)
        index = tf.range(tf.shape(x)[0]) if index is None else tf.convert_to_tensor(index)
        logits = logits_of(model)
        attack = self.fitted(logits(x).shape[-1])

        def go(trial, nearest, least):
            found, size = attack.walk(logits, x, y, seed, index, trial)
            nearer = size < least
            nearest = chosen(nearer, found, nearest)
            return trial + 1, nearest, tf.where(nearer, size, least)

        start = (tf.constant(0), x, tf.fill([tf.shape(x)[0]], float("inf")))
        found = tf.while_loop(lambda t, *_: t < attack.trials, go, start)[1:]
        return tuple(tf.stop_gradient(part) for part in found)

    def walk(self, logits, x, y, seed, index, trial):
        """One try: the nearest misclassified images and their sizes, as `closest`.

        Three quarters of the steps and more end misclassified and are taken back in part, so the
        forward pass that judges a step is of no use to the next gradient.
        """
        import tensorflow as tf

        from rst_tf.attacks import _boundaries as boundaries
        from rst_tf.attacks._geometry import NORMS, chosen, flat
        from rst_tf.attacks._losses import defeated, ranked
        from rst_tf.attacks._projections import PROJECTIONS

        clean = logits(x)
        if len(clean.shape) != 2:
            raise ValueError(f"FAB needs logits [n, classes]; received shape {clean.shape}")
        if self.targets:
            rank = 1 + trial % self.targets
            target = ranked(clean, rank, self.targets + 1)
            linearised = boundaries.towards(logits, y, target)
        else:
            linearised = boundaries.nearest(logits, y, clean.shape[-1], self.norm)
        size_of, project, origin = NORMS[self.norm].size, PROJECTIONS[self.norm], flat(x)

        def step(i, now, found, least):
            value, normal = linearised(now)
            here, normal = flat(now), flat(normal)
            offset = tf.reduce_sum(normal * here, axis=1) - value
            ends = tf.concat([here, origin], 0)
            ways = project(ends, tf.tile(normal, [2, 1]), tf.tile(offset, [2]))
            lengths = tf.maximum(size_of(ways), 1e-8)
            length, from_origin = tf.split(lengths, 2)
            alpha = tf.clip_by_value(length / (length + from_origin), 0.0, self.alpha_max)
            moved, biased = tf.split(ends + self.overshoot * ways, 2)
            moved = moved * (1 - alpha[:, tf.newaxis]) + biased * alpha[:, tf.newaxis]
            moved = tf.reshape(tf.clip_by_value(moved, 0.0, 1.0), tf.shape(x))
            wrong, size = defeated(logits(moved), y), size_of(moved - x)
            nearer = wrong & (size < least)
            found = chosen(nearer, moved, found)
            least = tf.where(nearer, size, least)
            now = chosen(wrong, x + self.backward * (moved - x), moved)
            return i + 1, now, found, least

        unknown = tf.fill([tf.shape(x)[0]], float("inf"))
        start = (tf.constant(0), self._start(x, seed, index, trial), x, unknown)
        found, least = tf.while_loop(
            lambda i, *_: i < self.steps, step, start, maximum_iterations=self.steps
        )[2:]
        wrong = defeated(clean, y)
        return chosen(wrong, x, found), tf.where(wrong, 0.0, least)

    def _start(self, x, seed, index, trial):
        """The image in the first restart, later a point at most epsilon / 2 away."""
        import tensorflow as tf

        from rst_tf import random
        from rst_tf.attacks._geometry import NORMS, like

        if self.restarts == 1:
            return x
        key = random.fold(random.fold(seed, _STREAM), trial)
        if self.norm == "linf":
            noise = 2 * random.example_uniform(key, index, x.shape[1:]) - 1
        else:
            noise = random.example_normal(key, index, x.shape[1:])
        away = 0.5 * self.epsilon * noise / like(NORMS[self.norm].size(noise), x)
        drawn = trial >= max(self.targets, 1)
        return tf.where(drawn, tf.clip_by_value(x + away, 0.0, 1.0), x)
