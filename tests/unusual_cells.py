"""Cells that are not a matrix product over floats, and problems for them.

- `INPUT_CELLS` take inputs of several arrays, integers, booleans or images.
- `LEAF_PROBLEMS` are cells, with params, whose params and states hold integers, booleans, random
  keys, complex numbers and arrays with batch axes.
- `NOISY` are cells that draw noise.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax.cells import LSTMState
from tests.problems import B, D, H, T, normal, without_derivation

FLOAT = jnp.result_type(float)


class Observation(NamedTuple):
    value: jax.Array
    gap: jax.Array  # the time since the last step
    seen: jax.Array


class Params(NamedTuple):
    W: jax.Array
    U: jax.Array


def init(key, input_size, hidden_size):
    return Params(normal(40, input_size, hidden_size) / 2, normal(41, hidden_size, hidden_size) / 2)


def timed_project(params, x):
    return jnp.where(x[2], x[0], 0.3) @ params.W, x[1]


def timed_gates(params, u, h):
    return jnp.tanh(u[0] + h @ params.U), jnp.exp(-jnp.abs(u[1]))[..., None]


def timed_update(g, h):
    return g[1] * h + (1 - g[1]) * g[0]


def token_project(params, token):
    return params.W[token]


def tanh_gates(params, u, h):
    return jnp.tanh(u + h @ params.U)


def keep_half(g, h):
    return 0.5 * h + 0.5 * g


def camera_project(params, x):
    return x["image"].sum((-3, -2)) @ params.W + params.W[x["action"]]


TIMED = gj.Cell(init, timed_project, timed_gates, timed_update, num_feature_axes=Observation(1, 0, 1), name="timed")
TUPLE = gj.Cell(init, timed_project, timed_gates, timed_update, num_feature_axes=(1, 0, 1), name="timed by a tuple")
TOKENS = gj.Cell(init, token_project, tanh_gates, keep_half, num_feature_axes=0, name="tokens")
CAMERA = gj.Cell(init, camera_project, tanh_gates, keep_half, num_feature_axes={"image": 3, "action": 0}, name="camera")
INPUT_CELLS = {cell.name: cell for cell in (TIMED, TUPLE, TOKENS, CAMERA)}
PARAMS = init(None, D, H)


def inputs(cell, batch=(B,)):
    """Draws the inputs of a cell."""
    floats = lambda i, *shape: normal(50 + i, T, *batch, *shape)
    tokens = jnp.asarray(np.random.default_rng(4).integers(0, D, (T, *batch), np.int32))
    if cell is TOKENS:
        return tokens
    if cell is CAMERA:
        return {"action": tokens, "image": floats(0, 2, 3, D)}
    timed = Observation(floats(0, D), floats(1), floats(2, D) > 0)
    return timed if cell is TIMED else tuple(timed)


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
LEAF_PROBLEMS: dict[str, tuple[gj.Cell, Any]] = {
    "complex states and params": (
        LRU,
        ComplexParams(normal(0, H), normal(1, H), normal(2, D, H, dtype=jnp.result_type(complex))),
    ),
    "an integer in state and params": (CLOCKWORK, recurrent_params(ClockworkParams, jnp.array([1, 1, 2, 3, 4]))),
    "a key in the state": (KEYED, recurrent_params(ClockworkParams, jnp.ones(H, int))),
    "a memory and its mask": (ATTENTION, recurrent_params(AttentionParams, normal(4, H, K), normal(5, B, S, K), MASK)),
}

NOISY = {
    "zoneout(gru)": gj.zoneout(gj.gru(), 0.3),
    "zoneout(lstm)": gj.zoneout(gj.lstm(), LSTMState(h=0.2, c=0.5)),
    "zoneout(elman)": gj.zoneout(gj.elman(), 0.3),
    "zoneout of a cell without derivation": gj.zoneout(without_derivation(gj.gru()), 0.3),
    "dropout of inputs": gj.variational_dropout(gj.gru(), inputs=0.4),
    "dropout of the state": gj.variational_dropout(gj.lstm(peephole=True), state=0.4),
    "dropout of both": gj.variational_dropout(gj.gru(reset_after=True), inputs=0.4, state=0.3),
    "zoneout of dropout": gj.zoneout(gj.variational_dropout(gj.gru(), inputs=0.3, state=0.3), 0.2),
    "dropout of zoneout": gj.variational_dropout(gj.zoneout(gj.gru(), 0.2), inputs=0.3, state=0.3),
}
# Zoneout and dropout, alone and together, with a state of one array and of two, derived and not.
DISTINCT = ("zoneout(lstm)", "zoneout of a cell without derivation", "dropout of both", "zoneout of dropout")
distinct_noise = pytest.mark.parametrize(
    "cell", [pytest.param(cell, id=name, marks=() if name in DISTINCT else pytest.mark.slow) for name, cell in NOISY.items()]
)
