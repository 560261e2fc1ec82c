"""One run at the server: what comes before, after and between the rounds of Flower's loop."""

from __future__ import annotations

import contextlib
import time
import traceback
from logging import INFO, WARNING, getLogger
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from fedpurel_app.config import RunConfig, require_same, stored_config
from fedpurel_app.core.errors import RunError, RunStopped, StateError
from fedpurel_app.core.files import home
from fedpurel_app.core.records import Arrays, to_array_record, to_arrays
from fedpurel_app.data.sources.inspection import meet
from fedpurel_app.experiment import Experiment
from fedpurel_app.inference.class_file import CLASSES, keep_classes
from fedpurel_app.reporting.checkpoint import Checkpoint
from fedpurel_app.reporting.console import summary_lines
from fedpurel_app.reporting.outcome import Outcome, write_outcome
from fedpurel_app.reporting.provenance import process_start, provenance
from fedpurel_app.reporting.recorder import Recorder
from fedpurel_app.reporting.run_folder import RunFolder, new_run_path
from fedpurel_app.reporting.selection import Selection
from fedpurel_app.reporting.summary import without_effect
from fedpurel_app.reporting.tables import VALIDATION_COLUMNS, site_rows
from fedpurel_app.reporting.trackers import open_trackers
from fedpurel_app.server.build import build_strategy
from fedpurel_app.server.scoring import Scoring
from fedpurel_app.server.start import announce, federation_hint, write_partition
from fedpurel_app.strategies import FedPuReL, RoundReport

logger = getLogger("flwr.fedpurel")


