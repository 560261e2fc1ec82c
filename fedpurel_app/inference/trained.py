"""The models that a run left behind: the global one of its checkpoint, and a site's personalized one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedpurel_app.algorithms.base import Facts, Models
from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.core.errors import ConfigError, LockedError, StateError, UnusableBranchError
from fedpurel_app.core.files import home
from fedpurel_app.core.fronts import preference_of
from fedpurel_app.data.sources.source import Source
from fedpurel_app.experiment import Experiment
from fedpurel_app.inference.class_file import kept_classes
from fedpurel_app.inference.other_classes import OtherClasses
from fedpurel_app.inference.run_settings import run_settings
from fedpurel_app.models.peft.base import Logits, PeftModule, Role, summed
from fedpurel_app.models.peft.pareto import Pareto
from fedpurel_app.models.peft.scaled import Scaled
from fedpurel_app.reporting.checkpoint import Which
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.site.private_store import PrivateStore
from fedpurel_app.site.sealing import read_key
from fedpurel_app.site.state import PrivateState

_WHY = {  # by the reason of an UnusableBranchError; a folder follows
    "absent": "is not in",
    "damaged": "is damaged, in",
    "older-version": "was written by an older version of this app, in",
    "newer-version": "was written by a newer version of this app, in",
    "foreign": "is of another experiment, site or round, in",
}


@dataclass(frozen=True)
class TrainedModel:
    """The global model, or a site's personalized one.

    Attributes
    ----------
    experiment : Experiment
        What the run's settings determine.
    branches : dict of {"global", "zero-shot", "private"} to PeftModule
        Modules whose logits add up: which, the method says.
    experiment_id : str
    round : int
        Of the checkpoint.
    site : str
        Empty for the global model.
    bias : Tensor, shape (C,), or None
        What the method adds to the logits.
    run : Path
        The folder of its run.
    note : str
        What is to be known of classes that the run did not know; else empty.
    preference : tuple of float
        That was asked for; else empty.
    """

    experiment: Experiment
    branches: dict[Role, PeftModule]
    experiment_id: str
    round: int
    site: str = ""
    bias: Tensor | None = None
    run: Path = Path()
    note: str = ""
    preference: tuple[float, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, length C."""
        return self.experiment.kit.host.class_names

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Compute logits, shape (B, C), from what the branches take: features, uint8 pixels or patches."""
        total = self._sum(inputs)
        return total if self.bias is None else total + self.bias

    @cached_property
    def _sum(self) -> Logits:
        return summed(list(self.branches.values()))


def load_trained(
    run: Path,
    site: str = "",
    state_dir: Path | None = None,
    key_file: Path | None = None,
    pretrained: Path | None = None,
    checkpoint: Which = "last",
    classes: Sequence[str] = (),
    preference: Sequence[float] = (),
) -> TrainedModel:
    """Load what a run trained.

    Parameters
    ----------
    run : Path
        A run folder.
    site : str
        Name of a site, for its personalized model; empty for the global one.
    state_dir : Path, optional
        Folder of private branches: at a real site its ``state-dir``. In a simulation it is found by itself.
    key_file : Path, optional
        The key that the site encrypts its private branch with.
    pretrained : Path, optional
        The backbone's weights on this machine, where they are not at the run's own path.
    checkpoint : {"last", "best"}
        The model of the last round, or of the one that validation data chose: of the global model alone, for sites keep
        the private branches of their last rounds.
    classes : sequence of str
        Names to tell apart in the place of the run's: see :mod:`fedpurel_app.inference.other_classes`.
    preference : sequence of float
        Among the losses of a method that has several, as :func:`fedpurel_app.core.fronts.preference_of` takes it; by
        default that for the site's own mix of classes.

    Returns
    -------
    TrainedModel

    Raises
    ------
    StateError
        When the folder holds no run, no checkpoint or no best one, the data set now has other classes, there is no such
        site or private branch, it is encrypted with another key, or no place but the sites has the whole global model.
    ConfigError, DataError
        When arguments are at odds, the model cannot go with other classes, or the backbone is not to be had any more;
        nor the data set, of a run that is older than ``classes.json``.
    """
    if (state_dir or key_file) and not site:
        raise ConfigError("--state-dir and --key-file are for a site's private branch: name the site, --site NAME.")
    if preference and not site:
        raise ConfigError("--preference is for a site's personalized model: name the site, --site NAME.")
    if site and checkpoint == "best":
        raise ConfigError(
            "--checkpoint best is for the global model: of its private branch, a site keeps the last rounds alone. "
            "Drop it, or drop --site."
        )
    folder = RunFolder.open(run)
    config = run_settings(folder, pretrained)
    arrays, state, layout = folder.read_model(checkpoint)
    kept_source = kept_classes(folder)
    other = _other(run, kept_source, classes)
    experiment = Experiment(config, home() / "cache", source=other.renamed() if other else kept_source)
    stored = PrivateState()
    if site:
        root = state_dir or (Path(config.state_dir) if config.state_dir else folder.path / "private")
        stored = _private_state(state, site, root, key_file, experiment)
    if kept_source is None:  # a run of before classes were kept: its data set is asked
        _refuse_other_classes(folder, experiment)
    if other is not None:
        arrays, stored = other.fitted(arrays, stored, config, home() / "cache")
    try:
        shared = experiment.kit.shared_module(arrays, stored.kept, layout)
        private = experiment.kit.private_module(arrays, stored.branch, layout=stored.memory) if stored.branch else None
    except ValueError as error:
        raise StateError(f"{run}: what was trained does not fit the run's own settings ({error}).") from error
    asked = _preference(experiment, preference)
    algorithm, models = experiment.kit.algorithm, experiment.kit.models(shared, private, stored.memory, asked)
    if not site and not algorithm.is_known(shared, experiment.kit.options):
        raise StateError(
            f"{run}: every site keeps a part of the global model to itself, and no place has the whole of it. Use a "
            f"site's model: --site NAME, of {_listed(state['private_rounds'])}."
        )
    model = algorithm.personalized(models) if site and algorithm.personalized else algorithm.global_model(models)
    bias = _bias(folder, experiment)
    branches: dict[Role, PeftModule] = {}
    for number, part in enumerate(model):
        if isinstance(part, Pareto):  # from here on a module of the family like any other, and a bias
            into = experiment.kit.new_module("private", **experiment.kit.laid_out(stored.memory))
            bias = part.settle(into)
            branches["private"] = into
        else:
            branches[_role(part, models, number)] = part
    return TrainedModel(
        experiment, branches, str(state["experiment_id"]), int(state["round"]), site, bias, run,
        other.note(arrays) if other else "", () if asked is None else asked,
    )  # fmt: skip


def _preference(experiment: Experiment, asked: Sequence[float]) -> tuple[float, ...] | None:
    """Return the preference that is asked for; raises ConfigError where the method has none to ask for."""
    kit = experiment.kit
    if not asked:
        return None
    if kit.algorithm.front is None:
        able = " or ".join(f'"{name}"' for name, one in METHODS.items() if "preferences" in one.keys)
        raise ConfigError(
            f'--preference: the run\'s algorithm = "{kit.method.name}" has one model for each site, and nothing to '
            f"prefer. Drop it, or take a run with algorithm = {able}."
        )
    return preference_of(asked, kit.options["preferences"])


def _other(run: Path, source: Source | None, classes: Sequence[str]) -> OtherClasses | None:
    if not classes:
        return None
    if source is None:
        raise StateError(f"{run} has no classes.json: it was made by an older version. Run it again with this one.")
    return OtherClasses(source, tuple(classes))


def _role(part: PeftModule, models: Models, number: int) -> Role:
    """Tell which part of a model a module is."""
    module = part.shared if isinstance(part, Scaled) else part
    if module is models.zero_shot:
        return "zero-shot"
    return "private" if module is models.private or number else "global"


def _bias(folder: RunFolder, experiment: Experiment) -> Tensor | None:
    """Return what the method adds to logits, by the counts of classes that the run wrote down."""
    if experiment.kit.algorithm.bias is None:
        return None
    counts = None
    if (folder.path / "partition.json").is_file():
        counts = torch.tensor(folder.read_json("partition.json")["train_counts"], device=experiment.kit.device)
    try:
        return experiment.kit.bias(Facts(prior=counts))
    except ValueError as error:
        raise StateError(
            f"{folder.path} has no partition.json, and with it no class counts, by which this run's predictions are "
            "adjusted."
        ) from error


def _private_state(
    state: Mapping[str, Any], site: str, root: Path, key_file: Path | None, experiment: Experiment
) -> PrivateState:
    """Read the private state that the checkpoint knows of; errors speak of the command line, not of a node."""
    known, trained = state["roster"], state["private_rounds"]
    if site not in known:
        raise StateError(f'the run has no site "{site}"; its sites: {_listed(known)}.')
    kit = experiment.kit
    has_model = kit.method.personalizes or kit.algorithm.keeps_parts
    if site not in trained or not has_model:
        known = kit.algorithm.is_known(kit.new_shared(), kit.options)
        instead = "its model is the global one, without --site" if known else "it has no model yet"
        part = "part" if kit.algorithm.keeps_parts else "branch"
        raise StateError(
            f"{site} trained no private {part} up to round {state['round']}: {instead}. "
            f"Sites with one: {_listed(trained if has_model else ())}."
        )
    stamp, experiment_id = int(trained[site]), str(state["experiment_id"])
    key = read_key(key_file, "--key-file") if key_file else None
    store = PrivateStore(root, experiment_id, site, key=key)
    branch = f"The private branch of round {stamp} of {site}"
    try:
        return PrivateState.of(store.load(stamp))
    except LockedError as error:
        given = f"which is not that of {key_file}" if key_file else "and none was given"
        raise StateError(
            f"{branch} is encrypted with key {error.key}, {given}. Give the site's own: --key-file FILE."
        ) from error
    except UnusableBranchError as error:
        there = f" (there: {store.stamps() or 'none'})" if error.reason == "absent" else ""
        advice = "Name the folder where the site keeps its branches, or a restored backup of it: --state-dir DIR."
        if error.reason.endswith("version"):
            advice = "Use that version."
        place = root / experiment_id / site
        raise StateError(f"{branch} {_WHY[error.reason]} {place}{there}. {advice}") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _refuse_other_classes(folder: RunFolder, experiment: Experiment) -> None:
    """Refuse a data set that has changed since: a prediction would bear the wrong name."""
    then = [row["name"] for row in folder.read_csv("classes.csv")]
    now = list(experiment.federation.source.class_names)
    if then and then != now:
        odd = sorted(set(then) ^ set(now))[:3] or "their order"
        name = experiment.federation.source.name
        raise StateError(f"{name} now has other classes than in the run ({odd}): bring the old data back.")
