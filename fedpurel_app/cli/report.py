"""``fedpurel report``: write the page of a run or of a sweep, or serve a run's while it goes on."""

from __future__ import annotations

import argparse

from fedpurel_app.core.errors import ConfigError


def report(options: argparse.Namespace) -> int:
    """Write or serve a page.

    Parameters
    ----------
    options : Namespace
        Of the command line.

    Returns
    -------
    int
        The exit code.
    """
    path = options.folder.absolute()
    if not options.follow:
        from fedpurel_app.reporting.page.write import write_report  # loads matplotlib

        if options.port is not None:
            raise ConfigError("--port goes with --follow: without it nothing is served, a file is written.")
        print(write_report(path, options.out.absolute() if options.out else None))
        return 0
    from fedpurel_app.reporting.page.follow import follow

    if options.out:
        raise ConfigError("--follow serves the page and writes no file: leave out --out, or --follow.")
    follow(path, options.port or 0, lambda address: print(f"{address}  (Ctrl-C ends it)", flush=True))
    return 0
