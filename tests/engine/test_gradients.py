"""The derived backward pass against `jax.grad` of the plain scan, and under every transformation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax._jax.jaxprs import CUSTOM_VJP_PRIMITIVES
from tests.problems import (
    CELLS,
    SEEDS,
    B,
    D,
    H,
    Problem,
    T,
    assert_close,
    errors,
    every_cell,
    gradients,
    main_cells,
    problem,
    tolerance,
)

pytestmark = pytest.mark.derivative


def without_adjoint(cell):
    """The same cell as a user would first write it: the value row only."""
    return cell._replace(coefficients=None, pull=None, collect=None, name=f"{cell.name} without adjoint")


def scan_of_step(cell, reverse=False):
    """The oracle: autodiff of `lax.scan` over `cell.step`."""
    return lambda params, xs, h0: jax.lax.scan(partial(cell.step, params), h0, xs, reverse=reverse)


@every_cell
@pytest.mark.parametrize(("bias", "reverse"), [(True, False), (False, True)])
@pytest.mark.parametrize("derived", [True, False], ids=["derived", "local"])
def test_the_adjoint_equals_autodiff_of_the_plain_scan(cell, bias, reverse, derived):
    tested = cell if derived else without_adjoint(cell)
    by_rule = jax.jit(partial(gradients, partial(gj.unroll, tested, reverse=reverse)))
    by_autodiff = jax.jit(partial(gradients, scan_of_step(cell, reverse)))
    for seed in SEEDS:
        p = problem(cell, seed, bias=bias)
        assert_close(by_rule(p), by_autodiff(p))


@every_cell
@pytest.mark.parametrize("derived", [True, False], ids=["derived", "local"])
def test_in_float32_the_adjoint_is_as_near_the_truth_as_autodiff(cell, derived):
    tested = cell if derived else without_adjoint(cell)
    rule, autodiff = jax.jit(partial(gradients, partial(gj.unroll, tested))), jax.jit(partial(gradients, scan_of_step(cell)))
    for seed in SEEDS:
        p = problem(cell, seed, dtype=jnp.float32, steps=23, batch=(5,))
        (_, bars), (_, by_autodiff) = rule(p), autodiff(p)
        assert {leaf.dtype for leaf in jax.tree.leaves(bars)} == {jnp.dtype(jnp.float32)}
        limit = tolerance(jnp.float32, 23 * 5 + D + H)
        if not jax.config.jax_enable_x64:
            assert_close(bars, by_autodiff, tol=2 * limit)
            continue
        _, truth = autodiff(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), p))
        by_hand, by_autodiff = errors(bars, truth), errors(by_autodiff, truth)
        for path in by_hand:
            assert by_hand[path] <= max(limit, 8 * by_autodiff[path]), path


@main_cells
@pytest.mark.parametrize("scale", [3.0, 8.0])
def test_saturated_gates_have_the_gradients_of_autodiff(cell, scale, needs_x64):
    p = problem(cell, scale=scale if "tanh" in cell.name or "GRU" in cell.name else 1.0 + 0.1 * scale)
    _, bars = gradients(partial(gj.unroll, cell), p)
    _, expected = gradients(scan_of_step(cell), p)
    for path, error in errors(bars, expected).items():
        assert error <= 1e-11, path


@main_cells
def test_a_cotangent_of_one_output_alone_is_enough(cell):
    p = problem(cell)
    zeros = jax.tree.map(jnp.zeros_like, p.cotangents)
    only_last, only_outputs = (p.cotangents[0], zeros[1]), (zeros[0], p.cotangents[1])
    by_rule, by_autodiff = (jax.jit(partial(gradients, run)) for run in (partial(gj.unroll, cell), scan_of_step(cell)))
    for cotangents in (only_last, only_outputs):
        alone = p._replace(cotangents=cotangents)
        assert_close(by_rule(alone)[1], by_autodiff(alone)[1])

    by_last = jax.grad(lambda params: sum(leaf.sum() for leaf in jax.tree.leaves(gj.unroll(cell, params, p.xs)[0])))
    h0 = cell.initial_state(p.params, B)
    expected = jax.grad(lambda params: sum(leaf.sum() for leaf in jax.tree.leaves(scan_of_step(cell)(params, p.xs, h0)[0])))
    assert_close(by_last(p.params), expected(p.params))


@main_cells
def test_a_zero_cotangent_gives_exactly_zero(cell):
    p = problem(cell)
    silent = p._replace(cotangents=jax.tree.map(jnp.zeros_like, p.cotangents))
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradients(partial(gj.unroll, cell), silent)[1]))


@main_cells
@pytest.mark.parametrize(
    "sizes",
    [{"steps": 1}, {"steps": 0}, {"batch": (1,)}, {"batch": ()}, {"batch": (0,)}, {"batch": (2, B)}, {"hidden_size": 1}],
    ids=str,
)
def test_edge_sizes_have_the_gradients_of_autodiff(cell, sizes):
    p = problem(cell, **sizes)
    _, expected = jax.jit(partial(gradients, scan_of_step(cell)))(p)
    for tested in (cell, without_adjoint(cell)) if cell in map(CELLS.get, ("elman_tanh", "gru", "lstm")) else (cell,):
        assert_close(jax.jit(partial(gradients, partial(gj.unroll, tested)))(p)[1], expected)


@main_cells
def test_gradients_come_back_in_the_type_of_the_parameters(cell):
    p = problem(cell, bias=False)
    (params_bar, xs_bar, h0_bar) = gradients(partial(gj.unroll, cell), p)[1]
    assert type(params_bar) is type(p.params)
    assert [leaf is None for leaf in params_bar] == [leaf is None for leaf in p.params]
    assert jax.tree.structure(h0_bar) == jax.tree.structure(p.h0)
    assert xs_bar.shape == p.xs.shape


@main_cells
def test_batch_major_gradients_equal_time_major_ones(cell):
    p = problem(cell)

    def batch_major(params, xs, h0):
        h_last, ys = gj.unroll(cell, params, jnp.moveaxis(xs, 0, 1), h0, time_major=False)
        return h_last, jnp.moveaxis(ys, 1, 0)

    assert_close(gradients(batch_major, p)[1], gradients(scan_of_step(cell), p)[1])


@main_cells
def test_the_option_autodiff_has_no_rule_and_the_same_results(cell):
    p = problem(cell)
    plain = partial(gj.unroll, cell, derivative="autodiff")
    assert_close(gradients(plain, p), gradients(scan_of_step(cell), p))
    jaxpr = str(jax.make_jaxpr(plain)(p.params, p.xs, p.h0))
    assert not any(name in jaxpr for name in CUSTOM_VJP_PRIMITIVES)


@main_cells
def test_the_custom_rule_is_in_the_jaxpr_once_and_runs(cell):
    p = problem(cell)
    jaxpr = str(jax.make_jaxpr(partial(gj.unroll, cell))(p.params, p.xs, p.h0))
    assert sum(jaxpr.count(f"{name}[") for name in CUSTOM_VJP_PRIMITIVES) == 1

    if cell.collect is not None:  # a rule that is off by a factor of two is seen: it is the one that ran

        def doubled(*args):
            params_bar, xs_bar = cell.collect(*args)
            return jax.tree.map(lambda leaf: 2 * leaf, params_bar), xs_bar

        _, (params_bar, *_) = gradients(partial(gj.unroll, cell._replace(collect=doubled)), p)
        _, (expected, *_) = gradients(scan_of_step(cell), p)
        assert_close(params_bar, jax.tree.map(lambda leaf: 2 * leaf, expected))


@main_cells
@pytest.mark.parametrize("derived", [True, False], ids=["derived", "local"])
def test_nothing_but_inputs_and_states_is_saved(cell, derived):
    tested = cell if derived else without_adjoint(cell)
    p = problem(cell)
    _, pull = jax.vjp(partial(gj.unroll, tested), p.params, p.xs, p.h0)
    saved = [leaf for leaf in jax.tree.leaves(pull) if leaf.ndim == 3]
    states = [T * B * leaf.shape[-1] for leaf in jax.tree.leaves(p.h0)]
    assert sorted(leaf.size for leaf in saved) == sorted([T * B * D, *states])


def carries_of_scans(jaxpr):
    """The shapes that each `scan` in a jaxpr hands from step to step, at any depth: what its body returns and it does not stack."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            body = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
            pairs = zip(eqn.outvars, body.outvars, strict=True)
            yield [outer.aval.shape for outer, inner in pairs if outer.aval.shape == inner.aval.shape]
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from carries_of_scans(inner)


