"""The masks that a sparse training starts from: frozen dataclasses that set a network's masks.

Random ones of given layer densities, and what is pruned at initialisation by a score. None of them
changes a weight: a network's masks are all that is other afterwards.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from rst_tf import masks, random
from rst_tf.layer_densities import (
    LAYER_DENSITIES,
    check_power,
    kept_counts,
    layer_densities,
    read_densities,
)
from rst_tf.masks import Allocation, check_choice, check_density
from rst_tf.registry import Registry, choices, unknown

ScoreOn = Literal["clean", "adversarial"]


@dataclasses.dataclass(frozen=True)
class FirstMasks:
    """Base of all first masks."""

    spares_layers = True
    """Whether masks that empty a layer are refused."""

    def apply(self, network, density: float, *, seed: int, batches=None, objective=None) -> None:
        """Sets the masks of a network, whatever they were, and nothing else.

        Args:
            network: Keras model with masked layers; masks are by element and not from scores. It
                returns logits where examples are looked at.
            density: Fraction kept of all masked weights together, in (0, 1].
            seed: Keys what is drawn.
            batches: Examples: arrays (images, labels) or a `Split`, from which some are drawn; or
                an iterable of batches as a training takes them, of which the first are taken.
            objective: What the network is to be trained on, for scores on adversarial examples.

        Raises:
            ValueError: The network has no masks or others, a layer would keep nothing, or examples
                or an objective are missing. The network is then as it was.
        """
        check_density(density)
        kernels = _maskable(network)
        chosen = self.choose(network, density, seed, batches, objective)
        for masked, mask in zip(kernels, chosen, strict=True):
            if self.spares_layers and not mask.any():
                raise ValueError(
                    f"density={density!r} would leave layer {masked.name!r} without a weight; "
                    "choose another density, or allocation=global_floor"
                )
        for masked, mask in zip(kernels, chosen, strict=True):
            masked.mask.assign(mask.astype(np.float32))

    def choose(self, network, density, seed, batches, objective) -> list[np.ndarray]:
        """Masks, bool, one per masked kernel; what a new kind of first masks defines."""
        raise NotImplementedError


FIRST_MASKS = choices(FirstMasks, Registry("start"))


@FIRST_MASKS.register("random")
@dataclasses.dataclass(frozen=True)
class RandomMasks(FirstMasks):
    """Every layer keeps an exact number of its weights, drawn without replacement.

    Args:
        densities: Of the layers: igq (the larger, the less; Vysogorets & Kempe 2021), erk
            (Erdos-Renyi-Kernel; Evci et al. 2020), uniform; or fractions by kernel or layer,
            `conv=.5,output=1`, that make the density of the network.
        power: Of erk: 1 as published, 0 gives all layers the same density.
    """

    densities: str = "igq"
    power: float = dataclasses.field(default=1.0, metadata={"only_with": {"densities": "erk"}})

    def __post_init__(self):
        given = self.densities
        if isinstance(given, Mapping) or "=" in given:
            text = ",".join(f"{name}={part!r}" for name, part in read_densities(given).items())
            object.__setattr__(self, "densities", text)
        elif given not in LAYER_DENSITIES:
            rule = unknown("rule", given, list(LAYER_DENSITIES))
            raise ValueError(f"densities names an {rule}; fractions by layer: conv=.5,output=1")
        check_power(self.densities, self.power)
        if not self.power >= 0:
            raise ValueError(f"power must be at least 0; received power={self.power!r}")

    def choose(self, network, density, seed, batches, objective):
        """See `layer_densities.kept_counts`; nothing is looked at but shapes."""
        from rst_tf.traversal import masked_kernels

        kernels = masked_kernels(network)
        fractions = layer_densities(
            self.densities,
            [masked.shape for masked in kernels],
            density,
            names=[masked.name for masked in kernels],
            power=self.power,
        )
        own = None if "=" in self.densities else density
        counts = kept_counts([masked.size for masked in kernels], fractions, own)
        chosen = []
        for layer, (masked, kept) in enumerate(zip(kernels, counts, strict=True)):
            mask = np.zeros(masked.size, bool)
            mask[random.permutation(masked.size, seed, "first_masks", layer)[:kept]] = True
            chosen.append(mask.reshape(masked.shape))
        return chosen


@dataclasses.dataclass(frozen=True)
class Scored(FirstMasks):
    """Keeps the weights with the largest scores.

    Args:
        allocation: global, one threshold for all layers; global_floor, which leaves every layer a
            tenth of its share; layerwise, every layer the same fraction.
    """

    allocation: Allocation = "global"

    def __post_init__(self):
        check_choice(self.allocation, get_args(Allocation), "allocation")

    def choose(self, network, density, seed, batches, objective):
        """The largest of `scores`."""
        scores = self.scores(network, seed, batches, objective)
        return self.largest(scores, density, [np.ones(score.shape, bool) for score in scores])

    def largest(self, scores, density: float, alive) -> list[np.ndarray]:
        """Masks that keep `density` of all weights, each of them alive before."""
        sizes, fractions = [score.size for score in scores], [density] * len(scores)
        allocate = masks.ALLOCATIONS[self.allocation]
        kept = allocate(scores, alive, sizes, fractions, "nearest")
        return [masks.select(*item) for item in zip(scores, kept, alive, strict=True)]

    def scores(self, network, seed, batches, objective) -> list[np.ndarray]:
        """Scores of at least 0, one array per masked kernel; what a new kind defines."""
        raise NotImplementedError


@FIRST_MASKS.register("magnitude")
@dataclasses.dataclass(frozen=True)
class Magnitude(Scored):
    """Keeps the largest weights (Han et al. 2015), at the start or of a trained network.

    Args:
        allocation: global, one threshold for all layers; global_floor, which leaves every layer a
            tenth of its share; layerwise, every layer the same fraction.
    """

    def scores(self, network, seed, batches, objective):
        """|w|."""
        from rst_tf.traversal import masked_kernels

        rank = masks.CRITERIA["magnitude"]
        kernels = enumerate(masked_kernels(network))
        return [rank(masked.kernel.numpy(), seed=seed, layer=i) for i, masked in kernels]


@dataclasses.dataclass(frozen=True)
class ScoredOnExamples(Scored):
    """Scores that come from the gradients of a loss.

    Args:
        examples: Number of training examples to score on, at least 1.
        score_on: clean takes the cross-entropy of clean images; adversarial the training's
            objective and its attack on the dense network.
    """

    examples: int = 512
    score_on: ScoreOn = "clean"

    def __post_init__(self):
        super().__post_init__()
        check_choice(self.score_on, get_args(ScoreOn), "score_on")
        if self.examples < 1:
            raise ValueError(f"examples must be at least 1; received examples={self.examples!r}")

    def scores(self, network, seed, batches, objective):
        """Those of `scores_on` the examples."""
        from rst_tf._saliency import attacked, dense_for_now, sampled

        scored = self._objective(objective)
        with dense_for_now(network):
            found = attacked(network, sampled(batches, self.examples, seed), scored, seed)
            return self.scores_on(network, found, scored)

    def scores_on(self, network, batches, objective) -> list[np.ndarray]:
        """Scores from batches and the objective whose loss counts."""
        raise NotImplementedError

    def _objective(self, objective):
        from rst_tf.objectives import Adversarial, Natural

        if self.score_on == "clean":
            return Natural()
        if objective is None or objective.training_attack is None:
            raise ValueError(
                "score_on=adversarial needs an objective with an attack; "
                f"received objective={objective}"
            )
        return Adversarial(objective.training_attack) if objective.carries_noise else objective


@FIRST_MASKS.register("snip")
@dataclasses.dataclass(frozen=True)
class SNIP(ScoredOnExamples):
    """Keeps what the loss feels most: |w dL/dw| (Lee, Ajanthan & Torr 2019).

    Args:
        allocation: global, one threshold for all layers, as published; global_floor, which leaves
            every layer a tenth of its share; layerwise, every layer the same fraction.
        examples: Number of training examples to score on, at least 1.
        score_on: clean takes the cross-entropy of clean images; adversarial the training's
            objective and its attack on the dense network.
    """

    def scores_on(self, network, batches, objective):
        """See `_saliency.connection_sensitivity`."""
        from rst_tf._saliency import connection_sensitivity

        return connection_sensitivity(network, batches, objective)


@FIRST_MASKS.register("grasp")
@dataclasses.dataclass(frozen=True)
class GraSP(ScoredOnExamples):
    """Keeps what the norm of the gradient needs: w * (H g) (Wang, Zhang & Grosse 2020).

    Args:
        allocation: global, one threshold for all layers, as published; global_floor, which leaves
            every layer a tenth of its share; layerwise, every layer the same fraction.
        examples: Number of training examples to score on, at least 1.
        score_on: clean takes the cross-entropy of clean images; adversarial the training's
            objective and its attack on the dense network.
        temperature: What logits are divided by, above 0; 200 as published.
    """

    temperature: float = 200.0

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(
                f"temperature must be above 0; received temperature={self.temperature!r}"
            )

    def scores_on(self, network, batches, objective):
        """See `_saliency.gradient_flow`; ranks, for its scores have signs."""
        from rst_tf._saliency import gradient_flow, in_order

        return in_order(gradient_flow(network, batches, objective, self.temperature))


@FIRST_MASKS.register("synflow")
@dataclasses.dataclass(frozen=True)
class SynFlow(Scored):
    """Keeps the paths from input to output, without any data (Tanaka et al. 2020).

    Round k of n keeps density ** (k / n) of the weights; scores are those of what is left. A layer
    that others bypass may lose all its weights, as the shortcuts of a ResNet do: without
    normalisation, which the flow leaves out, little goes through them.

    Args:
        allocation: global, one threshold for all layers, as published; global_floor, which leaves
            every layer a tenth of its share; layerwise, every layer the same fraction.
        rounds: Number of prunings, at least 1.
    """

    rounds: int = 100

    spares_layers = False

    def __post_init__(self):
        super().__post_init__()
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1; received rounds={self.rounds!r}")

    def choose(self, network, density, seed, batches, objective):
        """See `_saliency.synaptic_flow`."""
        from rst_tf._saliency import synaptic_flow

        def select(scores, alive, number):
            part = density if number == self.rounds else density ** (number / self.rounds)
            return self.largest(scores, part, alive)

        return synaptic_flow(network, self.rounds, select)


def prune_once(
    model, start: FirstMasks | str, density: float, *, seed: int = 0, batches=None, objective=None
):
    """A copy of a Keras model with masks, pruned once by its start alone; train it on.

    Args:
        model: A built Sequential or functional Keras model, with or without a softmax at its end;
            it stays as it is.
        start: First masks, or their registered name: random, magnitude, snip, grasp, synflow.
        density: Fraction kept of all weights that have masks, in (0, 1].
        seed: Keys what is drawn.
        batches: As `FirstMasks.apply` takes them.
        objective: As `FirstMasks.apply` takes it.

    Returns:
        The masked copy (`rst.masked`), its softmax kept; `rst.baked` makes it plain again.

    Raises:
        ValueError: A model that cannot be masked, or what `FirstMasks.apply` refuses.
    """
    from rst_tf.surgery import masked, with_logits
    from rst_tf.traversal import masked_kernels

    chosen = FIRST_MASKS[start]() if isinstance(start, str) else start
    network = masked(model)
    scored = with_logits(network)
    chosen.apply(scored, density, seed=seed, batches=batches, objective=objective)
    for own, other in zip(masked_kernels(network), masked_kernels(scored), strict=True):
        own.mask.assign(other.mask)
    return network


def _maskable(network) -> list:
    from rst_tf.traversal import masked_kernels

    kernels = masked_kernels(network)
    for masked in kernels:
        if masked.scores is not None:
            raise ValueError(
                f"layer {masked.name!r} takes its mask from scores; build the network with "
                "search=False"
            )
        if tuple(masked.mask.shape) != masked.shape:
            raise ValueError(
                f"first masks are by element; received granularity={masked.layer.granularity!r} "
                f"in layer {masked.name!r}"
            )
    return kernels
