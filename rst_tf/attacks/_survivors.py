"""The loop of AutoAttack: every try on those who withstood the tries before."""

import hashlib
import time

import numpy as np
import tensorflow as tf

from rst_tf import random
from rst_tf.attacks import _checks
from rst_tf.attacks._attacker import Attacker
from rst_tf.attacks._geometry import NORMS
from rst_tf.attacks._progress import Progress
from rst_tf.attacks._state import State
from rst_tf.attacks.outcome import DRAWS, ROBUST, WRONG, Finding, Outcome

_SAVE_EVERY = 20.0  # seconds


class Survivors:
    """Images, and which of them still stand. See `AutoAttack.run` for the arguments."""

    def __init__(self, attacker: Attacker, x, y, *, seed, batch_size, index, progress):
        self.attacker, self.x, self.y = attacker, x, y.astype(np.int32)
        self.index = np.arange(len(x)) if index is None else np.asarray(index)
        if self.index.shape != y.shape or len(np.unique(self.index)) != len(y):
            raise ValueError(f"index must be {len(y)} distinct integers; received {index!r}")
        self.seed, self.size = seed, batch_size
        self.progress = Progress(progress, len(x))
        labels, finite, _ = attacker.judge(x, batch_size)
        if not finite.all():
            raise ValueError(f"logits are not finite for {int((~finite).sum())} clean images")
        if self.y.max() >= attacker.classes:
            raise ValueError(
                f"y must be labels below {attacker.classes}, the number of logits; received "
                f"{self.y.max()}"
            )
        self.broken_by = np.where(labels == self.y, ROBUST, WRONG)
        self.labels = self.clean_labels = labels

    def run(self, path, keep_images: bool) -> Outcome:
        """Attacks; see `AutoAttack.run`."""
        attacks, names = self.attacker.attacks, self.attacker.auto.titles()
        state = State(path, self._identity(), self.x, self.broken_by, self.labels, len(attacks))
        self.broken_by, self.labels = state.broken_by, state.labels
        self._unstable = 0
        self.progress.line("clean", float(self.correct.mean()), 0.0)
        for number, name in enumerate(names):
            if number >= state.attack:
                self._attack(number, name, state)
            self.progress.line(name, self._after(number), state.seconds[number])
        size = NORMS[self.attacker.auto.norm].size(tf.constant(state.images - self.x))
        return Outcome(
            attacks=names,
            described=tuple(map(str, attacks)),
            broken_by=self.broken_by,
            labels=self.labels,
            images=state.images if keep_images else None,
            seconds=tuple(state.seconds),
            passes=tuple((int(forward), int(back)) for forward, back in state.passes),
            findings=(*self.attacker.findings, *self._afterwards(names, state)),
            largest=float(np.max(size)),
            margins=self.attacker.margins(state.images, self.y, self.size),
        )

    @property
    def correct(self) -> np.ndarray:
        """Clean image classified right, bool [n]."""
        return self.broken_by != WRONG

    def _attack(self, number: int, name: str, state) -> None:
        """All tries of one attack that are left."""
        key, tries = random.fold(self.seed, number), self.attacker.attacks[number].trials
        for trial in range(state.trial, tries):
            left = np.flatnonzero(self.broken_by == ROBUST)
            batches = range(0, len(left), self.size)
            for done, at in enumerate(batches, 1):
                started = time.monotonic()
                self._try(number, key, trial, left[at : at + self.size], state)
                state.seconds[number] += time.monotonic() - started
                part = (trial + done / len(batches)) / tries
                self.progress.bar(name, part, float((self.broken_by == ROBUST).mean()))
                state.save(after=_SAVE_EVERY)
            state.next_trial()
        state.next_attack()
        state.save()

    def _try(self, number, key, trial, rows, state) -> None:
        """One try on the images of these rows."""
        given = self.x[rows], self.y[rows], self.index[rows]
        images, labels, finite = self.attacker.attempt(number, key, trial, *given)
        self._unstable += int((~finite).sum())
        cost = self.attacker.passes()[number][1]
        state.passes[number] += len(rows) * (np.array(cost) + (1, 0))  # and a look at the result
        broken = labels != self.y[rows]
        hit = rows[broken]
        self.broken_by[hit], self.labels[hit] = number, labels[broken]
        state.images[hit] = images[broken]

    def _afterwards(self, names, state) -> list[Finding]:
        """What the numbers themselves say."""
        found, attacker = [], self.attacker
        if self._unstable:
            text = f"{self._unstable} adversarial images gave logits that are not finite"
            found.append(Finding("not finite", "error", f"{text}; they count as broken"))
        if attacker.random:
            held = np.mean(attacker.judge(state.images, self.size)[2] == self.y)
            text = f"judged by mean logits of {DRAWS} calls; one call is right on {held:.2%}"
            found.append(Finding("randomised", "note", text))
        else:
            rows = self.x[self.correct], self.y[self.correct]
            found += _checks.zero_gradients(attacker.flat, *rows, self.size)
        shares = [self._after(number) for number in range(len(names))]
        return found + _checks.square_beats(names, float(self.correct.mean()), shares)

    def _after(self, number: int) -> float:
        return float(((self.broken_by == ROBUST) | (self.broken_by > number)).mean())

    def _identity(self) -> str:
        """What a state must agree with: attacks, seed, images, labels and the model's answers."""
        digest = hashlib.sha256(f"{self.attacker.auto!r}\n{self.seed}".encode())
        for array in (self.x, self.y, self.index.astype(np.int64), self.clean_labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
