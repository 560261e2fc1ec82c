"""``fedpurel doctor --node-config``: a node's settings, data and folders, before its first run."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedpurel_app.cli.doctor import Finding
from fedpurel_app.config import NodeConfig, RunConfig, load_node_config, refusals
from fedpurel_app.core.errors import ConfigError, FedPurelError
from fedpurel_app.data.sources.inspection import look_at
from fedpurel_app.data.sources.manifest_rows import Form
from fedpurel_app.data.sources.own import load_own
from fedpurel_app.experiment import Experiment
from fedpurel_app.reporting.console import size_in_words
from fedpurel_app.site.data_paths import cache_folder, private_folder, with_own_paths
from fedpurel_app.site.private_quota import experiments, used_bytes
from fedpurel_app.site.sealing import read_key

_FEW = 50_000_000  # bytes free below which a state folder is as good as full


def examine_node(text: str, config: RunConfig | None) -> Iterator[Finding]:
    """Look at what a SuperNode with these settings would work with.

    Parameters
    ----------
    text : str
        As ``flower-supernode --node-config`` takes it.
    config : RunConfig or None
        Settings of a run that it is to serve; None: the node alone.

    Yields
    ------
    Finding
    """
    yield Finding("node:")
    try:
        node = load_node_config(parse_node_config(text))
    except ConfigError as error:
        yield from (Finding(f"  settings  {problem}", True) for problem in error.problems)
        return
    yield Finding(f"  site      {node.site or f'named after its part, {node.partition_id} of {node.num_partitions}'}")
    yield from _data(node, config)
    yield from _state(node)
    yield from _files(node)
    yield from map(Finding, _rules(node))
    if config is not None:
        refused = refusals(config, node)
        with contextlib.suppress(ConfigError):
            with_own_paths(config, node, simulated=False)
            yield Finding(f"  run       {'refused:' if refused else 'these settings are served'}", bool(refused))
        yield from (Finding(f"            {line}", True) for line in refused)


def parse_node_config(text: str) -> dict[str, bool | int | float | str]:
    """Read a ``--node-config`` as Flower does.

    Raises
    ------
    ConfigError
        When Flower could not read it.
    """
    from flwr.common.config import parse_config_args  # takes seconds

    try:
        return dict(parse_config_args([text]))
    except Exception as error:  # Flower raises many kinds; all mean that a SuperNode would not start
        raise ConfigError(
            f"--node-config '{text}' cannot be read ({error}): write KEY=VALUE pairs with text in double quotes, as "
            '\'site="hospital-a" data="/data/a"\'.'
        ) from error


def _data(node: NodeConfig, config: RunConfig | None) -> Iterator[Finding]:
    """Open the data as a run would, or, without one, under the data's own class names."""
    try:
        if config is not None:
            own = with_own_paths(config, node, simulated=False)
            whose = "" if node.has_part else node.site or ""
            experiment = Experiment(own, cache_folder(node, simulated=False), own=not node.has_part, site=whose)
            source, classes = experiment.federation.source, experiment.federation.source.class_names
        elif node.has_part:
            yield Finding("  data      a part of the run's data set: name the run's settings with --preset and --set")
            return
        else:
            columns = (node.path_column, node.label_column, node.split_column, node.site_column)
            source = load_own(node.data, (), 0, Form(*columns, node.image_root), node.site or "")
            classes = source.class_names
        look_at(source)
    except FedPurelError as error:
        problems = error.problems if isinstance(error, ConfigError) else (str(error),)
        yield from (Finding(f"  data      {problem}", True) for problem in problems)
        return
    for split, name in ((source.train, "training"), (source.test, "test")):
        held = np.bincount(split.labels, minlength=len(classes))
        rarest = f", {int(held[held > 0].min())} of the rarest" if held.any() else ""
        yield Finding(f"  data      {len(split.labels):,} {name} images of {int((held > 0).sum())} classes{rarest}")
    yield from (Finding(f"            {note}") for note in source.notes)


def _state(node: NodeConfig) -> Iterator[Finding]:
    """Try the state folder: it must take files, be closed to others, and have room."""
    root = private_folder(node)
    exists = next(folder for folder in (root, *root.parents) if folder.exists())
    if not exists.is_dir():
        yield Finding(f"  state     {exists} is a file: name a folder with state-dir", True)
        return
    try:
        with tempfile.TemporaryFile(dir=exists):
            pass
    except OSError as error:
        yield Finding(f"  state     {root} cannot be written ({error.strerror}): it must be this user's own", True)
        return
    free = shutil.disk_usage(exists).free
    there = "" if root.exists() else ", to be made"
    yield Finding(f"  state     {root}: {size_in_words(free)} free{there}", free < _FEW)
    if root.exists() and stat.S_IMODE(root.stat().st_mode) & 0o077 and os.name == "posix":
        yield Finding(f"            others may look into it: chmod 700 {root}")
    known, used = len(experiments(root)), used_bytes(root)
    yield Finding(
        f"            {known} of {node.max_experiments} experiments, {size_in_words(used)} of "
        f"{size_in_words(node.max_private_bytes)}",
        known >= node.max_experiments or used >= node.max_private_bytes,
    )


def _files(node: NodeConfig) -> Iterator[Finding]:
    if node.key_file:
        try:
            yield Finding(f"  key       {read_key(Path(node.key_file)).name}, private branches are encrypted")
        except FedPurelError as error:
            yield Finding(f"  key       {error}", True)
    else:
        yield Finding("  key       none: private branches lie on the disk in the clear (fedpurel keygen makes one)")
    if node.pretrained:
        there = Path(node.pretrained).is_file()
        yield Finding(f"  weights   {node.pretrained}" + ("" if there else ": no such file"), not there)


_LOG = {
    "none": "nothing, and of an error its kind",
    "warnings": "warnings and errors of first contacts and global rounds",
    "all": "all lines of first contacts and global rounds",
}
_CALIBRATION = {
    "full": "of all models whose scores leave",
    "global": "of zero-shot and the global model",
    "none": "of no model",
}


def _rules(node: NodeConfig) -> Iterator[str]:
    """Say what leaves this node."""
    scores = {
        "full": "by class where the run asks for it" if node.share_class_counts else "totals",
        "totals": "totals",
        "global": "totals, and none of the personalized model",
        "none": "none",
    }[node.scores]
    rounded = f", in multiples of {node.round_scores}" if node.round_scores > 1 else ""
    least = f", none below {node.min_test_images} test images" if node.min_test_images else ""
    yield f"  leaves    scores: {scores}{rounded}{least}"
    if node.scores != "none":
        yield f"            confidences and losses: {_CALIBRATION[node.calibration]}"
    means = "means over the steps of global rounds" if node.metrics == "full" else "the number of images alone"
    yield f"            metrics: {means}; of personal rounds the number of images alone"
    yield f"            log: {_LOG[node.share_log]}"
    if node.text_split:
        yield '            with split = "text": gradients at the text features, which tell the classes that it has'
    demands = [f"algorithms {node.algorithms}"] * bool(node.algorithms)
    demands += [f"privacy {node.require_privacy}"] * bool(node.require_privacy)
    yield f"  demands   {', '.join(demands) or 'nothing of a run, but that it keeps within its bounds'}"
