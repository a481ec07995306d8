"""Compiles the fused loop for a GPU, and reads what its kernels need, in a process of its own.

`python -m experiments.gpu.kernel_process '{"target": …, "cases": […]}'` prints JSON: two rows for each
case, forward and backward. A case has a cell, a dtype, a number of units and a precision. It may
have a `chunk` and `asked_warps` other than those of the plan.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.gpu.target import ENVIRONMENT, Target
from experiments.speed.child_process import run_json

KERNELS = {"forward": "fused_loop", "backward": "fused_loop_reverse"}
T, B, D = 100, 32, 64


def kernel_rows(target: Path, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compiles the cases in a new process. Returns what each kernel needs, or why it was refused."""
    given = json.dumps({"target": str(target), "cases": cases})
    return run_json("-m", "experiments.gpu.kernel_process", given, environment=ENVIRONMENT)


def own_cell() -> Any:
    """A cell as a user writes it, without a derivation: a minimal gated unit."""
    import jax
    import jax.numpy as jnp

    import gru_jax as gj

    def init(key: Any, input_size: int, hidden_size: int) -> Any:
        W, U = jax.random.split(key)
        return {
            "W": jax.random.normal(W, (input_size, 2 * hidden_size)) / input_size**0.5,
            "U": jax.random.normal(U, (2, hidden_size, hidden_size)) / hidden_size**0.5,
        }

    def gates(params: Any, u: Any, h: Any) -> Any:
        u_f, u_h = jnp.split(u, 2, axis=-1)
        f = jax.nn.sigmoid(u_f + h @ params["U"][0])
        return f, jnp.tanh(u_h + (f * h) @ params["U"][1])

    return gj.Cell(
        init=init,
        project=lambda params, xs: xs @ params["W"],
        gates=gates,
        update=lambda g, h: h + g[0] * (g[1] - h),
        zero_state=lambda params: jnp.zeros(params["U"].shape[-1], params["U"].dtype),
        name="own",
    )


def main(given: dict[str, Any]) -> None:
    """Compiles the cases in this process, and prints the rows as JSON."""
    import jax
    import jax.numpy as jnp

    import gru_jax as gj
    from experiments.gpu.kernels import kernel_needs
    from experiments.speed.problem import CELLS
    from gru_jax._engine.forward import Loop
    from gru_jax._engine.plan import Shapes, make_plan, probe
    from gru_jax._engine.plan_kernel import Kernel
    from gru_jax._engine.recursion import recursion
    from gru_jax._engine.step_flags import StepFlags

    cells = {**CELLS, "a user's cell": own_cell()}
    target, rows = Target(Path(given["target"])), []
    derivative = gj.CustomVJP(loop="fused", block_size=T)  # one block, so one kernel in each direction
    for case in given["cases"]:
        cell, dtype = cells[case["cell"]], jnp.dtype(case["dtype"])
        params = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), cell.init(jax.random.key(0), D, case["units"]))

        def loss(params: Any, xs: Any, cell: Any = cell, case: Any = case) -> Any:
            device = probe(xs, (params, xs))
            changed = {name: case[key] for name, key in (("chunk", "chunk"), ("warps", "asked_warps")) if key in case}
            device = replace(device, kernel=replace(device.kernel or Kernel(), **changed))
            plan = make_plan(Shapes(T, B, case["units"], xs.dtype.itemsize), device, derivative)
            h0 = cell.initial_state(params, B)
            return recursion(cell, Loop(plan), params, xs, h0, None, StepFlags())[1].astype("float32").sum()

        refused = None
        try:
            with jax.default_matmul_precision(case["precision"]):
                compiled = target.compile(jax.grad(loss), params, jnp.zeros((T, B, D), dtype))
        except Exception as error:  # XLA has no class for what does not fit
            refused = str(error).splitlines()[0][:300]
        for direction, name in KERNELS.items():
            row = {**case, "direction": direction, "refused": refused}
            if refused is None:
                row |= kernel_needs(name, compiled.thunks, compiled.ptx)._asdict()
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
