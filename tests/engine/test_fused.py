"""The loop as one kernel, interpreted, gives the values and gradients of the scan.

No test compiles it for a GPU. docs/how-to/gpu.md shows how to.
"""

import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from allpairspy import AllPairs
from jax import export
from jax.sharding import PartitionSpec as P

import gru_jax as gj
from gru_jax._engine.fused_kernel import weights_of
from gru_jax._engine.plan import Device, Shapes, make_plan
from gru_jax._engine.plan_kernel import Kernel
from tests.conditions import ALL_THREE, LENGTHS, MASK, RESETS, random_reset_state
from tests.problems import (
    CELLS,
    DISTINCT,
    assert_close,
    gradients,
    normal_like,
    problem,
    tolerance,
    without_derivation,
)
from tests.programs import inner_jaxprs

FUSED = gj.CustomVJP(loop="fused")
pytestmark = pytest.mark.derivative


@pytest.fixture
def interpreted(monkeypatch):
    """Lets `loop="fused"` run on this device, by JAX's interpreter of kernels."""
    module = sys.modules["gru_jax.unroll"]
    probe = module.probe
    monkeypatch.setattr(module, "probe", lambda *a: replace(probe(*a), kernel=Kernel(interpret=True)))


def both(cell, p, derivative=FUSED, **options):
    """The values and gradients by the kernel, and by autodiff of the scan."""
    run = partial(gj.unroll, cell, **options)
    p = p._replace(cotangents=normal_like(9, jax.eval_shape(run, p.params, p.xs, p.h0)))
    program = jax.jit(lambda p: [gradients(partial(run, derivative=d), p) for d in (derivative, gj.Autodiff())])
    return program(p)


@pytest.mark.parametrize(
    ("cell", "options", "sizes"),
    [
        pytest.param(gj.gru(), ALL_THREE | {"reverse": True}, {}, id="gru, all flags, reverse"),
        pytest.param(
            gj.lstm(peephole=True), {"lengths": LENGTHS}, {"hidden_size": 70}, id="lstm, two chunks", marks=pytest.mark.slow
        ),
        pytest.param(gj.elman(), {"lengths": LENGTHS}, {"hidden_size": 70}, id="two chunks"),
        pytest.param(
            without_derivation(gj.gru(reset_after=True)), {"mask": MASK}, {}, id="not derived", marks=pytest.mark.slow
        ),
        pytest.param(gj.elman(), {}, {"batch": (9, 2), "hidden_size": 16}, id="a ragged second tile"),
    ],
)
def test_the_kernel_gives_the_values_and_gradients_of_the_scan(cell, options, sizes, interpreted, needs_x64):
    p = problem(cell, **sizes)
    if "resets" in options:
        options = options | {"reset_state": random_reset_state(cell, p.params)}
    found, expected = both(cell, p, **options)
    assert_close(found, expected)


# Each pair of values of two options is in one case at least.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "residuals", "block_size", "derived"), list(AllPairs([DISTINCT, ("states", "gates"), (None, 3), (True, False)]))
)
def test_the_kernel_gives_the_values_and_gradients_of_the_scan_with_all_options(
    name, residuals, block_size, derived, interpreted
):
    cell = CELLS[name] if derived else without_derivation(CELLS[name])
    p = problem(cell)
    derivative = gj.CustomVJP(residuals, block_size, "fused")
    flags = ALL_THREE | {"reset_state": random_reset_state(cell, p.params)}
    for options in (flags | {"outputs": "states"}, {"resets": RESETS, "reverse": True}, {"outputs": "last"}):
        found, expected = both(cell, p, derivative, **options)
        assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "compute_dtype"), [("float32", None), ("bfloat16", None), ("float32", "bfloat16")])
