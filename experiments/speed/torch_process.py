"""Times PyTorch's GRU on the benchmark problem, in a process of its own.

PyTorch's spinning threads would slow down those of XLA.

`python -m experiments.speed.torch_process FILE ROUNDS cpu|cuda` reads weights, inputs and output
weights from a file, writes the gradient to a file beside it, and prints the milliseconds as JSON.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gru_jax as gj
from experiments.speed.child_process import run_json
from experiments.speed.measure import MIN_SECONDS
from experiments.speed.problem import Candidate, Problem


def timed(problem: Problem, rounds: int, device: str) -> tuple[dict[str, Any], Candidate, Any]:
    """Times PyTorch in a process of its own.

    Returns:
        The milliseconds, the candidate without a loss, and PyTorch's gradient.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problem.npz"
        tree = gj.convert.to_pytorch(problem.cell, problem.params)
        weights = {f"weight:{name}": array for name, array in tree.items()}
        np.savez(file, xs=np.asarray(problem.xs), outputs=np.asarray(problem.weights), **weights)
        found = run_json("-m", "experiments.speed.torch_process", str(file), str(rounds), device)
        with np.load(file.with_suffix(".gradient.npz")) as written:
            gradient = {name: written[name] for name in tree}
    candidate = Candidate(None, tree, partial(gj.convert.from_pytorch, problem.cell))
    return found, candidate, gradient


def main(path: str, rounds: int, device: str) -> None:
    """Times PyTorch in this process, writes the gradient, and prints the milliseconds as JSON."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    with np.load(path) as arrays_in_file:
        arrays = {name: torch.from_numpy(arrays_in_file[name]).to(device) for name in arrays_in_file.files}
    names = [name for name in arrays if name.startswith("weight:")]
    units, inputs = arrays["weight:weight_ih_l0"].shape[0] // 3, arrays["xs"].shape[-1]
    module = torch.nn.GRU(inputs, units).to(device)
    module.load_state_dict({name.removeprefix("weight:"): arrays[name] for name in names})

    def gradient() -> list[Any]:
        return list(torch.autograd.grad((module(arrays["xs"])[0] * arrays["outputs"]).sum(), list(module.parameters())))

    def seconds_per_call(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            gradient()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / calls

    seconds_per_call(1)
    calls = max(1, int(MIN_SECONDS / seconds_per_call(1)))
    times = [seconds_per_call(calls) for _ in range(rounds)]
    named = zip((name for name, _ in module.named_parameters()), gradient(), strict=True)
    np.savez(Path(path).with_suffix(".gradient.npz"), **{name: bar.cpu().numpy() for name, bar in named})
    low, middle, high = statistics.quantiles(times, n=4)
    ms = {"ms": middle, "ms_low": low, "ms_high": high}
    rounded = {key: round(1e3 * value, 5) for key, value in ms.items()}
    print(json.dumps(rounded | {"rounds": rounds, "threads": torch.get_num_threads(), "torch": torch.__version__}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
