"""What the engine could do otherwise, each in a process of its own beside what it does: steps of the loop unrolled, recurrent products
by gate or side by side, kinds of residuals, precisions; on a GPU TensorFloat-32 and loops captured into CUDA graphs too.

`python -m experiments.speed.variants '{"cell": …, "shape": […], "rounds": …, "seed": …, "variant": {…}}'` prints JSON.
"""

import json
import os
import sys
from typing import Any

from experiments.speed.child_process import run_json

VARIANTS: dict[str, dict[str, Any]] = {
    "loop unrolled by 2": {"unroll": 2},
    "loop unrolled by 4": {"unroll": 4},
    "loop unrolled by 8": {"unroll": 8},
    "a product per gate": {"wide_up_to": 0},
    "products side by side": {"wide_up_to": 2**31},
    "states kept": {"how": {"residuals": "states"}},
    "gates kept": {"how": {"residuals": "gates"}},
    "one block": {"how": {"block_size": 2**31}},
    "bfloat16 operands": {"how": {"compute_dtype": "bfloat16"}},
}
ON_GPU: dict[str, dict[str, Any]] = {
    "TensorFloat-32": {"precision": "tensorfloat32"},
    "full float32": {"precision": "highest"},
    "loops in CUDA graphs": {"flags": "--xla_gpu_enable_command_buffer=+WHILE"},
}


def timed(cell: str, shape: Any, variant: dict[str, Any], rounds: int, platform: str, seed: int) -> dict[str, Any]:
    """Milliseconds of the engine as it is and of a variant, from a process of its own."""
    given = {"cell": cell, "shape": list(shape), "variant": variant, "rounds": rounds, "seed": seed}
    flags = f"{os.environ.get('XLA_FLAGS', '')} {variant.get('flags', '')}".strip()
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": {"gpu": "cuda"}.get(platform, platform)}
    return run_json("-m", "experiments.speed.variants", json.dumps(given), environment=environment)


def main(given: dict[str, Any]) -> None:
    """The child."""
    import jax

    from experiments.speed.measure import gradient_program, interleaved, relative_difference
    from experiments.speed.peers import ours
    from experiments.speed.problem import CELLS, Shape, random_problem
    from gru_jax import ops
    from gru_jax._engine import recursion

    problem, variant = random_problem(CELLS[given["cell"]], Shape(*given["shape"]), given["seed"]), given["variant"]
    programs = {"as it is": gradient_program(ours(problem), problem)}
    recursion.UNROLL = variant.get("unroll", recursion.UNROLL)
    ops.WIDE_UP_TO = variant.get("wide_up_to", ops.WIDE_UP_TO)
    with jax.default_matmul_precision(variant.get("precision")):
        programs["variant"] = gradient_program(ours(problem, **variant.get("how", {})), problem)
    made = [program.call(*program.arguments) for program in programs.values()]
    loose = {"compute_dtype", "precision"} & {*variant, *variant.get("how", {})}
    found = relative_difference(made[1], made[0])
    assert found < (0.3 if loose else 1e-3), found
    print(json.dumps(interleaved(programs, given["rounds"])))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
