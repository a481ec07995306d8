"""PyTorch's GRU on the same problem, in a process of its own: its spinning threads would slow XLA's.

`python -m experiments.speed.torch_process FILE ROUNDS cpu|cuda` reads weights, inputs and output weights, writes the gradient
beside them, and prints the milliseconds.
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
from experiments.speed.child import told
from experiments.speed.measure import LEAST
from experiments.speed.problem import Candidate, Problem


def timed(problem: Problem, rounds: int, device: str) -> tuple[dict[str, Any], Candidate, Any]:
    """(milliseconds by torch, its tree and how it becomes ours, its gradient), from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problem.npz"
        tree = gj.convert.to_pytorch(problem.cell, problem.params)
        weights = {f"weight:{name}": array for name, array in tree.items()}
        np.savez(file, xs=np.asarray(problem.xs), outputs=np.asarray(problem.weights), **weights)
        found = told("-m", "experiments.speed.torch_process", str(file), str(rounds), device)
        with np.load(file.with_suffix(".gradient.npz")) as written:
            gradient = {name: written[name] for name in tree}
    candidate = Candidate(None, tree, partial(gj.convert.from_pytorch, problem.cell))
    return found, candidate, gradient


def main(path: str, rounds: int, device: str) -> None:
    """The child."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    with np.load(path) as given:
        arrays = {name: torch.from_numpy(given[name]).to(device) for name in given.files}
    names = [name for name in arrays if name.startswith("weight:")]
    units, inputs = arrays["weight:weight_ih_l0"].shape[0] // 3, arrays["xs"].shape[-1]
    module = torch.nn.GRU(inputs, units).to(device)
    module.load_state_dict({name.removeprefix("weight:"): arrays[name] for name in names})

    def gradient() -> list[Any]:
        return list(torch.autograd.grad((module(arrays["xs"])[0] * arrays["outputs"]).sum(), list(module.parameters())))

    def once(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            gradient()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / calls

    once(1)
    calls = max(1, int(LEAST / once(1)))
    times = [once(calls) for _ in range(rounds)]
    named = zip((name for name, _ in module.named_parameters()), gradient(), strict=True)
    np.savez(Path(path).with_suffix(".gradient.npz"), **{name: bar.cpu().numpy() for name, bar in named})
    low, middle, high = statistics.quantiles(times, n=4)
    ms = {"ms": middle, "ms_low": low, "ms_high": high}
    rounded = {key: round(1e3 * value, 5) for key, value in ms.items()}
    print(json.dumps(rounded | {"rounds": rounds, "threads": torch.get_num_threads(), "torch": torch.__version__}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
