"""What the registry holds of a method: its name and facts. Its mathematics are imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fedpurel_app.algorithms.unfit import fits
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.options import Option, Settings

if TYPE_CHECKING:
    from fedpurel_app.algorithms.base import Algorithm

# Keys of the run config, declared there, that only methods with personal rounds read.
OF_PERSONAL_ROUNDS = ("schedule", "personal-rounds", "private-learning-rate", "private-init")


@dataclass(frozen=True)
class Method:
    """A method as it is listed.

    Attributes
    ----------
    name : str
        Value of the run-config key ``algorithm``. The file beside this one has the same name, with underscores.
    title : str
        As printed in tables.
    paper : str
    options : tuple of Option
        The keys that it reads; several methods may read one.
    personal_rounds : bool
        Whether sites train a private module in rounds of its own.
    personalizes : bool
        Whether a site has another model than the global one: with personal rounds, always.
    unfit : callable
        From all settings of a run to the reason why the method cannot work with them; "" where it can.
    needs_counts : bool
        Whether the part goes by the sites' training images by class: sites of a data set that is dealt out tell them,
        those with data of their own under ``share-class-counts`` alone.
    trains : bool
        False: sites score the frozen model once, and that is all.
    part : str
        File in ``strategies/parts`` with what the method does at the server beside averaging; "" = nothing.
    """

    name: str
    title: str
    paper: str
    options: tuple[Option, ...] = ()
    personal_rounds: bool = False
    personalizes: bool = False
    unfit: Callable[[Settings], str] = fits
    part: str = ""
    trains: bool = True
    needs_counts: bool = False

    def load(self) -> Algorithm:
        """Import the method's value; raises ConfigError where there is none."""
        module = f"fedpurel_app.algorithms.{self.name.replace('-', '_')}"
        if find_spec(module) is None:
            raise ConfigError(
                f'algorithm = "{self.name}" needs a file {module.replace(".", "/")}.py, which is not there.'
            )
        found: Algorithm | None = getattr(import_module(module), "ALGORITHM", None)
        if found is None:
            raise ConfigError(f"{module.replace('.', '/')}.py has no value ALGORITHM = Algorithm(...).")
        return found

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys that it reads, and other methods may not."""
        return tuple(option.key for option in self.options) + (OF_PERSONAL_ROUNDS if self.personal_rounds else ())

    def defaults(self) -> dict[str, Any]:
        """Return its options at their defaults."""
        return {option.key: option.default for option in self.options}
