"""Shows custom cells whose inputs or states are not vectors, or which are noisy.

| cell       | state                          | inputs                         | source                                |
|------------|--------------------------------|--------------------------------|---------------------------------------|
| `conv_gru` | an image                       | images                         | Ballas et al. 2016, arXiv 1511.06432  |
| `GRU_D`    | a vector and the last values   | values, booleans and time gaps | Che et al. 2018, arXiv 1606.01865     |
| `dale_rnn` | currents and rates             | features; noise at each step   | Song et al. 2016, PLoS CB 12:e1004792 |

None has a derived adjoint. Lengths, masks, resets, stacks, both directions and every derivative work
with each of them. Vectors are rows; h₋ is the state before the step.
"""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gru_jax as gj
from gru_jax.ops import dot


class ConvGRUParams(NamedTuple):
    """Filters of 3 × 3 pixels, of the gates z, r, h side by side."""

    W: jax.Array  # (3, 3, D, 3·H)
    U: jax.Array  # (3, 3, H, 2·H): z and r
    U_h: jax.Array  # (3, 3, H, H)


def convolve(images: jax.Array, filters: jax.Array) -> jax.Array:
    """Convolves the last three axes, height, width and channels, of images with any axes before."""
    flat = images.reshape(-1, *images.shape[-3:])
    out = jax.lax.conv_general_dilated(flat, filters, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out.reshape(*images.shape[:-1], filters.shape[-1])


@cache  # cells with the same functions are equal, so JAX compiles once for all of them
def conv_gru(height: int, width: int) -> gj.Cell:
    """Makes a GRU whose matmuls are convolutions: xs (T, *batch, height, width, D), lengths (*batch,).

    z = σ(x ∗ W_z + h₋ ∗ U_z),   r = σ(x ∗ W_r + h₋ ∗ U_r),   g = tanh(x ∗ W_h + (r ⊙ h₋) ∗ U_h)
    h = (1 − z) ⊙ h₋ + z ⊙ g
    """

    def init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> ConvGRUParams:
        draw = jax.nn.initializers.lecun_normal()
        shapes = zip(jax.random.split(key, 3), ((D, 3 * H), (H, 2 * H), (H, H)), strict=True)
        return ConvGRUParams(*(draw(k, (3, 3, *shape), dtype) for k, shape in shapes))

    def gates(p: ConvGRUParams, u: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        u_z, u_r, u_h = jnp.split(u, 3, axis=-1)
        z_h, r_h = jnp.split(convolve(h, p.U), 2, axis=-1)
        r = jax.nn.sigmoid(u_r + r_h)
        return jax.nn.sigmoid(u_z + z_h), jnp.tanh(u_h + convolve(r * h, p.U_h))

    return gj.Cell(
        init,
        project=lambda p, x: convolve(x, p.W),
        gates=gates,
        update=lambda g, h: (1 - g[0]) * h + g[0] * g[1],
        zero_state=lambda p: jnp.zeros((height, width, p.U_h.shape[-1]), p.U_h.dtype),
        num_feature_axes=3,
        name=f"conv_gru({height}, {width})",
    )


class Measured(NamedTuple):
    """The inputs of GRU-D, each (T, *batch, D)."""

    value: jax.Array
    observed: jax.Array  # boolean: elsewhere the value is not known
    gap: jax.Array  # the time since each variable was last observed


class GRUDParams(NamedTuple):
    """The GRU of [x̂, m], the rates of decay, and the mean that a value decays to."""

    gru: Any
    w_x: jax.Array  # (D,)
    w_h: jax.Array  # (D, H)
    mean: jax.Array  # (D,)


class GRUDState(NamedTuple):
    """The state of the GRU, and the last observed value of each variable."""

    h: jax.Array
    last: jax.Array


def _gru_d_init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> GRUDParams:
    key_gru, key_h = jax.random.split(key)
    w_h = jax.nn.initializers.lecun_normal()(key_h, (D, H), dtype)
    return GRUDParams(gj.gru().init(key_gru, 2 * D, H, dtype=dtype), jnp.full(D, 0.5, dtype), w_h, jnp.zeros(D, dtype))


def _gru_d_gates(p: GRUDParams, x: Measured, state: GRUDState) -> tuple[Any, ...]:
    gru, observed = gj.gru(), x.observed.astype(x.value.dtype)
    decay_x = jnp.exp(-jax.nn.relu(x.gap * p.w_x))
    value = jnp.where(x.observed, x.value, decay_x * state.last + (1 - decay_x) * p.mean)
    h = jnp.exp(-jax.nn.relu(dot(x.gap, p.w_h))) * state.h
    u = gru.project(p.gru, jnp.concatenate([value, observed], axis=-1))
    return gru.gates(p.gru, u, h), h, jnp.where(x.observed, x.value, state.last)


# A GRU of measurements at irregular times with missing values: what is not observed decays to the
# mean, and the state to zero. It contains a GRU, and starts from the mean, which is a parameter.
#
# x̂ = x where observed, else e^{−max(0, w_x ⊙ δ)} ⊙ x_last + (1 − e^{−…}) ⊙ mean
# h = GRU([x̂, m], e^{−max(0, δ W_h)} ⊙ h₋)
GRU_D = gj.Cell(
    _gru_d_init,
    project=lambda p, x: x,
    gates=_gru_d_gates,
    update=lambda g, state: GRUDState(gj.gru().update(g[0], g[1]), g[2]),
    output=lambda state: state.h,
    zero_state=lambda p: GRUDState(jnp.zeros(p.w_h.shape[-1], p.w_h.dtype), p.mean),
    name="gru_d",
)


class DaleParams(NamedTuple):
    """The weights, the signs of the neurons, which are not trained, and the time constants."""

    W: jax.Array  # (D, H)
    U: jax.Array  # (H, H): its magnitudes count
    sign: jax.Array  # (H,), integers: 1 excites, -1 inhibits
    b: jax.Array  # (H,)
    log_tau: jax.Array  # (H,), τ in seconds


class DaleState(NamedTuple):
    """The current v of each neuron, and its rate r = max(0, v)."""

    v: jax.Array
    r: jax.Array


@cache
def dale_rnn(dt: float, noise: float = 0.1, excitatory: float = 0.8) -> gj.Cell:
    """Makes a noisy leaky network whose neurons either excite or inhibit, by Dale's law.

    α = 1 − e^{−dt/τ},   v = (1 − α) ⊙ v₋ + α ⊙ (x W + r₋ (sign ⊙ |U|) + b) + √(2α) σ ε,   r = max(0, v)

    Args:
        dt: The time step in seconds.
        noise: The standard deviation σ of the noise. `unroll` and `step` then need a key.
        excitatory: The share of neurons that excite.
    """

    def init(key: jax.Array, D: int, H: int, dtype: Any = jnp.float32) -> DaleParams:
        key_W, key_U = jax.random.split(key)
        draw = jax.nn.initializers.lecun_normal()
        sign = jnp.where(jnp.arange(H) < round(excitatory * H), 1, -1)
        tau = jnp.full(H, 0.1, dtype)
        return DaleParams(draw(key_W, (D, H), dtype), draw(key_U, (H, H), dtype), sign, jnp.zeros(H, dtype), jnp.log(tau))

    def sample_noise(keys: gj.NoiseKeys, p: DaleParams, x: jax.Array) -> tuple[DaleParams, Any]:
        return p, (x, noise * jax.random.normal(keys.per_step, (*x.shape[:-1], p.U.shape[-1]), x.dtype))

    def project(p: DaleParams, x: Any) -> tuple[jax.Array, Any]:
        x, epsilon = x if isinstance(x, tuple) else (x, 0.0)
        return dot(x, p.W) + p.b, epsilon

    def gates(p: DaleParams, u: Any, state: DaleState) -> tuple[Any, ...]:
        recurrent = dot(state.r * p.sign.astype(p.U.dtype), jnp.abs(p.U))
        alpha = 1 - jnp.exp(-dt / jnp.exp(p.log_tau))
        return u[0] + recurrent, alpha, jnp.sqrt(2 * alpha) * u[1]

    def update(g: tuple[Any, ...], state: DaleState) -> DaleState:
        drive, alpha, epsilon = g
        v = state.v + alpha * (drive - state.v) + epsilon
        return DaleState(v, jax.nn.relu(v))

    zero_state = lambda p: DaleState(jnp.zeros_like(p.b), jnp.zeros_like(p.b))
    name = f"dale_rnn({dt}, {noise}, {excitatory})"
    cell = gj.Cell(init, project, gates, update, output=lambda state: state.r, zero_state=zero_state, name=name)
    return replace(cell, sample_noise=sample_noise, evaluation_cell=cell) if noise else cell
