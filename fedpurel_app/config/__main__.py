"""Print the run-config table for ``pyproject.toml``, or with ``--write`` put it there."""

import sys
from pathlib import Path

from fedpurel_app.config import run_config_table

_HEADER = "[tool.flwr.app.config]\n"

table = run_config_table()
if sys.argv[1:] == ["--write"]:
    project = Path("pyproject.toml")
    head, header, rest = project.read_text("utf-8").partition(_HEADER)
    note, first, _ = rest.partition("# Method\n")
    if not header or not first:
        sys.exit(f"{project.absolute()} has no table {_HEADER.strip()} that begins with # Method.")
    after = rest.partition("\n\n")[2]  # the table ends at the first empty line
    project.write_text(f"{head}{header}{note}{table}\n{after}", "utf-8")
else:
    print(table, end="")
