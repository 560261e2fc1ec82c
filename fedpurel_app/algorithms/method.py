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
class Listed:
    """What is chosen by name.

    Attributes
    ----------
    name : str
        Value of the run-config key that chooses. A file has the same name, with underscores.
    title : str
        As printed in tables.
    paper : str
    options : tuple of Option
        The keys that it reads; several may read one.
    unfit : callable
        From all settings of a run to the reason why it cannot work with them; "" where it can.
    """

    name: str
    title: str
    paper: str
    options: tuple[Option, ...] = ()
    unfit: Callable[[Settings], str] = fits

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys that it reads, and others may not."""
        return tuple(option.key for option in self.options)

    def defaults(self) -> dict[str, Any]:
        """Return its options at their defaults."""
        return {option.key: option.default for option in self.options}

    def value(self, package: str, chosen_by: str, name: str) -> Any:
        """Import a value of its file; raises ConfigError where there is no such file, or no such value in it."""
        module = f"{package}.{self.name.replace('-', '_')}"
        path = f"{module.replace('.', '/')}.py"
        if find_spec(module) is None:
            raise ConfigError(f'{chosen_by} = "{self.name}" needs a file {path}, which is not there.')
        found = getattr(import_module(module), name, None)
        if found is None:
            raise ConfigError(f"{path} has no value {name}.")
        return found


@dataclass(frozen=True)
class Method(Listed):
    """A method as it is listed; its file lies beside this one.

    Attributes
    ----------
    personal_rounds : bool
        Whether sites train a private module in rounds of its own.
    personalizes : bool
        Whether a site has another model than the global one: with personal rounds, always.
    part : str
        File in ``strategies/parts`` with what the method does at the server beside averaging; "" = nothing.
    trains : bool
        False: sites score the frozen model once, and that is all.
    keeps_global : bool
        Whether sites keep a part of the global model, so that the server has none.
    needs_counts : bool
        Whether the part goes by the sites' training images by class: sites of a data set that is dealt out tell them,
        those with data of their own under ``share-class-counts`` alone.
    sends_privately : bool
        Whether sites send a part of the private module in personal rounds, which the server averages.
    trusts : bool
        Whether replies are weighed by trust where ``trust`` is left to the method.
    """

    personal_rounds: bool = False
    personalizes: bool = False
    part: str = ""
    trains: bool = True
    keeps_global: bool = False
    needs_counts: bool = False
    sends_privately: bool = False
    trusts: bool = False

    def load(self) -> Algorithm:
        """Import the method's value; raises ConfigError where there is none."""
        found: Algorithm = self.value("fedpurel_app.algorithms", "algorithm", "ALGORITHM")
        return found

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys that it reads, and other methods may not."""
        return tuple(option.key for option in self.options) + (OF_PERSONAL_ROUNDS if self.personal_rounds else ())

    @cached_property
    def personal_keys(self) -> frozenset[str]:
        """The keys that are read in personal rounds alone."""
        return frozenset((*OF_PERSONAL_ROUNDS, *(option.key for option in self.options if option.personal)))
