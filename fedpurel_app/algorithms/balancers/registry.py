"""The balancers: names, papers and options. Their mathematics are imported when one is used.

A new balancer is one file in this folder, with a function ``balance`` from a method to a method, and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from fedpurel_app.algorithms.unfit import fits, hides_counts, hides_prior
from fedpurel_app.core.options import NotNegative, Option, Settings

if TYPE_CHECKING:
    from fedpurel_app.algorithms.base import Algorithm


@dataclass(frozen=True)
class Balancer:
    """A balancer as it is listed.

    Attributes
    ----------
    name : str
        Value of the run-config key ``balancer``. The file beside this one has the same name, with underscores.
    title : str
        As printed behind the method's.
    paper : str
    options : tuple of Option
        The keys that it reads; several balancers may read one.
    unfit : callable
        From all settings of a run to the reason why it cannot work with them; "" where it can.
    in_training : bool
        Whether it changes training, and so needs a method that trains.
    """

    name: str
    title: str
    paper: str
    options: tuple[Option, ...] = ()
    unfit: Callable[[Settings], str] = fits
    in_training: bool = True

    def put_on(self, host: Algorithm) -> Algorithm:
        """Return a method as this balancer makes it."""
        module = import_module(f"fedpurel_app.algorithms.balancers.{self.name.replace('-', '_')}")
        method: Algorithm = module.balance(host)
        return method

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys that it reads."""
        return tuple(option.key for option in self.options)


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
