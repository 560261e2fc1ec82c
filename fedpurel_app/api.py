"""Run an experiment from Python: the same apps as under Flower, in this process.

>>> import fedpurel_app
>>> run = fedpurel_app.run({"algorithm": "ditto", "global-rounds": 5})  # doctest: +SKIP
>>> run.summary["global"]["all"], run.model("site-07").logits(features)  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpurel_app.config import RunConfig
from fedpurel_app.config.presets import DEFAULT_PRESET
from fedpurel_app.launch import choose, simulate
from fedpurel_app.reporting.provenance import start_now
from fedpurel_app.reporting.run_folder import RunFolder

if TYPE_CHECKING:
    from fedpurel_app.inference.personalize import Personalized
    from fedpurel_app.inference.trained import TrainedModel


@dataclass(frozen=True)
class Run:
    """What a run left behind.

    Attributes
    ----------
    path : Path
        The run folder.
    """

    path: Path

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The lines of ``rounds.jsonl``: one for each round, round 0 before training."""
        return RunFolder(self.path).rounds()

    @property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``; empty while the run goes on."""
        return RunFolder(self.path).summary() or {}

    def model(self, site: str | None = None, **options: Any) -> TrainedModel:
        """Load the global model, or a site's personalized one.

        Parameters
        ----------
        site : str, optional
        **options
            Of :func:`fedpurel_app.inference.trained.load_trained`.
        """
        from fedpurel_app.inference.trained import load_trained

        return load_trained(self.path, site or "", **options)

    def personalize(
        self,
        data: str | Path,
        out: str | Path,
        site: str = "new-site",
        settings: Mapping[str, Any] | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> Personalized:
        """Train a private branch for a site that the run has not met, on its own data, in this process.

        Parameters
        ----------
        data : path
            The site's, in any form that a node's ``data`` has.
        out : path
            A new folder, a run of this one site.
        site : str
        settings : mapping, optional
            Keys of personal rounds and their values: what differs from the run.
        threads : int, optional
            Of its computations, which decide the last bits; else those that a site of the run had.
        **options
            Of :func:`fedpurel_app.inference.personalize.personalize`.
        """
        from fedpurel_app.inference.personalize import personalize

        number = threads or int(RunFolder.open(self.path).launch().get("cpus-per-site", 1))
        with _site_threads(number):
            return personalize(self.path, Path(data).absolute(), Path(out).absolute(), site, settings, **options)

    def plot(self) -> dict[str, Path]:
        """Draw what there are numbers for; returns the PNG files by name, as ``curves`` and ``classes``."""
        from fedpurel_app.reporting.plots import draw

        return {path.stem: path for path in draw(RunFolder(self.path)) if path.suffix == ".png"}


def run(
    settings: Mapping[str, Any] | None = None,
    *,
    preset: str = DEFAULT_PRESET,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    threads: int | None = None,
) -> Run:
    """Run an experiment in this process, without Ray: breakpoints in a client work, and results come in seconds.

    Sites answer one after the other. With the same number of threads the results are those of ``fedpurel run``, bit for
    bit. An interrupt ends the run at once; it goes on from its last round with ``resume``.

    Parameters
    ----------
    settings : mapping, optional
        Keys of the run config and their values: what differs from the preset.
    preset : str
        Name of a preset, or path of a TOML file.
    out : path, optional
        Run folder; else a dated one under ``~/fedpurel/runs``.
    resume : path, optional
        The folder of a run to continue.
    threads : int, optional
        Of a site's computations. Else those that the run was begun with; of a new one 1, as in a simulation.

    Returns
    -------
    Run

    Raises
    ------
    ConfigError
        Naming all that is wrong with the settings.
    StateError
        When the folder is in use, or holds a run already, or none to resume.
    RunError
        When the run failed; what it reached stays in its folder.
    """
    asked = dict(settings or {})
    if resume is not None:
        path = Path(resume).absolute()
        config = choose.resumed(path, asked)
    else:
        config, path = choose.begun(preset, asked, None if out is None else Path(out).absolute())
    play(config, path, threads)
    return Run(path)


def play(config: RunConfig, path: Path, threads: int | None = None) -> None:
    """Run checked settings in this process, in a folder that is new or resumed; see :func:`run`."""
    folder = RunFolder(path)
    start_now()
    simulate.preflight(config)
    with folder.claim():
        before = folder.launch()
        if not config.resume_from:
            RunFolder.create(path)
        number = threads or int(before.get("cpus-per-site", 1))
        folder.write_launch(number, before.get("gpus-per-site"))
        _play(config, folder, number)


def _play(config: RunConfig, folder: RunFolder, threads: int) -> None:
    from fedpurel_app.client_app import app as client_app
    from fedpurel_app.launch.local_grid import run_app
    from fedpurel_app.server_app import app as server_app

    with _site_threads(threads):
        try:
            run_app(server_app, client_app, config.num_sites, config.model_dump(by_alias=True))
        except KeyboardInterrupt:
            simulate.mark(folder, config, "stopped", "interrupted by the user")
            raise


@contextmanager
def _site_threads(number: int) -> Iterator[None]:
    """Let every site compute with a number of threads, and put this process's own back."""
    import torch

    before, own = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = str(number)
    try:
        yield
    finally:
        torch.set_num_threads(own)
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