@main_cells
def test_the_loops_carry_the_state_and_its_cotangent_and_no_weight_gradient(cell):
    p = problem(cell)
    total = lambda params, how: gj.unroll(cell, params, p.xs, p.h0, derivative=how)[1].sum()
    state = [leaf.shape for leaf in jax.tree.leaves(p.h0)]
    forward, backward = carries_of_scans(jax.make_jaxpr(jax.grad(lambda params: total(params, "adjoint")))(p.params).jaxpr)
    assert forward == backward == state
    by_autodiff = list(carries_of_scans(jax.make_jaxpr(jax.grad(lambda params: total(params, "autodiff")))(p.params).jaxpr))
    assert any((H, H) in carry for carry in by_autodiff)


@main_cells
def test_jit_checkpoint_and_an_outer_scan_change_nothing(cell):
    p = problem(cell)
    run = partial(gj.unroll, cell)
    expected = gradients(run, p)
    assert_close(jax.jit(partial(gradients, run))(p), expected)
    assert_close(gradients(jax.checkpoint(run), p), expected)

    def twice(unroll, params, xs, h0):
        return jax.lax.scan(lambda h, _: (unroll(params, xs, h)[0], None), h0, None, length=2)[0]

    last_only = p._replace(cotangents=p.cotangents[0])
    assert_close(gradients(partial(twice, run), last_only)[1], gradients(partial(twice, scan_of_step(cell)), last_only)[1])


