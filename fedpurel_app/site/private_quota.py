"""How much private state a site keeps, whatever servers ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedpurel_app.core.errors import StateError


@dataclass(frozen=True)
class Quota:
    """Bounds of a state folder.

    Attributes
    ----------
    experiments : int
        Folders of experiments.
    size : int
        Bytes of all of them.
    evaluations : int
        How often a site is scored in one experiment.
    """

    experiments: int
    size: int
    evaluations: int

    def require_experiment(self, root: Path, experiment_id: str) -> None:
        """Raise StateError when an experiment is new to a state folder that holds as many as it may."""
        known = experiments(root)
        if experiment_id not in known and len(known) >= self.experiments:
            raise StateError(
                f"{root} holds {len(known)} experiments, and max-experiments = {self.experiments}: remove folders that "
                "are no longer needed, or raise it in this node's --node-config."
            )

    def require_room(self, root: Path, size: int) -> None:
        """Raise StateError when so many bytes more would be above the bound."""
        used = used_bytes(root)
        if used + size > self.size:
            raise StateError(
                f"{root} holds {used:,} bytes of private state, {size:,} are to come, and max-private-bytes = "
                f"{self.size:,}: remove folders that are no longer needed, or raise it in this node's --node-config."
            )


def used_bytes(root: Path) -> int:
    """Return how many bytes the experiments in a state folder take."""
    files = (file for name in experiments(root) for file in (root / name).rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def experiments(root: Path) -> set[str]:
    """Return the names of the experiments that a state folder holds; the feature cache is none."""
    if not root.is_dir():
        return set()
    return {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
