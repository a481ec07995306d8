"""Compiles gradients for a GPU and counts their launches, in a process of its own.

`python -m experiments.gpu.compile_process '{"target": …, "matmuls": …, "cases": […]}'` prints JSON: one
row for each case. A case has a cell, a shape, a candidate and `flags`, which is whether the batch
has lengths and resets.
"""

import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.gpu.target import ENVIRONMENT, Target
from experiments.speed.child_process import run_json


def compiled_rows(target: Path, matmuls: str, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compiles the cases in a new process. Returns them with their launches and their memory."""
    given = {"target": str(target), "matmuls": matmuls, "cases": cases}
    return run_json("-m", "experiments.gpu.compile_process", json.dumps(given), environment=ENVIRONMENT)


def candidates(problem: Any, names: Sequence[str], flags: bool) -> dict[str, Any]:
    """Returns the candidates of these names."""
    import jax.numpy as jnp

    import gru_jax as gj
    from experiments.speed.peers import ours, peers_of

    T, B = problem.xs.shape[:2]
    padded = {"lengths": jnp.arange(B) % T + 1, "resets": jnp.zeros((T, B), bool)} if flags else {}
    options: dict[str, Any] = {"ours": {}, "autodiff": {"derivative": gj.Autodiff()}}
    options |= {f"ours, {kind}": {"derivative": gj.CustomVJP(residuals=kind)} for kind in ("states", "gates")}
    options["ours, fused"] = {"derivative": gj.CustomVJP(loop="fused")}
    found = {name: ours(problem, **padded, **own) for name, own in options.items()}
    found |= {name: maker(problem) for name, maker in peers_of(problem.cell, names).items()}
    return {name: found[name] for name in names}


def main(given: dict[str, Any]) -> None:
    """Compiles the cases in this process, and prints the rows as JSON."""
    warnings.simplefilter("ignore")  # of other libraries
    import jax
    import jax.numpy as jnp

    from experiments.gpu.launches import count_launches
    from experiments.speed.problem import CELLS, Shape, random_problem

    target, rows = Target(Path(given["target"])), []
    for case in given["cases"]:
        shape = Shape(*case["shape"])
        problem = random_problem(CELLS[case["cell"]], shape)
        candidate = candidates(problem, [case["candidate"]], case["flags"])[case["candidate"]]
        arrays = [jnp.swapaxes(a, 0, 1) if candidate.batch_major else a for a in (problem.xs, problem.weights)]
        compiled = target.compile(jax.grad(candidate.loss), candidate.tree, *arrays, matmuls=given["matmuls"])
        launches = count_launches(compiled.thunks, compiled.text, shape.T)
        temp_mib = round(compiled.temp_bytes / 2**20, 2)
        rows.append({**case, "matmuls": given["matmuls"], **launches._asdict(), "temp_mib": temp_mib})
        print(rows[-1], file=sys.stderr, flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")
    main(json.loads(sys.argv[1]))
