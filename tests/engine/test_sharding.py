"""The batch over several devices: the same results to rounding, and no all-reduce inside a loop over steps."""

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
def test_every_way_of_sharding_gives_the_results_of_one_device_and_reduces_once(devices):
    script = [sys.executable, "tests/engine/sharded.py", str(devices)]
    process = subprocess.run(
        script, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["devices"] == devices
    found = report["found"]
    assert {case.rsplit(", ", 1)[1] for case in found} == {"Auto mesh", "Explicit mesh", "shard_map"}
    for case, result in found.items():
        assert result["difference"] < (1e-12 if "long" in case else 1e-13), case
        # blocks that are asked for on a mesh of Auto or Explicit axes, or chosen on one of Auto, are reduced one by one; never steps
        by_block = ("blocks" in case and "shard_map" not in case) or ("long" in case and "Auto" in case)
        if "autodiff" not in case and not by_block:
            assert result["inside"] == 0, case
            assert result["outside"] >= 1, case
    assert all(one < 1e-13 for ones in report["unlike"].values() for one in ones)
    assert found["gru, autodiff, lengths and resets, Auto mesh"]["inside"] > 0  # and the test would see one
    assert found["gru, long, adjoint, lengths and resets, Auto mesh"]["inside"] > 0  # and there are blocks to choose
