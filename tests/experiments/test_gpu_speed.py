"""The figures that `loop="auto"` would follow, from timings as `gpu_speed` writes them."""

import pytest

from experiments import gpu_speed
from experiments.common import Options


def row(sequences, steps, fused, units=32):
    measured = {} if fused is None else {"scan": {"ms": 1.0}}
    return {"cell": "GRU", "shape": (steps, sequences, 3, units), "measured": measured, "scan_over": {"fused": fused}}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(16, 100, 2.0), row(16, 1000, 1.5), row(64, 100, 1.2), row(64, 1000, 1.1)], 64),
        ([row(16, 100, 2.0), row(64, 100, 1.2), row(64, 1000, 0.9), row(256, 100, 1.3)], 16),
        ([row(16, 100, 0.7), row(64, 100, 3.0)], 0),
        ([row(16, 100, 2.0), row(64, 100, 2.0), row(64, 10_000, None)], 64),
    ],
    ids=["faster everywhere", "slower for one length", "slower with few", "too large to time"],
)
def test_the_kernel_is_chosen_up_to_the_sequences_with_which_it_was_always_faster(rows, expected):
    assert gpu_speed.most_sequences(rows) == {"GRU, 32 units": expected}


def test_a_refused_kernel_is_never_chosen():
    refused = row(16, 100, 2.0) | {"scan_over": {"PyTorch": 0.5}}
    assert gpu_speed.most_sequences([refused, row(16, 100, 2.0, units=64)]) == {"GRU, 32 units": 0, "GRU, 64 units": 16}


def test_without_a_gpu_nothing_is_timed(monkeypatch):
    monkeypatch.setattr(gpu_speed, "current_platform", lambda: "cpu")
    with pytest.raises(SystemExit, match="got a cpu device, expected an NVIDIA GPU; nothing was timed"):
        gpu_speed.run(Options())
