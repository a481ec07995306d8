"""The loops that are arranged for few launches on a GPU compute the same, with less in each step.

What they launch is counted by `experiments.gpu_program`, in an environment of its own in CI.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from experiments.gpu.launches import Launches, count_launches
from gru_jax._engine import plan as plan_module
from gru_jax._engine.forward import Loop
from gru_jax._engine.plan import Plan
from gru_jax._engine.recursion import recursion
from gru_jax._engine.step_flags import step_flags
from gru_jax._jax.jaxprs import as_function, without_invariants
from tests.conditions import ALL_THREE, MASK, RESETS, random_reset_state
from tests.problems import (
    CELLS,
    DISTINCT,
    GATED,
    T,
    assert_close,
    compiled,
    gradients,
    normal,
    problem,
    scan_of_step,
    without_derivation,
)
from tests.programs import inner_jaxprs

FLAGS = step_flags(MASK, None, RESETS, T)


def run_with(cell, loop, params, xs, h0):
    return recursion(cell, loop, params, xs, h0, None, FLAGS)


BY_DEFAULT = {("lstm_peephole", "states"), ("gru", "gates"), ("gru", "block_starts")}


@pytest.mark.derivative
@pytest.mark.parametrize(
    ("name", "residuals"),
    [
        pytest.param(*case, marks=() if case in BY_DEFAULT else pytest.mark.slow)
        for case in itertools.product(DISTINCT, ("states", "gates", "block_starts"))
    ],
)
def test_the_loops_for_a_gpu_give_the_same_values_and_gradients(name, residuals, needs_x64):
    cell = CELLS[name]
    p, plan = problem(cell), Plan(residuals, 3, join_in_loop=True, few_launches=True, unroll=2)
    outputs, returns = ("last", "last") if residuals == "block_starts" else ("all", "outputs")
    if returns == "last":
        p = p._replace(cotangents=(p.cotangents[0], None))
    scan = partial(scan_of_step, cell, mask=MASK, resets=RESETS, outputs=outputs)
    runs = partial(run_with, cell, Loop(plan, returns)), scan
    assert_close(*compiled(lambda p: [gradients(run, p) for run in runs], p))


@pytest.mark.derivative
@pytest.mark.parametrize(
    "cell",
    [gj.gru(), pytest.param(without_derivation(gj.lstm()), marks=pytest.mark.slow)],
    ids=["derived", "not derived"],
)
@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_unroll_planned_for_a_gpu_equals_autodiff_and_so_do_second_derivatives(cell, order, monkeypatch, needs_x64):
    p = problem(cell)
    options = {**ALL_THREE, "reset_state": random_reset_state(cell, p.params)}
    by = lambda derivative: partial(gj.unroll, cell, derivative=derivative, **options)

    def second(run):
        def inner(params):
            first = jax.grad(lambda params: jax.tree.reduce(jnp.add, jax.tree.map(jnp.sum, run(params, p.xs, p.h0))))(params)
            return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(first))

        return jax.grad(inner)(p.params)

    derivatives = lambda run: lambda p: gradients(run, p) if order == 1 else second(run)
    expected = compiled(derivatives(by(gj.Autodiff())), p)
    monkeypatch.setattr(plan_module, "current_platform", lambda: "gpu")
    assert_close(compiled(derivatives(by(gj.CustomVJP())), p), expected)


@pytest.mark.parametrize("name", GATED)
def test_no_step_for_a_gpu_puts_weights_together(name):
    cell, p = CELLS[name], problem(CELLS[name])

    def weights_put_together(plan):
        run = partial(gradients, partial(run_with, cell, Loop(plan)))
        return concatenated_weights(jax.make_jaxpr(run)(p).jaxpr, p.params)

    joined = Plan("gates", join_in_loop=True)
    assert weights_put_together(joined)
    assert not weights_put_together(Plan("gates", join_in_loop=True, few_launches=True, unroll=2))


def concatenated_weights(jaxpr, params, in_loop=False):
    """Returns the concatenations in loops whose operands have the shape of a recurrent weight."""
    H = next(leaf for path, leaf in jax.tree.leaves_with_path(params) if path[-1].name.startswith("U")).shape[0]
    found = []
    for equation in jaxpr.eqns:
        if in_loop and equation.primitive.name == "concatenate" and equation.invars[0].aval.shape == (H, H):
            found.append(equation)
        for inner in inner_jaxprs(equation):
            found += concatenated_weights(inner, params, in_loop or equation.primitive.name == "scan")
    return found


def test_a_cell_without_a_derivation_slices_its_weights_once():
    """Each gate reads its half of `U`, as where `jax.grad` differentiates a scan."""

    def gates(params, u, h):
        f = jax.nn.sigmoid(u + h @ params["U"][:, :5])
        return f, jnp.tanh(u + (f * h) @ params["U"][:, 5:])

    cell = gj.Cell(
        init=lambda *sizes: None,
        project=lambda params, xs: xs @ params["W"],
        gates=gates,
        update=lambda g, h: h + g[0] * (g[1] - h),
        zero_state=lambda params: jnp.zeros(5),
        name="halves",
    )
    params = {"W": normal(0, 4, 5), "U": normal(1, 5, 10)}
    loss = lambda params, xs: gj.unroll(cell, params, xs, jnp.zeros((3, 5)))[1].sum()
    program = jax.make_jaxpr(jax.grad(loss))(params, normal(2, T, 3, 4)).jaxpr

    def slices(jaxpr, in_loop=False):
        own = [in_loop and eqn.primitive.name == "slice" and eqn.outvars[0].aval.shape == (5, 5) for eqn in jaxpr.eqns]
        inner = [slices(i, in_loop or eqn.primitive.name == "scan") for eqn in jaxpr.eqns for i in inner_jaxprs(eqn)]
        return sum(own) + sum(inner)

    assert slices(program) == 0


def test_what_depends_on_constants_alone_is_evaluated_once_unless_it_grows():
    weight, bias = jnp.arange(6.0).reshape(2, 3), jnp.arange(3.0)

    def step(x):
        small, large = jnp.exp(weight) + bias[None], jnp.broadcast_to(jnp.cos(bias), (50, 3))
        return x @ small + large.sum(0), jnp.sin(bias)

    closed = jax.make_jaxpr(step)(jnp.ones(2))
    rest = without_invariants(closed)
    names = [equation.primitive.name for equation in rest.jaxpr.eqns]
    assert not {"exp", "cos", "sin"} & set(names)
    assert "broadcast_in_dim" in names
    for found, expected in zip(as_function(rest)(jnp.array([1.0, 2.0])), step(jnp.array([1.0, 2.0])), strict=True):
        assert jnp.array_equal(found, expected)


THUNKS = """000: kCommandBuffer [source | next=003 (1)]
    001: kCustomKernel [source | sink] loop_add_fusion grid: [32, 1, 1] threads: [128, 1, 1]  shared_memory: 0 bytes
    002: kCopy         [source | sink] kCopy
