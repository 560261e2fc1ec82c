"""Begin a run where another one's global rounds ended: those that differ in personal rounds alone share the rest.

In the two-phase schedule personal rounds of most methods change neither the shared parameters nor anything else that
global rounds left, so that a completed run's checkpoint, taken back to its last global round, is another run's
checkpoint there.
"""

from __future__ import annotations

import json
import secrets
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedpurel_app.algorithms.registry import METHODS
from fedpurel_app.config import RunConfig
from fedpurel_app.reporting.checkpoint import Checkpoint
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.reporting.settings import own_settings

_COPIED = ("partition.json", "launch.json")


def trunk(config: RunConfig) -> str:
    """Return a name that runs have in common whose global rounds are the same; empty where nothing is to be shared.

    Where sites keep a state from global rounds on, where privacy is accounted for over all rounds, where validation
    data choose among all rounds, and where personal rounds change what the server keeps, a run is played from its
    beginning.
    """
    method, values = METHODS[config.algorithm], config.model_dump(by_alias=True)
    shares_none = config.privacy != "none" or config.validation_share > 0 or values["shares"] != "all"
    shares_none = shares_none or method.sends_privately
    if not method.personal_rounds or config.schedule != "two-phase" or not config.global_rounds or shares_none:
        return ""
    own = own_settings(values).items()
    return json.dumps({key: value for key, value in own if key not in method.personal_keys})


def fork(source: RunFolder, path: Path, config: RunConfig) -> None:
    """Write the folder of a run that has played its global rounds, from a completed one with the same trunk.

    Parameters
    ----------
    source : RunFolder
    path : Path
        Of the new run, which is then to be resumed.
    config : RunConfig
        Of the new run.

    Raises
    ------
    StateError
        When the source cannot be read, or the folder not be written.
    """
    last, total = config.global_rounds, sum(config.total_rounds)
    arrays, state, part = Checkpoint(source.path).read()
    target = RunFolder.create(path)
    for name in _COPIED:
        if (source.path / name).exists():
            shutil.copyfile(source.path / name, path / name)
    facts = source.read_json("config.json")
    settings = {"config": config.model_dump(by_alias=True), "forked_from": str(source.path)}
    target.write_json("config.json", {**facts, **settings})
    played = [{**line, "total_rounds": total} for line in source.rounds() if line["round"] <= last]
    for line in played:
        target.append_round(line)
    Checkpoint(path).write(arrays, {**state, **_taken_back(played, config)}, part)


def _taken_back(played: list[dict[str, Any]], config: RunConfig) -> Mapping[str, Any]:
    """Return what a state has to say of the last global round."""
    failed = 0
    for line in reversed(played[1:]):
        if not line["kept_old_model"]:
            break
        failed += 1
    name = config.experiment_id or f"fork-{uuid.uuid4().hex[:12]}"
    return {
        "round": config.global_rounds,
        "failed_in_a_row": failed,
        "private_rounds": {},
        "experiment_id": name,
        "attempt": 0,
        "secret": secrets.token_hex(16),
        "seconds": sum(line["seconds"]["total"] or 0.0 for line in played),
    }
