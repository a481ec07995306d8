"""Cells whose leaves are not all floats, against a Python loop over the steps.

States, params and inputs hold integers, booleans, random keys and complex numbers. Some params have
batch axes.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax._engine.forward import Loop
from gru_jax._engine.plan import Plan
from gru_jax._engine.recursion import recursion
from gru_jax._engine.step_flags import StepFlags, step_flags
from tests.conditions import LENGTHS, RESETS
from tests.problems import B, D, H, T, assert_close, normal_like

pytestmark = pytest.mark.derivative

KEYS = jax.random.split(jax.random.key(3), 9)
normal = lambda i, *shape: jax.random.normal(KEYS[i], shape, jnp.result_type(float))


class ComplexParams(NamedTuple):
    """A linear recurrent unit: eigenvalues exp(−exp(ν) + iθ), complex input and output weights."""

    nu: jax.Array
    theta: jax.Array
    W: jax.Array


class ClockworkParams(NamedTuple):
    """Units that change only every `period` steps. The periods are integers."""

    W: jax.Array
    U: jax.Array
    period: jax.Array


class Counted(NamedTuple):
    """A state that counts its steps."""

    count: jax.Array
    h: jax.Array


class Keyed(NamedTuple):
    """A state that draws its own noise."""

    h: jax.Array
    key: jax.Array


class AttentionParams(NamedTuple):
    """Recurrent weights, and a memory (B, S, K) and a mask (B, S) for each sequence."""

    W: jax.Array
    U: jax.Array
    Q: jax.Array
    memory: jax.Array
    mask: jax.Array


def eigenvalues(params):
    return jnp.exp(jax.lax.complex(-jnp.exp(params.nu), params.theta))


def attend(params, h):
    scores = jnp.einsum("bk,bsk->bs", h @ params.Q, params.memory)
    weights = jax.nn.softmax(jnp.where(params.mask, scores, -jnp.inf))
    return jnp.einsum("bs,bsk->bk", weights, params.memory)


def no_init(key, input_size, hidden_size):
    raise NotImplementedError


recurrent_params = lambda cls, *rest: cls(normal(0, D, H), normal(1, H, H) / H, *rest)
S, K = 4, 6
MASK = jnp.arange(S) < jnp.array([[2], [4], [1]])

LRU = gj.Cell(
    no_init,
    project=lambda p, x: x.astype(p.W.dtype) @ p.W,
    gates=lambda p, u, h: (u, jnp.broadcast_to(eigenvalues(p), h.shape)),
    update=lambda g, h: g[1] * h + g[0],
    zero_state=lambda p: jnp.zeros(p.nu.shape, p.W.dtype),
    name="lru",
)
CLOCKWORK = gj.Cell(
    no_init,
    project=lambda p, x: x @ p.W,
    gates=lambda p, u, state: (jnp.tanh(u + state.h @ p.U), state.count[..., None] % p.period == 0),
    update=lambda g, state: Counted(state.count + 1, jnp.where(g[1], g[0], state.h)),
    output=lambda state: state.h,
    zero_state=lambda p: Counted(jnp.zeros((), jnp.int32), jnp.zeros(p.U.shape[0], p.U.dtype)),
    name="clockwork",
)


def keyed_update(g, state):
    keys = jax.vmap(jax.random.split)(state.key)
    noise = jax.vmap(lambda key: jax.random.normal(key, (H,), state.h.dtype))(keys[:, 1])
    return Keyed(0.5 * state.h + g * noise, keys[:, 0])


KEYED = gj.Cell(
    no_init,
    project=lambda p, x: x @ p.W,
    gates=lambda p, u, state: jnp.tanh(u + state.h @ p.U),
    update=keyed_update,
    output=lambda state: state.h,
    zero_state=lambda p: Keyed(jnp.zeros(H, p.U.dtype), jax.random.key(5)),
    name="keyed",
)
ATTENTION = gj.Cell(
    no_init,
    project=lambda p, x: x @ p.W,
    gates=lambda p, u, h: jnp.tanh(u + h @ p.U + attend(p, h) @ p.Q.T),
    update=lambda g, h: 0.25 * h + 0.75 * g,
    name="attention",
)
PROBLEMS: dict[str, tuple[gj.Cell, Any]] = {
    "complex states and params": (
        LRU,
        ComplexParams(normal(0, H), normal(1, H), jax.lax.complex(normal(2, D, H), normal(3, D, H))),
    ),
    "an integer in state and params": (CLOCKWORK, recurrent_params(ClockworkParams, jnp.array([1, 1, 2, 3, 4]))),
    "a key in the state": (KEYED, recurrent_params(ClockworkParams, jnp.ones(H, int))),
    "a memory and its mask": (ATTENTION, recurrent_params(AttentionParams, normal(4, H, K), normal(5, B, S, K), MASK)),
}
every_problem = pytest.mark.parametrize(("cell", "params"), PROBLEMS.values(), ids=PROBLEMS.keys())
EITHER = {"plain": {}, "lengths and resets": {"lengths": LENGTHS, "resets": RESETS}}
either = pytest.mark.parametrize(
    "conditions",
    [pytest.param(given, id=name, marks=() if given else pytest.mark.slow) for name, given in EITHER.items()],
)

XS = normal(6, T, B, D)


def initial_state(cell, params):
    """Draws the inexact leaves of a state at random, and takes the others from the cell."""
    zeros = cell.initial_state(params, B)
    if isinstance(zeros, Keyed):
        return Keyed(normal(7, B, H), jax.random.split(KEYS[8], B))
    if isinstance(zeros, Counted):
        return Counted(jnp.array([0, 1, 2], jnp.int32), normal(7, B, H))
    return normal_like(KEYS[7], zeros)


def select(condition, one, other):
    """Applies `jnp.where` to every leaf. The condition has the batch axis."""
    return jax.tree.map(lambda a, b: jnp.where(jnp.reshape(condition, (B, *(1,) * (a.ndim - 1))), a, b), one, other)


def python_loop(cell, params, xs, h, lengths=None, resets=None, reset_state=None):
    """Computes (h_last, ys) in a loop over the steps, following the documentation of `unroll`."""
    ys = []
    for t in range(T):
        valid = np.full(B, True) if lengths is None else t < np.asarray(lengths)
        if resets is not None:
            h = select(resets[t] & valid, reset_state, h)
        stepped = cell.update(cell.gates(params, cell.project(params, xs[t]), h), h)
        h = select(valid, stepped, h)
        ys.append(select(valid, cell.output(h), jax.tree.map(jnp.zeros_like, cell.output(h))))
    return h, jnp.stack(ys)


def loss_of(run, params, xs, h0, reset_state):
    """Returns a real number that depends on every output and every inexact last state."""
    h_last, ys = run(params, xs, h0, reset_state)
    leaves = [leaf for leaf in jax.tree.leaves((h_last, ys)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    weights = [jax.random.normal(KEYS[i % 9], leaf.shape, jnp.result_type(float)) for i, leaf in enumerate(leaves)]
    return sum(jnp.sum(w * (leaf.real + 0.3 * leaf.imag**2)) for w, leaf in zip(weights, leaves, strict=True))


def value_and_bars(run, *arguments):
    """Returns the loss, and its gradients with respect to all inexact leaves of the arguments."""
    value, bars = jax.value_and_grad(partial(loss_of, run), argnums=(0, 1, 2, 3), allow_int=True)(*arguments)
    return value, [bar for bar in jax.tree.leaves(bars) if bar.dtype != jax.dtypes.float0]


def arguments_of(cell, params, conditions):
    reset_state = initial_state(cell, params) if "resets" in conditions else None
    if reset_state is not None:
        reset_state = jax.tree.map(lambda leaf: leaf[::-1], reset_state)
    return params, XS, initial_state(cell, params), reset_state


DERIVATIVES = (gj.CustomVJP(residuals="states"), gj.CustomVJP(block_size=3), gj.CustomJVP(), gj.Autodiff())


@either
@every_problem
def test_values_and_gradients_are_those_of_a_python_loop(cell, params, conditions):
    arguments = arguments_of(cell, params, conditions)
    loop = lambda params, xs, h0, reset_state: python_loop(cell, params, xs, h0, reset_state=reset_state, **conditions)
    ys, expected = loop(*arguments)[1], value_and_bars(loop, *arguments)

    def ours(derivative, params, xs, h0, reset_state):
        return gj.unroll(cell, params, xs, h0, reset_state=reset_state, derivative=derivative, **conditions)

    for derivative in DERIVATIVES:
        run = partial(ours, derivative)
        assert_close(run(*arguments)[1], ys)
        assert_close(value_and_bars(run, *arguments), expected)


@either
@every_problem
def test_blocks_are_recomputed_if_only_the_last_state_is_returned(cell, params, conditions):
    arguments = arguments_of(cell, params, conditions)

    def ours(params, xs, h0, reset_state):
        options = {"outputs": "last", "derivative": gj.CustomVJP(block_size=3)}
        return gj.unroll(cell, params, xs, h0, reset_state=reset_state, **options, **conditions)

    def loop(params, xs, h0, reset_state):
        return python_loop(cell, params, xs, h0, reset_state=reset_state, **conditions)[0], None

    assert_close(value_and_bars(ours, *arguments), value_and_bars(loop, *arguments))


@either
@every_problem
def test_sums_outside_the_loop_give_the_same_gradients(cell, params, conditions):
    """The engine uses such sums for a batch that may be spread over devices."""
    arguments = arguments_of(cell, params, conditions)
    flags = step_flags(None, conditions.get("lengths"), conditions.get("resets"), T) if conditions else StepFlags()
    run = lambda plan: lambda *arguments: recursion(cell, Loop(plan), *arguments, flags)
    steps = value_and_bars(run(Plan(step_by_step=True)), *arguments)
    assert_close(value_and_bars(run(Plan(block_size=4)), *arguments), steps)


@every_problem
def test_vmap_over_params_and_inputs_equals_a_loop(cell, params):
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf[::-1]]), params)
    xs = jnp.stack([XS, XS[::-1]])
    h0 = initial_state(cell, params)
    run = lambda params, xs: value_and_bars(lambda *a: gj.unroll(cell, *a[:3]), params, xs, h0, None)
    together = jax.jit(jax.vmap(run))(twice, xs)
    for i in range(2):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], (twice, xs))
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), run(*own))
