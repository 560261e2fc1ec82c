"""What settings choose: a method, a balancer and a family, how they train, and what they need of a server."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from fedpurel_app.algorithms.balancers.registry import BALANCERS
from fedpurel_app.algorithms.base import Algorithm
from fedpurel_app.algorithms.elsa import meeting
from fedpurel_app.algorithms.fedsa_lora import SHARES
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.algorithms.relocation import RELOCATION
from fedpurel_app.algorithms.split import SPLITS
from fedpurel_app.compression import COMPRESSIONS
from fedpurel_app.config import RunConfig
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import MOST_EXAMPLES
from fedpurel_app.core.sgd import SgdSettings
from fedpurel_app.models.peft.registry import FAMILIES


class Chosen:
    """What is known of a run before any model is made, and without its data.

    Parameters
    ----------
    config : RunConfig
    """

    def __init__(self, config: RunConfig) -> None:
        self.config, self.settings = config, config.model_dump(by_alias=True)
        self.method, self.family = METHODS[config.algorithm], FAMILIES[config.peft]
        self.balancer = BALANCERS[config.balancer]
        owned = (*self.method.options, *self.balancer.options)
        self.options = {option.key: self.settings[option.key] for option in owned}

    @cached_property
    def algorithm(self) -> Algorithm:
        """The method, with the sharing, the split, the balancer and the movement of tokens that the settings name."""
        method = meeting(self.method.load(), self.options)
        method = SPLITS[self.settings["split"]](SHARES[self.settings["shares"]](method))
        return RELOCATION[self.settings["prompt-relocation"]](self.balancer.put_on(method))

    @property
    def keeps_state(self) -> bool:
        """Whether a global round writes private state: the method's, or what a codec has not sent yet."""
        return self.algorithm.keeps_state or COMPRESSIONS[self.settings["compression"]].remembers

    @property
    def keeps_secrets(self) -> bool:
        """Whether a global round runs on what its site alone knows."""
        return self.algorithm.keeps_secrets or COMPRESSIONS[self.settings["compression"]].remembers

    @property
    def part(self) -> str:
        """The file in ``strategies/parts`` with what the server does beside averaging; "" = nothing."""
        return self.method.part or self.family.part(self.settings)

    @property
    def part_options(self) -> dict[str, Any]:
        """What that part may read: the method's keys, the family's, the seed, and how many global rounds there are."""
        more = (*self.family.keys, "seed", "global-rounds")
        return {**self.options, **{key: self.settings[key] for key in more}}

    def unfit_for_own_data(self) -> str:
        """Return what cannot work at sites with data of their own, whatever the settings call them, and why; or ""."""
        own = {**self.settings, "dataset": "sites"}
        reasons = {f'algorithm = "{self.method.name}"': self.method.unfit(own)}
        reasons[f'balancer = "{self.balancer.name}"'] = self.balancer.unfit(own)
        if self.config.evaluate_on != "test":
            reasons[f'evaluate-on = "{self.config.evaluate_on}"'] = "they are scored on test parts of their own"
        return "; ".join(f"{chosen}: {why}" for chosen, why in reasons.items() if why)

    def sgd(self, phase: Phase) -> SgdSettings:
        """Return the optimiser's settings, with "auto" resolved."""
        if phase is Phase.PERSONAL:  # plain SGD, as the reference does
            rate = self.config.private_learning_rate
            rate = self.family.private_rate(self.settings) if rate == "auto" else rate
            return SgdSettings(rate, 0.0, 0.0, *self._pace)
        if self.settings["split"] == "text":  # a gradient, of all images: the server takes the step
            return SgdSettings(1.0, 0.0, 0.0, MOST_EXAMPLES, 1, fixed_steps=1, drop_last=False)
        return self.shared_sgd

    @property
    def shared_sgd(self) -> SgdSettings:
        """The optimiser's settings of shared parameters, wherever the steps are taken."""
        config = self.config
        rate = self.family.learning_rate if config.learning_rate == "auto" else config.learning_rate
        return SgdSettings(rate, config.momentum, config.weight_decay, *self._pace)

    @property
    def _pace(self) -> tuple[int, int, int, bool]:
        config = self.config
        return config.batch_size, config.local_epochs, config.local_steps, config.drop_last
