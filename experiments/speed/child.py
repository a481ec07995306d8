"""A measurement in a process of its own: what is fixed when a process starts (flags, the number of devices, another library's threads)
touches no other measurement."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def told(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `python -m experiments.speed.MODULE ARGUMENTS` prints last, as JSON, under this environment beside ours."""
    command = [sys.executable, "-m", f"experiments.speed.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (environment or {}))
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