@main_cells
def test_vmap_over_data_equals_the_loop(cell):
    run = partial(gradients, partial(gj.unroll, cell))
    examples = [problem(cell, seed) for seed in range(3)]
    examples = [example._replace(params=examples[0].params) for example in examples]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *examples)._replace(params=examples[0].params)
    axes = Problem(params=None, xs=0, h0=0, cotangents=0)
    together, one = jax.jit(jax.vmap(run, in_axes=(axes,)))(stacked), jax.jit(run)
    for i, example in enumerate(examples):
        assert_close(jax.tree.map(lambda leaf: leaf[i], together), one(example))


@main_cells
def test_vmap_over_an_ensemble_of_parameters_equals_the_loop(cell):
    run = partial(gradients, partial(gj.unroll, cell))
    members = [problem(cell, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    shared = members[0]._replace(params=stacked.params)
    one = jax.jit(run)
    own_data = jax.jit(jax.vmap(run))(stacked)
    same_data = jax.jit(jax.vmap(run, in_axes=(Problem(params=0, xs=None, h0=None, cotangents=None),)))(shared)
    for i, member in enumerate(members):
        assert_close(jax.tree.map(lambda leaf: leaf[i], own_data), one(member))
        assert_close(jax.tree.map(lambda leaf: leaf[i], same_data), one(members[0]._replace(params=member.params)))


@main_cells
def test_per_example_gradients_by_vmap_of_grad_equal_the_loop(cell):
    p = problem(cell)
    lengths = jnp.array([T, 2, 0])

    def loss(params, xs, h0, length):
        h_last, ys = gj.unroll(cell, params, xs, h0, lengths=length)
        return jnp.sin(ys).sum() + sum((leaf**2).sum() for leaf in jax.tree.leaves(h_last))

    per_example = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 1, 0, 0)))(p.params, p.xs, p.h0, lengths)
    one = jax.jit(jax.grad(loss))
    for b in range(B):
        expected = one(p.params, p.xs[:, b], jax.tree.map(lambda leaf: leaf[b], p.h0), lengths[b])
        assert_close(jax.tree.map(lambda leaf: leaf[b], per_example), expected)


