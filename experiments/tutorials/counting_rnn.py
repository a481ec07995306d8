"""The counting RNN of Seo and Roelants: its cells, its data, its cost and its training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gru_jax as gj
from gru_jax.cells.linear import LinearParams


class Sequences(NamedTuple):
    """Sequences and the counts that the network should return."""

    xs: jax.Array  # (N, T, D)
    ys: jax.Array  # (N, 1)


def bits(*words: str) -> jax.Array:
    """Converts words such as "011" to inputs (N, T, 1)."""
    return jnp.array([[[float(bit)] for bit in word] for word in words])


def linear_params(wx: float, wrec: float) -> LinearParams:
    """Returns the two weights as parameters of `gj.linear_rnn()`."""
    return LinearParams(W=jnp.array([[wx]], float), U=jnp.array([[wrec]], float), b=None)


class SwitchParams(NamedTuple):
    """Parameters of the switched cell."""

    W: jax.Array  # (D - 1, H)
    U: jax.Array  # (H, H)


def switched_rnn() -> gj.Cell:
    """Returns the cell of Seo's second script.

    h = g(x W + h₋ U), where g is the logistic function, or the identity at steps whose last input
    channel is 1. The cell has no adjoint of its own, so the engine differentiates `gates` and
    `update` by autodiff.
    """

    def init(key: jax.Array, input_size: int, hidden_size: int) -> SwitchParams:
        key_W, key_U = jax.random.split(key)
        return SwitchParams(
            jax.random.normal(key_W, (input_size - 1, hidden_size)), jax.random.normal(key_U, (hidden_size, hidden_size))
        )

    def project(params: SwitchParams, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
        return xs[..., :-1] @ params.W, xs[..., -1:] > 0

    def gates(params: SwitchParams, u: tuple[jax.Array, jax.Array], h: jax.Array) -> jax.Array:
        drive, linear = u
        a = drive + h @ params.U
        return jnp.where(linear, a, jax.nn.sigmoid(a))

    def update(g: jax.Array, h: jax.Array) -> jax.Array:
        return g

    return gj.Cell(name="switched_rnn()", init=init, project=project, gates=gates, update=update)


def with_linear_last_step(xs: jax.Array) -> jax.Array:
    """Appends a channel to the inputs that is 1 at the last step and 0 before."""
    return jnp.concatenate([xs, jnp.zeros_like(xs).at[:, -1].set(1)], axis=-1)


def seo_linear() -> tuple[LinearParams, Sequences]:
    """Returns the initial weights and the data of Seo's first script."""
    return linear_params(0.2, 1.5), Sequences(bits("100", "110", "111"), jnp.array([[1.0], [2.0], [3.0]]))


def seo_logistic() -> tuple[SwitchParams, Sequences]:
    """Returns the initial weights and the data of Seo's second script, which counts zeros."""
    wx, wrec = np.random.RandomState(1234).randn(2)
    xs = with_linear_last_step(bits("000", "001", "011"))
    return SwitchParams(jnp.array([[wx]]), jnp.array([[wrec]])), Sequences(xs, jnp.array([[3.0], [2.0], [1.0]]))


def roelants() -> tuple[LinearParams, Sequences]:
    """Returns the initial weights and the data of Roelants' part 1."""
    X = np.around(np.random.RandomState(1).rand(20, 10))
    return linear_params(-1.5, 2), Sequences(jnp.array(X[..., None]), jnp.array(X.sum(1, keepdims=True)))


def predict(cell: gj.Cell, params: Any, xs: jax.Array, **options: Any) -> jax.Array:
    """Returns the count ŷ = s_T, (N, 1). `options` are passed to `gj.unroll`."""
    return gj.unroll(cell, params, xs, time_major=False, **options)[0]


def cost(cell: gj.Cell, params: Any, data: Sequences, **options: Any) -> jax.Array:
    """Returns J = (1/N) Σ (s_T − y)². `options` are passed to `gj.unroll`."""
    return gj.heads.squared_error(predict(cell, params, data.xs, **options), data.ys).mean()


def train(
    cell: gj.Cell, params: Any, data: Sequences, optimizer: optax.GradientTransformation, steps: int
) -> gj.train.FitResult:
    """Trains on the full batch, and records both weights before each update."""

    def loss_fn(params: Any, batch: Sequences, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return cost(cell, params, batch), {"wx": params.W[0, 0], "wrec": params.U[0, 0]}

    # The loss draws no random numbers, so any key will do.
    return gj.train.fit(
        loss_fn, params, optimizer, data, key=jax.random.key(0), steps=steps, steps_per_execution=min(steps, 1000)
    )


def rprop_minus(size: float, grow: float = 1.2, shrink: float = 0.5) -> optax.GradientTransformation:
    """Returns Roelants' variant of Rprop, without limits on the step size.

    The step size of a weight grows if its gradient has the same sign as before. Otherwise, and also
    at the first step, it shrinks.

    `optax.rprop` is another variant. It keeps the size at the first step, skips the update after a
    change of sign, limits the size to [1e-6, 50], and in optax 0.2.8 applies each update one step
    late (google-deepmind/optax pull request 1725).
    """

    def init(params: Any) -> tuple[Any, Any]:
        return (jax.tree.map(lambda p: jnp.full_like(p, size), params), jax.tree.map(jnp.zeros_like, params))

    def update(grads: Any, state: tuple[Any, Any], params: Any = None) -> tuple[Any, tuple[Any, Any]]:
        signs = jax.tree.map(jnp.sign, grads)
        factors = jax.tree.map(lambda sign, last: jnp.where(sign == last, grow, shrink), signs, state[1])
        sizes = jax.tree.map(jnp.multiply, state[0], factors)
        return jax.tree.map(lambda size, sign: -size * sign, sizes, signs), (sizes, signs)

    return optax.GradientTransformation(init, update)


def gradients(cell: gj.Cell, params: Any, data: Sequences, **options: Any) -> np.ndarray:
    """Returns (∂J/∂wx, ∂J/∂wrec). `options` are passed to `gj.unroll`."""
    grads = jax.grad(lambda params: cost(cell, params, data, **options))(params)
    return np.array([grads.W[0, 0], grads.U[0, 0]])


def central_differences(params: LinearParams, data: Sequences, epsilon: float) -> np.ndarray:
    """Returns (∂J/∂wx, ∂J/∂wrec) by central differences, from four evaluations of J."""
    wx, wrec = float(params.W[0, 0]), float(params.U[0, 0])
    J = [float(cost(gj.linear_rnn(), linear_params(wx + i * epsilon, wrec + j * epsilon), data))
         for i, j in ((1, 0), (-1, 0), (0, 1), (0, -1))]  # fmt: skip
    return np.array([J[0] - J[1], J[2] - J[3]]) / (2 * epsilon)
