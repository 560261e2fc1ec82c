"""What a node says of itself, in its ``--node-config``: checked like the settings of the run."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedpurel_app.config.model import RunConfig, key_of
from fedpurel_app.config.text import known_keys
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.names import SAFE_NAME, split_names


def _absolute(path: str) -> str:
    """Expand "~", and refuse a path that depends on where a process was started."""
    if path and not Path(path).expanduser().is_absolute():
        raise ValueError("must be an absolute path: the processes that read it have folders of their own")
    return str(Path(path).expanduser()) if path else ""


def _names_of(key: str) -> AfterValidator:
    """Refuse names, separated by commas, that are no values of a key of the run."""

    def check(text: str) -> str:
        known = RunConfig.model_fields[key].annotation.__args__  # type: ignore[union-attr]
        if odd := [name for name in split_names(text) if name not in known]:
            raise ValueError(f"knows no {', '.join(odd)}: choose among {', '.join(known)}")
        return text

    return AfterValidator(check)


NodePath = Annotated[str, AfterValidator(_absolute)]
NODE_EXAMPLE = '--node-config \'site="hospital-a" data="/data/a" state-dir="/var/lib/fedpurel"\''
Column = Annotated[str, Field(min_length=1, max_length=200)]
Limit = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NodeConfig(BaseModel):
    """Checked settings of a node. Attributes are the keys with underscores for hyphens.

    Attributes
    ----------
    site : str
        Stable name of the site, 1 to 64 letters, digits, ".", "_" and "-".
    edge : str
        Where it belongs, a name like that of a site: those of one edge train together for some rounds in a run with
        ``edge-assignment = "node"``, which alone is told.
    data : str
        Its data, an absolute path as all others: with ``partition-id`` its copy of the run's data set, otherwise its
        own.
    image_root : str
    path_column, label_column, split_column, site_column : str
        Where its own data are a table of images: the folder that relative paths begin at, empty = that of the table,
        and the names of columns.
    state_dir : str
        Folder of its private branch and of its feature cache.
    pretrained : str
        Its copy of the backbone's weights.
    key_file : str
        File of the key that encrypts the private branch on disk; none: it lies there in the clear.
    private_fallback : {"refuse", "fresh"}
        What to do when the private branch that the server names is lost or damaged: answer with an error, or begin
        another.
    partition_id, num_partitions : int
        Its part of the run's data set; a simulation sets both. -1 and 0: none.
    simulation : bool
        The node exists inside a simulation on its user's own machine; what follows does not apply there.
    share_class_counts : bool
        False keeps class counts here, whatever the run asks for.
    scores : {"full", "totals", "global", "none"}
        What of its evaluations leaves: counts as the run asks for them, totals at most, totals without those of the
        personalized model, or nothing.
    metrics : {"full", "count"}
        What of its training leaves beside parameters: means over the steps of a global round, or its number of images.
    min_test_images : int
        Test images below which no score leaves.
    round_scores : int
        Scores leave rounded to multiples of this.
    calibration : {"full", "global", "none"}
        Of which models confidences and losses leave: of all that scores leave of, not of those with parts that the site
        keeps, or of none.
    share_log : {"none", "warnings", "all"}
        Which lines of its own log leave with its answers, and whether the text of an error does: of first contacts and
        of global rounds, never of what runs on a private part.
    text_split : bool
        Whether it serves runs with ``split = "text"``, whose gradients tell which classes it has, and more.
    algorithms, backbones : str
        Those that it serves, separated by commas; empty = all. A backbone that is named by a tag is downloaded.
    require_privacy : str
        Kinds of ``privacy`` of which a run must have one, separated by commas; empty = none is needed.
    max_clipping_norm, min_noise_multiplier : float
        What a run with privacy must keep to; under ``local`` the noise is what ``local-epsilon`` and ``delta`` make it.
    max_classes, max_local_epochs, max_steps, max_batch_size, max_views : int
    max_lora_rank, max_prompt_tokens, max_context_length : int
        The most that a run may ask for; steps are those of one visit.
    min_learning_rate, max_learning_rate : float
        Bounds of both learning rates.
    max_rounds, max_attempts, max_evaluations : int
        The highest round and attempt that it answers to, and how often it is scored, in each experiment.
    max_experiments, max_private_bytes : int
        How many experiments it keeps state of, and how much room all private branches may take.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", alias_generator=key_of)

    site: Annotated[str, Field(pattern=f"^{SAFE_NAME}$")] | None = None
    edge: Annotated[str, Field(pattern=f"^({SAFE_NAME})?$")] = ""
    data: NodePath = ""
    image_root: NodePath = ""
    path_column: Column = "path"
    label_column: Column = "label"
    split_column: Column = "split"
    site_column: Column = "site"
    state_dir: NodePath = ""
    pretrained: NodePath = ""
    key_file: NodePath = ""
    private_fallback: Literal["refuse", "fresh"] = "refuse"
    partition_id: int = -1
    num_partitions: int = 0
    simulation: bool = False

    share_class_counts: bool = True
    scores: Literal["full", "totals", "global", "none"] = "full"
    metrics: Literal["full", "count"] = "full"
    min_test_images: Annotated[int, Field(ge=0)] = 0
    round_scores: Limit = 1
    calibration: Literal["full", "global", "none"] = "global"
    share_log: Literal["none", "warnings", "all"] = "none"

    text_split: bool = False
    algorithms: Annotated[str, _names_of("algorithm")] = ""
    backbones: str = ""
    require_privacy: Annotated[str, _names_of("privacy")] = ""
    max_clipping_norm: Rate = 1e6
    min_noise_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    max_classes: Limit = 5000
    max_local_epochs: Limit = 100
    max_steps: Limit = 100_000
    max_batch_size: Limit = 8192
    max_views: Limit = 64
    max_lora_rank: Limit = 256
    max_prompt_tokens: Limit = 512
    max_context_length: Limit = 64
    min_learning_rate: Rate = 1e-7
    max_learning_rate: Rate = 1e4
    max_rounds: Limit = 2000
    max_attempts: Limit = 200
    max_evaluations: Limit = 500
    max_experiments: Limit = 1000
    max_private_bytes: Limit = 10 * 10**9

    @property
    def has_part(self) -> bool:
        """Whether the node is given a part of a data set that is dealt out."""
        return self.num_partitions > 0 or self.partition_id >= 0


