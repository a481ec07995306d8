"""Shows custom cells: four published ones for long sequences, each by its equations alone.

| cell         | state                       | source                                |
|--------------|-----------------------------|---------------------------------------|
| `MIN_GRU`    | a vector                    | Feng et al. 2024, arXiv 2410.01201    |
| `SLSTM`      | four vectors, one from -inf | Beck et al. 2024, arXiv 2405.04517    |
| `LRU`        | a complex vector            | Orvieto et al. 2023, arXiv 2303.06349 |
| `delta_rule` | a matrix and what it reads  | Schlag et al. 2021, arXiv 2102.11174  |

None has a derived adjoint: the engine differentiates the equations step by step. Lengths, masks,
resets, stacks, both directions and every derivative work with each of them. Vectors are rows; h₋ is
the state before the step, ⊙ multiplies elementwise. `cells_for_science` has three more, with images,
time gaps and noise.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gru_jax as gj
from gru_jax.ops import dot


def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draws weights that keep the variance: the last axis is the output's."""
    return jax.nn.initializers.lecun_normal()(key, shape, dtype)


class MinGRUParams(NamedTuple):
    """The weights of both gates, (D, H)."""

    W_z: jax.Array
    W_h: jax.Array


def _min_gru_init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> MinGRUParams:
    return MinGRUParams(*(draw(k, (D, H), dtype) for k in jax.random.split(key)))


# The minimal GRU, whose gates do not see the state.
#
#     z = σ(x W_z),   h = (1 − z) ⊙ h₋ + z ⊙ (x W_h)
MIN_GRU = gj.Cell(
    _min_gru_init,
    project=lambda p, x: (jax.nn.sigmoid(dot(x, p.W_z)), dot(x, p.W_h)),
    gates=lambda p, u, h: u,
    update=lambda g, h: (1 - g[0]) * h + g[0] * g[1],
    zero_state=lambda p: jnp.zeros(p.W_h.shape[-1], p.W_h.dtype),
    name="min_gru",
)


class SLSTMParams(NamedTuple):
    """The gates z, i, f, o side by side."""

    W: jax.Array  # (D, 4·H)
    U: jax.Array  # (H, 4·H)
    b: jax.Array  # (4·H,)


class SLSTMState(NamedTuple):
    """The output h, the memory c, its normaliser n, and the stabiliser m, the log of their scale."""

    h: jax.Array
    c: jax.Array
    n: jax.Array
    m: jax.Array


def _slstm_init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> SLSTMParams:
    key_W, key_U = jax.random.split(key)
    remember = jnp.zeros(4 * H, dtype).at[2 * H : 3 * H].set(3.0)
    return SLSTMParams(draw(key_W, (D, 4 * H), dtype), draw(key_U, (H, 4 * H), dtype), remember)


def _slstm_update(a: jax.Array, state: SLSTMState) -> SLSTMState:
    a_z, a_i, a_f, a_o = jnp.split(a, 4, axis=-1)
    log_f = jax.nn.log_sigmoid(a_f) + state.m
    m = jnp.maximum(log_f, a_i)
    i, f = jnp.exp(a_i - m), jnp.exp(log_f - m)
    c, n = f * state.c + i * jnp.tanh(a_z), f * state.n + i
    return SLSTMState(jax.nn.sigmoid(a_o) * c / n, c, n, m)


def _slstm_start(p: SLSTMParams) -> SLSTMState:
    zeros = jnp.zeros(p.U.shape[0], p.U.dtype)
    return SLSTMState(zeros, zeros, zeros, jnp.full_like(zeros, -jnp.inf))


# The scalar LSTM of xLSTM, with exponential input gates, for one head.
#
#     a_k = x W_k + h₋ U_k + b_k for the gates k = z, i, f, o
#     m = max(log σ(a_f) + m₋, a_i),   i = exp(a_i − m),   f = exp(log σ(a_f) + m₋ − m)
#     c = f ⊙ c₋ + i ⊙ tanh(a_z),   n = f ⊙ n₋ + i,   h = σ(a_o) ⊙ c / n
SLSTM = gj.Cell(
    _slstm_init,
    project=lambda p, x: dot(x, p.W) + p.b,
    gates=lambda p, u, state: u + dot(state.h, p.U),
    update=_slstm_update,
    output=lambda state: state.h,
    zero_state=_slstm_start,
    name="slstm",
)


