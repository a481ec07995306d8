"""A measurement in a process of its own: what is fixed when a process starts (flags, the number of devices, another library's threads)
touches no other measurement."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def told(*arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """What `python ARGUMENTS` prints last, as JSON, under this environment beside ours."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (environment or {}))
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
