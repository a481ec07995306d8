"""Runs measurements in separate processes.

Flags, the number of devices and the threads of other libraries are fixed when a process starts. A
measurement in its own process can choose them without affecting other measurements.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def run_json(*arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Runs `python ARGUMENTS` and returns the last line it prints, parsed as JSON.

    Args:
        *arguments: The arguments of the Python interpreter.
        environment: Variables to add to the environment. Defaults to none.

    Raises:
        RuntimeError: If the process fails. The message ends with what it wrote to stderr.
    """
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (environment or {}))
    if done.returncode:
        raise RuntimeError(
            f"python {' '.join(arguments)}: got exit status {done.returncode}, expected 0. "
            f"Its last messages were:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])
