"""``fedpurel status``: list the runs and sweeps on this machine."""

from __future__ import annotations

import argparse
import json
import time

from fedpurel_app.reporting.status import as_json, as_lines, find


def status(options: argparse.Namespace) -> int:
    """Print what there is, in words or as JSON; returns the exit code."""
    runs, sweeps = find(options.folder.absolute() if options.folder else None)
    if options.json:
        print(json.dumps(as_json(runs, sweeps), indent=2))
    else:
        print("\n".join(as_lines(runs, sweeps, options.all, time.time())))
    return 0
