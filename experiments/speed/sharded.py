"""Times the benchmark's gradient with the batch spread over several CPU devices.

There are two ways. With `shard_map`, the best practice, each device computes the gradient of its
part of the batch, and the gradients are summed once. With plain `jit` of sharded data, the code is
unchanged, and XLA's partitioner decides. Each run has a process of its own, because the number of
devices is fixed when JAX starts.

`python -m experiments.speed.sharded '{"devices": 2, "cell": …, "shape": […], "peers": […],
"rounds": …, "seed": …}'` prints JSON.
"""

import json
import sys
from typing import Any

from experiments.speed.child_process import run_json


def timed(cell: str, shape: Any, peers: list[str], rounds: int, devices: int, seed: int) -> dict[str, Any]:
    """Times the gradient on several devices in a process of its own.

    Returns the milliseconds by way and candidate.
    """
    task = {"cell": cell, "shape": list(shape), "peers": peers, "rounds": rounds, "devices": devices, "seed": seed}
    return run_json("-m", "experiments.speed.sharded", json.dumps(task), environment={"JAX_PLATFORMS": "cpu"})


def main(task: dict[str, Any]) -> None:
    """Times the gradient in this process, and prints the result as JSON."""
    import jax

    jax.config.update("jax_num_cpu_devices", task["devices"])
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    import gru_jax as gj
    from experiments.speed.measure import compile_program, difference, interleaved
    from experiments.speed.peers import ours, peers_of
    from experiments.speed.problem import CELLS, Shape, random_problem

    cell = CELLS[task["cell"]]
    problem = random_problem(cell, Shape(*task["shape"]), task["seed"])
    candidates = {"ours": ours(problem)} | {
        f"ours, {kind}": ours(problem, derivative=gj.CustomVJP(residuals=kind)) for kind in ("states", "gates")
    }
    candidates |= {"autodiff": ours(problem, derivative=gj.Autodiff())}
    candidates |= {name: maker(problem) for name, maker in peers_of(cell, task["peers"]).items()}
    mesh = jax.make_mesh((task["devices"],), ("batch",), axis_types=(AxisType.Auto,))
    programs, gradients = {}, {}
    for name, candidate in candidates.items():
        spec = P("batch") if candidate.batch_major else P(None, "batch")
        place = lambda array, spec=spec: jax.device_put(array, NamedSharding(mesh, spec))
        to_layout = (lambda a: a.swapaxes(0, 1)) if candidate.batch_major else (lambda a: a)
        tree = jax.device_put(candidate.tree, NamedSharding(mesh, P()))
        arguments = (tree, place(to_layout(problem.xs)), place(to_layout(problem.weights)))
        gradient = jax.grad(candidate.loss)

        def local(tree: Any, xs: Any, weights: Any, gradient: Any = gradient) -> Any:
            return jax.lax.psum(gradient(tree, xs, weights), "batch")

        mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), spec, spec), out_specs=P(), check_vma=False)
        for way, function in {"shard_map": mapped, "Auto jit": gradient}.items():
            programs[f"{way}: {name}"] = program = compile_program(function, *arguments)
            gradients[name, way] = jax.device_get(program.call(*program.arguments))
    reference = gradients["autodiff", "Auto jit"]
    differences = [difference(candidates[name], gradient, reference) for (name, _), gradient in gradients.items()]
    assert all(error < 1e-3 for error in differences), dict(zip(gradients, differences, strict=True))
    print(
        json.dumps(
            {
                "difference": max(differences),
                "devices": jax.device_count(),
                "measured": interleaved(programs, task["rounds"], queued=False),
            }
        )
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
