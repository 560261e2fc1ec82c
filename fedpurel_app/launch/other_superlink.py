"""Run the app on a SuperLink that others started: submit, follow, and stop the run alone, never the SuperLink."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedpurel_app.core.errors import ConfigError, RunError
from fedpurel_app.core.names import FLOWER_LOG
from fedpurel_app.launch.flower_run import FlowerRun
from fedpurel_app.launch.processes import signals_deferred

_PATIENCE_OF_COMMANDS = 5.0  # seconds
_PATIENCE = 600.0  # seconds without an answer of the SuperLink: time enough to start it again


class RemoteRun(FlowerRun):
    """One run of the app on the SuperLink of a named connection.

    Parameters
    ----------
    settings : mapping
        Checked run config, all keys.
    connection : str
        A connection of Flower's own configuration, ``$FLWR_HOME/config.toml``.

    Raises
    ------
    ConfigError
        When there is no such connection, or one that has no SuperLink of its own.
    """

    def __init__(self, settings: Mapping[str, Any], connection: str) -> None:
        super().__init__(settings, connection)
        self.address = superlink_address(connection)

    def run(self, watch: Callable[[Path], None]) -> str:
        """Submit and follow to the end.

        Parameters
        ----------
        watch : callable
            Called several times a second with Flower's log of the run so far. After a break the file begins anew.

        Returns
        -------
        str
            Flower's word for how it ended: "finished:completed", "finished:failed" or "finished:stopped".

        Raises
        ------
        RunError
            When the SuperLink refused the app, gave no answer for long, or did not stop the run.
        KeyboardInterrupt
            On Ctrl-C or a termination signal, after the run was stopped.
        """
        return self._conduct(lambda: watch(self._logs / FLOWER_LOG))

    # --- parts ------------------------------------------------------------------------------------------------------

    @property
    def _logs(self) -> Path:
        return self._scratch  # the run folder may lie on another machine

    @property
    def _folder_of_commands(self) -> Path:
        return Path.cwd()  # paths in Flower's configuration may be relative to it

    def _begin(self) -> None:
        """Begin with nothing: the SuperLink is there."""

    def _submit(self, *more: str) -> None:
        with signals_deferred():  # a run must not be left behind because its id was not read
            super()._submit(*more)

    def _follow(self, look: Callable[[], None]) -> str:
        """Follow, also across a restart of the SuperLink: with a database and process isolation the run goes on."""
        last_heard = time.monotonic()
        while True:
            (self._logs / FLOWER_LOG).unlink(missing_ok=True)
            self._stream(look)
            look()
            try:
                if self._ask().startswith("finished"):
                    return self.status
                last_heard = time.monotonic()
            except RunError as error:
                if time.monotonic() - last_heard > _PATIENCE:
                    raise RunError(f"{error}\nRun {self.run_id} may go on without being followed.") from error
            time.sleep(2.0)

    def _answer_interrupt(self) -> tuple[str, bool]:
        if not self.run_id:
            return "stopping: nothing was submitted yet", False
        return f"stopping run {self.run_id} on {self._connection}: Flower takes some seconds for it", False

    def _end(self, interrupted: bool) -> None:
        """Stop the run when the user says so, and what follows it."""
        try:
            if interrupted:
                self._stop_run()
        except RunError as error:
            how = f"flwr stop {self.run_id} {self._connection}"
            raise RunError(f"Run {self.run_id} may go on; stop it with: {how}\n{error}") from error
        finally:
            self._family.stop(_PATIENCE_OF_COMMANDS)


def superlink_address(connection: str) -> str:
    """Look the address of a connection up in Flower's own configuration.

    Parameters
    ----------
    connection : str

    Returns
    -------
    str
        HOST:PORT.

    Raises
    ------
    ConfigError
        When it has none.
    """
    path = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr") / "config.toml"
    try:
        content = tomllib.loads(path.read_text("utf-8")) if path.exists() else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from error
    table = content.get("superlink")
    known = {name: found for name, found in table.items() if isinstance(found, dict)} if isinstance(table, dict) else {}
    addresses = {name: str(found.get("address", "")) for name, found in known.items()}
    usable = sorted(name for name, address in addresses.items() if address and not address.startswith(":"))
    if connection not in usable:
        why = "has no address of a SuperLink" if connection in known else f"is not in {path}"
        raise ConfigError(
            f'--superlink {connection}: the connection "{connection}" {why}. There: {", ".join(usable) or "none"}. '
            f"Add it:\n[superlink.{connection}]\n"
            'address = "HOST:8000"\nroot-certificates = "/path/to/ca.crt"  # or: insecure = true'
        )
    return addresses[connection]
