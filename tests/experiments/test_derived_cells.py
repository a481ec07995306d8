"""The derivations of the recipes' cells equal autodiff, and a mistake in any of them is noticed."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import gru_jax as gj
from experiments.recipes.derived_cells import COUPLED_LSTM, IND_RNN, MGU
from tests.conditions import LENGTHS, RESETS
from tests.problems import (
    B,
    D,
    H,
    Problem,
    T,
    assert_close,
    compiled,
    errors,
    gradients,
    normal,
    normal_like,
    small_like,
    tolerance,
)


def wrong_factor(mistake):
    """Plants a mistake in the coefficients: `mistake(k, g, h_prev)` gives the wrong ones."""
    return lambda right: {"linearize": lambda g, h_prev: mistake(right.linearize(g, h_prev), g, h_prev)}


def wrong_sum(mistake):
    """Plants a mistake in the sums over time: `mistake(g)` gives the wrong values of the steps."""
    return lambda right: {
        "input_vjp": lambda p, xs, h_prevs, g, k, h_bars: right.input_vjp(p, xs, h_prevs, mistake(g), k, h_bars)
    }


def wrong_step(mistake):
    """Plants a mistake in the loop only: `mistake(k)` gives the wrong coefficients."""
    return lambda right: {"state_vjp": lambda p_T, k, h_bar: right.state_vjp(p_T, mistake(k), h_bar)}


MISTAKES = {
    COUPLED_LSTM: {
        "c̄ without the slope of tanh": wrong_factor(lambda k, g, prev: k._replace(c=g.o)),
        "a_o without 1 − o": wrong_factor(lambda k, g, prev: k._replace(a_o=jnp.tanh(g.c) * g.o)),
        "f̄ without the input gate": wrong_factor(lambda k, g, prev: k._replace(a_f=prev.c * g.f * (1 - g.f))),
        "ḡ with f in place of 1 − f": wrong_factor(lambda k, g, prev: k._replace(a_g=g.f * (1 - g.g**2))),
        "c̄₋ without f": wrong_step(lambda k: k._replace(keep=jnp.ones_like(k.keep))),
    },
    MGU: {
        "h̄₋ with f in place of 1 − f": wrong_factor(lambda k, g, h_prev: k._replace(keep=g.f)),
        "a_h without the slope of tanh": wrong_factor(lambda k, g, h_prev: k._replace(a_h=g.f)),
        "f̄ without − h₋": wrong_factor(lambda k, g, h_prev: k._replace(a_f=g.g * g.f * (1 - g.f))),
        "f̄ without s̄": wrong_factor(lambda k, g, h_prev: k._replace(s_to_a_f=0 * h_prev)),
        "h̄₋ without s̄": wrong_step(lambda k: k._replace(f=0 * k.f)),
        "Ū_h of h₋ in place of s": wrong_sum(lambda g: g._replace(f=jnp.ones_like(g.f))),
    },
    IND_RNN: {"a without the slope of relu": wrong_factor(lambda k, g, h_prev: jnp.ones_like(k))},
}


@pytest.mark.derivative
@pytest.mark.parametrize(
    "cell", [pytest.param(c, id=c.name, marks=() if c == COUPLED_LSTM else pytest.mark.slow) for c in MISTAKES]
)
def test_a_derivation_equals_autodiff_and_a_planted_mistake_does_not(cell, needs_x64):
    params = jax.eval_shape(lambda key: cell.init(key, D, H, dtype=jnp.float64), jax.random.key(0))
    params, xs = small_like(0, params), normal(1, T, B, D)
    h0 = normal_like(2, jax.eval_shape(lambda params: cell.initial_state(params, B), params))
    run = partial(gj.unroll, lengths=LENGTHS, resets=RESETS)
    problem = Problem(params, xs, h0, normal_like(3, jax.eval_shape(partial(run, cell), params, xs, h0)))
    wrong = [
        replace(cell, adjoint=replace(cell.adjoint, **plant(cell.adjoint)), tangent=None) for plant in MISTAKES[cell].values()
    ]

    def results(problem):
        of = lambda cell, derivative: gradients(partial(run, cell, derivative=derivative), problem)
        return of(cell, gj.Autodiff()), [of(each, gj.CustomVJP()) for each in (cell, *wrong)]

    expected, (ours, *planted) = compiled(results, problem)
    assert_close(ours, expected)
    assert all(leaf.any() for leaf in jax.tree.leaves(expected))
    for mistake, result in zip(MISTAKES[cell], planted, strict=True):
        assert max(errors(result, expected).values()) > 1e6 * tolerance(jnp.float64), mistake
