"""Run by test_sharding.py in a process of its own, which has as many CPU devices as its first argument says.

Prints JSON: for each cell and way of sharding the largest relative difference from one device, and how many all-reduces the compiled
program has, inside and outside of loops.
"""

import json
import re
import sys
from functools import partial

import jax

DEVICES = int(sys.argv[1])
jax.config.update("jax_num_cpu_devices", DEVICES)
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gru_jax as gj
from gru_jax import ops

T, B, D, H = 7, 8, 4, 5
LONG = 14_000  # steps: blocks are chosen, but not on a mesh of Explicit axes
CELLS = {
    "elman": gj.elman(),
    "gru": gj.gru(),
    "gru without rows": gj.gru()._replace(coefficients=None, pull=None, collect=None),
    "lstm": gj.lstm(peephole=True),
    "stack": gj.stack([gj.bidirectional(gj.gru(reset_after=True)), gj.lstm()]),
}


def posed(cell, T=T):
    keys = jax.random.split(jax.random.key(0), 6)
    params = cell.init(keys[0], D, H, dtype=jnp.float64, bias_init=jax.nn.initializers.normal(0.5))
    data = {
        "xs": jax.random.normal(keys[1], (T, B, D)),
        "lengths": jnp.arange(B) % (T + 1),
        "resets": jax.random.bernoulli(keys[2], 0.3, (T, B)),
        "targets": jax.random.normal(keys[3], gj.unroll(cell, params, jnp.zeros((T, B, D)))[1].shape),
    }
    reset_state = jax.tree.map(lambda leaf: jax.random.normal(keys[4], leaf.shape), cell.initial_state(params))
    return (params, reset_state), data


# Every array's batch axis is the second but for the lengths, which have no other.
SPECS = {"xs": P(None, "batch", None), "lengths": P("batch"), "resets": P(None, "batch"), "targets": P(None, "batch", None)}


def loss(cell, conditions, derivative, block_size, weights, data):
    """A sum over the batch, so that shards add up."""
    params, reset_state = weights
    when = {"lengths": data["lengths"], "resets": data["resets"], "reset_state": reset_state} if conditions else {}
    h_last, ys = gj.unroll(cell, params, data["xs"], derivative=derivative, block_size=block_size, **when)
    return jnp.sum((ys - data["targets"]) ** 2) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(h_last))


def programs(value_and_grad, weights, data):
    """The same computation, compiled for each way of sharding."""
    yield "Auto mesh", *sharded_jit(value_and_grad, weights, data, AxisType.Auto)
    yield "Explicit mesh", *sharded_jit(value_and_grad, weights, data, AxisType.Explicit)

    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Auto,))

    def local(weights, data):
        value, bars = value_and_grad(weights, data)
        return jax.lax.psum(value, "batch"), bars

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), SPECS), out_specs=P(), check_vma=True)
    yield "shard_map", jax.jit(mapped).lower(weights, data).compile(), weights, data


def sharded_jit(value_and_grad, weights, data, axis_type):
    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        weights = jax.device_put(weights, NamedSharding(mesh, P()))
        data = {name: jax.device_put(array, NamedSharding(mesh, SPECS[name])) for name, array in data.items()}
        return jax.jit(value_and_grad).lower(weights, data).compile(), weights, data


def all_reduces(hlo):
    """(inside of loops, outside): all-reduces in the text of an optimised program."""
    bodies = {}
    for block in re.split(r"\n(?=(?:ENTRY )?%?[\w.-]+ \()", hlo):
        name = re.match(r"(?:ENTRY )?%?([\w.-]+) \(", block)
        if name:
            bodies[name.group(1)] = block
    called = lambda text: re.findall(r"(?:body|condition|to_apply|calls|called_computations)=\{?%?([\w.-]+)", text)
    in_loops, todo = set(), re.findall(r"body=%?([\w.-]+)", hlo)
    while todo:
        name = todo.pop()
        if name not in in_loops and name in bodies:
            in_loops.add(name)
            todo += called(bodies[name])
    count = lambda names: sum(
        len(re.findall(r"= \S+ all-reduce(?:-start)?\(|= \(.*\) all-reduce(?:-start)?\(", bodies[n])) for n in names
    )
    return count(in_loops), count(set(bodies) - in_loops)


def difference(tree, reference):
    """The largest over all leaves, relative to each leaf's scale."""
    relative = lambda a, b: float(jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), 1e-30))
    return max(jax.tree.leaves(jax.tree.map(relative, jax.device_get(tree), jax.device_get(reference))))


def steps_of_unlike_shardings(cell):
    """One step on a mesh of Explicit axes where only the input's batch is sharded, and where only the state's is."""
    (params, _), data = posed(cell)
    x, h = data["xs"][0], jax.tree.map(lambda leaf: leaf + 0.5, cell.initial_state(params, B))
    expected = cell.step(params, h, x)
    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        whole, parts = (partial(jax.device_put, device=NamedSharding(mesh, spec)) for spec in (P(), P("batch", None)))
        params = whole(params)
        return [
            difference(cell.step(params, whole(h), parts(x)), expected),
            difference(cell.step(params, parts(h), whole(x)), expected),
        ]


def main():
    unlike = {name: steps_of_unlike_shardings(CELLS[name]) for name in ("elman", "gru", "lstm")}
    found = {}
    cases = [("elman", False, "adjoint", None), *((name, True, "adjoint", None) for name in CELLS if name != "elman")]
    cases += [
        ("gru", True, "both", None),
        ("gru", True, "autodiff", None),
        ("gru", True, "adjoint", 3),
        ("lstm", False, "adjoint", 2),
        ("gru, long", True, "adjoint", None),
        ("gru, products apart", True, "adjoint", None),
        ("lstm, products apart", True, "adjoint", None),
    ]
    for label, conditions, derivative, block_size in cases:
        name, _, what = label.partition(", ")
        ops.JOINT_UP_TO = 0 if what == "products apart" else D + H  # what larger cells and smaller ones do
        weights, data = posed(CELLS[name], LONG if what == "long" else T)
        value_and_grad = jax.value_and_grad(partial(loss, CELLS[name], conditions, derivative, block_size))
        expected = jax.jit(value_and_grad)(weights, data)
        for way, program, *args in programs(value_and_grad, weights, data):
            inside, outside = all_reduces(program.as_text())
            blocks = "" if block_size is None else f", blocks of {block_size}"
            case = f"{label}, {derivative}, {'lengths and resets' if conditions else 'plain'}{blocks}, {way}"
            found[case] = {"difference": difference(program(*args), expected), "inside": inside, "outside": outside}
    print(json.dumps({"devices": jax.device_count(), "found": found, "unlike": unlike}))


if __name__ == "__main__":
    main()
