"""Runs cells on several CPU devices. `test_sharding` starts this program in a new process.

The argument is the number of devices. The program prints JSON: for each cell and way of sharding,
the largest relative difference from one device, and the number of all-reduces that the compiled
program has inside and outside of loops.
"""

import json
import re
import sys
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax

DEVICES = int(sys.argv[1])
jax.config.update("jax_num_cpu_devices", DEVICES)
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gru_jax as gj
from gru_jax._engine.plan import joins_in_loop
from gru_jax._engine.plan_kernel import Kernel
from tests.problems import without_derivation

T, B, D, H = 7, 8, 4, 5
LONG = 14_000  # steps for which the plan chooses blocks, except on a mesh of Explicit axes
WIDE = 264  # units for which the plan takes products one by one
CELLS = {
    "elman": gj.elman(),
    "gru": gj.gru(),
    "gru without derivation": without_derivation(gj.gru()),
    "gru, long": gj.gru(),
    "gru, wide": gj.gru(),
    "lstm": gj.lstm(peephole=True),
    "lstm, wide": gj.lstm(peephole=True),
    "stack": gj.stack([gj.bidirectional(gj.gru(reset_after=True)), gj.lstm()]),
}


class Case(NamedTuple):
    """One cell and derivative, with or without lengths, resets and a reset state."""

    cell: str
    conditions: bool
    derivative: gj.CustomVJP | gj.CustomJVP | gj.Autodiff

    @property
    def label(self):
        blocks = getattr(self.derivative, "block_size", None)
        conditions = "lengths and resets" if self.conditions else "plain"
        name = f"{self.cell}, {type(self.derivative).__name__}, {conditions}"
        return name if blocks is None else f"{name}, blocks of {blocks}"


CASES = [
    Case("elman", False, gj.CustomVJP()),
    *(Case(name, True, gj.CustomVJP()) for name in CELLS if name != "elman"),
    Case("gru", True, gj.CustomJVP()),
    Case("gru", True, gj.Autodiff()),
    Case("gru", True, gj.CustomVJP(block_size=3)),
    Case("lstm", False, gj.CustomVJP(block_size=2)),
]

# The batch is the second axis of every array, but the only axis of the lengths.
SPECS = {"xs": P(None, "batch", None), "lengths": P("batch"), "resets": P(None, "batch"), "targets": P(None, "batch", None)}


def random_problem(name):
    """Draws (params, reset state) and data of a cell."""
    cell = CELLS[name]
    steps, units = LONG if "long" in name else T, WIDE if "wide" in name else H
    keys = jax.random.split(jax.random.key(0), 6)
    params = cell.init(keys[0], D, units, dtype=jnp.float64, bias_init=jax.nn.initializers.normal(0.5))
    data = {
        "xs": jax.random.normal(keys[1], (steps, B, D)),
        "lengths": jnp.arange(B) % (steps + 1),
        "resets": jax.random.bernoulli(keys[2], 0.3, (steps, B)),
        "targets": jax.random.normal(keys[3], gj.unroll(cell, params, jnp.zeros((steps, B, D)))[1].shape),
    }
    reset_state = jax.tree.map(lambda leaf: jax.random.normal(keys[4], leaf.shape), cell.initial_state(params))
    return (params, reset_state), data


def loss(case, weights, data):
    """Sums over the batch, so that the losses of shards add up."""
    params, reset_state = weights
    conditions = {"lengths": data["lengths"], "resets": data["resets"], "reset_state": reset_state} if case.conditions else {}
    h_last, ys = gj.unroll(CELLS[case.cell], params, data["xs"], derivative=case.derivative, **conditions)
    return jnp.sum((ys - data["targets"]) ** 2) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(h_last))


def compiled_programs(value_and_grad, weights, data):
    """Yields the name of each way of sharding, the program compiled for it, and its arguments."""
    yield "Auto mesh", *compiled_on_mesh(value_and_grad, weights, data, AxisType.Auto)
    yield "Explicit mesh", *compiled_on_mesh(value_and_grad, weights, data, AxisType.Explicit)

    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Auto,))

    def local(weights, data):
        value, bars = value_and_grad(weights, data)
        return jax.lax.psum(value, "batch"), bars

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), SPECS), out_specs=P(), check_vma=True)
    yield "shard_map", jax.jit(mapped).lower(weights, data).compile(), weights, data


def compiled_on_mesh(value_and_grad, weights, data, axis_type):
    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        weights = jax.device_put(weights, NamedSharding(mesh, P()))
        data = {name: jax.device_put(array, NamedSharding(mesh, SPECS[name])) for name, array in data.items()}
        return jax.jit(value_and_grad).lower(weights, data).compile(), weights, data


