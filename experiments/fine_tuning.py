"""Training a ticket on: its masks fixed, its weights inherited, drawn anew, or all of them."""

import dataclasses
from typing import Literal

from experiments.experiment import EXPERIMENTS
from experiments.finished import ticket_file
from experiments.training import Session, Training
from rst_tf.initializers import redraw_kernels
from rst_tf.models import Architecture
from rst_tf.random import subseed
from rst_tf.registry import from_dict, to_dict
from rst_tf.ticket import Ticket


@EXPERIMENTS.register("fine_tuning")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning(Training):
    """Train the kept weights of a ticket, or all weights from where the ticket leaves them.

    They become real numbers. Only where the ticket's layers see signs (`gain=mean`, binary weights)
    they go on to: what is trained then are the numbers behind the signs. Liu et al. (2022) redrew
    and reset all but the shortcuts and the classifier; here it is all.

    Args:
        ticket: Folder of a finished run (its best ticket, by validation) or a ticket file.
        network: none takes the ticket's network; another one than that is refused.
        initializer: For `weights=reinit`: registered name of the kernel initialiser.
        weights: inherited, the ticket's own; reinit, drawn anew, signs included; or full: the
            ticket's own, zeros where it is pruned, and from then on all weights are trained.
        statistics: Running statistics of normalisation: kept, as the published code does, or
            reset to those of an untrained network.
    """

    ticket: str
    network: Architecture | None = None
    weights: Literal["inherited", "reinit", "full"] = "inherited"
    statistics: Literal["kept", "reset"] = "kept"
    initializer: str = dataclasses.field(
        default="kaiming_normal", metadata={"only_with": {"weights": "reinit"}}
    )

    def __post_init__(self):
        super().__post_init__()
        for name, known in (
            ("weights", ("inherited", "reinit", "full")),
            ("statistics", ("kept", "reset")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}; received {getattr(self, name)!r}"
                )

    def _load(self) -> Ticket:
        return Ticket.load(ticket_file(self.ticket, "ticket"))

    def masked_network(self, splits):
        """The network of the ticket, if it is made for these images."""
        ticket = self._load()
        network, found = ticket.build(), ticket.network
        known = found.get("architecture")
        if self.network not in (None, known and from_dict(Architecture, known)):
            raise ValueError(
                f"network must be none or that of the ticket, {known}; "
                f"received {to_dict(self.network)}"
            )
        if self.weights == "full" and "gain" in found.get("masks", {}):
            raise ValueError(
                f"weights=full has no place in a network that sees signs, gain="
                f"{found['masks']['gain']}; received weights={self.weights!r}"
            )
        made_for = (tuple(network.input_shape[1:]), network.output_shape[-1])
        if made_for != (splits.shape, splits.classes):
            raise ValueError(
                f"ticket is made for images {made_for[0]} of {made_for[1]} classes; the data have "
                f"{splits.shape} and {splits.classes}"
            )
        if self.weights == "full":  # then the masks are no longer those of a search
            found = {name: value for name, value in found.items() if name != "search"}
        return network, found

    def run(self, workdir):
        """One round; the ticket `initial` holds the weights it starts from."""
        with Session(self, workdir) as session:
            if not session.finished(0):
                self._prepare(session.network)
                session.save_ticket("initial")
                session.train(0)

    def _prepare(self, network) -> None:
        from rst_tf.binary_connect import clamp
        from rst_tf.traversal import masked_kernels, reset_statistics

        self._load().apply(network, weights=True)
        if self.weights == "reinit":
            redraw_kernels(network, subseed(self.seed, "fine_tuning")[0], self.initializer)
            clamp(network)
        if self.weights == "full":
            for masked in masked_kernels(network):
                masked.kernel.assign(masked.kernel * masked.mask)
                masked.mask.assign(masked.mask * 0 + 1)
        if self.statistics == "reset":
            reset_statistics(network)
