"""The form of what the files of a run folder hold, key by key; further keys are nobody's business here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedpurel_app.reporting.table_schemas import Whole

Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
Mean = Annotated[float, Field(ge=-1e39, le=1e39, allow_inf_nan=False)] | None  # of training: a run that diverges, too
Score = Number | None  # what is NaN where it is computed is null in a file
Count = Annotated[int, Field(ge=0, le=2**53)]


class _Object(BaseModel):
    """An object whose further keys are nobody's business here."""

    model_config = ConfigDict(
        strict=True, extra="allow", alias_generator=lambda name: name.rstrip("_").replace("_", "-")
    )


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Scores(_Plain):
    """Of one model: accuracies, calibration errors and F1 in percent, ``nll`` in nats; None where it is not known."""

    __pydantic_extra__: dict[str, Score]
    all: Score
    many: Score
    medium: Score
    few: Score
    balancedness: Score
    worst_class: Score = None
    worst_site: Score = None
    macro_f1: Score = None
    tail_as_head: Score = None
    ece: Score = None
    ece_many: Score = None
    ece_few: Score = None
    nll: Score = None


class Seconds(_Plain):
    """Wall time by part."""

    __pydantic_extra__: dict[str, Score]
    total: Score


class AtSites(_Plain):
    """Scores of the models at the sites."""

    zero_shot: Scores | None = None
    global_: Scores | None = Field(None, alias="global")
    personalized: Scores | None = None


class Worth(_Plain):
    """Means over sites of what their fronts are worth, on one curve."""

    hypervolume: Score
    sparsity: Score
    own_range: Score
    all_range: Score


class Choice(_Plain):
    """Which round's model is the best."""

    round: Count
    value: Number


class Moved(_Plain):
    """A learned token that went from a block to another."""

    token: Count
    from_: Count = Field(alias="from")
    to: Count


class Relocation(_Plain):
    """Where learned tokens are after a global round: how many before each block."""

    tokens: Annotated[list[Count], Field(min_length=1, max_length=1000)]
    most_idle: Mean = None
    moved: Moved | None = None
    last_move_helped: bool | None = None


class Round(_Plain):
    """A line of ``rounds.jsonl``."""

    round: Count
    phase: Literal["start", "global", "personal", "evaluation"]
    total_rounds: Count
    seconds: Seconds
    zero_shot: Scores | None = None
    global_: Scores | None = Field(None, alias="global")
    tkl: Score = None
    sites: AtSites | None = None
    validation: AtSites | None = None
    fronts: dict[str, Worth] = {}
    best: dict[str, Choice] = {}
    cohort: list[str] | None = None
    usable: list[str] | None = None
    dropped: list[tuple[str, str]] | None = None
    kept_old_model: bool | None = None
    private_restarted: list[str] = []
    train: dict[str, Mean] | None = None
    privacy: dict[str, Score] = {}
    trust: dict[str, Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]] = {}
    relocation: Relocation | None = None
    clusters: dict[str, list[str]] = {}
    bytes_up: Count | None = None
    bytes_down: Count | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Round:
        needed = ("cohort", "usable", "dropped", "kept_old_model", "train", "bytes_up", "bytes_down")
        if self.round and (lacking := [name for name in needed if getattr(self, name) is None]):
            raise ValueError(f"lacks {', '.join(lacking)}")
        if (self.round == 0) != (self.phase == "start"):
            raise ValueError("has a phase that does not fit its number")
        return self


class Settings(_Object):
    """The settings that readers use of ``config.json``; whoever runs with them checks all."""

    __pydantic_extra__: dict[str, bool | int | float | str]
    algorithm: str
    peft: str
    dataset: str
    dataset_path: str
    classes: str
    imbalance_factor: Number
    partition: str
    alpha: Number
    private_weight: Number
    balancedness_power: Number
    balancedness_sigma: Number
    seed: Count


class Config(_Plain):
    """``config.json``."""

    config: Settings
    data: str


class Site(_Plain):
    """What the roster of a checkpoint says of a site."""

    model_config = ConfigDict(strict=True, extra="forbid")
    site: str
    num_examples: Count
    partitions: Count
    device: str
    class_counts: list[Count] = []
    edge: str = ""
    test_examples: Count = 0
    validation_examples: Count = 0


class Account(_Plain):
    """What a checkpoint says of the privacy that was spent, beside what the strategy keeps for itself."""

    spent: dict[str, Score] = {}
    if_cut_off: dict[str, Score] = {}


class State(_Plain):
    """``state.json``."""

    round: Count
    roster: dict[str, Site | None]
    private_rounds: dict[str, Count]
    failed_in_a_row: Count
    experiment_id: str
    attempt: Count = 1
    privacy: Account | None = None
    best: dict[str, Choice] = {}
    seconds: Score


class Spent(_Plain):
    """What a run spent of its privacy."""

    kind: str
    epsilon: Score
    delta: Score
    releases: Count | None


class Balancedness(_Plain):
    """How Balancedness was computed."""

    power: Number
    sigma: Number


class BestScores(Scores):
    """Test scores of the round that was chosen."""

    round: Count
    validation: Score = None


class Best(_Plain):
    """What was chosen; without ``select_by``, by an older version, on test data."""

    select_by: str | None = None
    global_: BestScores | None = Field(None, alias="global")
    global_at_sites: BestScores | None = None
    personalized: BestScores | None = None


class Summary(_Plain):
    """``summary.json``."""

    outcome: Literal["completed", "failed", "stopped"]
    error: str | None = None
    seed: Count = 0
    rounds: Count = 0
    zero_shot: Scores | None = None
    global_: Scores | None = Field(None, alias="global")
    global_at_sites: Scores | None = None
    personalized: Scores | None = None
    fronts: dict[str, Worth] = {}
    reasons: dict[str, str] = {}
    best: Best | None = None
    balancedness_is: Balancedness | None = None
    seconds: Seconds | None = None
    privacy: Spent | None = None
    private_restarted: list[str] = []
    dropped_replies: Count = 0
    bytes_up: Count = 0
    bytes_down: Count = 0


class Partition(_Plain):
    """``partition.json``; ``train_by_class`` has for each site the training images of the classes that it has."""

    sha256: str
    train_counts: list[Count] = []
    train_by_class: list[dict[Whole, Count]] = []
    site_names: list[str] = []

    @model_validator(mode="after")
    def _knows_its_classes(self) -> Partition:
        classes = len(self.train_counts)
        if any(int(label) >= classes for counts in self.train_by_class for label in counts):
            raise ValueError(f"counts images of a class beyond the {classes} that there are")
        return self


class Launch(_Object):
    """``launch.json``."""

    cpus_per_site: Annotated[int, Field(ge=1, le=10_000)] = 1
    gpus_per_site: Annotated[float, Field(ge=0, le=1000)] | None = None
