"""Time in blocks, and what is kept from the forward pass: no choice changes a result; what memory each takes.

Every cell, dtype and option beside every other: test_option_matrix.py.
"""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

import gru_jax as gj
from gru_jax import ops
from gru_jax._engine import blocks
from gru_jax._engine.blocks import chosen, scan_blocks, size_for
from gru_jax._jax.devices import cores_per_device, half_precision_loops_grow, share_of_batch
from gru_jax._jax.tracing import vmapped
from tests.engine.test_jaxlib_bugs import loops
from tests.engine.test_when import LENGTHS, MASK, RESETS, reset_state_of
from tests.problems import (
    T,
    assert_close,
    assert_told,
    gradients,
    normal_like,
    problem,
    scan_of_step,
)

pytestmark = pytest.mark.derivative


@pytest.fixture(autouse=True)
def _one_device_of_several_cores(monkeypatch):
    """What is chosen here does not hang on this machine."""
    monkeypatch.setattr(blocks, "cores_per_device", lambda: 2)
    monkeypatch.setattr(blocks, "share_of_batch", lambda sequences, xs: sequences)


def posed(cell, outputs):
    """A problem whose params have a reset state beside them, with cotangents for these outputs."""
    p = problem(cell)
    out = jax.eval_shape(partial(gj.unroll, cell, outputs=outputs), p.params, p.xs, p.h0)
    return p._replace(params=(p.params, reset_state_of(cell, p.params)), cotangents=normal_like(jax.random.key(5), out))


def measured(cell, options, when, given, xs, h0):
    params, reset_state = given
    return gj.unroll(cell, params, xs, h0, reset_state=reset_state, **options, **when)


@pytest.mark.parametrize("derived", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["derived", "local"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("outputs", ["all", "last"])
@pytest.mark.parametrize("cell", [gj.gru(), gj.lstm(peephole=True)], ids=["gru", "lstm"])
def test_blocks_and_residuals_do_not_change_values_or_gradients(cell, outputs, reverse, derived, needs_x64):
    tested = cell if derived else cell._replace(coefficients=None, pull=None, collect=None)
    p, when = posed(cell, outputs), {"lengths": LENGTHS, "mask": MASK, "resets": RESETS}
    oracle = lambda given, xs, h0: scan_of_step(
        cell, given[0], xs, h0, reset_state=given[1], outputs=outputs, reverse=reverse, **when
    )
    expected = jax.jit(partial(gradients, oracle))(p)
    for block_size, residuals in ((3, "auto"), (T - 1, "gates"), (1, "states")):
        options = {"outputs": outputs, "reverse": reverse, "block_size": block_size, "residuals": residuals}
        assert_close(jax.jit(partial(gradients, partial(measured, tested, options, when)))(p), expected)


@pytest.mark.parametrize("residuals", ["states", pytest.param("gates", marks=pytest.mark.slow)])
def test_second_order_and_vmap_go_through_blocks(residuals, needs_x64):
    cell, p = gj.gru(), problem(gj.gru())
    loss = lambda how, params, xs: jnp.sum(gj.unroll(cell, params, xs, p.h0, **how)[1] ** 3)
    blocked, plain = {"residuals": residuals, "block_size": 3}, {"derivative": "autodiff"}
    direction = normal_like(jax.random.key(8), p.params)
    along = lambda how, xs: jax.grad(lambda t: loss(how, jax.tree.map(lambda a, b: a + t * b, p.params, direction), xs))
    second = lambda how: jax.jit(jax.grad(along(how, p.xs)))(0.3)
    assert_close(second(blocked), second(plain))
    many = jnp.stack([p.xs, 2 * p.xs])
    for axes in (None, 0):
        params = p.params if axes is None else jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), p.params)
        mapped = lambda how: jax.jit(jax.vmap(jax.grad(partial(loss, how)), in_axes=(axes, 0)))(params, many)
        assert_close(mapped(blocked), mapped(plain))


def test_a_stack_of_two_directions_takes_blocks(needs_x64):
    layers = gj.stack([gj.bidirectional(gj.gru()), gj.lstm()])
    params = layers.init(jax.random.key(0), 4, 5, dtype=jnp.float64)
    xs = problem(gj.gru()).xs
    gradient = lambda **how: jax.jit(jax.grad(lambda p: jnp.sum(gj.unroll(layers, p, xs, **how)[1] ** 2)))(params)
    assert_close(gradient(block_size=3, residuals="gates"), gradient(derivative="autodiff"))


