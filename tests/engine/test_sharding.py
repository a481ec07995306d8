"""A batch over several devices has the results of one device, and no all-reduce per step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.derivative


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4])
def test_every_sharding_gives_the_results_of_one_device_and_reduces_outside_the_loops(devices):
    script = [sys.executable, "tests/engine/sharded.py", str(devices)]
    process = subprocess.run(
        script, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["devices"] == devices
    results = report["results"]
    assert {case.rsplit(", ", 1)[1] for case in results} == {"Auto mesh", "Explicit mesh", "shard_map"}
    for case, result in results.items():
        assert result["difference"] < (1e-12 if "long" in case else 1e-13), case
        # With blocks, the gradient may be reduced once per block. The cases with "blocks" request
        # them, and in the "long" case the plan chooses them on an Auto mesh.
        per_block = ("blocks" in case and "shard_map" not in case) or ("long" in case and "Auto" in case)
        if "Autodiff" not in case and not per_block:
            assert result["in_loops"] == 0, case
            assert result["outside"] >= 1, case
    assert all(difference < 1e-13 for steps in report["steps"].values() for difference in steps)
    assert report["kernel"] < 1e-13
    assert all(difference < 1e-13 for difference in report["replicated"].values()), report["replicated"]
    # shows that the counter can find all-reduces in loops, and that the long case has blocks
    assert results["gru, Autodiff, lengths and resets, Auto mesh"]["in_loops"] > 0
    assert results["gru, long, CustomVJP, lengths and resets, Auto mesh"]["in_loops"] > 0
