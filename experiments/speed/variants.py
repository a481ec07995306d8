"""Times options of our engine against the default, each pair in a process of its own.

The options are the kinds of residuals, a single block, and bfloat16 operands. On a GPU there are
also TensorFloat-32, full float32, and loops captured into CUDA graphs.

`python -m experiments.speed.variants '{"cell": …, "shape": […], "rounds": …, "seed": …, "variant": {…}}'`
prints JSON. `experiments.plan_rules` measures the engine's own decisions.
"""

import json
import os
import sys
from typing import Any

from experiments.speed.child_process import run_json

VARIANTS: dict[str, dict[str, Any]] = {
    "states saved": {"custom_vjp": {"residuals": "states"}},
    "gates saved": {"custom_vjp": {"residuals": "gates"}},
    "one block": {"custom_vjp": {"block_size": 2**31}},
    "bfloat16 operands": {"compute_dtype": "bfloat16"},
}
ON_GPU: dict[str, dict[str, Any]] = {
    "TensorFloat-32": {"precision": "tensorfloat32"},
    "full float32": {"precision": "highest"},
    "loops in CUDA graphs": {"flags": "--xla_gpu_enable_command_buffer=+WHILE"},
}


def timed(cell: str, shape: Any, variant: dict[str, Any], rounds: int, platform: str, seed: int) -> dict[str, Any]:
    """Times the default and one variant together in a new process."""
    given = {"cell": cell, "shape": list(shape), "variant": variant, "rounds": rounds, "seed": seed}
    flags = f"{os.environ.get('XLA_FLAGS', '')} {variant.get('flags', '')}".strip()
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": {"gpu": "cuda"}.get(platform, platform)}
    return run_json("-m", "experiments.speed.variants", json.dumps(given), environment=environment)


def main(given: dict[str, Any]) -> None:
    """Times both in this process, and prints the result as JSON."""
    import jax

    import gru_jax as gj
    from experiments.speed.measure import gradient_program, interleaved, relative_difference
    from experiments.speed.peers import ours
    from experiments.speed.problem import CELLS, Shape, random_problem

    problem, variant = random_problem(CELLS[given["cell"]], Shape(*given["shape"]), given["seed"]), given["variant"]
    programs = {"as it is": gradient_program(ours(problem), problem)}
    options = {"derivative": gj.CustomVJP(**variant.get("custom_vjp", {})), "compute_dtype": variant.get("compute_dtype")}
    with jax.default_matmul_precision(variant.get("precision")):
        programs["variant"] = gradient_program(ours(problem, **options), problem)
    made = [program.call(*program.arguments) for program in programs.values()]
    lower_precision = {"compute_dtype", "precision"} & {*variant}
    found = relative_difference(made[1], made[0])
    assert found < (0.3 if lower_precision else 1e-3), found
    print(json.dumps(interleaved(programs, given["rounds"])))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