@pytest.mark.parametrize("residuals", ["states", "gates"])
@pytest.mark.parametrize(
    "cell", [gj.zoneout(gj.gru(), 0.3), gj.variational_dropout(gj.gru(), inputs=0.3, state=0.4)], ids=["zoneout", "dropout"]
)
def test_noise_is_the_same_in_every_block(cell, residuals, needs_x64):
    plain = problem(gj.gru())
    loss = lambda how, params: jnp.sum(gj.unroll(cell, params, plain.xs, key=jax.random.key(2), **how)[1] ** 2)
    gradient = lambda **how: jax.jit(jax.grad(partial(loss, how)))(plain.params)
    assert_close(gradient(block_size=3, residuals=residuals), gradient(derivative="autodiff"))


@pytest.mark.parametrize("wrong", [0, -3, 2.0, True, "4"])
def test_a_block_size_that_is_none_is_told(wrong):
    p = problem(gj.gru())
    assert_told(
        lambda: gj.unroll(gj.gru(), p.params, p.xs, block_size=wrong),
        ValueError,
        "block_size: got .*expected a number of steps",
    )
    assert_told(
        lambda: gj.unroll(gj.gru(), p.params, p.xs, residuals="all"), ValueError, "residuals: got 'all', expected one of"
    )


@given(st.integers(0, 40), st.integers(1, 45), st.booleans())
@settings(max_examples=20, deadline=None)
def test_blocks_are_the_scan_of_their_steps(steps, block_size, reverse):
    """A running sum with each block's number beside it, against a loop."""
    xs = np.arange(1, steps + 1, dtype=np.int32)

    def body(carry, over_time, number):
        carry, sums = jax.lax.scan(lambda c, x: (2 * c + x, 2 * c + x), carry, over_time, reverse=reverse)
        return carry, sums, number

    blocks = max(-(-steps // block_size), 1)
    carry, sums, numbers = scan_blocks(body, jnp.int32(1), jnp.asarray(xs), jnp.arange(blocks), block_size, reverse=reverse)
    expected, c = [], 1
    for x in xs[::-1] if reverse else xs:
        c = (2 * c + int(x)) % 2**32
        expected.append(c)
    assert np.asarray(sums).astype(np.uint32).tolist() == (expected[::-1] if reverse else expected)
    assert int(np.uint32(carry)) == c
    assert numbers.tolist() == list(range(blocks))


@given(st.integers(1, 20_000), st.integers(1, 5_000), st.integers(1, 2_000), st.sampled_from([65_536, 196_608]))
@settings(deadline=None)
def test_a_block_has_the_rows_that_are_documented(steps, sequences, units, states):
    size = size_for(steps, sequences, units, states)
    rows = max(4_096 if units < states // 4_096 else states // units, 512, units)
    aimed = max(rows // sequences, 4)
    if steps <= 2 * aimed:
        assert size == steps
    else:
        assert aimed // 2 < size < 2 * aimed
        assert steps % size == 0 or not [n for n in range(aimed // 2 + 1, 2 * aimed) if steps % n == 0]


@pytest.mark.parametrize(
    ("asked", "steps", "sequences", "units", "outputs", "expected"),
    [
        (("auto", None), 100, 1, 128, "all", ("states", 100)),
        (("auto", None), 100, 1, 255, "all", ("states", 100)),
        (("auto", None), 100, 1, 256, "all", ("gates", 100)),
        (("gates", None), 100, 1, 8, "all", ("gates", 100)),
        (("states", None), 100, 1, 512, "all", ("states", 100)),
        (("auto", 7), 100, 1, 128, "all", ("states", 7)),
        (("auto", None), 100_000, 1, 128, "all", ("states", 1_250)),
        (("gates", None), 100_000, 1, 128, "all", ("gates", 1_250)),
        (("auto", None), 100_000, 1, 128, "last", ("starts", 1_250)),
        (("auto", None), 100_000, 1, 129, "all", ("states", 500)),
        (("states", None), 100_000, 1, 128, "all", ("states", 500)),
        (("states", None), 100_000, 1, 128, "last", ("states", 500)),
        (("auto", None), 100, 1, 128, "last", ("states", 100)),
        (("auto", 7), 100, 1, 300, "last", ("starts", 7)),
        (("auto", None), 127, 64, 64, "all", ("gates", 127)),
        (("auto", None), 127, 64, 64, "last", ("gates", 127)),
        (("auto", None), 128, 64, 64, "all", ("gates", 64)),
        (("auto", None), 255, 64, 64, "all", ("gates", 51)),
        (("auto", None), 256, 64, 64, "all", ("states", 64)),
        (("auto", None), 256, 64, 64, "last", ("starts", 64)),
        (("auto", None), 200, 63, 64, "all", ("states", 50)),
        (("auto", 32), 127, 64, 64, "all", ("gates", 32)),
        (("gates", None), 127, 64, 64, "all", ("gates", 127)),
        (("states", None), 96, 64, 64, "all", ("states", 16)),
        (("auto", None), 4_096, 2, 16, "all", ("states", 4_096)),
        (("auto", None), 4_097, 1, 16, "all", ("states", 4_097)),
        (("auto", None), 8_193, 1, 16, "all", ("states", 2_731)),
        (("auto", None), 512, 2, 256, "all", ("gates", 512)),
        (("auto", None), 100, 32, 16, "all", ("gates", 100)),
        (("auto", None), 100, 31, 16, "all", ("states", 100)),
    ],
)
def test_what_auto_stands_for(asked, steps, sequences, units, outputs, expected):
    xs, h0 = jnp.zeros((steps, sequences, 2)), jnp.zeros((sequences, units))
    assert chosen(*asked, outputs, xs, h0)[:2] == expected


@pytest.mark.parametrize(
    ("asked", "steps", "sequences", "units", "outputs", "expected"),
    [
        (("auto", None), 1_000, 8, 128, "all", ("gates", 50, 50)),
        (("auto", None), 1_000, 8, 128, "last", ("starts", 50, 50)),
        (("auto", 100), 1_000, 8, 128, "all", ("gates", 100, 100)),
        (("auto", None), 1_000, 3, 128, "all", ("states", 1_000, 1_000)),
        (("auto", None), 3_000, 3, 128, "all", ("states", 150, 150)),
        (("auto", None), 2_040, 4, 128, "all", ("gates", 136, 136)),
        (("auto", None), 2_040, 4, 127, "all", ("states", 136, 136)),
        (("auto", None), 1_024, 8, 128, "all", ("states", 64, 64)),
        (("auto", None), 4_097, 4, 128, "all", ("states", 241, 241)),
        (("auto", None), 1_023, 8, 64, "all", ("gates", 1_023, 1_023)),
        (("auto", None), 1_024, 8, 64, "all", ("gates", 128, 128)),
        (("states", None), 1_024, 8, 64, "all", ("states", 128, 128)),
    ],
)
def test_a_device_of_one_core_keeps_gates_in_lean_blocks(asked, steps, sequences, units, outputs, expected, monkeypatch):
    monkeypatch.setattr(blocks, "cores_per_device", lambda: 1)
    assert chosen(*asked, outputs, jnp.zeros((steps, sequences, 2)), jnp.zeros((sequences, units))) == expected


@pytest.mark.parametrize(
    ("backend", "cores", "devices", "expected"),
    [("cpu", 8, 1, 8), ("cpu", 8, 4, 2), ("cpu", 8, 8, 1), ("cpu", 2, 8, 1), ("gpu", 8, 1, None)],
)
def test_the_cores_of_a_device(backend, cores, devices, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert cores_per_device() == expected


def test_a_devices_share_of_the_batch_is_counted(monkeypatch):
    monkeypatch.setattr(blocks, "share_of_batch", lambda sequences, xs: sequences // 4)
    xs, h0 = jnp.zeros((127, 256, 2)), jnp.zeros((256, 64))
    assert chosen("auto", None, "all", xs, h0) == ("gates", 127, 127)
    assert chosen("auto", None, "all", xs, h0, 5) == ("states", 9, 9)


def test_a_batch_is_shared_among_devices_unless_it_is_known_to_be_on_one(monkeypatch):
    mesh = jax.make_mesh((1,), ("batch",), devices=jax.devices()[:1])
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    xs, found = jnp.ones((2, 3)), []
    of = lambda xs: (found.append([share_of_batch(sequences, xs) for sequences in (0, 1, 4, 5)]), xs)[1]
    traced = lambda: jax.jit(lambda xs: of(xs))(xs)  # anew at each call
    of(xs)
    traced()
    jax.jit(jax.shard_map(of, mesh=mesh, in_specs=P(), out_specs=P()))(xs)
    with jax.set_mesh(mesh):
        traced()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    traced()
    whole, share = [0, 1, 4, 5], [0, 1, 1, 2]
    assert found == [whole, share, whole, whole, whole]


def test_models_at_once_are_counted_as_far_as_they_are_seen():
    """Of all axes of vmap together, whichever array they map; not through a `jit`."""
    found = []
    of = lambda x, y: (found.append(vmapped({"x": x, "y": [y, None]})), (x * jax.nn.relu(y)).sum())[1]
    xs, ys = jnp.ones((3, 4)), jnp.ones(5)
    of(xs, 1.0)
    jax.jit(of)(xs, 1.0)
    jax.vmap(of, in_axes=(1, None))(xs, 1.0)
    jax.vmap(of, in_axes=(None, 0))(xs, ys)
    jax.jit(jax.vmap(jax.vmap(of, in_axes=(0, None)), in_axes=(0, None)))(xs, 1.0)
    jax.vmap(jax.vmap(of, in_axes=(0, None)), in_axes=(None, 0))(xs, ys)
    jax.vmap(lambda y: jax.vmap(of, in_axes=(0, None))(xs, jax.nn.relu(y)))(ys)
    jax.vmap(jax.grad(of), in_axes=(0, None))(xs, 1.0)
    jax.vmap(jax.hessian(of), in_axes=(0, None))(xs, 1.0)
    jax.vmap(jax.grad(lambda y: jax.vmap(of, in_axes=(0, None))(xs, y).sum()))(ys)
    jax.vmap(jax.jit(of), in_axes=(0, None))(xs, 1.0)
    assert found == [1, 1, 4, 5, 12, 15, 15, 3, 3, 15, 1]


def test_many_models_at_once_take_shorter_blocks():
    cell = gj.gru()
    params = cell.init(jax.random.key(0), 2, 64, dtype=jnp.float32)
    gradient = jax.grad(lambda params, xs: gj.unroll(cell, params, xs)[1].sum())
    steps_of_blocks = lambda f, xs: {
        length for length, has_inner, _ in loops(jax.make_jaxpr(f)(params, xs).jaxpr) if not has_inner
    }
    assert steps_of_blocks(gradient, jnp.zeros((100, 64, 2))) == {100}
    assert steps_of_blocks(jax.vmap(gradient, in_axes=(None, 0)), jnp.zeros((16, 100, 64, 2))) == {4}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    ("asked", "steps", "units", "outputs", "expected"),
    [
        (("auto", None), 400, 8, "all", ("states", 20, 20)),
        (("auto", None), 401, 512, "all", ("states", 20, 20)),
        (("auto", None), 100, 8, "last", ("starts", 10, 10)),
        (("gates", None), 100, 8, "all", ("gates", 10, 10)),
        (("states", None), 8, 8, "all", ("states", 8, 8)),
        (("auto", 7), 400, 512, "all", ("states", 7, 7)),
    ],
)
def test_what_auto_stands_for_in_half_precision(asked, steps, units, outputs, expected, dtype, monkeypatch):
    monkeypatch.setattr(blocks, "half_precision_loops_grow", lambda: True)
    assert chosen(*asked, outputs, jnp.zeros((steps, 64, 2), dtype), jnp.zeros((64, units), dtype)) == expected


def test_half_precision_is_like_any_other_where_its_loops_are(monkeypatch):
    monkeypatch.setattr(blocks, "half_precision_loops_grow", lambda: False)
    of = lambda dtype: chosen("auto", None, "all", jnp.zeros((400, 64, 2), dtype), jnp.zeros((64, 8), dtype))
    assert of(jnp.bfloat16) == of(jnp.float32) == ("gates", 400, 400)


@pytest.mark.parametrize(
    ("version", "backend", "grow"),
    [((0, 10, 2), "cpu", True), ((0, 11, 9), "cpu", True), ((0, 12, 0), "cpu", False), ((0, 10, 2), "gpu", False)],
)
def test_loops_in_half_precision_grow_on_a_cpu_before_jax_0_12(version, backend, grow, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert half_precision_loops_grow() == grow


@pytest.mark.parametrize(
    ("asked", "steps", "sequences", "expected"),
    [
        (("auto", None), 255, 64, 255),
        (("auto", None), 256, 64, 64),
        (("auto", None), 4_096, 3, 4_096),
        (("auto", None), 8_193, 1, 2_731),
        (("auto", 20), 255, 64, 20),
        (("states", None), 256, 64, 16),
    ],
)
def test_blocks_of_a_forward_pass_alone(asked, steps, sequences, expected):
    xs, h0 = jnp.zeros((steps, sequences, 2)), jnp.zeros((sequences, 64))
    assert chosen(*asked, "all", xs, h0).value_block_size == expected
    cell = gj.gru()
    params = cell.init(jax.random.key(0), 2, 64)
    residuals, block_size = asked
    alone = jax.make_jaxpr(lambda params: gj.unroll(cell, params, xs, residuals=residuals, block_size=block_size))(params)
    lengths = {length for length, has_inner, _ in loops(alone.jaxpr) if not has_inner}
    assert max(lengths) == expected  # the last block may be shorter


@pytest.mark.parametrize(("rows", "units", "products"), [(63, 128, 1), (63, 129, 3), (64, 256, 1), (64, 257, 3)])
def test_products_are_side_by_side_up_to_a_size(rows, units, products):
    program = jax.make_jaxpr(lambda x, *weights: ops.dots(x, *weights))(jnp.zeros((rows, 5)), *[jnp.zeros((5, units))] * 3)
    assert str(program).count("dot_general") == products


@pytest.mark.parametrize(
    ("inputs", "units", "dtype", "products"), [(24, 40, "float32", 1), (25, 40, "float32", 3), (24, 40, "bfloat16", 3)]
)
def test_the_products_of_input_and_state_are_one_up_to_a_size(inputs, units, dtype, products):
    """Three: of x by each of the weights, and of h by both."""
    of = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)
    gate = ops.Affine(of(inputs, units), of(units, units), of(units))
    by_product = lambda x, h, *gates: ops.pre_activations(ops.prepared(x, *gates), h, *gates)
    program = jax.make_jaxpr(by_product)(of(7, inputs), of(7, units), gate, gate)
    assert str(program).count("dot_general") == products


@pytest.mark.parametrize("cell", [gj.gru(), gj.lstm(peephole=True)], ids=lambda cell: cell.name)
@pytest.mark.parametrize("derivative", ["adjoint", "both"])
def test_products_of_input_and_state_apart_are_the_joint_one(cell, derivative, needs_x64, monkeypatch):
    """What is chosen for larger cells, and in half precision, at the sizes of these tests."""
    p = problem(cell)
    expected = gradients(partial(scan_of_step, cell), p)
    monkeypatch.setattr(ops, "JOINT_UP_TO", 0)
    assert_close(gradients(partial(gj.unroll, cell, derivative=derivative), p), expected)
    assert_close(gradients(partial(scan_of_step, cell), p), expected)


@pytest.mark.parametrize("cell", [gj.gru(), gj.gru(reset_after=True), gj.lstm(peephole=True)], ids=lambda cell: cell.name)
def test_products_by_gate_are_those_side_by_side(cell, needs_x64, monkeypatch):
    """What is chosen beyond 128 units, at the sizes of these tests; and, once, beyond 128 units."""
    p = problem(cell)
    expected = gradients(partial(scan_of_step, cell), p)
    monkeypatch.setattr(ops, "WIDE_UP_TO", 0)
    monkeypatch.setattr(ops, "JOINT_UP_TO", 0)
    assert_close(gradients(partial(gj.unroll, cell), p), expected)
    assert_close(gradients(partial(scan_of_step, cell), p), expected)
    large = problem(cell, hidden_size=131, steps=3)
    by_gate = gradients(partial(gj.unroll, cell), large)
    monkeypatch.setattr(ops, "WIDE_UP_TO", 131)
    assert_close(by_gate, gradients(partial(scan_of_step, cell), large))


@pytest.fixture
def optimized():
    """As users compile: memory is planned by the passes that the suite leaves out."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def temporaries(cell, T, B, D, H, **how):
    """Bytes that the compiled gradient needs beside arguments and results."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D, H, dtype=jnp.float32))
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)

    def loss(params, xs, weights):
        h_last, ys = gj.unroll(cell, params, xs, **how)
        return jnp.sum(jax.tree.leaves(h_last)[0]) if ys is None else jnp.sum(weights * ys)

    return jax.jit(jax.grad(loss)).lower(params, of(T, B, D), of(T, B, H)).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("cell", [gj.gru(), gj.lstm()], ids=["gru", "lstm"])
def test_with_only_the_last_state_memory_grows_as_the_root_of_time(cell, optimized):
    sizes = {steps: temporaries(cell, steps, 16, 4, 32, outputs="last") for steps in (1_000, 10_000, 100_000)}
    assert sizes[100_000] <= 3.5 * sizes[10_000]  # √10 = 3.2
    assert sizes[10_000] <= 3.5 * sizes[1_000]
    assert sizes[100_000] < 100_000 * 16 * 32 * 4 / 15  # of the states alone


def test_states_keep_the_states_and_a_block_while_gates_keep_four_times_as_much(optimized):
    T, B, H = 20_000, 16, 32
    states, block = 4 * T * B * H, 4 * 65_536  # bytes; blocks that are not lean have twice as much here
    found = {residuals: temporaries(gj.gru(), T, B, 4, H, residuals=residuals) for residuals in ("states", "gates")}
    assert found["states"] < states + 20 * block
    assert 4 * states < found["gates"] < 4 * states + 20 * 2 * block
    assert temporaries(gj.gru(), T, B, 4, H, derivative="autodiff") > 7 * states
