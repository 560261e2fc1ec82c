"""How a run was set up, on what it ran, what it cost, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedpurel_app.config import describe_keys
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.names import clean
from fedpurel_app.reporting.columns import number
from fedpurel_app.reporting.console import duration, privacy_line, size_in_words
from fedpurel_app.reporting.page.again import command
from fedpurel_app.reporting.page.blocks import Block, Code, Fold, Section, Text, table
from fedpurel_app.reporting.page.snapshot import Snapshot
from fedpurel_app.reporting.settings import DEFAULTS, own_settings

_PARTS = {
    "start_up": "start-up, until the first evaluation",
    "features": "encoding images",
    "training": "training, of the busiest process of the sites",
    "evaluation": "evaluation, at sites and server",
    "flower": "Flower: messages and waiting",
    "other": "other",
}
_PLACES = ("out", "resume-from", "experiment-id")  # say where, not what; a page may be sent to others


def costs_section(run: Snapshot) -> Section:
    """Return time by part, and traffic by phase."""
    seconds = run.scores.get("seconds") or {}
    total = seconds.get("total") or 0.0
    rows = [[title, duration(seconds[key]), _share(seconds[key], total)] for key, title in _PARTS.items()
            if seconds.get(key) is not None]  # fmt: skip
    rows.append(["total", duration(total), _share(total, total)])
    traffic = []
    for phase in dict.fromkeys(line["phase"] for line in run.played):
        lines = [line for line in run.played if line["phase"] == phase]
        up, down = (sum(line[f"bytes_{way}"] for line in lines) for way in ("up", "down"))
        visits = sum(len(line["usable"]) for line in lines)
        a_visit = size_in_words(up / visits) if visits else None
        traffic.append([f"{phase} rounds", len(lines), size_in_words(up), size_in_words(down), a_visit])
    header = ("phase", "rounds", "from the sites", "to the sites", "from a site in a round")
    blocks: list[Block] = [table("Wall time at the server", ("part", "time", "share"), rows)]
    blocks += [table("Bytes: arrays and metrics", header, traffic)] if traffic else []
    if privacy := run.scores.get("privacy"):
        blocks.append(Text(f"{privacy_line(privacy)}."))
    return Section("costs", "Bytes and seconds", tuple(blocks))


def configuration_section(run: Snapshot) -> Section:
    """Return what differs from the defaults, all settings, and what the run ran on."""
    config = {key: value for key, value in run.config.items() if key not in _PLACES}
    meanings = {key: meaning for _, key, _, meaning in describe_keys()}
    own = [key for key in own_settings(config) if key in config]
    changed = [[key, _as_text(config[key]), _as_text(DEFAULTS.get(key)), meanings.get(key, "")] for key in own]
    whole = [[key, _as_text(value), meanings.get(key, "")] for key, value in config.items()]
    every = table("All settings", ("key", "value", "meaning"), whole, 3)
    blocks = (
        table("Settings that are not the defaults, and the seed", ("key", "value", "default", "meaning"), changed, 4),
        Fold(f"All {len(whole)} settings", (every,)),
        *environment_section(run).blocks,
    )
    return Section("configuration", "Configuration and environment", blocks)


def environment_section(run: Snapshot) -> Section:
    """Return versions and machine."""
    return Section("environment", "Environment", (table("Environment", ("what", "value"), _environment(run), 2),))


def again_section(run: Snapshot, places: bool = True) -> Section:
    """Return the command that makes the run again; without ``places``, it does not tell where files lay."""
    heading = ("again", "Do it again")
    try:
        line = command(run, places)
    except ConfigError as error:
        return Section(*heading, (Text(f"No command is known: {clean(str(error), 600)}."),))
    about = "Same versions, machine and threads give the same bits on a CPU; elsewhere the last bits differ. " + (
        "A path in it is one of the machine that made this page."
        if places
        else "Files and folders in it are named without the place where they lay."
    )
    return Section(*heading, (Code(line), Text(about)))


def _share(part: float, total: float) -> str:
    return f"{100 * part / total:.0f} %" if total else number(None)


def _as_text(value: Any) -> str:
    return "true" if value is True else "false" if value is False else clean(str(value), 300)


def _environment(run: Snapshot) -> list[list[str]]:
    """Return rows of what config.json and launch.json tell of versions and machine; not its name, nor its folders."""
    versions, machine = (_mapping(run.content.get(key)) for key in ("versions", "machine"))
    launch = run.launch()
    rows = [[str(name), str(version)] for name, version in versions.items()]
    rows += [[name, str(machine[key])] for key, name in (("cpu", "CPU"), ("cores", "cores"), ("gpu", "GPU"))
             if machine.get(key)]  # fmt: skip
    rows += [["CPUs for each site", str(launch["cpus-per-site"])]] if "cpus-per-site" in launch else []
    rows += [["GPU share of each site", f"{launch['gpus-per-site']:g}"]] if launch.get("gpus-per-site") else []
    return [*rows, ["data", str(run.content["data"])]]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
