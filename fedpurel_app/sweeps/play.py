"""Run what a sweep lacks: as many runs at a time as cores and memory allow, and no work twice."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from fedpurel_app.config import stored_config
from fedpurel_app.core.errors import FedPurelError, StateError
from fedpurel_app.core.files import make_folders
from fedpurel_app.launch.processes import Interrupts, ProcessFamily
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.sweeps.fork import trunk
from fedpurel_app.sweeps.plan import Cell, name_of
from fedpurel_app.sweeps.room import Room
from fedpurel_app.sweeps.telling import how_it_ended
from fedpurel_app.sweeps.workers import Answer, Worker

_LOOK = 0.5  # seconds between looks at what is done

Say = Callable[[str], None]


class Player:
    """Runs the runs of a sweep.

    Parameters
    ----------
    folder : Path
        Of the run folders.
    runs : dict of str to Cell
        By the names of their folders, in the order in which they should come.
    data : mapping of str to str
        The fingerprint of each one's data.
    room : Room
        How many may go on at a time.
    threads : int
        Of each.
    say : callable
        Takes the lines that tell how far it is.

    Attributes
    ----------
    failed : dict of str to str
        Why a run is not complete, by the name of its folder.
    skipped : int
        Runs that were complete before.
    """

    def __init__(
        self, folder: Path, runs: Mapping[str, Cell], data: Mapping[str, str], room: Room, threads: int, say: Say
    ) -> None:
        self._folder, self._runs, self._data = folder, runs, data
        self._room, self._threads, self._say = room, threads, say
        self._trunks = {name: trunk(cell.config) for name, cell in runs.items()}
        self._going: dict[Future[Answer], str] = {}
        self._idle: list[Worker] = []
        self._complete: set[str] = set()
        self.failed: dict[str, str] = {}
        self.skipped = 0
        self._ended, self._began = 0, time.monotonic()

    def play(self) -> bool:
        """Run all that is not done; returns whether nothing asked it to stop before.

        Raises
        ------
        KeyboardInterrupt
            When it is asked to stop a second time: all processes are ended then.
        """
        waiting = [name for name in self._runs if self._is_lacking(name)]
        self.skipped = len(self._complete)
        family, interrupts = ProcessFamily(), Interrupts(self._ask_to_stop)
        scratch = self._folder.parent / "scratch"
        self._environment = {**os.environ, **family.mark}
        with interrupts.handled(), family.guarded(scratch):
            with ThreadPoolExecutor(self._room.most) as pool:
                try:
                    while (waiting and not interrupts.asked) or self._going:
                        while not interrupts.asked and (name := self._next(waiting)):
                            waiting.remove(name)
                            self._going[pool.submit(self._run, self._request(name), self._worker())] = name
                        done, _ = wait(self._going, _LOOK, FIRST_COMPLETED)
                        interrupts.check()
                        for future in done:
                            self._note(self._going.pop(future), future.result(), len(waiting))
                except BaseException:
                    family.stop()  # which ends what the pool's threads wait for
                    raise
            for worker in self._idle:
                worker.close()
        return not interrupts.asked

    def _is_lacking(self, name: str) -> bool:
        """Tell whether a run is to be played, and note those that are complete, or whose folder is of no use."""
        path = self._folder / name
        if not (path / "config.json").is_file():
            return True
        folder = RunFolder(path)
        try:
            facts = folder.read_json("config.json")
            if (held := name_of(stored_config(facts["config"]))) != name:
                raise StateError(f"{path} holds a run with other settings, {held}.")
            if facts["data"] != self._data[name]:
                raise StateError(f"{path} was made with other data than those that lie at their path now.")
            if (folder.summary() or {}).get("outcome") != "completed":
                return True
        except FedPurelError as error:
            self.failed[name] = f"{str(error).splitlines()[0]} Move that folder away to have the run anew."
            return False
        self._complete.add(name)
        return False

    def _next(self, waiting: list[str]) -> str | None:
        """Choose what to start now: not what can begin where one that is going on will end."""
        if not waiting or not self._room.is_left(len(self._going)):
            return None
        going = {self._trunks[name] for name in self._going.values()} - {""}
        return next((name for name in waiting if self._trunks[name] not in going), None)

    def _worker(self) -> Worker:
        if self._idle:
            return self._idle.pop()
        number = len(self._going)
        environment = {**self._environment, **self._room.gpu_of(number)}
        return Worker(environment, self._folder.parent / "workers.log")

    def _run(self, request: dict[str, Any], worker: Worker) -> Answer:
        try:
            return worker.run(request)
        finally:
            self._idle.append(worker)

    def _request(self, name: str) -> dict[str, Any]:
        path, config = self._folder / name, self._runs[name].config
        if (path / "state.json").is_file():
            RunFolder(path).forget_wish_to_stop()  # of a sweep that did not wait for the end of the round
            return {"folder": str(path), "resume": True}
        if path.exists():
            shutil.rmtree(path)  # it ended before its first round was saved
        asked = {"folder": str(path), "settings": config.model_dump(by_alias=True), "threads": self._threads}
        source = self._with_same_trunk(name)
        return asked if source is None else {**asked, "fork": str(self._folder / source)}

    def _with_same_trunk(self, name: str) -> str | None:
        if not self._runs[name].config.total_rounds[1]:
            return None  # nothing would be left to play, and the last evaluation not be written
        return next(
            (other for other in self._runs if other in self._complete and self._shares_trunk(name, other)), None
        )

    def _shares_trunk(self, name: str, other: str) -> bool:
        return self._trunks[name] == self._trunks[other] != ""

    def _note(self, name: str, answer: Answer, waiting: int) -> None:
        """Say how a run ended, and when all may have."""
        self._room.learn(answer)
        self._ended += 1
        left = waiting + len(self._going)
        spent = time.monotonic() - self._began
        eta = f"   about {spent / self._ended * left / 60:.0f} min left" if left else ""
        number = len(self._runs) - left
        self._say(f"[{number:>{len(str(len(self._runs)))}}/{len(self._runs)}] {self._runs[name].title}: "
                  f"{how_it_ended(self._folder / name, answer)}{eta}")  # fmt: skip
        if answer.outcome == "completed":
            self._complete.add(name)
        else:
            self.failed[name] = answer.error.splitlines()[0] if answer.error else "no reason was told"

    def _ask_to_stop(self) -> tuple[str, bool]:
        for name in self._going.values():
            make_folders(self._folder / name)  # its process may not have come so far
            RunFolder(self._folder / name).wish_to_stop()
        return "stopping: the runs that go on end with their round; again: at once", bool(self._going)