@pytest.mark.parametrize("cell", [gj.gru(), gj.lstm()], ids=["gru", "lstm"])
def test_the_kernel_rounds_as_the_scan_in_every_precision(cell, dtype, compute_dtype, interpreted):
    p = problem(cell, dtype=jnp.dtype(dtype))
    run = lambda derivative: partial(gj.unroll, cell, derivative=derivative, compute_dtype=compute_dtype)
    found, scanned = jax.jit(lambda p: [gradients(run(d), p) for d in (FUSED, gj.CustomVJP(loop="scan"))])(p)
    assert_close(found, scanned, tol=tolerance(dtype) if dtype == "float32" and compute_dtype is None else 0.05)


@pytest.mark.parametrize("transformation", ["vmap", pytest.param("second derivative", marks=pytest.mark.slow)])
def test_under_vmap_and_in_second_derivatives(transformation, interpreted, needs_x64):
    cell = gj.gru()
    p = problem(cell, steps=5)

    def loss(derivative, params, xs):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gj.unroll(cell, params, xs, p.h0, derivative=derivative)))

    def results(derivative):
        seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), p.params)
        gradient = lambda params: jax.jacrev(partial(loss, derivative))(params, p.xs)
        if transformation == "vmap":
            return jax.vmap(gradient)(seeds)
        return jax.jvp(gradient, (p.params,), (jax.tree.map(jnp.cos, p.params),))[1]

    found, expected = jax.jit(lambda: [results(derivative) for derivative in (FUSED, gj.Autodiff())])()
    assert_close(found, expected)


def equations(jaxpr, name):
    """Returns the equations of a primitive, at any depth."""
    found = [equation for equation in jaxpr.eqns if equation.primitive.name == name]
    return found + [each for equation in jaxpr.eqns for inner in inner_jaxprs(equation) for each in equations(inner, name)]


def test_vmap_is_an_axis_of_the_grid(interpreted):
    """Three seeds of twenty sequences, which are two tiles: one kernel with a grid of three times two programs."""
    cell, p = gj.gru(), problem(gj.gru(), batch=(20,))
    run = lambda params: gj.unroll(cell, params, p.xs, derivative=FUSED)[1].sum()
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), p.params)
    kernels = equations(jax.make_jaxpr(jax.vmap(jax.grad(run)))(seeds).jaxpr, "pallas_call")
    assert [kernel.params["grid_mapping"].grid for kernel in kernels] == [(3, 2), (3, 2)]


@pytest.mark.parametrize("check_vma", [pytest.param(False, marks=pytest.mark.slow), True])
def test_under_shard_map(check_vma, interpreted, needs_x64):
    """Each device runs the kernel on its sequences. JAX's interpreter of kernels fails with `check_vma=True`, so there the types
    are checked, and that gradients are added up as often as in the scan. On several devices: test_sharding.
    """
    cell, p = gj.gru(), problem(gj.gru())
    mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    def sharded(derivative):
        loss = lambda params, xs: jnp.sum(gj.unroll(cell, params, xs, derivative=derivative)[1] ** 2)

        def local(params, xs):
            bar = jax.grad(loss)(params, xs)
            return bar if check_vma else jax.lax.psum(bar, "batch")

        specs = P(), P(None, "batch")
        return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma))

    if check_vma:
        programs = [sharded(d).trace(p.params, p.xs).jaxpr.jaxpr for d in (FUSED, gj.CustomVJP(loop="scan"))]
        (fused, scan) = [len(equations(program, "psum_invariant")) for program in programs]
        assert fused == scan > 0
        assert len(equations(programs[0], "pallas_call")) == 2
    else:
        found, expected = (sharded(d)(p.params, p.xs) for d in (FUSED, gj.Autodiff()))
        assert_close(found, expected)


def own_cell(gates, **options):
    """A cell without a derivation, around the GRU's parameters."""
    cell = gj.gru()
    return gj.Cell(cell.init, lambda params, xs: xs @ params.W_h, gates, lambda g, h: g, name="own", **options)