class LRUParams(NamedTuple):
    """The eigenvalues λ = exp(−exp(ν) + i exp(θ)), and the input weights W_re + i W_im, (D, H)."""

    nu: jax.Array
    theta: jax.Array
    W_re: jax.Array
    W_im: jax.Array


def _lru_init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> LRUParams:
    key_nu, key_theta, key_re, key_im = jax.random.split(key, 4)
    squared_radius = jax.random.uniform(key_nu, (H,), dtype, minval=0.81, maxval=0.998)
    phase = jax.random.uniform(key_theta, (H,), dtype, minval=1e-3, maxval=jnp.pi / 5)
    nu = jnp.log(-0.5 * jnp.log(squared_radius))
    return LRUParams(nu, jnp.log(phase), draw(key_re, (D, H), dtype), draw(key_im, (D, H), dtype))


def _lru_project(p: LRUParams, x: jax.Array) -> jax.Array:
    norm = jnp.sqrt(1 - jnp.exp(-2 * jnp.exp(p.nu)))
    return jax.lax.complex(dot(x, p.W_re) * norm, dot(x, p.W_im) * norm)


# The linear recurrent unit, a diagonal complex recurrence.
#
#     h = λ ⊙ h₋ + √(1 − |λ|²) ⊙ (x W),   y = [Re h, Im h]
LRU = gj.Cell(
    _lru_init,
    project=_lru_project,
    gates=lambda p, u, h: (u, jnp.exp(jax.lax.complex(-jnp.exp(p.nu), jnp.exp(p.theta)))),
    update=lambda g, h: g[1] * h + g[0],
    output=lambda h: jnp.concatenate([h.real, h.imag], axis=-1),
    zero_state=lambda p: jax.lax.complex(jnp.zeros_like(p.nu), jnp.zeros_like(p.nu)),
    name="lru",
)


def lru_block() -> Any:
    """A residual block around an LRU: a layer of `gj.stack([…])`, with as many inputs as outputs.

    y = x + gelu([Re h, Im h] C), of the normalised x
    """
    norm = gj.feedforward(None, lambda p, x: x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6), name="rms_norm")
    read_out = gj.feedforward(lambda key, D, H, **options: draw(key, (D, H), **options), _gelu_dense, name="read_out")
    return gj.stack([norm, LRU, read_out], residual="block")


def _gelu_dense(C: jax.Array, x: jax.Array) -> jax.Array:
    return jax.nn.gelu(dot(x, C))


class DeltaParams(NamedTuple):
    """The weights of keys, queries (D, K), values (D, H) and of the rate (D, 1)."""

    W_k: jax.Array
    W_q: jax.Array
    W_v: jax.Array
    W_b: jax.Array


class DeltaState(NamedTuple):
    """The fast weights S, (K, H), and what the query of the step reads from them."""

    S: jax.Array
    y: jax.Array


@cache  # cells with the same functions are equal, so JAX compiles once for all of them
def delta_rule(key_size: int) -> gj.Cell:
    """Fast weights that are written by the delta rule: one linear network trains another.

    k, q, v = x W_k / ‖x W_k‖, x W_q / ‖x W_q‖, x W_v,   β = σ(x W_b)
    S = S₋ + β kᵀ (v − k S₋),   y = q S
    """

    def init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> DeltaParams:
        sizes = zip(jax.random.split(key, 4), (key_size, key_size, H, 1), strict=True)
        return DeltaParams(*(draw(k, (D, size), dtype) for k, size in sizes))

    def project(p: DeltaParams, x: jax.Array) -> tuple[jax.Array, ...]:
        unit = lambda a: a / jnp.sqrt((a**2).sum(-1, keepdims=True) + 1e-6)
        return unit(dot(x, p.W_k)), unit(dot(x, p.W_q)), dot(x, p.W_v), jax.nn.sigmoid(dot(x, p.W_b))

    def update(g: tuple[jax.Array, ...], state: DeltaState) -> DeltaState:
        k, q, v, beta = g
        error = v - jnp.einsum("...k,...kh->...h", k, state.S)
        S = state.S + k[..., :, None] * (beta * error)[..., None, :]
        return DeltaState(S, jnp.einsum("...k,...kh->...h", q, S))

    def zero_state(p: DeltaParams) -> DeltaState:
        H, dtype = p.W_v.shape[-1], p.W_v.dtype
        return DeltaState(jnp.zeros((key_size, H), dtype), jnp.zeros(H, dtype))

    output = lambda state: state.y
    return gj.Cell(
        init, project, lambda p, u, state: u, update, output=output, zero_state=zero_state, name=f"delta_rule({key_size})"
    )
