"""A Flower Grid inside the test process, and small experiments for it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fedpurel_app.client_app import app as client_app
from fedpurel_app.data import shapes
from fedpurel_app.reporting.run_folder import RunFolder
from fedpurel_app.server_app import app as server_app

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


class LocalGrid(Grid):
    """Delivers messages to a ClientApp by calling it, through Flower's own serialisation of contents.

    Parameters
    ----------
    client_app : ClientApp
    num_nodes : int
    run_config : mapping
    shuffle : int
        Added to node ids: another value gives the nodes other ids in another order, as every Flower run does.
    spy : callable, optional
        Called with every message and reply; may return another reply.
    nodes : sequence of mapping, optional
        Settings of the nodes; else those of a simulation.
    node : mapping, optional
        More of every node's ``--node-config``.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, Any],
        shuffle: int = 0,
        spy: Callable[[Message, Message], Message | None] | None = None,
        nodes: Sequence[Mapping[str, Any]] = (),
        node: Mapping[str, Any] | None = None,
    ) -> None:
        simulated = [
            {"partition-id": site, "num-partitions": num_nodes, "simulation": True} for site in range(num_nodes)
        ]
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.app, self.spy = client_app, spy
        self.contexts = {
            (7919 * (site + 1) * (shuffle + 1)) % 1_000_003: Context(
                run_id=1,
                node_id=0,
                node_config={**own, **(node or {})},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for site, own in enumerate(nodes or simulated)
        }

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            received = copy.copy(message)  # sites must not share records with each other or with the server
            received.__dict__["_content"] = copy.deepcopy(message.content)
            try:
                reply = self.app(received, self.contexts[message.metadata.dst_node_id])
            except Exception as error:
                reply = Message(Error(code=2, reason=f"{type(error).__name__}: {error}"), reply_to=message)
            if self.spy is not None:
                reply = self.spy(message, reply) or reply
            replies.append(reply)
        return replies

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise TypeError("use Message(...)")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise TypeError("use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise TypeError("use send_and_receive")


def run_app(
    server_app: ServerApp, client_app: ClientApp, num_nodes: int, run_config: Mapping[str, Any], **grid: Any
) -> LocalGrid:
    """Run a ServerApp against a ClientApp in this process."""
    local = LocalGrid(client_app, num_nodes, run_config, **grid)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(run_config))
    server_app(grid=local, context=context)
    return local


def tiny_features(path: Path, classes: int = 6, width: int = 8, per_class: int = 40, seed: int = 0) -> Path:
    """Write a feature file whose classes overlap a little, so that every number of a run is neither 0 nor 100."""
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(classes, width))
    shift = 0.5 * rng.normal(size=width)  # what zero-shot does not know
    arrays: dict[str, Any] = {"text_features": text.astype(np.float32), "logit_scale": np.float32(10)}
    for split in ("train", "test"):
        labels = np.repeat(np.arange(classes), per_class)
        features = text[labels] + shift + 1.3 * rng.normal(size=(len(labels), width))
        arrays |= {f"{split}_features": features.astype(np.float32), f"{split}_labels": labels}
    np.savez(path, class_names=np.array([f"class {i}" for i in range(classes)]), **arrays)
    return path


def tiny_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Give settings of a run that takes a second."""
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
        "evaluate-every": 2,
        "batch-size": 8,
        "out": str(folder / "run"),
    }
    return config | {key.replace("_", "-"): value for key, value in changes.items()}


def run_tiny(folder: Path, **changes: Any) -> RunFolder:
    """Run the real apps on tiny settings in this process; ``grid`` holds options of the grid."""
    grid = changes.pop("grid", {})
    config = tiny_config(folder, **changes)
    run_app(server_app, client_app, int(config["num-sites"]), config, **grid)
    return RunFolder(Path(config["resume-from"] if config.get("resume-from") else config["out"]))


def a_round(number: int, **more: Any) -> dict[str, Any]:
    """Give a line of ``rounds.jsonl`` that says little."""
    if not number:
        return {"round": 0, "phase": "start", "total_rounds": 4, "seconds": {"total": 1.0}, **more}
    lists: dict[str, Any] = {name: [] for name in ("cohort", "usable", "dropped")}
    numbers = {"bytes_up": 0, "bytes_down": 0, "train": {}, "kept_old_model": False}
    return {**a_round(0), "round": number, "phase": "global", **lists, **numbers, **more}


def a_state(number: int, **more: Any) -> dict[str, Any]:
    """Give the state of a checkpoint that knows of no site."""
    known: dict[str, Any] = {"roster": {}, "private_rounds": {}, "failed_in_a_row": 0}
    return {"round": number, **known, "experiment_id": "e", "attempt": 1, "seconds": 1.0, **more}


def timeless(folder: RunFolder) -> list[dict[str, Any]]:
    """Give a run's rounds without their times."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in folder.rounds()]


def private_files(folder: RunFolder) -> dict[str, bytes]:
    """Give every private branch of a simulation by site and generation."""
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
