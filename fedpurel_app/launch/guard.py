"""A process that outlives the command that started it, to end what that one can no longer: ``kill -9`` asks nobody.

``python -m fedpurel_app.launch.guard TOKEN SCRATCH`` reads from its standard input. A word there means that the command
has cleaned up by itself; the end of the input without one means that it died.
"""

from __future__ import annotations

import os
import select
import shutil
import sys

from fedpurel_app.launch.processes import ProcessFamily

_WATCH = 1.0  # seconds from one look at the family to the next


def main(token: str, scratch: str) -> None:
    """Wait for the command's end.

    Parameters
    ----------
    token : str
        What marks the processes of its family.
    scratch : str
        Its folder of things that nobody needs afterwards.
    """
    family = ProcessFamily(token)
    while not select.select([0], [], [], _WATCH)[0]:
        family.note()  # while it is whole: a process that loses its parent cannot be told from others later
    if not os.read(0, 1):
        family.stop()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
