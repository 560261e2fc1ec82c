"""The wire format, in one place: arrays, counts and instructions to Flower records and back. numpy and flwr alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from fedpurel_app.core.metrics import ClassCounts
from fedpurel_app.core.names import clean, is_printable, is_safe_name

ARRAYS, METRICS, CONFIG = "arrays", "metrics", "config"
BRIEF = "brief"  # a message's second ArrayRecord: what the method's part at the server adds
APART = "apart"  # in a brief: the shared parameters beside it are those of the site's cluster
NUM_EXAMPLES = "num-examples"
MOST_EXAMPLES = 100_000_000
RESTARTED = "private-restarted"  # 1 in the reply of a site that had to begin a fresh private branch
WITHHELD = "scores-withheld"  # 1 in the reply of a site whose own settings keep its scores
SECONDS, FEATURE_SECONDS, WORKER = "seconds", "feature-seconds", "worker"  # book-keeping of every reply
REFUSAL, REASON = "refusal", "reason"  # a description's keys where a site refuses the run
CLIPPING_NORM = "clipping_norm"  # Flower's key in the messages of its wrappers that clip at the client
SERVER = "server"  # stands for the server where sites are named, so no site has this name
DESCRIBE, PERSONALIZE = "query.describe", "train.personalize"
PRIVACY, PRIVACY_MOD = "privacy", "mod"  # a reply's record, and the key that names the client's privacy mod
LONGEST_NAME = 200  # characters of an array's name
MODELS = ("zero-shot", "global", "personalized")
VALIDATION = "validation/"  # before the names of an evaluation's metrics, where they are of the validation part

Arrays = Mapping[str, npt.NDArray[Any]]


def is_finite(arrays: Arrays) -> bool:
    """Tell whether arrays hold neither NaN nor Inf."""
    return all(np.isfinite(value).all() for value in arrays.values())


def to_array_record(arrays: Arrays) -> ArrayRecord:
    """Pack arrays by name."""
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in arrays.items()})


def to_arrays(record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    """Unpack arrays by name; raises ValueError when the bytes are not what they claim to be, or a name is no line."""
    if not all(_is_short(name, LONGEST_NAME) for name in record):
        raise ValueError(f"arrays have names that are no printable text of at most {LONGEST_NAME} characters")
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
    secret : str
        Drawn when the experiment began, and kept with its checkpoint. A site serves the experiment for whoever knows
        it, and refuses others that name the same experiment.
    """

    phase: str
    round: int
    experiment_id: str
    private_round: int = 0
    simulation_dir: str = ""
    attempt: int = 0
    token: str = ""
    secret: str = ""

    def to_config(self) -> ConfigRecord:
        """Pack."""
        return ConfigRecord({name.replace("_", "-"): value for name, value in asdict(self).items()})

    @classmethod
    def from_config(cls, record: Mapping[str, Any]) -> Instruction:
        """Unpack; raises ValueError when something is missing, of the wrong type or out of range."""
        values = {one.name: record.get(one.name.replace("_", "-"), one.default) for one in fields(cls)}
        kinds = {one.name: int if one.type == "int" else str for one in fields(cls)}
        wrong = [
            name for name, value in values.items() if not isinstance(value, kinds[name]) or isinstance(value, bool)
        ]
        if wrong:
            raise ValueError(f"the server's message lacks {wrong}: server and site must run the same app version")
        odd = [name for name, value in values.items() if isinstance(value, int) and value < 0]
        odd += [name for name in ("phase", "token", "secret") if not _is_short(values[name], 64)]
        odd += ["experiment_id"] if not is_safe_name(values["experiment_id"]) else []
        odd += ["simulation_dir"] if not _is_short(values["simulation_dir"], 4096) else []
        if odd:
            raise ValueError(f"the server's message has numbers below 0, or text that is no short line: {odd}")
        return cls(**values)

    def require_work(self, last_round: int) -> None:
        """Raise ValueError unless the rounds named are such that a site can work for them.

        Parameters
        ----------
        last_round : int
            The highest that the site answers to.
        """
        if not 1 <= self.round <= last_round:
            raise ValueError(f"round = {self.round}: this site works for rounds 1 to {last_round}")
        if self.private_round > self.round:
            raise ValueError(f"private-round = {self.private_round} lies after round = {self.round}")


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
    test_examples : int
        Test images; 0 where the site does not tell, or scores leave it in no form.
    validation_examples : int
        Images kept for validation, which are not among the training images; 0 likewise.
    edge : str
        Where it belongs by its administrator's word; empty where that is not asked for, or not said.
    """

    site: str
    num_examples: int
    partitions: int
    device: str
    class_counts: list[int] = field(default_factory=list)
    test_examples: int = 0
    validation_examples: int = 0
    edge: str = ""

    def to_config(self) -> ConfigRecord:
        """Pack."""
        return ConfigRecord(
            {name.replace("_", "-"): value for name, value in asdict(self).items() if value not in ([], "")}
        )

    @classmethod
    def from_config(cls, record: Mapping[str, Any]) -> Description:
        """Unpack, whatever a site sent.

        Raises
        ------
        ValueError
            When something is missing, of the wrong type, out of range, or no printable line; the message is one.
        """
        values: dict[str, Any] = {one.name: record.get(one.name.replace("_", "-")) for one in fields(cls)}
        counts = values["class_counts"]
        values["class_counts"] = list(counts) if isinstance(counts, list | tuple) else []
        told = ("test_examples", "validation_examples")
        values |= {name: 0 for name in told if values[name] is None}
        values["edge"] = "" if values["edge"] is None else values["edge"]
        numbers = ("num_examples", "partitions", *told)
        problems = [name for name in numbers if not _is_count(values[name])]
        if not is_safe_name(values["site"]) or values["site"] == SERVER:
            problems.append('site (1 to 64 letters, digits, ".", "_" and "-", and not "server")')
        if values["edge"] != "" and not is_safe_name(values["edge"]):
            problems.append("edge")
        if not isinstance(values["device"], str) or clean(values["device"], 16) != values["device"]:
            problems.append("device")
        if (counts is not None and not isinstance(counts, list | tuple)) or not all(
            map(_is_count, values["class_counts"])
        ):
            problems.append("class_counts")
        elif values["class_counts"] and sum(values["class_counts"]) != values["num_examples"]:
            problems.append("class_counts (they do not add up to num_examples)")
        if problems:
            raise ValueError(f"it described itself with an unusable {', '.join(problems)}: {clean(repr(values), 200)}")
        return cls(**cast(Any, values))


@dataclass(frozen=True)
class Refusal:
    """What a site answers in the place of a description when it will not serve a run.

    Attributes
    ----------
    kind : {"attempt", "policy"}
        It serves another run of this experiment, or a later attempt; or its own settings refuse what the run asks for.
    reason : str
        One printable line.
    """

    kind: str
    reason: str

    def to_config(self) -> ConfigRecord:
        """Pack."""
        return ConfigRecord({REFUSAL: self.kind, REASON: self.reason})

    @classmethod
    def from_config(cls, record: Mapping[str, Any]) -> Refusal | None:
        """Unpack, whatever a site sent; None when the record is no refusal."""
        kind, reason = record.get(REFUSAL), record.get(REASON)
        if kind not in ("attempt", "policy"):
            return None
        return cls(str(kind), clean(reason) if isinstance(reason, str) else "")


def _is_short(text: str, most: int) -> bool:
    return len(text) <= most and is_printable(text)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_EXAMPLES


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
    if correct is None and total is None:
        return None
    numbers = [one if isinstance(one, list) else [one] for one in (correct, total)]
    if not all(_is_count(count) for part in numbers for count in part):
        raise ValueError(f"counts of {model} are no whole numbers from 0 to {MOST_EXAMPLES}")
    return ClassCounts(*(np.array(part, np.int64) for part in numbers))
