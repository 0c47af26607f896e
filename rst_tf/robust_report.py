"""What `robustify` came to: accuracies with intervals, densities, sizes; as text or a page."""

import dataclasses
import zlib
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rst_tf.analysis import formats, page, printing
from rst_tf.analysis.estimates import Interval, wilson
from rst_tf.evaluation import Evaluation
from rst_tf.files import write_bytes
from rst_tf.traversal import masked_kernels


@dataclasses.dataclass(frozen=True)
class Line:
    """One network of a report.

    Args:
        name: given; dense, robust; sparse, robust.
        kept: Number of weights kept, of those that may be pruned.
        weights: Number of weights that may be pruned.
        gzip_bytes: All variables as float32, compressed.
        images: Number of images it was judged on.
        accuracy: On clean images, in [0, 1].
        robust_accuracy: On adversarial images, in [0, 1].
    """

    name: str
    kept: int
    weights: int
    gzip_bytes: int
    images: int
    accuracy: float
    robust_accuracy: float

    @property
    def density(self) -> float:
        """Fraction kept."""
        return self.kept / self.weights

    @property
    def accuracy_interval(self) -> Interval:
        """95 % Wilson interval of the accuracy."""
        return wilson(self.accuracy, self.images)

    @property
    def robust_accuracy_interval(self) -> Interval:
        """95 % Wilson interval of the robust accuracy."""
        return wilson(self.robust_accuracy, self.images)


@dataclasses.dataclass(frozen=True)
class Report:
    """The given model, the dense robust network and the sparse one, on the same images.

    Args:
        attack: What makes the adversarial images.
        split: test or validation.
        chosen_by: Whether these images also chose the epochs.
        lines: One per network.
        layers: (name, weights kept, weights) of every kernel of the sparse network.
    """

    attack: str
    split: str
    chosen_by: bool
    lines: tuple[Line, ...]
    layers: tuple[tuple[str, int, int], ...]

    def __str__(self) -> str:
        """A table of the networks, its notes, and the sparsest and densest layer."""
        return printing.text(self._columns(), [*self._notes(), self._extremes()])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, intervals and densities with them, as JSON takes them."""
        lines = [
            {
                **dataclasses.asdict(line),
                "density": line.density,
                "accuracy_interval": list(line.accuracy_interval),
                "robust_accuracy_interval": list(line.robust_accuracy_interval),
            }
            for line in self.lines
        ]
        layers = [{"name": name, "kept": kept, "weights": n} for name, kept, n in self.layers]
        return {
            "attack": self.attack,
            "split": self.split,
            "chosen_by": self.chosen_by,
            "lines": lines,
            "layers": layers,
        }

    def save_html(self, path: str | Path) -> None:
        """Writes it as one page, every layer in a second table."""
        title = f"Robust accuracy at {self._percent(self.lines[-1])} % of the weights"
        body = page.section("Networks", page.table(self._columns(), self._notes())) + page.section(
            "Layers", page.table(self._layer_columns(), [], prose=("layer",))
        )
        html = (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1" />\n'
            f"<title>{escape(title)}</title>\n<style>{page.STYLE}</style>\n</head>\n<body>\n"
            f"<main>\n<h1>{escape(title)}</h1>\n{body}</main>\n</body>\n</html>\n"
        )
        write_bytes(path, html.encode())

    def _columns(self) -> list[printing.Column]:
        group = f"{self.split} split"
        digits = 2 if self.lines[0].images >= formats.FINE else 1
        made = [
            ("", "network", [line.name for line in self.lines]),
            ("", "density", formats.percentages([line.density for line in self.lines])),
            ("", "kept", [f"{line.kept:,}" for line in self.lines]),
            ("", "gzip kB", [f"{line.gzip_bytes / 1000:,.0f}" for line in self.lines]),
        ]
        for name in ("accuracy", "robust_accuracy"):
            values = [getattr(line, name) for line in self.lines]
            intervals = [getattr(line, f"{name}_interval") for line in self.lines]
            spans = [" to ".join(f"{100 * v:.{digits}f}" for v in pair) for pair in intervals]
            made.append((group, name.replace("_", " "), [f"{100 * v:.{digits}f}" for v in values]))
            made.append((group, "95 % interval", spans))
        return [printing.Column(group, head, tuple(cells)) for group, head, cells in made]

    def _layer_columns(self) -> list[printing.Column]:
        names, kept, sizes = zip(*self.layers, strict=True)
        shares = formats.percentages([k / n for _, k, n in self.layers])
        return [
            printing.Column("", "layer", names),
            printing.Column("", "weights", tuple(f"{n:,}" for n in sizes)),
            printing.Column("", "kept", tuple(f"{k:,}" for k in kept)),
            printing.Column("", "density", tuple(shares)),
        ]

    def _notes(self) -> list[str]:
        images = f"{self.lines[0].images:,} images"
        said = [f"Percent, on the {self.split} split ({images}); attack {self.attack}."]
        if self.chosen_by:
            said.append(
                "The same images chose the epochs of the robust networks, so theirs are a little "
                "too high: keep a test set for a number to publish."
            )
        said.append("95 % intervals: Wilson's, by the number of images.")
        said.append("gzip: all variables as float32, compressed.")
        return said

    def _extremes(self) -> str:
        shares = [kept / n for _, kept, n in self.layers]
        texts = formats.percentages(shares)
        low, high = shares.index(min(shares)), shares.index(max(shares))
        return (
            f"Density by layer: {texts[low]} % ({self.layers[low][0]}) to {texts[high]} % "
            f"({self.layers[high][0]})."
        )

    def _percent(self, line: Line) -> str:
        return formats.percentages([line.density])[0]


def measured(name: str, network, found: Evaluation) -> Line:
    """A line of a report about an element-wise masked network as it is now."""
    kernels = masked_kernels(network)
    masks = [m.mask.numpy() for m in kernels]
    return Line(
        name,
        sum(int(mask.sum()) for mask in masks),
        sum(mask.size for mask in masks),
        _compressed(network, kernels),
        len(found.correct),
        found.accuracy,
        found.robust_accuracy,
    )


def _compressed(network, kernels) -> int:
    own = {id(v) for m in kernels for v in (m.kernel, m.mask)}
    values = [m.effective() for m in kernels] + [v for v in network.weights if id(v) not in own]
    return sum(len(zlib.compress(np.asarray(value).tobytes(), 6)) for value in values)
