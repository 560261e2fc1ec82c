"""The wire format, in one place: arrays, counts and instructions to Flower records and back. numpy and flwr alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from fedpurel_app.metrics import ClassCounts

ARRAYS, METRICS, CONFIG = "arrays", "metrics", "config"
NUM_EXAMPLES = "num-examples"
RESTARTED = "private-restarted"  # 1 in the reply of a site that had to begin a fresh private branch
DESCRIBE, PERSONALIZE = "query.describe", "train.personalize"
PRIVACY, PRIVACY_MOD = "privacy", "mod"  # a reply's record, and the key that names the client's privacy mod
MODELS = ("zero-shot", "global", "personalized")

Arrays = Mapping[str, npt.NDArray[Any]]


def to_array_record(arrays: Arrays) -> ArrayRecord:
    """Pack arrays by name."""
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in arrays.items()})


def to_arrays(record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    """Unpack arrays by name; raises ValueError when the bytes are not what they claim to be."""
    arrays = {name: array.numpy() for name, array in record.items()}
    for name, value in arrays.items():
        if value.shape != tuple(record[name].shape) or str(value.dtype) != record[name].dtype:
            raise ValueError(
                f"{name} claims {record[name].dtype}{tuple(record[name].shape)}, is {value.dtype}{value.shape}"
            )
    return arrays


@dataclass(frozen=True)
class Instruction:
    """What the server tells a site with every message, beside the arrays.

    Attributes
    ----------
    phase : str
        "global" or "personal".
    round : int
        Round of the schedule, from 1; the same in a resumed run.
    experiment_id : str
        Names the private branches.
    private_round : int
        Round of the private branch to start from or to score; 0 = none yet.
    simulation_dir : str
        Folder for private branches. A site obeys only inside a simulation.
    attempt : int
        1 for a new run, one more for every resumption; 0 = not counted. A site refuses a lower one than it has seen.
    token : str
        Drawn by the server at each start. A site refuses another one of the same attempt: it is another run.
    """

    phase: str
    round: int
    experiment_id: str
    private_round: int = 0
    simulation_dir: str = ""
    attempt: int = 0
    token: str = ""

    def to_config(self) -> ConfigRecord:
        """Pack."""
        return ConfigRecord({name.replace("_", "-"): value for name, value in asdict(self).items()})

    @classmethod
    def from_config(cls, record: Mapping[str, Any]) -> Instruction:
        """Unpack; raises ValueError when something is missing or of the wrong type."""
        values = {one.name: record.get(one.name.replace("_", "-"), one.default) for one in fields(cls)}
        kinds = {one.name: int if one.type == "int" else str for one in fields(cls)}
        wrong = [name for name, value in values.items() if not isinstance(value, kinds[name])]
        if wrong:
            raise ValueError(f"the server's message lacks {wrong}: server and site must run the same app version")
        return cls(**values)


@dataclass(frozen=True)
class Description:
    """What a site says of itself when it is first met.

    Attributes
    ----------
    site : str
        Stable name.
    num_examples : int
        Training images.
    partitions : int
        Number of sites the data set is dealt out to, when the site holds a part of a data set that the server can
        deal out too; 0 for a site with data of its own.
    device : str
        "cpu" or "cuda".
    class_counts : list of int
        Training images of every class; empty where the server knows them, or the site does not share them.
    """

    site: str
    num_examples: int
    partitions: int
    device: str
    class_counts: list[int] = field(default_factory=list)

    def to_config(self) -> ConfigRecord:
        """Pack."""
        return ConfigRecord({name.replace("_", "-"): value for name, value in asdict(self).items() if value != []})

    @classmethod
    def from_config(cls, record: Mapping[str, Any]) -> Description:
        """Unpack; raises ValueError when something is missing or of the wrong type."""
        values: dict[str, Any] = {one.name: record.get(one.name.replace("_", "-")) for one in fields(cls)}
        values["class_counts"] = list(values["class_counts"] or [])
        kinds = {"site": str, "num_examples": int, "partitions": int, "device": str, "class_counts": list}
        odd = [name for name, value in values.items() if not isinstance(value, kinds[name])]
        odd += [str(count) for count in values["class_counts"] if not isinstance(count, int) or count < 0]
        if odd or not values["site"]:
            raise ValueError(f"a site described itself as {values}")
        return cls(**cast(Any, values))


def counts_to_metrics(model: str, counts: ClassCounts, by_class: bool) -> dict[str, int | list[int]]:
    """Pack correct and total predictions of a model, by class or in all."""
    if by_class:
        return {f"{model}/correct": counts.correct.tolist(), f"{model}/total": counts.total.tolist()}
    return {f"{model}/correct": int(counts.correct.sum()), f"{model}/total": int(counts.total.sum())}


def counts_from_metrics(model: str, metrics: MetricRecord) -> ClassCounts | None:
    """Unpack a model's counts; None when the site did not score it.

    Totals come back as counts of a single class. Raises ValueError for impossible counts.
    """
    correct, total = (metrics.get(f"{model}/{name}") for name in ("correct", "total"))
    if correct is None or total is None:
        return None
    return ClassCounts(np.atleast_1d(np.asarray(correct)), np.atleast_1d(np.asarray(total)))
