"""Rules of paths."""

from __future__ import annotations

from pathlib import Path

from fedpurel_app.config.model import RunConfig
from fedpurel_app.config.rules.base import Rule, rule
from fedpurel_app.core.files import names_weights


def path_rules(config: RunConfig) -> list[Rule]:
    """List the rules of paths."""
    paths = {
        "out": config.out,
        "resume-from": config.resume_from,
        "state-dir": config.state_dir,
        "dataset-path": config.dataset_path,
        "image-root": config.image_root,
        "probe-path": config.probe_path,
        "pretrained": config.pretrained if names_weights(config.pretrained) else "",
    }
    return [
        rule(
            key,
            bool(path) and not Path(path).is_absolute(),
            f'{key} = "{path}" must be an absolute path: the processes that read it have folders of their own.',
        )
        for key, path in paths.items()
    ]