def count_all_reduces(hlo):
    """Counts the all-reduces inside and outside of loops in the text of an optimised program."""
    bodies = {}
    for block in re.split(r"\n(?=(?:ENTRY )?%?[\w.-]+ \()", hlo):
        name = re.match(r"(?:ENTRY )?%?([\w.-]+) \(", block)
        if name:
            bodies[name.group(1)] = block
    called = lambda text: re.findall(r"(?:body|condition|to_apply|calls|called_computations)=\{?%?([\w.-]+)", text)
    in_loops, pending = set(), re.findall(r"body=%?([\w.-]+)", hlo)
    while pending:
        name = pending.pop()
        if name not in in_loops and name in bodies:
            in_loops.add(name)
            pending += called(bodies[name])
    count = lambda names: sum(
        len(re.findall(r"= \S+ all-reduce(?:-start)?\(|= \(.*\) all-reduce(?:-start)?\(", bodies[n])) for n in names
    )
    return {"in_loops": count(in_loops), "outside": count(set(bodies) - in_loops)}


def largest_difference(tree, reference):
    """Returns the largest difference over all leaves, relative to the scale of each leaf."""
    relative = lambda a, b: float(jnp.abs(a - b).max() / jnp.maximum(jnp.abs(b).max(), 1e-30))
    return max(jax.tree.leaves(jax.tree.map(relative, jax.device_get(tree), jax.device_get(reference))))


def differences_of_steps(name):
    """Takes a step on an Explicit mesh with only the input sharded, and with only the state."""
    cell = CELLS[name]
    (params, _), data = random_problem(name)
    x, h = data["xs"][0], jax.tree.map(lambda leaf: leaf + 0.5, cell.initial_state(params, B))
    expected = cell.step(params, h, x)
    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        replicate, shard = (partial(jax.device_put, device=NamedSharding(mesh, spec)) for spec in (P(), P("batch", None)))
        params = replicate(params)
        return [
            largest_difference(cell.step(params, replicate(h), shard(x)), expected),
            largest_difference(cell.step(params, shard(h), replicate(x)), expected),
        ]


def difference_of_the_kernel():
    """Runs the interpreted kernel on each device's sequences, and the scan on one device."""
    weights, data = random_problem("gru")
    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Auto,))
    expected = jax.grad(partial(loss, Case("gru", True, gj.CustomVJP(loop="scan"))))(weights, data)
    case = Case("gru", True, gj.CustomVJP(loop="fused"))
    local = lambda weights, data: jax.lax.psum(jax.grad(partial(loss, case))(weights, data), "batch")
    module = sys.modules["gru_jax.unroll"]
    probe = module.probe
    module.probe = lambda *arguments: replace(probe(*arguments), kernel=Kernel(interpret=True))
    try:
        mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), SPECS), out_specs=P(), check_vma=False)
        return largest_difference(jax.jit(mapped)(weights, data), expected)
    finally:
        module.probe = probe


def difference_of_replicated_inputs(name):
    """Runs a model of its own on each device over the same inputs, whose gradient is then a sum over the devices."""
    cell = CELLS[name]
    (params, _), data = random_problem(name)
    scale = jnp.linspace(0.5, 1.5, DEVICES)

    def own_loss(scale, xs, h0):
        h_last, ys = gj.unroll(cell, jax.tree.map(lambda leaf: scale * leaf, params), xs, h0)
        return jnp.sum(ys**2) + sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(h_last))

    mesh = jax.make_mesh((DEVICES,), ("model",), axis_types=(AxisType.Auto,))
    gradients = jax.grad(own_loss, (0, 1, 2))
    mapped = jax.shard_map(
        lambda scales, xs, h0: gradients(scales[0], xs, h0)[1:], mesh=mesh, in_specs=(P("model"), P(), P()), out_specs=P()
    )
    h0 = jax.tree.map(lambda leaf: leaf + 0.5, cell.initial_state(params, B))
    in_turn = [gradients(one, data["xs"], h0)[1:] for one in scale]
    return largest_difference(jax.jit(mapped)(scale, data["xs"], h0), jax.tree.map(lambda *leaves: sum(leaves), *in_turn))


def main():
    assert joins_in_loop(H, "cpu")
    assert not joins_in_loop(WIDE, "cpu")
    steps = {name: differences_of_steps(name) for name in ("elman", "gru", "lstm")}
    replicated = {name: difference_of_replicated_inputs(name) for name in ("gru", "gru without derivation", "lstm", "stack")}
    results = {}
    for case in CASES:
        weights, data = random_problem(case.cell)
        value_and_grad = jax.value_and_grad(partial(loss, case))
        expected = jax.jit(value_and_grad)(weights, data)
        for way, program, *args in compiled_programs(value_and_grad, weights, data):
            difference = largest_difference(program(*args), expected)
            results[f"{case.label}, {way}"] = {"difference": difference, **count_all_reduces(program.as_text())}
    report = {"devices": jax.device_count(), "results": results, "steps": steps, "replicated": replicated}
    print(json.dumps(report | {"kernel": difference_of_the_kernel()}))


if __name__ == "__main__":
    main()
