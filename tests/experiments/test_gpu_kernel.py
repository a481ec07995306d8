"""What `gpu_kernel` reads from a compiled program. The compiler itself runs in CI, in an environment of its own."""

import pytest

from experiments import gpu_kernel
from experiments.common import Options
from experiments.gpu import kernels
from experiments.gpu.kernels import KernelNeeds, kernel_needs

THUNKS = """
    006: kCustomKernel [prev=005 (1) | next=007 (1)] fused_loop grid: [2, 1, 1] threads: [512, 1, 1]  shared_memory: 57344 bytes
    013: kCustomKernel [prev=012 (1) | sink] fused_loop_reverse grid: [3, 1, 1] threads: [128, 1, 1]  shared_memory: 2048 bytes
"""
PTX = (
    ".target sm_90a\n.visible .entry fused_loop(\nwgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32",
    ".entry fused_loop_reverse(",
)
PRINTED = "32 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads\nUsed 72 registers, used 1 barriers"


def test_needs_of_a_kernel_are_those_that_the_assembler_prints(monkeypatch):
    monkeypatch.setattr(kernels, "assembled", lambda ptx: PRINTED)
    assert kernel_needs("fused_loop", THUNKS, PTX) == KernelNeeds(2, 16, 72, 24, 56.0, "tf32")
    assert kernel_needs("fused_loop_reverse", THUNKS, PTX) == KernelNeeds(3, 4, 72, 24, 2.0, "fma")
    monkeypatch.setattr(kernels, "assembled", lambda ptx: "nothing")
    with pytest.raises(ValueError, match="got 'nothing' from ptxas"):
        kernel_needs("fused_loop", THUNKS, PTX)
    with pytest.raises(ValueError, match="got 0 launches and 0 files"):
        kernel_needs("another", THUNKS, PTX)


def test_every_kernel_is_compiled_once_and_has_a_place_in_the_record():
    cases = [
        {"target": target, **case} for target in gpu_kernel.TARGET_NAMES for case in gpu_kernel.cases_of(target, Options())
    ]
    places = [gpu_kernel.order(case) for case in cases]
    assert len(set(places)) == len(cases) > 80
    parts = [case for part in range(gpu_kernel.PROCESSES) for case in cases[part :: gpu_kernel.PROCESSES]]
    assert sorted(parts, key=gpu_kernel.order) == sorted(cases, key=gpu_kernel.order)
