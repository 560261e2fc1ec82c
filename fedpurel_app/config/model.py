"""Every key of a run with its meaning, range and default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, create_model, field_validator
from pydantic_core import PydanticCustomError

from fedpurel_app.algorithms.balancers.registry import BALANCERS
from fedpurel_app.algorithms.registry import METHODS, trusts
from fedpurel_app.compression.registry import COMPRESSIONS
from fedpurel_app.core.names import SAFE_NAME, is_printable, split_names
from fedpurel_app.core.options import Count, Fraction, NotNegative, Number, Option, Owner, Positive, readers
from fedpurel_app.core.phase import Phase, phase_round
from fedpurel_app.models.peft.registry import FAMILIES

Auto = Literal["auto"]
_TEXT, _LONG_TEXT = 4096, 1_000_000  # characters of a value, and of the one that names all classes


def key_of(name: str) -> str:
    """Turn an attribute's name into its key."""
    return name.replace("_", "-")


def _field(default: Any, meaning: str, section: str = "") -> Any:
    """Declare a key: its default, what the comment beside it says, and the heading it opens."""
    return Field(default, description=meaning, json_schema_extra={"section": section} if section else None)


class CommonConfig(BaseModel):
    """The keys of all methods and families. Attributes are the keys with underscores for hyphens."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", alias_generator=key_of)

    algorithm: str = _field("fedpurel", " | ".join(METHODS), "Method")
    balancer: str = _field("none", f"of classes, on any method: {' | '.join(BALANCERS)}")
    peft: str = _field("prompt", " | ".join(FAMILIES))
    backbone: str = _field(
        "demo",
        "frozen CLIP: demo (comes with this package) | an open_clip name, as ViT-B-16 | hf-hub:OWNER/NAME",
        "Backbone",
    )
    pretrained: str = _field(
        "openai", "its weights: a checkpoint (.safetensors, .pt), or an open_clip tag; not for demo"
    )
    precision: Literal["fp32", "bf16", "fp16-autocast"] = _field(
        "fp32", "of the frozen towers: fp32 | bf16 | fp16-autocast"
    )

    dataset: Literal[
        "shapes",
        "features",
        "imagefolder",
        "manifest",
        "cifar10",
        "cifar100",
        "imagenet-lt",
        "places-lt",
        "food101",
        "dtd",
        "aircraft",
        "stanford-dogs",
        "oxford-pets",
        "sites",
    ] = _field(
        "shapes",
        "shapes | features | imagefolder | manifest | cifar10 | cifar100 | imagenet-lt | places-lt | food101 | dtd | "
        "aircraft | stanford-dogs | oxford-pets | sites (each brings its own)",
        "Data",
    )
    classes: str = _field(
        "", "sites: the federation's class names in order, after commas (after semicolons, where a name has a comma)"
    )
    dataset_path: str = _field(
        "", "its folder, .npz file (features) or table (manifest); empty = from the hub, where it is there"
    )
    path_column: str = _field("path", "manifest: column of the images' paths")
    label_column: str = _field("label", "manifest: column of class names, or of numbers with classes")
    split_column: str = _field("split", "manifest: column of train | validation | test; none: a fifth is held out")
    site_column: str = _field("site", 'manifest: column of sites, for partition = "natural"')
    image_root: str = _field("", "manifest: folder that relative paths begin at; empty = that of the table")
    template: str = _field("auto", 'zero-shot prompt with "{}" for the class name; auto = the data set\'s own')
    image_statistics: Literal["clip", "cifar"] = _field(
        "clip", "mean and deviation of the image transform: CLIP's own | CIFAR's (reference code)"
    )
    augment: Literal["none", "views", "crop-flip"] = _field(
        "none", "training images: none | one of `views` frozen random crops | a fresh crop each time, not cached"
    )
    views: Count = _field(4, "augment = views: how many of every image")
    imbalance_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = _field(
        100.0, "largest over smallest class of the long-tail profile, >= 1; 1 keeps the split as it is"
    )
    max_per_class: Number = _field(0, "training images of the largest class; 0 = the split's mean class size")
    shots: Number = _field(
        0, "training images of each class, drawn by seed, at most; in the place of the long-tail profile; 0 = off"
    )
    novel_classes: str = _field(
        "", "classes, after commas, that are not trained on, and scored as new ones; empty = none"
    )
    class_order: Literal["index", "shuffled"] = _field("index", "class ranks, head to tail: index | shuffled (by seed)")
    keep_empty_classes: bool = _field(False, "let tail classes drop to no image, as the reference code does")
    group_by: Literal["auto", "counts", "terciles"] = _field(
        "auto", "Many/Medium/Few by counts (> 100, > 20 images) or terciles; auto = as the data set has it"
    )
    partition: Literal["dirichlet", "pachinko", "iid", "natural"] = _field(
        "dirichlet", "dirichlet | pachinko | iid | natural (manifest: by its column of sites)"
    )
    alpha: Positive = _field(1.0, "Dirichlet concentration, > 0; small = each class lives at few sites")
    local_test: Literal["matched", "uniform"] = _field(
        "matched", "a site's test part: matched to its class proportions | uniform over classes (dirichlet only)"
    )

    evaluate_on: Literal["test", "validation"] = _field(
        "test", "test | validation, to choose settings by: its own split, or a quarter of each class's training images"
    )
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = _field(
        0.0, "share of a site's training images, by class, kept for validation, [0, 0.5]; docs: 0.1; 0 = none (paper)"
    )

    num_sites: Number = _field(0, "sites to wait for; 0 = one site per connected node", "Federation")
    suggested_sites: Count = _field(20, "sites the numbers in the docs are for; fewer nodes print how to get them")
    fraction_train: Fraction = _field(0.4, "share of the sites that train in a round, (0, 1]")
    full_first_round: bool = _field(False, "let all sites train in the first round of each phase")
    schedule: Literal["two-phase", "interleaved"] = _field("two-phase", "two-phase (paper) | interleaved (reference)")
    global_rounds: Number = _field(40, "rounds of phase 1")
    personal_rounds: int = Field(
        default=-1, ge=-1, description="rounds of phase 2; -1 = as many as global ones (interleaved: always as many)"
    )
    min_replies: Count = _field(1, "usable replies below which a round keeps the old model")
    max_failed_rounds: Count = _field(3, "such rounds in a row that stop the run")
    round_timeout: Positive = _field(3600.0, "seconds to wait for the replies of a round")

    aggregation: Literal["mean", "median", "trimmed-mean", "norm-clipping"] = _field(
        "mean",
        "of updates: mean (by numbers of images) | median | trimmed-mean | norm-clipping",
        "Aggregation",
    )
    compression: str = _field("none", f"of a site's replies in global rounds: {' | '.join(COMPRESSIONS)}")
    trim_share: Annotated[float, Field(gt=0, lt=0.5)] = _field(
        0.2, "trimmed-mean: share of the replies cut off at both ends, (0, 0.5)"
    )
    privacy: Literal["none", "server-fixed", "server-adaptive", "client-fixed", "client-adaptive", "local"] = _field(
        "none", "of global rounds: none | server-fixed | server-adaptive | client-fixed | client-adaptive | local"
    )
    clipping_norm: Positive = _field(
        1.0, "norm-clipping, privacy: largest Euclidean norm of an update; adaptive: of the first round"
    )
    noise_multiplier: Positive = _field(1.0, "privacy at server or client: noise over clipping norm")
    delta: Annotated[float, Field(gt=0, lt=1)] = _field(1e-5, "privacy fixed or local: of (epsilon, delta)")
    local_epsilon: Fraction = _field(1.0, "privacy = local: of every single reply, (0, 1]")

    trust: Literal["auto", "none", "predictions"] = _field(
        "auto",
        "weigh replies: none | predictions (by how their models predict on public probes; our reading of ELSA) | auto "
        "= predictions with algorithm = elsa, else none",
    )
    trust_tolerance: Annotated[float, Field(ge=1, allow_inf_nan=False)] = _field(
        10.0, "trust: c, times the median distance from which on a reply loses weight, >= 1"
    )
    probe_path: str = _field(
        "", "trust, clusters, fingerprints: folder of public images to probe with; empty = as the family needs them"
    )

    local_epochs: Count = _field(1, "passes over a site's data per visit", "Training")
    local_steps: Number = _field(0, "steps per visit, in the place of local-epochs; 0 = by epochs")
    batch_size: Count = _field(32, "images per step; a site with fewer uses what it has")
    drop_last: bool = _field(True, "drop the last partial batch of a pass, where there is a full one")
    learning_rate: Auto | Positive = _field("auto", "SGD, shared parameters; auto = the family's own")
    momentum: Annotated[float, Field(ge=0, lt=1)] = _field(0.9, "SGD, shared parameters, [0, 1); zero at every visit")
    weight_decay: NotNegative = _field(5e-4, "SGD, shared parameters")
    private_learning_rate: Auto | Positive = _field("auto", "SGD, private branch; auto = the family's own")
    private_init: Literal["independent", "global"] = _field(
        "global", "first private branch: a draw of its own | a copy of the global parameters"
    )

    evaluate_every: Count = _field(
        10, "rounds between evaluations; the last round of a phase is always evaluated", "Reporting"
    )
    select_by: Literal["all", "few", "balancedness", "macro-f1"] = _field(
        "all", "score on validation parts that says which round's model is best: all | few | balancedness | macro-f1"
    )
    balancedness_power: Positive = _field(1.0, "p of Balancedness")
    balancedness_sigma: Positive = _field(0.1, "sigma of Balancedness")
    share_class_counts: Auto | bool = _field(
        "auto", "sites send per-class test counts: true | false (totals) | auto = in simulation only"
    )
    console: Literal["brief", "flower"] = _field("brief", "brief = one line per round | flower = Flower's lines too")
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = _field("none", "none | tensorboard | wandb | mlflow")

    seed: Annotated[int, Field(ge=0, lt=2**63)] = _field(0, "fixes data, sites, cohorts and every draw", "Run")
    device: Literal["auto", "cpu", "cuda"] = _field("auto", "auto = cuda where there is one")
    out: str = _field("", "run folder, an absolute path; empty = a dated folder under ~/fedpurel/runs")
    experiment_id: str = Field(
        default="", pattern=f"^({SAFE_NAME})?$", description="names private branches; empty = made anew"
    )
    state_dir: str = _field("", "simulation: folder of private branches; empty = in the run folder")
    resume_from: str = _field("", "run folder to continue, an absolute path")

    @field_validator("*")
    @classmethod
    def _is_a_line(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse text that is no printable line: at a site it comes from the server, and reaches its log."""
        most = _LONG_TEXT if info.field_name in ("classes", "novel_classes") else _TEXT
        if isinstance(value, str) and (len(value) > most or not is_printable(value)):
            raise PydanticCustomError(
                "text", "Input should be one line of at most {most} printable characters", {"most": most}
            )
        return value

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names in ``classes``."""
        return split_names(self.classes)

    @property
    def novel_names(self) -> tuple[str, ...]:
        """The names in ``novel-classes``."""
        return split_names(self.novel_classes)

    @property
    def trusts(self) -> bool:
        """Whether replies are weighed by how their models predict."""
        return trusts({"trust": self.trust, "algorithm": self.algorithm})

    @property
    def total_rounds(self) -> tuple[int, int]:
        """Global and personal rounds, with "as many" spelt out; as many as the method has a use for."""
        if not METHODS[self.algorithm].trains:
            return 0, 0
        if not METHODS[self.algorithm].personal_rounds:
            return self.global_rounds, 0
        if self.schedule == "interleaved" or self.personal_rounds < 0:
            return self.global_rounds, self.global_rounds
        return self.global_rounds, self.personal_rounds

    def progress(self, phase: Phase, number: int) -> float:
        """Return the share of a phase's rounds that lie behind when a round begins, in [0, 1).

        Parameters
        ----------
        phase : Phase
        number : int
            Of the round, from 1; one that lies beyond the run's own counts as the last.
        """
        count = self.total_rounds[phase is Phase.PERSONAL]
        done = phase_round(number, self.global_rounds, self.schedule == "interleaved") - 1
        return min(done, count - 1) / count if count else 0.0


REGISTRIES: Mapping[str, Mapping[str, Owner]] = {  # by the key that chooses
    "algorithm": METHODS,
    "balancer": BALANCERS,
    "peft": FAMILIES,
    "compression": COMPRESSIONS,
}


def _of_owners(option: Option, names: list[str]) -> Any:
    """Declare an option of methods, balancers or families, whose names stand before its meaning."""
    return option.kind, Field(
        option.default, description=f"{', '.join(names)}: {option.meaning}", json_schema_extra={"section": "Method"}
    )


def _declared() -> dict[str, Any]:
    """Declare what the registries hold: what there is to choose, and the options of each choice."""
    fields = {key: (Literal[tuple(known)], CommonConfig.model_fields[key]) for key, known in REGISTRIES.items()}
    for registry in REGISTRIES.values():
        for option in (option for owner in registry.values() for option in owner.options):
            fields[option.key.replace("-", "_")] = _of_owners(option, readers(registry, option.key))
    return fields


if TYPE_CHECKING:
    RunConfig = CommonConfig
else:
    RunConfig = create_model(
        "RunConfig",
        __base__=CommonConfig,
        __module__=__name__,
        __doc__="Checked settings: the common keys, and those that methods and families own.",
        **_declared(),
    )


def default_settings() -> dict[str, Any]:
    """Return every key at its default."""
    return {str(field.alias): field.default for field in RunConfig.model_fields.values()}
