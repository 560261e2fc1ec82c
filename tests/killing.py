"""A run of the real apps in a process of its own that kills itself, as ``kill -9`` does, at a point of its rounds.

``python -m tests.killing FOLDER ROUND WHEN``: begins the run in FOLDER, or resumes it where it was begun, and dies in
round ROUND: WHEN is "checkpoint" for right after its checkpoint, "work" for when the first site has done its work in
it, "never" for not at all.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message

from fedpurel_app.reporting.run_folder import RunFolder
from tests.support import run_tiny


def die() -> None:
    """End this process as the system's killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, number: int, when: str) -> None:
    """Run until the point, or to the end."""
    write = RunFolder.write_checkpoint

    def write_and_die(self: RunFolder, arrays: Mapping[str, Any], state: Mapping[str, Any], *more: Any) -> None:
        write(self, arrays, state, *more)
        if when == "checkpoint" and state["round"] == number:
            die()

    def spy(message: Message, reply: Message) -> None:
        kind, config = message.metadata.message_type, message.content.config_records.get("config", ConfigRecord())
        if when == "work" and kind.startswith("train") and config.get("round") == number:
            die()

    RunFolder.write_checkpoint = write_and_die  # type: ignore[method-assign, assignment]
    resume = {"resume_from": str(folder / "run")} if (folder / "run" / "state.json").exists() else {}
    settings = {"global_rounds": 10, "evaluate_every": 3, "validation_share": 0.2, "experiment_id": "e"}
    run_tiny(folder, **settings, grid={"spy": spy}, **resume)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
