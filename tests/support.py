"""Small experiments inside the test process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.synthetic import tiny_features
from fedpurel_app.data.shapes import shapes
from fedpurel_app.launch.local_grid import LocalGrid, run_app
from fedpurel_app.reporting.run_folder import RunFolder

__all__ = ["LocalGrid", "run_app", "tiny_features"]
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


def tiny_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return settings of a run that takes a second."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "features.npz"
    if not data.exists():
        tiny_features(data)
    config: dict[str, Any] = {
        "dataset": "features",
        "dataset-path": str(data),
        "peft": "text-residual",
        "imbalance-factor": 10,
        "num-sites": 5,
        "global-rounds": 3,
        "personal-rounds": -1,
        "local-epochs": 1,
        "evaluate-every": 2,
        "batch-size": 8,
        "out": str(folder / "run"),
    }
    return config | {key.replace("_", "-"): value for key, value in changes.items()}


class EndedRun(RunFolder):
    """The folder of a run that has come to an end: it has a summary, and a test need not ask first."""

    if TYPE_CHECKING:

        def summary(self) -> dict[str, Any]: ...


def run_tiny(folder: Path, **changes: Any) -> EndedRun:
    """Run the real apps on tiny settings in this process; ``grid`` holds options of the grid."""
    from fedpurel_app.client_app import app as client_app  # torch, which those who want other parts of this need not
    from fedpurel_app.server_app import app as server_app

    grid = changes.pop("grid", {})
    config = tiny_config(folder, **changes)
    run_app(server_app, client_app, int(config["num-sites"]), config, **grid)
    return EndedRun(Path(config["resume-from"] if config.get("resume-from") else config["out"]))


def run_whole_and_resumed(folder: Path, message_type: str, number: int, **changes: Any) -> tuple[EndedRun, EndedRun]:
    """Run settings twice: as a whole, and cut off while a round's messages are on their way, then resumed."""

    def stop(message: Any, reply: Any) -> None:
        if message.metadata.message_type == message_type and message.content["config"]["round"] == number:
            raise KeyboardInterrupt

    changes["experiment_id"] = "e"
    whole = run_tiny(folder / "whole", **changes)
    try:
        run_tiny(folder / "cut", **changes, grid={"spy": stop})
    except KeyboardInterrupt:
        return whole, run_tiny(folder / "cut", **changes, resume_from=str(folder / "cut" / "run"), out="")
    raise AssertionError(f"no round {number} has messages of {message_type}")


def a_round(number: int, **more: Any) -> dict[str, Any]:
    """Return a line of ``rounds.jsonl`` that says little."""
    if not number:
        return {"round": 0, "phase": "start", "total_rounds": 4, "seconds": {"total": 1.0}, **more}
    lists: dict[str, Any] = {name: [] for name in ("cohort", "usable", "dropped")}
    numbers = {"bytes_up": 0, "bytes_down": 0, "train": {}, "kept_old_model": False}
    return {**a_round(0), "round": number, "phase": "global", **lists, **numbers, **more}


def a_state(number: int, **more: Any) -> dict[str, Any]:
    """Return the state of a checkpoint that knows of no site."""
    known: dict[str, Any] = {"roster": {}, "private_rounds": {}, "failed_in_a_row": 0}
    return {"round": number, **known, "experiment_id": "e", "attempt": 1, "seconds": 1.0, **more}


def timeless(folder: RunFolder) -> list[dict[str, Any]]:
    """Return a run's rounds without their times."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in folder.rounds()]


def private_files(folder: RunFolder) -> dict[str, bytes]:
    """Return every private branch of a simulation by site and generation."""
    root = folder.path / "private"
    return {str(Path(*path.relative_to(root).parts[1:])): path.read_bytes() for path in root.rglob("*.safetensors")}


def write_images(root: Path, shades: Mapping[str, Iterable[int]]) -> None:
    """Write one small image for every shade into the folder of its class."""
    from PIL import Image

    for name, values in shades.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for shade in values:
            Image.new("RGB", (4, 4), (shade, 0, 0)).save(root / name / f"{shade}.png")


def flwr_run(project: Path, folder: Path, config: str, federation: str, port: int) -> str:
    """Submit an app folder by ``flwr run --stream`` to a SuperLink of its own; return the output, leaves no process."""
    home = folder / "flwr"
    home.mkdir()
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FEDPUREL_HOME": str(folder / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["flwr", "run", str(project), "--stream"]
    command += ["--run-config", config] if config else []
    command += ["--federation-config", federation] if federation else []
    try:
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    finally:
        for process in psutil.process_iter():
            try:
                if process.environ().get("FLWR_HOME") == str(home):
                    process.kill()
            except psutil.Error:
                continue
    return result.stdout + result.stderr


CLASS_NAMES = shapes.CLASS_NAMES[:5]  # of a federation in which each site has some of the classes
HELD = {"north": [0, 1, 2], "south": [2, 3, 4], "east": [0, 4]}


def own_sites(folder: Path) -> list[dict[str, Any]]:
    """Render a folder of images for each of three sites; gives their node configs."""
    from PIL import Image

    for name, labels in HELD.items():
        for label in labels:
            place = folder / name / CLASS_NAMES[label].replace(" ", "_")
            place.mkdir(parents=True)
            for index, picture in enumerate(shapes.images("train", label, 0, 6 + 2 * label)):
                Image.fromarray(picture).save(place / f"{index}.png")
    return [{"site": name, "data": str(folder / name), "state-dir": str(folder / f"{name}-state")} for name in HELD]


def a_table(folder: Path, labels: Mapping[str, Iterable[int]] = HELD, split: bool = True) -> Path:
    """Render images of some classes for each of three sites, and write ``all.csv``, a table of their paths.

    A class has 6 images and two more for each one before it; the first two of them are to test on.
    """
    import csv

    from PIL import Image

    (folder / "images").mkdir(parents=True)
    rows = []
    for site, held in labels.items():
        for label in held:
            for index, picture in enumerate(shapes.images("train", label, 0, 6 + 2 * label)):
                name = f"images/{site}-{label}-{index}.png"
                Image.fromarray(picture).save(folder / name)
                rows.append([name, CLASS_NAMES[label], "test" if index < 2 else "train", site])
    with (folder / "all.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *["split"] * split, "site"])
        writer.writerows(rows if split else [[row[0], row[1], row[3]] for row in rows])
    return folder / "all.csv"


def cut_by_site(table: Path, folder: Path) -> list[dict[str, Any]]:
    """Cut a table into one for each site, beside it, without the column of sites; returns node configs."""
    header, *rows = table.read_text("utf-8").splitlines()
    for name in HELD:
        own = [row.rpartition(",")[0] for row in (header, *rows) if row == header or row.endswith(f",{name}")]
        (table.parent / f"{name}.csv").write_text("\n".join(own), "utf-8")
    return [
        {"site": name, "data": str(table.parent / f"{name}.csv"), "state-dir": str(folder / f"{name}-state")}
        for name in HELD
    ]
