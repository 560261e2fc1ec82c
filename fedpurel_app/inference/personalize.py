"""``fedpurel personalize``: a private branch for a site that no run has met, trained at home without a server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import normalize

from fedpurel_app.config import RunConfig
from fedpurel_app.core.errors import DataError, StateError
from fedpurel_app.core.files import make_folders
from fedpurel_app.core.layout import Layout, stored
from fedpurel_app.core.metrics import GROUPS
from fedpurel_app.core.phase import Phase
from fedpurel_app.core.records import FEATURE_SECONDS, NUM_EXAMPLES, SECONDS, WORKER, Arrays, Instruction
from fedpurel_app.core.site_scores import SiteScores, pool_sites
from fedpurel_app.data.sources.inspection import meet
from fedpurel_app.data.sources.source import Source
from fedpurel_app.inference.class_file import keep_classes, kept_classes
from fedpurel_app.inference.new_site import require_branch, site_settings
from fedpurel_app.inference.run_settings import run_settings
from fedpurel_app.reporting.checkpoint import Which
from fedpurel_app.reporting.outcome import write_outcome
from fedpurel_app.reporting.provenance import provenance
from fedpurel_app.reporting.run_folder import PERSONALIZED, RunFolder
from fedpurel_app.reporting.tables import class_rows, evaluation_tables
from fedpurel_app.site.site import Site

_BOOKS = (NUM_EXAMPLES, SECONDS, FEATURE_SECONDS, WORKER)


@dataclass(frozen=True)
class Personalized:
    """What a new site has at the end.

    Attributes
    ----------
    path : Path
        A run folder of this one site, closed to others.
    site : str
    scores : SiteScores
        Of zero-shot, the global and the personalized model on the site's test part.
    pooled : dict
        The same as :func:`~fedpurel_app.core.site_scores.pool_sites` gives it, in percent.
    """

    path: Path
    site: str
    scores: SiteScores
    pooled: Mapping[str, Any]


@dataclass(frozen=True)
class _Finished:
    """What of a finished run a new site begins with."""

    config: RunConfig
    source: Source
    arrays: Arrays
    layout: Layout
    experiment_id: str
    class_table: list[dict[str, str]]

    @property
    def groups(self) -> dict[str, npt.NDArray[np.int64]] | None:
        """Classes of "many", "medium" and "few" as the run counted them; None where its sites kept their counts."""
        members = {name: [int(row["label"]) for row in self.class_table if row["group"] == name] for name in GROUPS}
        found = {name: np.array(labels, np.int64) for name, labels in members.items()}
        return found if any(members.values()) else None

    @property
    def train_counts(self) -> npt.NDArray[np.int64] | None:
        """Training images of every class in the run, shape (C,); None where they are not known."""
        counts = [row["train_images"] for row in self.class_table]
        return np.array([int(count) for count in counts], np.int64) if counts and all(counts) else None


def personalize(
    run: Path,
    data: Path,
    out: Path,
    site: str = "new-site",
    changes: Mapping[str, Any] | None = None,
    key_file: Path | None = None,
    pretrained: Path | None = None,
    checkpoint: Which = "last",
) -> Personalized:
    """Train a private branch on a new site's data, beside the frozen global model of a finished run.

    The site is the one that answers a server's messages, in the process of its owner: the same visits, the same private
    store. Nothing is sent anywhere.

    Parameters
    ----------
    run : Path
        A run folder; of its private branches, none is needed.
    data : Path
        In any form that a node's ``data`` has.
    out : Path
        Absent, or empty: a run folder of this one site, for ``predict`` and ``export``.
    site : str
        Its name, which also is part of the seed.
    changes : mapping, optional
        Settings that differ from the run's: see :func:`~fedpurel_app.inference.new_site.allowed_keys`.
    key_file : Path, optional
        Encrypts the branch.
    pretrained : Path, optional
        The backbone's weights on this machine.
    checkpoint : {"last", "best"}
        Which global model.

    Returns
    -------
    Personalized

    Raises
    ------
    ConfigError
        When the method gives a new site no branch, or a setting is wrong.
    DataError
        When the data cannot be used, or have other classes.
    StateError
        When there is no such run, or ``out`` is not empty.
    RunError
        When training diverged.
    """
    folder = RunFolder.open(run)
    config = run_settings(folder, pretrained)
    require_branch(config)
    arrays, state, layout = folder.read_model(checkpoint)
    if (source := kept_classes(folder)) is None:
        raise StateError(f"{run} has no classes.json: it was made by an older version. Run it again with this one.")
    begun = _Finished(config, source, arrays, layout, str(state["experiment_id"]), folder.read_csv("classes.csv"))
    settings, table = site_settings(config, source, data, changes or {})
    with _new_folder(out) as partial:
        node: dict[str, Any] = {"site": site, "data": str(data), "state-dir": str(partial / "private")}
        node |= {**table, "simulation": True, **({"key-file": str(key_file)} if key_file else {})}
        return _train(begun, settings, lambda: Site(settings.model_dump(by_alias=True), node), partial, out)


def _train(begun: _Finished, config: RunConfig, meet_site: Callable[[], Site], folder: Path, out: Path) -> Personalized:
    """Play all visits, each of which meets the site anew, score it, and write the folder."""
    site = meet_site()
    meet(site.federation.source)
    _refuse_other_texts(site, begun.source)
    lines, last = [], 0
    arrays = dict(begun.arrays)
    for number in range(config.global_rounds + 1, sum(config.total_rounds) + 1):
        asked = Instruction(Phase.PERSONAL.value, number, begun.experiment_id, private_round=last)
        line, shared = _visit(number, meet_site(), replace(begun, arrays=arrays), asked, sum(config.total_rounds))
        lines.append(line)
        arrays |= shared  # what the sites of a run would average, this one goes on from alone
        last = number
    asked = Instruction(Phase.PERSONAL.value, last, begun.experiment_id, last)
    scores = meet_site().scores(arrays, asked, begun.layout)
    metric, classes = (config.balancedness_power, config.balancedness_sigma), len(begun.source.class_names)
    pooled = pool_sites({site.name: scores}, begun.groups, *metric, classes)
    lines[-1]["sites"] = pooled
    _write(RunFolder(folder), replace(begun, arrays=arrays), config, site, scores, lines)
    return Personalized(out, site.name, scores, pooled)


def _visit(number: int, site: Site, begun: _Finished, asked: Instruction, total: int) -> tuple[dict[str, Any], Arrays]:
    """Visit the site once; return the line of ``rounds.jsonl`` that tells of it, and what it would send."""
    sent, told = site.train(Phase.PERSONAL, begun.arrays, asked, layout=begun.layout)
    books: dict[str, Any] = {"round": number, "phase": Phase.PERSONAL.value, "total_rounds": total}
    books |= {"cohort": [site.name], "usable": [site.name], "dropped": [], "kept_old_model": False}
    books |= {"train": {name: value for name, value in told.items() if name not in _BOOKS}}
    seconds = {"training_at_sites": told[SECONDS], "training_features": told[FEATURE_SECONDS]}
    books |= {"bytes_up": 0, "bytes_down": 0}
    return {**books, "seconds": {"training": told[SECONDS], **seconds, "total": told[SECONDS]}}, sent


def _write(
    folder: RunFolder,
    begun: _Finished,
    config: RunConfig,
    site: Site,
    scores: SiteScores,
    lines: list[dict[str, Any]],
) -> None:
    """Write what makes the folder one that every reader of runs knows."""
    settings, source = config.model_dump(by_alias=True), begun.source
    data, last = site.federation.source.fingerprint, lines[-1]["round"]
    facts = {"config": settings, "data": data, PERSONALIZED: begun.experiment_id}
    folder.write_json("config.json", {**facts, **provenance()})
    keep_classes(folder, source)
    rows = class_rows(source.class_names, begun.train_counts, begun.groups, (None, None), {site.name: scores})
    for name, (columns, cells) in evaluation_tables({site.name: scores}, rows).items():
        folder.write_csv(name, columns, cells)
    for line in lines:
        folder.append_round(line)
    state = {"round": last, "roster": {site.name: asdict(site.describe())}, "private_rounds": {site.name: last}}
    state |= {"failed_in_a_row": 0, "experiment_id": begun.experiment_id, "attempt": 1}
    state |= {"seconds": sum(line["seconds"]["total"] for line in lines)}
    folder.write_checkpoint(begun.arrays, state, stored(begun.layout))
    write_outcome(folder, settings, "completed")


def _refuse_other_texts(site: Site, source: Source) -> None:
    """Refuse a file of features whose texts are others than the run's: the global model would be another one."""
    if source.classifier is None:
        return
    theirs = normalize(torch.from_numpy(source.classifier.text_features), dim=-1)
    ours, scale = site.kit.host.zero_shot_text.cpu(), site.kit.host.logit_scale
    same = theirs.shape == ours.shape and torch.allclose(theirs, ours, atol=1e-4)
    if not same or not np.isclose(scale, source.classifier.logit_scale):
        raise DataError(
            f"{site.config.dataset_path} has other text_features, or another logit_scale, than the run: its images "
            "must be encoded by the same CLIP, with the same prompts."
        )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Make a folder, closed to others, that has its name once it is whole; what fails leaves nothing behind."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise StateError(f"{out} is not an empty folder, and nothing is overwritten: choose another one.")
        make_folders(out.parent)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    except OSError as error:
        raise StateError(f"{out} cannot be written ({error.strerror}). Choose another folder.") from error
    try:
        yield partial
        _put(partial, out)
    except BaseException:
        rmtree(partial, ignore_errors=True)
        raise


def _put(partial: Path, out: Path) -> None:
    """Give a whole folder its name, unless another command was first."""
    try:
        partial.replace(out)
    except OSError as error:
        raise StateError(
            f"{out} cannot be written ({error.strerror}): choose another folder, and call it again."
        ) from error
