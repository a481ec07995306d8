"""Cells that users write: with value functions only, with a derivation, and with unusual states."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from gru_jax.ops import outer_sum
from tests.problems import B, D, H, T, assert_close, compiled, gradients, normal_like, problem, scan_of_step

pytestmark = pytest.mark.derivative


class BlockParams(NamedTuple):
    """Two blocks of recurrent weights, with names that gru_jax does not use."""

    mix: jax.Array  # (D, 2, n)
    blocks: jax.Array  # (2, n, n)


def init(key, input_size, hidden_size, **options):
    key_mix, key_blocks = jax.random.split(key)
    n = hidden_size
    return BlockParams(jax.random.normal(key_mix, (input_size, 2, n)), jax.random.normal(key_blocks, (2, n, n)) / n)


def gates(params, u, state):
    recurrent = jnp.einsum("...kn,knm->...km", state["fast"], params.blocks)
    return jnp.tanh(u + recurrent)


def update(g, state):
    return {"fast": g, "slow": 0.9 * state["slow"] + 0.1 * g.sum(-2)}


BLOCKS = gj.Cell(
    init=init,
    project=lambda params, xs: jnp.einsum("...d,dkn->...kn", xs, params.mix),
    gates=gates,
    update=update,
    output=lambda state: state["slow"],
    zero_state=lambda params: {"fast": jnp.zeros(params.mix.shape[1:]), "slow": jnp.zeros(params.mix.shape[-1])},
)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_cell_with_value_functions_only_has_the_gradients_of_autodiff(reverse):
    p = problem(BLOCKS)
    scan = lambda params, xs, h0: jax.lax.scan(partial(BLOCKS.step, params), h0, xs, reverse=reverse)
    runs = partial(gj.unroll, BLOCKS, reverse=reverse), scan
    assert_close(*compiled(lambda p: [gradients(run, p) for run in runs], p))


def test_a_cell_with_value_functions_only_saves_inputs_and_states_only():
    p = problem(BLOCKS)
    _, vjp = jax.vjp(partial(gj.unroll, BLOCKS, derivative=gj.CustomVJP(residuals="states")), p.params, p.xs, p.h0)
    saved = sum(leaf.size for leaf in jax.tree.leaves(vjp) if leaf.ndim > 1 and leaf.shape[0] == T)
    assert saved == T * B * (D + 2 * H + H)  # xs, and the two parts of the state


class LeakyParams(NamedTuple):
    W: jax.Array
    U: jax.Array


def leaky_input_vjp(params, xs, h_prevs, g, k, h_bars):
    a = h_bars * k
    return LeakyParams(W=outer_sum(xs, a), U=outer_sum(h_prevs, a)), a @ params.W.T


LEAKY = gj.Cell(
    init=lambda key, D, H, **options: LeakyParams(*(jax.random.normal(key, shape) for shape in ((D, H), (H, H)))),
    project=lambda params, xs: xs @ params.W,
    gates=lambda params, u, h: jnp.tanh(u + h @ params.U),
    update=lambda g, h: 0.75 * h + 0.25 * g,
)
LEAKY_ADJOINT = gj.Adjoint(
    linearize=lambda g, h_prev: 0.25 * (1 - g**2),
    input_vjp=leaky_input_vjp,
    state_vjp=lambda params_T, k, h_bar: 0.75 * h_bar + (k * h_bar) @ params_T.U,
)


def test_a_cell_with_its_own_adjoint_has_the_gradients_of_autodiff():
    p = problem(LEAKY)
    runs = partial(scan_of_step, LEAKY), *(partial(gj.unroll, cell) for cell in (LEAKY, replace(LEAKY, adjoint=LEAKY_ADJOINT)))
    expected, *measured = compiled(lambda p: [gradients(run, p) for run in runs], p)
    for result in measured:
        assert_close(result, expected)


def test_a_wrong_adjoint_gives_a_wrong_gradient():
    p = problem(LEAKY)
    wrong = replace(LEAKY_ADJOINT, state_vjp=lambda params_T, k, h_bar: (k * h_bar) @ params_T.U)
    _, expected = gradients(partial(scan_of_step, LEAKY), p)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(gradients(partial(gj.unroll, replace(LEAKY, adjoint=wrong)), p)[1], expected)


def test_a_cell_without_zero_state_and_without_a_field_u_needs_h0():
    cell = replace(BLOCKS, zero_state=None)
    p = problem(BLOCKS)
    with pytest.raises(ValueError, match=r"without a field whose name begins with U.*zero_state=lambda params.*h0"):
        gj.unroll(cell, p.params, p.xs)
    assert_close(gj.unroll(cell, p.params, p.xs, p.h0), gj.unroll(BLOCKS, p.params, p.xs, p.h0), tol=0)


def test_a_flag_in_the_input_can_change_a_step():
    """Seo's second script has a linear last step. Here a flag in the input marks it."""
    cell = gj.elman("sigmoid")

    def flagged_gates(params, u, h):
        a, linear = u[..., :-1] + h @ params.U, u[..., -1:] > 0
        return jnp.where(linear, a, jax.nn.sigmoid(a))

    flagged = gj.Cell(
        init=cell.init,
        project=lambda params, xs: jnp.concatenate([xs[..., :-1] @ params.W, xs[..., -1:]], -1),
        gates=flagged_gates,
        update=lambda g, h: g,
    )
    p = problem(cell)
    flag = jnp.zeros((T, B, 1)).at[-1].set(1)
    with_flag = p._replace(xs=jnp.concatenate([p.xs, flag], -1), cotangents=normal_like(9, p.cotangents))
    scan = lambda params, xs, h0: jax.lax.scan(partial(flagged.step, params), h0, xs)
    assert_close(*compiled(lambda p: [gradients(run, p) for run in (partial(gj.unroll, flagged), scan)], with_flag))