003: kWhile         [prev=000 (1) | sink]
condition:
    004: kCustomKernel [source | sink] loop_compare_fusion grid: [1, 1, 1] threads: [1, 1, 1]  shared_memory: 0 bytes
  body:
    005: kCopy         [source | sink] kCopy
    006: kWhile         [prev=005 (1) | sink]
condition:
        007: kCustomKernel [source | sink] loop_compare_fusion grid: [1, 1, 1] threads: [1, 1, 1]  shared_memory: 0 bytes
      body:
        008: kCustomKernel [source | next=009 (1)] gemm_fusion_dot grid: [96, 1, 1] threads: [64, 1, 1]  shared_memory: 1024 bytes
        000: kCommandBuffer [source | sink]
            009: kCustomKernel [source | sink] loop_add grid: [32, 1, 1] threads: [128, 1, 1]  shared_memory: 0 bytes
            010: kDynamicSliceFusion [source | sink] params=1, results=1
                011: kCopy [source | sink] kCopy
012: kCublasLtMatmul [source | sink] cublas
"""
PROGRAM = """%body.1 (p: (s32[])) -> (s32[]) {
  %w = while(%t), condition=%c, body=%body.2, metadata={op_name="jit(f)/jvp()/while"}, backend_config={"known_trip_count":{"n":"5"}}
}

ENTRY %main (p: f32[]) -> f32[] {
  %w = while(%t), condition=%c, body=%body.1, metadata={op_name="jit(f)/jvp()/while"}, backend_config={"known_trip_count":{"n":"4"}}
}
"""


def test_launches_are_counted_from_the_loops_and_their_command_buffers():
    """The inner loop runs 4 · 5 times: 3 launches, of which the host enqueues a kernel and a graph."""
    assert count_launches(THUNKS, PROGRAM, steps=20) == Launches(
        forward=3.0,
        backward=0,
        enqueued_forward=2.0,
        enqueued_backward=0,
        total=2 + 4 * (1 + 5 * 3) + 1,
        enqueued=1 + 4 * (1 + 5 * 2) + 1,
    )
    with pytest.raises(ValueError, match="unknown number of steps"):
        count_launches(THUNKS, PROGRAM.replace("known_trip_count", "unknown"), steps=20)