def load_node_config(values: Mapping[str, Any]) -> NodeConfig:
    """Check a node's settings.

    Parameters
    ----------
    values : mapping
        Flower's ``context.node_config``. Keys that are not ours are left alone, unless they look misspelt.

    Raises
    ------
    ConfigError
        Naming everything that is wrong.
    """
    known = [key_of(name) for name in NodeConfig.model_fields]
    problems = [
        f"{key} belongs to the settings of the run, not to a node; data of the node are named by `data`."
        for key in values
        if key not in known and key in known_keys()
    ]
    problems += [
        f'unknown key "{key}" in the node config. Did you mean "{near[0]}"?'
        for key in values
        if key not in known and (near := difflib.get_close_matches(key.replace("_", "-"), known, 1, 0.8))
    ]
    node = NodeConfig()
    try:
        node = NodeConfig.model_validate(dict(values))
    except ValidationError as error:
        for one in error.errors():
            key = str(one["loc"][0])
            problems.append(f"{key} = {values[key]!r} in the node config: {one['msg'].removeprefix('Value error, ')}.")
    if node.has_part and not 0 <= node.partition_id < node.num_partitions:
        problems.append(
            f"partition-id = {node.partition_id}, num-partitions = {node.num_partitions}: a node is given both, the "
            "first from 0 to the second minus 1."
        )
    columns = sorted(key for key in map(key_of, node.model_fields_set) if key.endswith("-column"))
    if node.has_part and columns:
        problems.append(
            f"{', '.join(columns)}: a node that takes a part of the run's data set reads it as the run says; drop it."
        )
    if node.min_learning_rate > node.max_learning_rate:
        problems.append(
            f"min-learning-rate = {node.min_learning_rate:g} is above max-learning-rate = {node.max_learning_rate:g}: "
            "no run could ever be served."
        )
    if not node.has_part and not problems and not (node.site and node.data):
        problems.append(
            f"This node has no part in the data: start it with {NODE_EXAMPLE} for data of its own, or with "
            "'partition-id=0 num-partitions=3' (its number, and how many there are) for a part of the run's data set."
        )
    if problems:
        raise ConfigError(problems)
    return node
