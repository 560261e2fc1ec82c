"""``fedpurel personalize``: a private branch for a new site, trained here."""

from __future__ import annotations

import argparse
from logging import getLogger

from fedpurel_app.api import Run
from fedpurel_app.core.progress import in_words
from fedpurel_app.launch.choose import assignments
from fedpurel_app.reporting.gain import gain_lines


def personalize(options: argparse.Namespace) -> int:
    """Train, and print the gain over the global model; returns the exit code."""
    given = (options.key_file, options.pretrained)
    key_file, pretrained = (path.expanduser().absolute() if path else None for path in given)
    run, data, out = (path.expanduser().absolute() for path in (options.run, options.data, options.out))
    changes = assignments(options.set)
    more = {"key_file": key_file, "pretrained": pretrained, "checkpoint": options.checkpoint}
    with in_words(getLogger("flwr")):
        found = Run(run).personalize(data, out, options.site, changes, **more)
    print("\n".join(gain_lines(found.site, found.scores, found.pooled)))
    print(f"use it: fedpurel predict --run {found.path} --site {found.site} IMAGE")
    return 0