def test_a_custom_cell_with_slices_and_sums_over_units(interpreted, needs_x64):
    """A norm over the units, and weights that are put together and taken apart again."""

    def gates(params, u, h):
        both = h @ jnp.concatenate([params.U_h, params.U_z], -1)
        a, b = jnp.split(both, 2, -1)
        a = a / jnp.sqrt(jnp.sum(a**2, -1, keepdims=True) + 1)
        return jnp.tanh(u + a + jax.nn.relu(b) * jnp.exp(params.b_r) + jax.nn.softmax(h))

    cell = own_cell(gates)
    found, expected = both(cell, problem(cell, hidden_size=32))
    assert_close(found, expected)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (lambda params, u, h: u + jnp.cumsum(h, -1), "the operation cumsum"),
        (
            lambda params, u, h: u + jax.lax.dot_general(h, h, (((1,), (1,)), ((), ()))).sum(-1, keepdims=True),
            "a product of arrays",
        ),
        (lambda params, u, h: u + jnp.concatenate([h[:, 2:], h[:, :2]], -1), "whose units are not a multiple of 16"),
        (lambda params, u, h: u + h * params.b_r[:1] * jnp.ones((3, 5)), "does not run on 16 sequences alone"),
    ],
)
def test_what_the_kernel_lacks_is_named_with_the_way_out(gates, message, interpreted):
    cell = own_cell(gates)
    p = problem(cell)
    gj.unroll(cell, p.params, p.xs, derivative=gj.CustomVJP(loop="scan"))
    with pytest.raises(ValueError, match=rf'got CustomVJP\(loop="fused"\) for a cell .*{message}[\s\S]*loop="scan"'):
        gj.unroll(cell, p.params, p.xs, derivative=FUSED)


def test_a_matrix_needs_shared_memory_once_for_each_axis_that_is_summed_over():
    """As in the backward pass of a cell without a derivation, which also evaluates its gates again."""

    def step(h, weights):
        U, V = weights
        forward = jax.lax.dot_general(h, U, (((1,), (0,)), ((), ())))
        return jax.lax.dot_general(forward, U, (((1,), (1,)), ((), ()))) + h @ V + h @ V

    jaxpr = jax.make_jaxpr(step)(jnp.ones((16, 3)), [jnp.ones((3, 3))] * 2).jaxpr
    _, U, V = jaxpr.invars
    assert weights_of(jaxpr) == {U: 2, V: 1}


def test_other_devices_and_symbolic_sizes_are_refused():
    cell = gj.gru()
    params = cell.init(jax.random.key(0), 3, 4)
    with pytest.raises(ValueError, match=r'loop="fused"\) on a cpu device, expected an NVIDIA GPU'):
        gj.unroll(cell, params, jnp.ones((5, 2, 3)), derivative=FUSED)
    (T,) = export.symbolic_shape("T")
    with pytest.raises(ValueError, match="symbolic sizes"):
        make_plan(Shapes(T, 3, 4), Device("gpu", kernel=Kernel()), FUSED)
    with pytest.raises(ValueError, match="loop"):
        gj.CustomVJP(loop="kernel")


def test_auto_is_the_scan():
    device = Device("gpu", kernel=Kernel())
    scan = make_plan(Shapes(100, 32, 64), device, gj.CustomVJP())
    assert scan.kernel is None
    assert scan == make_plan(Shapes(100, 32, 64), device, gj.CustomVJP(loop="scan"))
    assert make_plan(Shapes(100, 32, 64), device, FUSED).kernel == Kernel()


def test_no_steps_and_no_sequences_run_as_in_the_scan(interpreted):
    cell = gj.gru()
    params = cell.init(jax.random.key(0), 3, 4)
    for shape in ((0, 2, 3), (5, 0, 3)):
        h, ys = gj.unroll(cell, params, jnp.ones(shape), derivative=FUSED)
        assert ys.shape == (*shape[:2], 4)
        assert h.shape == (shape[1], 4)
