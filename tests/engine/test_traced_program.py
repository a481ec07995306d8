"""What the traced program of `unroll` contains: the custom rule, its residuals, and its loops."""

from dataclasses import replace
from functools import partial

import jax
import pytest

import gru_jax as gj
from gru_jax._jax.jaxprs import CUSTOM_VJP_PRIMITIVES
from tests.conditions import MASK, RESETS
from tests.problems import (
    B,
    D,
    H,
    T,
    assert_close,
    gradients_of_scan,
    gradients_of_unroll,
    on_host,
    pair_by_default,
    problem,
    without_derivation,
)
from tests.programs import loops

pytestmark = pytest.mark.derivative


@pair_by_default
def test_autodiff_has_no_custom_rule_and_the_same_results(cell):
    p = problem(cell)
    plain = partial(gj.unroll, cell, derivative=gj.Autodiff())
    assert_close(gradients_of_unroll(cell, derivative=gj.Autodiff())(p), gradients_of_scan(cell)(p))
    jaxpr = str(jax.make_jaxpr(plain)(p.params, p.xs, p.h0))
    assert not any(name in jaxpr for name in CUSTOM_VJP_PRIMITIVES)


@pair_by_default
def test_the_custom_rule_appears_once_and_runs(cell):
    p = problem(cell)
    jaxpr = str(jax.make_jaxpr(partial(gj.unroll, cell))(p.params, p.xs, p.h0))
    assert sum(jaxpr.count(f"{name}[") for name in CUSTOM_VJP_PRIMITIVES) == 1

    def doubled(*args):  # the factor of 2 appears only if this function has run
        params_bar, xs_bar = cell.adjoint.input_vjp(*args)
        return jax.tree.map(lambda leaf: 2 * leaf, params_bar), xs_bar

    doubling = replace(cell, adjoint=replace(cell.adjoint, input_vjp=doubled))
    _, (params_bar, *_) = gradients_of_unroll(doubling)(p)
    _, (expected, *_) = on_host(gradients_of_scan(cell)(p))
    assert_close(params_bar, jax.tree.map(lambda leaf: 2 * leaf, expected))


@pair_by_default
@pytest.mark.parametrize("derived", [True, False], ids=["derived", "local"])
def test_only_inputs_and_states_are_saved(cell, derived):
    tested = cell if derived else without_derivation(cell)
    p = problem(cell)
    lean = gj.CustomVJP(residuals="states")
    saved_by = lambda *args: jax.vjp(partial(gj.unroll, tested, derivative=lean), *args)[1]
    vjp = jax.eval_shape(saved_by, p.params, p.xs, p.h0)
    saved = [leaf for leaf in jax.tree.leaves(vjp) if leaf.ndim == 3]
    states = [T * B * leaf.shape[-1] for leaf in jax.tree.leaves(p.h0)]
    assert sorted(leaf.size for leaf in saved) == sorted([T * B * D, *states])


def test_lengths_masks_and_resets_save_nothing_but_themselves():
    cell = gj.lstm()
    p = problem(cell)
    run = partial(gj.unroll, cell, mask=MASK, resets=RESETS, derivative=gj.CustomVJP(residuals="states"))
    vjp = jax.eval_shape(lambda *args: jax.vjp(run, *args)[1], p.params, p.xs, p.h0)
    saved = sorted(leaf.size for leaf in jax.tree.leaves(vjp) if leaf.ndim == 3)
    assert saved == sorted([T * B * D, T * B * H, T * B * H])


@pair_by_default
def test_the_loops_carry_states_and_their_cotangents_but_no_weight_gradients(cell):
    p = problem(cell)
    total = lambda derivative, params: gj.unroll(cell, params, p.xs, p.h0, derivative=derivative)[1].sum()
    carries = lambda derivative: [
        loop.carry_shapes for loop in loops(jax.make_jaxpr(jax.grad(partial(total, derivative)))(p.params).jaxpr)
    ]
    state = [leaf.shape for leaf in jax.tree.leaves(p.h0)]
    forward, backward = carries(gj.CustomVJP())
    assert forward == backward == state
    assert any((H, H) in carry for carry in carries(gj.Autodiff()))
