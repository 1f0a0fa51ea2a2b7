"""The files that a command's report goes to beside the screen."""

import json
from pathlib import Path
from typing import Any

from ..errors import InputError


def refuse_files_of_dry_run(dry_run: bool, **files: Path | None) -> None:
    """InputError where a dry run, which makes no report, is to write one; files are by the names of their options."""
    for name, path in files.items():
        if dry_run and path:
            raise InputError(f"--{name} does not go with --dry-run: there is no report to write.")


def write_json(path: Path, data: Any) -> None:
    """Write JSON data, whole or not at all. See `whole_file` for its errors."""
    from ..whole_file import whole_file

    with whole_file(path) as file:
        file.write(json.dumps(data, indent=1).encode())
