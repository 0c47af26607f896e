"""Keras callbacks: guards of a training, its progress, and pictures for TensorBoard."""

import math
import sys

import keras
import numpy as np

from rst_tf.early_bird import EarlyBird, MaskWindow
from rst_tf.masks import check_density
from rst_tf.tensorboard import Board
from rst_tf.traversal import masked_kernels, masked_layers


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends a training whose loss is NaN or infinite with an error, not silently."""

    def on_train_batch_end(self, batch, logs=None):
        """Raises FloatingPointError if the loss is not finite."""
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss} at step {int(self.model.optimizer.iterations)}; lower the "
                "learning rate, or check the images and labels"
            )


def trained_network(callback: keras.callbacks.Callback) -> keras.Model:
    """The network of the trainer that a callback goes along with.

    Raises:
        ValueError: It goes along with another model.
    """
    network = getattr(callback.model, "network", None)
    if network is None:
        raise ValueError(
            f"{type(callback).__name__} goes with rst.RobustTrainer(network, rst.Natural()).fit; "
            f"received {type(callback.model).__name__}"
        )
    return network


class MaskGuard(keras.callbacks.Callback):
    """Refuses a training whose pruned weights move or whose masks are not 0 and 1.

    Checks at the end of every epoch and of the training that pruned entries have the bits they
    had when the masks were last set, and that a search's masks are what its scores ask for.
    """

    def on_train_begin(self, logs=None):
        """Takes down the pruned weights."""
        network = trained_network(self)
        self._kernels = masked_kernels(network) if masked_layers(network) else []
        self.remember()

    def remember(self) -> None:
        """Takes down masks and pruned weights anew; call it after changing masks on purpose."""
        self._masks = [m.mask.numpy() for m in self._kernels]
        self._pruned = [self._pruned_bits(m) for m in self._kernels]

    def on_epoch_end(self, epoch, logs=None):
        """Checks."""
        self.check()

    def on_train_end(self, logs=None):
        """Checks."""
        self.check()

    def check(self) -> None:
        """Raises FloatingPointError, naming the layer, if a law is broken."""
        for masked, mask, pruned in zip(self._kernels, self._masks, self._pruned, strict=True):
            if masked.scores is not None:
                self._check_search(masked)
                continue
            if not np.array_equal(mask, masked.mask.numpy()):
                raise FloatingPointError(f"the mask of {masked.name} changed during the training")
            if self._pruned_bits(masked) != pruned:
                raise FloatingPointError(f"pruned weights of {masked.name} moved in the training")

    def _check_search(self, masked) -> None:
        try:
            masked.check()
        except RuntimeError as error:
            raise FloatingPointError(str(error)) from error

    def _pruned_bits(self, masked) -> bytes:
        if masked.scores is not None:
            return b""
        kernel = masked.kernel.numpy()
        return kernel[np.broadcast_to(masked.mask.numpy() == 0, kernel.shape)].tobytes()


class StopAtEarlyBird(keras.callbacks.Callback):
    """Ends a training when the mask that pruning would give stands still; `Ticket.prune` gives it.

    Args:
        density: Fraction that the masks keep, in (0, 1].
        test: What counts as standing still.

    Attributes:
        distances: After each epoch, those from its mask to the older ones.
    """

    def __init__(self, density: float, test: EarlyBird | None = None):
        super().__init__()
        check_density(density)
        self.density, self.test = density, test or EarlyBird()

    def on_train_begin(self, logs=None):
        """An empty window."""
        size = self.test.mask(trained_network(self), self.density).size
        self._window, self.distances = MaskWindow(self.test.window, size), []

    def on_epoch_end(self, epoch, logs=None):
        """The test."""
        mask = self.test.mask(self.model.network, self.density)
        self.distances.append(self._window.add(mask))
        self.model.stop_training |= self.test.emerged(self.distances[-1])


class MaskPictures(keras.callbacks.Callback):
    """Density of each layer and pictures of its mask for TensorBoard, at every epoch.

    Args:
        log_dir: Folder of the event files, as for `keras.callbacks.TensorBoard`.
    """

    def __init__(self, log_dir: str):
        super().__init__()
        self._board = Board(log_dir)

    def on_train_begin(self, logs=None):
        """The masks before the first epoch."""
        self._board.masks(trained_network(self), 0)

    def on_epoch_end(self, epoch, logs=None):
        """The masks after the epoch."""
        self._board.masks(self.model.network, epoch + 1)


class Progress:
    """One line in the terminal that tells how far a training is; plain lines in a file.

    Args:
        title: What is training.
        steps: Its length.
    """

    def __init__(self, title: str, steps: int):
        self.title, self.steps = title, steps
        self._noted, self._shown = "", -1
        self._live = sys.stderr.isatty()

    def note(self, row) -> None:
        """Takes down the last evaluation, shown beside the bar."""
        names = (("accuracy", "accuracy"), ("robust_accuracy", "robust"))
        parts = [f"{label} {100 * row[name]:.1f} %" for name, label in names if row[name]]
        self._noted = ", ".join(parts)

    def update(self, step: int, logs) -> None:
        """Redraws the line, at most a hundred times in a training."""
        percent = 100 * step // self.steps
        if self._live and percent != self._shown:
            self._shown = percent
            filled = percent // 5
            bar = "█" * filled + "░" * (20 - filled)
            loss = float(logs["loss"])
            text = f"{self.title}  {bar} {step}/{self.steps}  loss {loss:.3f}  valid {self._noted}"
            print(f"\r{text:<100.119}", end="", file=sys.stderr, flush=True)

    def close(self, step: int | None = None) -> None:
        """The last line: of a finished training, or of one that stopped at `step`."""
        done = f"{self.steps}" if step is None else f"{step} of {self.steps}"
        text = f"{self.title}  {done} steps  valid {self._noted}"
        print(f"\r{text:<119}" if self._live else text, file=sys.stderr, flush=True)