SECOND_ORDER = [
    pytest.param(cell, derived, marks=() if name == "gru" else pytest.mark.slow)
    for name, cell in CELLS.items()
    for derived in ((True, False) if name in ("elman_tanh", "gru", "lstm") else (True,))
]


@pytest.mark.parametrize(("cell", "derived"), SECOND_ORDER, ids=lambda value: getattr(value, "name", str(value)))
def test_second_order_equals_autodiff_by_hessian_and_by_reverse_over_reverse(cell, derived):
    p = problem(cell, steps=5, batch=(2,), input_size=1, hidden_size=3)
    tested = cell if derived else without_adjoint(cell)

    def curved(unroll, params, h0):
        h_last, ys = unroll(params, p.xs, h0)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(leaf**3) for leaf in jax.tree.leaves(h_last))

    @jax.jit
    def all_three(params, h0):
        rule, autodiff = partial(curved, partial(gj.unroll, tested)), partial(curved, scan_of_step(cell))
        both = (0, 1)
        return (
            jax.hessian(rule, both)(params, h0),
            jax.jacrev(jax.jacrev(rule, both), both)(params, h0),
            jax.hessian(autodiff, both)(params, h0),
        )

    forward_over_reverse, reverse_over_reverse, expected = all_three(p.params, p.h0)
    limit = 1e-12 if p.xs.dtype == jnp.float64 else 1e-4
    assert_close(forward_over_reverse, expected, tol=limit)
    assert_close(reverse_over_reverse, expected, tol=limit)


@main_cells
def test_central_differences_know_nothing_of_autodiff_and_agree(cell, needs_x64):
    p = problem(cell)
    _, bars = gradients(partial(gj.unroll, cell), p)
    args = (p.params, p.xs, p.h0)

    @jax.jit
    def loss(args):
        outputs = gj.unroll(cell, *args)
        return sum(jnp.vdot(y, ct) for y, ct in zip(jax.tree.leaves(outputs), jax.tree.leaves(p.cotangents), strict=True))

    leaves, structure = jax.tree.flatten(args)
    for i, (leaf, bar) in enumerate(zip(leaves, jax.tree.leaves(bars), strict=True)):
        direction = jax.random.normal(jax.random.key(i), leaf.shape)
        step = 1e-5
        moved = [structure.unflatten([*leaves[:i], leaf + s * step * direction, *leaves[i + 1 :]]) for s in (1, -1)]
        numerical = (loss(moved[0]) - loss(moved[1])) / (2 * step)
        np.testing.assert_allclose(jnp.vdot(bar, direction), numerical, rtol=1e-6, atol=1e-7)


def test_the_gradient_is_the_same_bit_for_bit_when_taken_twice():
    p = problem(gj.gru())
    run = jax.jit(partial(gradients, partial(gj.unroll, gj.gru())))
    first, second = run(p), run(p)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


@main_cells
def test_half_precision_gradients_have_the_parameters_dtype_and_are_near(cell, needs_x64):
    for dtype in (jnp.bfloat16, jnp.float16):
        p = problem(cell, dtype=dtype)
        _, bars = jax.jit(partial(gradients, partial(gj.unroll, cell)))(p)
        assert {leaf.dtype for leaf in jax.tree.leaves(bars)} == {jnp.dtype(dtype)}
        autodiff = jax.jit(partial(gradients, scan_of_step(cell)))
        _, truth = autodiff(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), p))
        _, by_autodiff = autodiff(p)
        by_hand, by_autodiff = errors(bars, truth), errors(by_autodiff, truth)
        for path in by_hand:
            assert by_hand[path] <= max(tolerance(dtype, T * B + D + H), 2 * by_autodiff[path]), path


def test_inside_shard_map_the_gradient_of_replicated_parameters_is_summed_over_devices():
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    p = problem(gj.gru())

    def loss_gradient(params, xs):
        return jax.grad(lambda params: (gj.unroll(gj.gru(), params, xs)[1] ** 2).sum())(params)

    sharded = jax.jit(jax.shard_map(loss_gradient, mesh=mesh, in_specs=(spec(), spec(None, "batch")), out_specs=spec()))
    assert_close(sharded(p.params, p.xs), loss_gradient(p.params, p.xs))
