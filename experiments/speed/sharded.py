"""The same gradient with the batch over several CPU devices, in a process of its own: their number is fixed when JAX starts.

Two ways. In `shard_map`, the best practice, every device makes its gradient and they are added up once. Under plain `jit` of sharded
data, XLA's partitioner decides, and nobody's code changes.

`python -m experiments.speed.sharded '{"devices": 2, "cell": …, "shape": […], "peers": […], "rounds": …, "seed": …}'` prints JSON.
"""

import json
import sys
from typing import Any

from experiments.speed.child import told


def timed(cell: str, shape: Any, peers: list[str], rounds: int, devices: int, seed: int) -> dict[str, Any]:
    """Milliseconds by way and candidate, from a process of its own."""
    given = {"cell": cell, "shape": list(shape), "peers": peers, "rounds": rounds, "devices": devices, "seed": seed}
    return told("-m", "experiments.speed.sharded", json.dumps(given), environment={"JAX_PLATFORMS": "cpu"})


def main(given: dict[str, Any]) -> None:
    """The child."""
    import jax

    jax.config.update("jax_num_cpu_devices", given["devices"])
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    from experiments.speed.measure import compiled, difference, interleaved
    from experiments.speed.peers import ours, peers_of
    from experiments.speed.problem import CELLS, Shape, posed

    cell = CELLS[given["cell"]]
    problem = posed(cell, Shape(*given["shape"]), given["seed"])
    candidates = {"ours": ours(problem)} | {f"ours, {kept}": ours(problem, residuals=kept) for kept in ("states", "gates")}
    candidates |= {"autodiff": ours(problem, derivative="autodiff")}
    candidates |= {name: maker(problem) for name, maker in peers_of(cell, given["peers"]).items()}
    mesh = jax.make_mesh((given["devices"],), ("batch",), axis_types=(AxisType.Auto,))
    programs, gradients = {}, {}
    for name, candidate in candidates.items():
        spec = P("batch") if candidate.batch_major else P(None, "batch")
        place = lambda array, spec=spec: jax.device_put(array, NamedSharding(mesh, spec))
        turned = (lambda a: a.swapaxes(0, 1)) if candidate.batch_major else (lambda a: a)
        tree = jax.device_put(candidate.tree, NamedSharding(mesh, P()))
        arguments = (tree, place(turned(problem.xs)), place(turned(problem.weights)))
        gradient = jax.grad(candidate.loss)

        def local(tree: Any, xs: Any, weights: Any, gradient: Any = gradient) -> Any:
            return jax.lax.psum(gradient(tree, xs, weights), "batch")

        mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), spec, spec), out_specs=P(), check_vma=False)
        for way, function in {"shard_map": mapped, "Auto jit": gradient}.items():
            programs[f"{way}: {name}"] = program = compiled(function, *arguments)
            gradients[name, way] = jax.device_get(program.call(*program.arguments))
    reference = gradients["autodiff", "Auto jit"]
    differences = [difference(candidates[name], gradient, reference) for (name, _), gradient in gradients.items()]
    assert all(error < 1e-3 for error in differences), dict(zip(gradients, differences, strict=True))
    print(
        json.dumps(
            {
                "difference": max(differences),
                "devices": jax.device_count(),
                "measured": interleaved(programs, given["rounds"], queued=False),
            }
        )
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
