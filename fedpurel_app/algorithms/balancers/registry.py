"""The balancers: names, papers and options. Their mathematics are imported when one is used.

A new balancer is one file in this folder, with a function ``balance`` from a method to a method, and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedpurel_app.algorithms.method import Listed
from fedpurel_app.algorithms.unfit import hides_counts, hides_prior
from fedpurel_app.core.options import NotNegative, Option

if TYPE_CHECKING:
    from fedpurel_app.algorithms.base import Algorithm


@dataclass(frozen=True)
class Balancer(Listed):
    """A balancer as it is listed; its file lies beside this one.

    Attributes
    ----------
    in_training : bool
        Whether it changes training, and so needs a method that trains.
    """

    in_training: bool = True

    def put_on(self, host: Algorithm) -> Algorithm:
        """Return a method as this balancer makes it; raises ConfigError where it has no file."""
        balance: Callable[[Algorithm], Algorithm] = self.value(__package__, "balancer", "balance")
        return balance(host)


class _Nothing(Balancer):
    """The method as it is."""

    def put_on(self, host: Algorithm) -> Algorithm:
        return host


_STRENGTH = Option("adjustment-strength", 1.0, NotNegative, "tau, factor of log pi")
_PRIOR = Option(
    "class-prior",
    "global",
    Literal["global", "local"],
    "class shares pi: of the whole federation | of the site's own training images",
)

_ALL = (
    _Nothing("none", "no balancer", "", in_training=False),
    Balancer(
        "fed-grab",
        "Fed-GraB",
        "Xiao et al., NeurIPS 2023",
        options=(
            Option("proportional-gain", 10.0, NotNegative, "K_P of the controllers"),
            Option("integral-gain", 0.01, NotNegative, "K_I of the controllers"),
            Option("derivative-gain", 0.1, NotNegative, "K_D of the controllers"),
            _PRIOR,
        ),
        unfit=hides_prior,
    ),
    Balancer(
        "logit-adjustment",
        "logit adjustment",
        "Menon et al., ICLR 2021, Eq. (10): cross-entropy at l + tau log pi",
        options=(_STRENGTH, _PRIOR),
        unfit=hides_prior,
    ),
    Balancer(
        "logit-adjustment-post-hoc",
        "logit adjustment after training",
        "Menon et al., ICLR 2021, Eq. (9): predictions at l - tau log pi",
        options=(_STRENGTH,),
        unfit=hides_counts,
        in_training=False,
    ),
)
BALANCERS = {balancer.name: balancer for balancer in _ALL}
