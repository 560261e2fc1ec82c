"""Which models: the frozen CLIP, the modules on it, what of them is sent, and how they are trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedpurel_app.algorithms.base import Facts, Memory, Models
from fedpurel_app.chosen import Chosen
from fedpurel_app.compression import LEAST_VALUES, Codec, make_codec
from fedpurel_app.config import RunConfig
from fedpurel_app.config.model import key_of
from fedpurel_app.core.errors import ConfigError, DataError
from fedpurel_app.core.layout import Layout
from fedpurel_app.core.metrics import GROUPS
from fedpurel_app.core.seeding import derive_seed
from fedpurel_app.federation import Federation
from fedpurel_app.models.backbone import Backbone, Takes, load_backbone
from fedpurel_app.models.peft.base import Host, PeftModule, Role, are_alike, load_parameters, parameters_of, to_tensors
from fedpurel_app.models.peft.making import make_module
from fedpurel_app.models.peft.pareto import family_part
from fedpurel_app.models.peft.scaled import ZeroShot
from fedpurel_app.training.feature_store import text_features

Arrays = Mapping[str, npt.NDArray[Any]]
Named = dict[str, npt.NDArray[np.float32]]


class ModelKit(Chosen):
    """The models that settings determine, made when first asked for; all processes make the same ones.

    Parameters
    ----------
    config : RunConfig
    federation : Federation
        Whose classes they tell apart.
    cache : Path
        Folder of text features.
    """

    def __init__(self, config: RunConfig, federation: Federation, cache: Path) -> None:
        super().__init__(config)
        self._federation, self._cache = federation, cache

    @cached_property
    def codec(self) -> Codec | None:
        """What shortens replies; None where they are sent as they are.

        Raises
        ------
        ConfigError
            When there is too little to shorten: a message has a thousand bytes or two beside its arrays.
        """
        codec = make_codec(self.settings)
        if codec is not None:
            count = sum(value.size for value in self.split(self.new_shared())[0].values())
            if count < LEAST_VALUES:
                raise ConfigError(
                    f'compression = "{self.settings["compression"]}" has no use here: a site sends {count:,} numbers, '
                    f"and below {LEAST_VALUES:,} the rest of a message outweighs them. Drop it, or choose a family "
                    'with more parameters, as peft = "lora" or "adapter".'
                )
        return codec

    @cached_property
    def device(self) -> torch.device:
        """Where the models run."""
        wanted = self.config.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                'device = "cuda", but this process sees no GPU. In a simulation give the sites one: '
                '--federation-config \'client-resources-num-gpus=0.25\'; otherwise use device = "auto" or "cpu".'
            )
        return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

    @cached_property
    def backbone(self) -> Backbone | None:
        """The frozen CLIP; None for precomputed features."""
        # Precomputed features have a classifier with them; that is known without loading the data.
        return None if self.config.dataset == "features" else self._load_backbone()

    def _load_backbone(self) -> Backbone:
        config = self.config
        statistics = config.image_statistics
        return load_backbone(config.backbone, self.device, config.pretrained, config.precision, statistics)

    @property
    def images_backbone(self) -> Backbone:
        """The frozen CLIP of images; raises DataError for precomputed features."""
        if self.backbone is None:
            raise DataError(f"{self._federation.source.name} holds no images")
        return self.backbone

    @cached_property
    def host(self) -> Host:
        """What modules are attached to."""
        source = self._federation.source
        if (classifier := source.classifier) is not None:
            text = torch.nn.functional.normalize(torch.from_numpy(classifier.text_features), dim=-1)
            return Host(text.to(self.device), classifier.logit_scale, source.class_names, None)
        return self._host_on(self.images_backbone)

    def _host_on(self, backbone: Backbone) -> Host:
        """Let a backbone encode the template prompts of all classes."""
        source = self._federation.source
        names = source.class_names
        template = source.template if self.config.template == "auto" else self.config.template
        prompts = tuple(template.replace("{}", name.replace("_", " ")) for name in names)
        text = text_features(prompts, backbone, self._cache).to(self.device)
        return Host(text, backbone.logit_scale, names, backbone, prompts)

    # --- modules ----------------------------------------------------------------------------------------------------

    def new_module(self, role: Role, **options: Any) -> PeftModule:
        """Make a freshly initialised module of the family; all processes make the same one.

        Parameters
        ----------
        role : {"global", "private", "zero-shot"}
            That of "zero-shot" has no parameters: it is the frozen model.
        **options
            In the place of the settings, for keys of the family, with underscores.
        """
        if role == "zero-shot":
            return self.zero_shot("features")
        return self._make(self.host, role, options)

    def whole_prompt(self) -> tuple[Host, PeftModule]:
        """Make the prompt of a text split with its tower, as the server has it, and what it is attached to."""
        host = self.host
        if host.backbone is None:  # precomputed features, whose CLIP the settings name
            host = self._host_on(self._load_backbone())
        return host, self._make(host, "global", {"split": "none"})

    def _make(self, host: Host, role: Role, options: Mapping[str, Any]) -> PeftModule:
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "initial parameters", role))
        settings = self.settings | {key_of(name): value for name, value in options.items()}
        return make_module(self.family, host, role, settings, generator)

    def laid_out(self, told: Arrays | None) -> Layout:
        """Return what says how the family's parameters are laid out, among other things; nothing where they stay."""
        names = self.family.layout if self.family.part(self.settings) else ()
        return {name: told[name] for name in names if told and name in told}

    def new_shared(self, layout: Layout | None = None) -> PeftModule:
        """Make the module of global rounds, freshly initialised; laid out as at first, or as it is told."""
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "initial parameters", "method"))
        placed: dict[str, Any] = {**self.laid_out(layout)}
        module = self.algorithm.compose(partial(self.new_module, **placed), self.options, generator)
        if module.takes == "patches":
            _ = self.images_backbone.patch_count  # a tower without any is refused here, before a round begins
        return module

    @cached_property
    def takes(self) -> Takes:
        """What of an image the modules are given."""
        return self.new_shared().takes

    def new_private(self, layout: Arrays | None = None) -> PeftModule:
        """Make the module of personal rounds, freshly initialised; laid out as at first, or as it is told."""
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "initial parameters", "private method"))
        placed: dict[str, Any] = {**self.laid_out(layout)}
        return self.algorithm.private(partial(self.new_module, **placed), self.options, generator)

    @cached_property
    def sent_in_personal_rounds(self) -> frozenset[str]:
        """Names of the private module's parameters that are sent and averaged; most methods have none."""
        if not self.algorithm.shares_in_personal_rounds:
            return frozenset()
        return self.algorithm.sent_of_private(self.new_private(), self.options)

    def first_arrays(self) -> Named:
        """Return the parameters that sites share, as a run begins with them."""
        return self.split(self.new_shared())[0] | self.personal_arrays()

    def personal_arrays(self) -> Named:
        """Return those of them that are sent in personal rounds; most methods have none."""
        return self.split_private(self.new_private())[0] if self.sent_in_personal_rounds else {}

    def split_private(self, module: PeftModule) -> tuple[Named, Named]:
        """Return the arrays of a private module that are sent in personal rounds, and those that its site keeps."""
        return _apart(module, self.sent_in_personal_rounds)

    def private_module(
        self, arrays: Arrays, branch: Arrays, shared: PeftModule | None = None, layout: Arrays | None = None
    ) -> PeftModule:
        """Make the module of personal rounds.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            What sites share.
        branch : mapping of str to ndarray
            What a site keeps; where that is nothing, it begins afresh.
        shared : PeftModule, optional
            The global one, at whose parameters it then begins, if it has the same.
        layout : mapping of str to ndarray, optional
            What says, among other things, how its parameters are laid out; as at first where nothing does.

        Raises
        ------
        ValueError
            When they do not fit the module.
        """
        module = self.new_private(layout)
        common = {name: value for name, value in arrays.items() if name in self.sent_in_personal_rounds}
        if branch:
            load_parameters(module, to_tensors(branch) | to_tensors(common))
            return module
        if shared is not None and are_alike(family_part(module), shared):
            load_parameters(family_part(module), parameters_of(shared))
        if missing := sorted(self.sent_in_personal_rounds - set(common)):
            raise ValueError(f"these parameters of the private module did not come: {', '.join(missing)}")
        load_parameters(module, parameters_of(module) | to_tensors(common))
        return module

    def shared_module(self, arrays: Arrays, kept: Arrays | None = None, layout: Layout | None = None) -> PeftModule:
        """Make the module of global rounds of given parameters.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            Those that are sent, all of them; what belongs to the private module is left out.
        kept : mapping of str to ndarray, optional
            Of the others, what a site has kept; what is missing is as it was at first.
        layout : mapping of str to ndarray of int64, optional
            How they are laid out; as at first where nothing is said of it.

        Raises
        ------
        ValueError
            When they do not fit the module, or the layout fits neither.
        """
        module = self.new_shared(layout)
        sent = self.algorithm.sent(module, self.options)
        own = {name: value for name, value in parameters_of(module).items() if name not in sent}
        # What a site kept fills the gaps of what is not sent, and no other: else a message that lacks a parameter that
        # is sent would be answered with the site's own.
        own |= {name: value for name, value in to_tensors(kept or {}).items() if name in own}
        common = {name: value for name, value in arrays.items() if name not in self.sent_in_personal_rounds}
        load_parameters(module, own | to_tensors(common))
        return module

    def split(self, module: PeftModule) -> tuple[Named, Named]:
        """Return the arrays of a shared module that are sent, and those that its site keeps."""
        return _apart(module, self.algorithm.sent(module, self.options))

    def facts(self, labels: torch.Tensor | None = None, brief: Mapping[str, torch.Tensor] | None = None) -> Facts:
        """Return what the method may know: with a site's labels, shape (N,), its own counts, and the server's brief."""
        classes = len(self._federation.source.class_names)
        counts = None if labels is None else torch.bincount(labels, minlength=classes)
        prior = None if self._federation.own else torch.from_numpy(self._federation.train_counts).to(self.device)
        groups = None if labels is None else self._groups()
        return Facts(counts, prior, self.host.zero_shot_text, brief or {}, groups)

    def _groups(self) -> torch.Tensor:
        federation = self._federation
        groups = torch.zeros(len(federation.train_counts), dtype=torch.int64)
        for number, name in enumerate(GROUPS):
            groups[federation.group(federation.train_counts)[name]] = number
        return groups.to(self.device)

    def models(
        self,
        shared: PeftModule,
        private: PeftModule | None = None,
        memory: Arrays | None = None,
        preference: tuple[float, ...] | None = None,
    ) -> Models:
        """Return what there is to predict with; ``memory`` as a site keeps it."""
        remembered = self._tensors(memory or {})
        zero_shot = self.zero_shot(shared.takes)
        return Models(shared, private, remembered, self.options, zero_shot, preference, self._shared_at)

    def _shared_at(self, values: Mapping[str, torch.Tensor]) -> PeftModule:
        module = self.new_shared()
        load_parameters(module, values)
        return module

    @cache  # noqa: B019  # one kit lives as long as its process
    def zero_shot(self, takes: Takes) -> PeftModule:
        """Return zero-shot CLIP on what modules are given, without parameters; the same module every time."""
        return ZeroShot(self.host, takes)

    def _tensors(self, arrays: Arrays) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(value, device=self.device) for name, value in arrays.items()}  # copies

    def memory(self, module: PeftModule, kept: Arrays, facts: Facts) -> Memory:
        """Return what a site remembers of the method: what it kept, else what the method begins with."""
        first = {} if self.algorithm.memory is None else self.algorithm.memory(parameters_of(module), facts)
        return first | self._tensors(kept)

    def bias(self, facts: Facts) -> torch.Tensor | None:
        """Return what the method adds to logits in predictions, shape (C,); None where it adds nothing."""
        return None if self.algorithm.bias is None else self.algorithm.bias(facts, self.options)


def _apart(module: PeftModule, sent: Collection[str]) -> tuple[Named, Named]:
    """Return the arrays of a module that are sent, and those that are not."""
    arrays = {name: value.cpu().numpy() for name, value in parameters_of(module).items()}
    return (
        {name: value for name, value in arrays.items() if name in sent},
        {name: value for name, value in arrays.items() if name not in sent},
    )