class Server:
    """A run at the server, new or resumed.

    Parameters
    ----------
    config : RunConfig

    Raises
    ------
    StateError
        When the run folder cannot be made, or the run to resume has other settings.
    """

    def __init__(self, config: RunConfig) -> None:
        self._process_started = process_start()
        self._part: Arrays = {}
        resume = Path(config.resume_from) if config.resume_from else None
        if resume is not None:
            self.folder = RunFolder.open(resume)
            require_same(stored_config(self.folder.read_json("config.json")["config"]), config, resume)
            self._lock = self.folder.lock()
            try:
                self._arrays, self._state, self._part = Checkpoint(resume).read()
                Checkpoint(resume).settle()
                self.folder.drop_leftovers()
                self.folder.forget_outcome()
            except BaseException:
                self._lock.release()
                raise
        else:
            path = new_run_path(config.algorithm, config.peft, config.dataset, config.seed)
            self.folder = RunFolder.create(Path(config.out) if config.out else path)
            self._lock = self.folder.lock()
        self.config = config
        self.experiment = Experiment(config, home() / "cache")
        self._resumed = resume is not None
        self._selection, self._told_of_selection = Selection(config.model_dump(by_alias=True)), False
        self._clock = time.monotonic()

    def run(self, grid: Grid) -> None:
        """Run all rounds that are left, and write down how it ended.

        Parameters
        ----------
        grid : Grid
        """
        self._recorder: Recorder | None = None
        try:
            meet(self.experiment.federation.source)
            strategy = self._strategy()
            self._recorder = self._open_recorder()
            self._begin(strategy, grid)
            self._heed_stop()
            left = strategy.schedule.total - strategy.round_offset
            strategy.start(
                grid,
                to_array_record(self._arrays),
                num_rounds=left,
                timeout=self.config.round_timeout,
                evaluate_fn=lambda number, arrays: self._after_round(strategy, number, arrays),
            )
            if problem := without_effect(self.folder.rounds()):
                raise RunError(problem)
            self._finish("completed", None)
        except RunStopped:
            self.folder.forget_wish_to_stop()
            self._finish("stopped", "interrupted by the user")
        except Exception as error:
            self._fail(error)
            raise
        finally:
            if self._recorder is not None:
                self._recorder.close()  # also on an interrupt: in a notebook this process goes on
            self._lock.release()

    # --- before -----------------------------------------------------------------------------------------------------

    def _strategy(self) -> FedPuReL:
        state = self._state if self._resumed else None
        private = self.folder.path / "private"
        strategy = build_strategy(self.config, self.experiment, private, state, self._part)
        roster = strategy.roster
        self._scoring = Scoring(self.experiment, lambda: [d.class_counts for d in roster.descriptions.values() if d])
        return strategy

    def _open_recorder(self) -> Recorder:
        settings = self.config.model_dump(by_alias=True)
        data = self.experiment.federation.source.fingerprint
        if self._resumed:
            if self.folder.read_json("config.json")["data"] != data:
                raise StateError(
                    f"{self.folder.path} was made with other data than those that dataset = "
                    f'"{self.config.dataset}", dataset-path = "{self.config.dataset_path}" give now. Bring the old '
                    "data back, or start a new run."
                )
        else:
            self.folder.write_json("config.json", {"config": settings, "data": data, **provenance()})
        if not (self.folder.path / CLASSES).exists():
            keep_classes(self.folder, self.experiment.federation.source)
        trackers = open_trackers(self.config.tracker, self.folder.path, settings)
        earlier = float(self._state["seconds"] or 0.0) if self._resumed else 0.0
        return Recorder(self.folder, trackers, self._process_started, earlier)

    def _begin(self, strategy: FedPuReL, grid: Grid) -> None:
        """Meet the sites, make or take up the parameters, and say what will happen."""
        if self._resumed:
            self.folder.drop_rounds_after(strategy.round_offset)
            self._selection = Selection(self.config.model_dump(by_alias=True), self.folder.rounds())
            # Before any site hears of this attempt: the next one must have a higher number, and what a lost round may
            # have spent of the privacy is on disk before it is spent again.
            self._checkpoint(strategy, self._arrays, self._state["seconds"])
        else:
            fresh = self.experiment.kit.first_arrays()
            self._arrays = dict(fresh if strategy.part is None else strategy.part.first(fresh))
        try:
            strategy.connect(grid)
        except RunError as error:
            hint = federation_hint(self.config, strategy, self.config.num_sites or self.config.suggested_sites)
            raise RunError(f"{error} {hint}".rstrip()) from None
        described = [one for one in strategy.roster.descriptions.values() if one is not None]
        if any(not one.partitions for one in described) and (why := self.experiment.kit.unfit_for_own_data()):
            raise RunError(f"{why}.")
        kit = self.experiment.kit
        shared = {name: value for name, value in self._arrays.items() if name not in kit.sent_in_personal_rounds}
        reply = shared if kit.codec is None else kit.codec.form(shared)
        size = sum(value.nbytes for value in reply.values())
        announce(self.experiment, strategy, self.folder.path, size, self._resumed)
        write_partition(self.experiment, strategy, self.folder)
        self._write_site_logs(strategy, strategy.round_offset)
        self._clock = time.monotonic()

    # --- between ----------------------------------------------------------------------------------------------------

    def _after_round(self, strategy: FedPuReL, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Score the global model, write the round's line and its checkpoint."""
        if server_round == 0 and self._resumed:
            return None
        report, scoring = strategy.report if server_round else None, self._scoring
        named = to_arrays(arrays)
        line: dict[str, Any] = {"round": 0, "phase": "start"} if report is None else _round_facts(report)
        line["total_rounds"] = strategy.schedule.total
        seconds: dict[str, float] = {} if report is None else dict(report.seconds)
        if report is None or report.scores is not None:
            seconds |= scoring.score(named, strategy.layout())
            line |= {"global": scoring.global_model, "tkl": scoring.tkl}
        if report is None:
            line["zero_shot"] = scoring.zero_shot
            seconds["start_up"] = max(0.0, time.time() - self._process_started - sum(seconds.values()))
        elif report.scores:
            line["sites"] = scoring.pooled(report.scores)
            fronts, worth = scoring.fronts(report.scores)
            for name, (columns, rows) in (scoring.tables(report.scores) | fronts).items():
                self.folder.write_csv(name, columns, rows)
            line |= {"fronts": worth} if worth else {}
            self._select(line, report)
        self._write_site_logs(strategy, line["round"])
        now = time.monotonic()
        line["seconds"] = {**seconds, "total": now - self._clock}
        self._clock = now
        if (recorder := self._recorder) is not None:
            recorder.record(line, lambda: self._checkpoint(strategy, named, recorder.seconds))
        if line["round"] < strategy.schedule.total:
            self._heed_stop()
        return MetricRecord({"accuracy": line["global"]["all"]}) if line.get("global") else None

    def _write_site_logs(self, strategy: FedPuReL, number: int) -> None:
        for site, lines in strategy.roster.take_heard():
            self.folder.append_site_log(number, site, lines)

    def _select(self, line: dict[str, Any], report: RoundReport) -> None:
        """Score the sites' validation parts, and see whether a model is the best so far."""
        if not self._selection.is_on or not report.validation:
            return
        line["validation"] = self._scoring.pooled(report.validation)
        self.folder.write_csv("validation.csv", VALIDATION_COLUMNS, site_rows(report.validation))
        self._selection.see(line)
        line["best"] = {model: dict(choice) for model, choice in self._selection.best.items()}
        if self._selection.lacks_score(line) and not self._told_of_selection:
            self._told_of_selection = True
            logger.log(WARNING, 'select-by = "%s" cannot be computed from what the sites share, or no class of the '
                       "group has a validation image: no best model is chosen. Set share-class-counts = true, or "
                       'select-by = "all".', self._selection.by)  # fmt: skip

    def _heed_stop(self) -> None:
        """Raise RunStopped when the user wishes the run to end here, where all is saved."""
        if self.folder.is_to_stop:
            raise RunStopped

    def _checkpoint(self, strategy: FedPuReL, arrays: Arrays, seconds: float) -> None:
        self._arrays = dict(arrays)
        part = {} if strategy.part is None else strategy.part.state()
        best = {"best": self._selection.best} if self._selection.best else {}
        self.folder.write_checkpoint(arrays, {**strategy.state(), "seconds": seconds, **best}, part)

    # --- after ------------------------------------------------------------------------------------------------------

    def _finish(self, outcome: Outcome, error: str | None) -> None:
        summary = write_outcome(self.folder, self.config.model_dump(by_alias=True), outcome, error, self._recorder)
        if outcome == "completed":
            for line in summary_lines(summary):
                logger.log(INFO, line)

    def _fail(self, error: Exception) -> None:
        """Write down why the run ended; what was reached stays on disk and can be resumed."""
        text = str(error) or type(error).__name__
        logger.error("the run failed: %s", text)
        with contextlib.suppress(OSError):  # where the disk is full, the line above has to do
            (self.folder.path / "error.txt").write_text("".join(traceback.format_exception(error)), "utf-8")
            self._finish("failed", text)


def _round_facts(report: RoundReport) -> dict[str, Any]:
    return {
        "round": report.round,
        "phase": report.phase.value,
        "cohort": report.cohort,
        "usable": report.usable,
        "dropped": report.dropped,
        "kept_old_model": report.kept_old_model,
        "private_restarted": report.restarted,
        **({"scores_withheld": report.withheld} if report.withheld else {}),
        "train": report.train,
        **({"privacy": report.privacy} if report.privacy else {}),
        **({"trust": report.trust} if report.trust else {}),
        **report.part,
        "bytes_up": report.bytes_up,
        "bytes_down": report.bytes_down,
    }
