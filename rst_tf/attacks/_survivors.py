"""The loop of AutoAttack: every try on those who withstood the tries before."""

import hashlib
import time

import numpy as np
import tensorflow as tf

from rst_tf import random
from rst_tf.attacks import _checks
from rst_tf.attacks._geometry import NORMS
from rst_tf.attacks._losses import answer
from rst_tf.attacks._progress import Progress
from rst_tf.attacks._state import State
from rst_tf.attacks.attacked import attacked, logarithms
from rst_tf.attacks.outcome import ROBUST, WRONG, Finding, Outcome

DRAWS = 20
"""Forward passes whose mean judges a randomised model."""
_SAVE_EVERY = 20.0  # seconds


class Survivors:
    """A model, images, and which of them still stand. See `AutoAttack.run` for the arguments."""

    def __init__(self, auto, model, x, y, *, seed, batch_size, index, progress):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; received batch_size={batch_size!r}")
        _checks.check_examples(x, y)
        self.auto, self.x, self.y = auto, x, y.astype(np.int32)
        self.index = np.arange(len(x)) if index is None else np.asarray(index)
        if self.index.shape != y.shape or len(np.unique(self.index)) != len(y):
            raise ValueError(f"index must be {len(y)} distinct integers; received {index!r}")
        self.seed, self.size = seed, batch_size
        self.progress = Progress(progress, len(x))
        self.random = auto.version == "rand"
        self.logits, self.findings = attacked(model)
        first = tf.constant(x[:batch_size])
        if _checks.are_probabilities(np.asarray(self.logits(first))):
            self.logits = logarithms(self.logits)
            self.findings.append(_checks.PROBABILITIES)
        self._judge = tf.function(self._judged, input_signature=[_of(x)])
        self._check_clean()
        self.findings += _checks.model(self.logits, first, self.random)
        listed = auto.listed()
        self.attacks = [attack.fitted(self.classes) for attack in listed]
        for before, after in zip(listed, self.attacks, strict=True):
            if before != after:
                text = f"{after} stands in for {before}: the model has {self.classes} classes"
                self.findings.append(Finding("classes", "note", text))

    def run(self, path, keep_images: bool) -> Outcome:
        """Attacks; see `AutoAttack.run`."""
        state = State(
            path, self._identity(), self.x, self.broken_by, self.labels, len(self.attacks)
        )
        self.broken_by, self.labels = state.broken_by, state.labels
        names = self.auto.titles()
        self._unstable = 0
        self.progress.line("clean", self._standing(), 0.0)
        for number, attack in enumerate(self.attacks):
            if number < state.attack:
                self.progress.line(names[number], self._after(number), state.seconds[number])
                continue
            self._attack(number, names[number], attack, state)
            self.progress.line(names[number], self._standing(), state.seconds[number])
        state.save()
        self.findings += self._afterwards(names, state)
        size = NORMS[self.auto.norm].size(tf.constant(state.images - self.x))
        return Outcome(
            attacks=names,
            described=tuple(map(str, self.attacks)),
            broken_by=self.broken_by,
            labels=self.labels,
            images=state.images if keep_images else None,
            seconds=tuple(state.seconds),
            findings=tuple(self.findings),
            largest=float(np.max(size)),
        )

    def _attack(self, number: int, name: str, attack, state) -> None:
        attempt = self._traced(attack, random.fold(self.seed, number))
        tries = attack.trials
        for trial in range(state.trial, tries):
            left = np.flatnonzero(self.broken_by == ROBUST)
            batches = range(0, len(left), self.size)
            for done, at in enumerate(batches):
                started = time.monotonic()
                self._attack_batch(attempt, left[at : at + self.size], number, trial, state)
                state.seconds[number] += time.monotonic() - started
                part = (trial + (done + 1) / len(batches)) / tries
                self.progress.bar(name, part, self._standing())
                state.save(after=_SAVE_EVERY)
            state.next_trial()
        state.next_attack()

    def _attack_batch(self, attempt, rows, number, trial, state) -> None:
        x_adv, labels, finite = (
            t.numpy()
            for t in attempt(
                self.x[rows], self.y[rows], self.index[rows].astype(np.int64), np.int32(trial)
            )
        )
        self._unstable += int((~finite).sum())
        broken = labels != self.y[rows]
        hit = rows[broken]
        self.broken_by[hit], self.labels[hit] = number, labels[broken]
        state.images[hit] = x_adv[broken]

    def _traced(self, attack, seed):
        """One try on a batch of any size: images, labels, and which logits were finite."""

        def attempt(x, y, index, trial):
            x_adv = attack.attempt(self.logits, x, y, seed, index, trial)
            return (x_adv, *self._judged(x_adv)[:2])

        labels, index = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int64)
        signature = [_of(self.x), labels, index, tf.TensorSpec([], tf.int32)]
        return tf.function(attempt, input_signature=signature)

    def _judged(self, x):
        """Label, -1 where logits are not finite; whether they are; and the label of one call."""
        if not self.random:
            z = tf.cast(self.logits(x), tf.float32)
            return (*_labelled(z), _labelled(z)[0])
        once = tf.cast(self.logits(x), tf.float32)
        total = tf.while_loop(
            lambda i, _: i < DRAWS,
            lambda i, z: (i + 1, z + tf.cast(self.logits(x), tf.float32)),
            (tf.constant(1), once),
        )[1]
        return (*_labelled(total / DRAWS), _labelled(once)[0])

    def _check_clean(self) -> None:
        """Clean labels; what has not even them is not attacked."""
        parts = [self._judge(self.x[i : i + self.size]) for i in range(0, len(self.x), self.size)]
        labels, finite, _ = (np.concatenate(p) for p in zip(*parts, strict=True))
        if not finite.all():
            raise ValueError(f"logits are not finite for {int((~finite).sum())} clean images")
        self.classes = int(self.logits(tf.constant(self.x[:1])).shape[-1])
        if self.y.max() >= self.classes:
            raise ValueError(
                f"y must be labels below {self.classes}, the number of logits; received "
                f"{self.y.max()}"
            )
        self.broken_by = np.where(labels == self.y, ROBUST, WRONG)
        self.labels = labels
        self.clean_labels = labels.copy()

    def _afterwards(self, names, state) -> list[Finding]:
        """What the numbers themselves say."""
        found = []
        if self._unstable:
            text = f"{self._unstable} adversarial images gave logits that are not finite"
            found.append(Finding("not finite", "error", f"{text}; they count as broken"))
        if self.random:
            found.append(self._by_one_call(state))
        else:
            found += _checks.zero_gradients(
                self.logits, self.x, self.y, self.broken_by != WRONG, self.size, self.classes
            )
        shares = [self._after(number) for number in range(len(names))]
        clean = float((self.broken_by != WRONG).mean())
        return found + _checks.square_beats(names, clean, shares)

    def _by_one_call(self, state) -> Finding:
        held = 0
        for at in range(0, len(self.x), self.size):
            rows = np.arange(at, min(at + self.size, len(self.x)))
            held += int((self._judge(state.images[rows])[2].numpy() == self.y[rows]).sum())
        text = (
            f"judged by mean logits of {DRAWS} calls; one call is right on {held / len(self.x):.2%}"
        )
        return Finding("randomised", "note", text)

    def _standing(self) -> float:
        return float((self.broken_by == ROBUST).mean())

    def _after(self, number: int) -> float:
        return float(((self.broken_by == ROBUST) | (self.broken_by > number)).mean())

    def _identity(self) -> str:
        """What a state must agree with: attacks, seed, images, labels and the model's answers."""
        parts = [repr(self.auto), str(self.seed)]
        digest = hashlib.sha256("\n".join(parts).encode())
        for array in (self.x, self.y, self.index.astype(np.int64), self.clean_labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _labelled(z):
    """Labels of logits, -1 where they are not finite, and where they are."""
    finite = tf.reduce_all(tf.math.is_finite(z), axis=-1)
    if len(z.shape) == 3:  # of several networks
        finite = tf.reduce_all(finite, axis=0)
    return tf.where(finite, answer(z), -1), finite


def _of(x):
    return tf.TensorSpec([None, *x.shape[1:]], tf.float32)
