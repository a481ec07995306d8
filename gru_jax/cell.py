"""A cell is a value: a NamedTuple of pure functions. The equations stand in it once, and three pairs follow from them.

|         | for all t at once (matmuls over time and batch) | inside the loop (recurrent matmuls only) |
|---------|-------------------------------------------------|------------------------------------------|
| value   | `project`                                       | `gates`, `update`                        |
| tangent | `drive`                                         | `push`                                   |
| adjoint | `collect`                                       | `pull`                                   |

(Where that is faster, a small GRU or LSTM leaves the input's products to the loop as well: `ops.prepared`.)

`push` and `pull` are transposes of each other, `drive` and `collect` too, and the tangent row is the derivative of the value
row: each piece can be proven by itself (tests/cells/test_rows.py does).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gru_jax._engine import validate
from gru_jax._jax.sharding import shard_like, vary_like


def _state_is_output(state: Any) -> Any:
    return state


class Cell(NamedTuple):
    """One recurrent cell: h_t = update(gates(params, u_t, h_{t-1}), h_{t-1}) with u = project(params, x).

    Only `init`, `project`, `gates` and `update` are required. Every function works on arrays with any leading axes (one
    step, a batch, or all of time at once), treats them independently, and is pure; row vectors, so a matrix
    stands on the right.

    Attributes:
        init: `init(key, input_size, hidden_size, **options) -> params`; params is a pytree of floating-point arrays of one
            dtype, for preference a NamedTuple with one array per gate.
        project: `project(params, xs) -> us`: the part of the pre-activations that needs no state, any pytree. Only `gates` of the
            same cell reads it: replace both or none (a small GRU's or LSTM's is the input itself, see `ops.prepared`).
        gates: `gates(params, u, h) -> g`: every value of the step that the adjoint needs, any pytree.
        update: `update(g, h) -> h`: the new state, of the same structure, shapes and dtypes as `h`.
        coefficients: `coefficients(g, h_prev) -> k`: what the linearised step needs of the values; elementwise.
        pull: `pull(params_T, k, h_bar) -> h_prev_bar`: the adjoint of the step with respect to the state. `params_T` is
            `params` with each matrix transposed, once, outside the loop. Linear in `h_bar`.
        collect: `collect(params, xs, h_prevs, g, k, h_bars) -> (params_bar, xs_bar)`: the other adjoints, for all t at once;
            `params_bar` in the type of `params` (None where it is None). Linear in `h_bars`.
        gates_from_state: `gates_from_state(h) -> g`: what `gates` gave, from the new state, where that tells it all (an Elman RNN's
            is its state): it spares the backward pass a matmul. Part of the adjoint row; optional.
        push: `push(params, k, h_dot) -> h_dot`: the tangent of the step with respect to the state.
        drive: `drive(params, params_dot, xs, xs_dot, h_prevs, g, k) -> ws`: the tangent of the step with respect to params
            and input, for all t at once. A None in `params` is a None in `params_dot`.
        output: `output(state) -> y`: linear; the state itself by default, `state.h` for an LSTM.
        zero_state: `zero_state(params) -> state` without batch axes. By default zeros of size H, the last axis of the first
            leaf of `params` whose field name begins with `U`.
        randomize: `randomize(key, params, xs) -> (params, xs)`: draws what is random in one call of `unroll`, a dropout's masks,
            and hands it to the other functions with `params` (one mask per sequence) or with `xs`, which may become a pytree
            with leading axes `(T, *batch)` (one per step).
        expectation: the cell without its randomness, for evaluation and for `step`; see `deterministic`.
        check: `check(params) -> D` raises where `params` do not belong to this cell, and returns the input size they are for.
        name: for messages.

    The adjoint row is `coefficients`, `pull` and `collect`, all or none. Without it the engine takes `jax.vjp` of the value
    row, one step at a time for the state and once for all of time for the rest, inside the same custom VJP: a new cell
    saves nothing but its states from the first day. The price is one more evaluation of `gates` per step, in the loop.
    The tangent row is `push` and `drive`, for `derivative="both"`, beside `coefficients` and `pull`.

    Multiply by weights with `gru_jax.ops.dot(x, W)` where `compute_dtype` and sums in float32 matter; `x @ W` works too.

    The functions close over no array that is traced or differentiated: it goes into `params`. Make a cell once, not in every call:
    it is compared by its functions' identity, and a new one is traced anew.

    A leaky RNN, h = ¾ h₋ + ¼ tanh(x W + h₋ U), by its value row:

    >>> import jax, jax.numpy as jnp, gru_jax as gj
    >>> from typing import NamedTuple
    >>> class Params(NamedTuple):
    ...     W: jax.Array
    ...     U: jax.Array
    >>> def init(key, input_size, hidden_size):
    ...     key_W, key_U = jax.random.split(key)
    ...     W = jax.random.normal(key_W, (input_size, hidden_size))
    ...     return Params(W, jax.random.normal(key_U, (hidden_size, hidden_size)))
    >>> leaky = gj.Cell(
    ...     name="leaky",
    ...     init=init,
    ...     project=lambda params, xs: xs @ params.W,
    ...     gates=lambda params, u, h: jnp.tanh(u + h @ params.U),
    ...     update=lambda g, h: 0.75 * h + 0.25 * g,
    ... )
    >>> params, xs = leaky.init(jax.random.key(0), 3, 4), jax.random.normal(jax.random.key(1), (20, 2, 3))
    >>> loss = lambda params, cell, **how: (gj.unroll(cell, params, xs, **how)[1] ** 2).sum()
    >>> autodiff = jax.grad(loss)(params, leaky, derivative="autodiff")
    >>> all(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-3), jax.grad(loss)(params, leaky), autodiff))
    True

    And with its derivation, a = ¼ (1 − g²) ⊙ h̄,  h̄₋ = ¾ h̄ + a Uᵀ,  W̄ = Σ xᵀ a,  Ū = Σ h₋ᵀ a,  x̄ = a Wᵀ:

    >>> from gru_jax.ops import outer_sum
    >>> def collect(params, xs, h_prevs, g, k, h_bars):
    ...     a = k * h_bars
    ...     return Params(W=outer_sum(xs, a), U=outer_sum(h_prevs, a)), a @ params.W.T
    >>> derived = leaky._replace(
    ...     coefficients=lambda g, h_prev: 0.25 * (1 - g**2),
    ...     pull=lambda params_T, k, h_bar: 0.75 * h_bar + (k * h_bar) @ params_T.U,
    ...     collect=collect,
    ... )
    >>> all(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-3), jax.grad(loss)(params, derived), autodiff))
    True
    """

    init: Callable[..., Any]
    project: Callable[[Any, Any], Any]
    gates: Callable[[Any, Any, Any], Any]
    update: Callable[[Any, Any], Any]
    coefficients: Callable[[Any, Any], Any] | None = None
    pull: Callable[[Any, Any, Any], Any] | None = None
    collect: Callable[[Any, Any, Any, Any, Any, Any], tuple[Any, Any]] | None = None
    push: Callable[[Any, Any, Any], Any] | None = None
    drive: Callable[[Any, Any, Any, Any, Any, Any, Any], Any] | None = None
    output: Callable[[Any], Any] = _state_is_output
    zero_state: Callable[[Any], Any] | None = None
    check: Callable[[Any], int] | None = None
    name: str = "cell"
    randomize: Callable[[Array, Any, Any], tuple[Any, Any]] | None = None
    expectation: "Cell | None" = None
    gates_from_state: Callable[[Any], Any] | None = None

    def step(self, params: Any, h: Any, x: Array) -> tuple[Any, Array]:
        """One time step: (state, input) to (new state, output), the carry and the output of `lax.scan`.

        `jax.lax.scan(partial(cell.step, params), h0, xs)` is the plain unroll, differentiated by autodiff; it returns the
        same pair as `gj.unroll(cell, params, xs, h0)`.

        Args:
            params: from `cell.init`.
            h: the state, leaves `(*batch, H)`.
            x: the input, `(*batch, D)`, cast to the dtype of `params`.

        Returns:
            `(h, y)`: the new state, and the output `(*batch, H)`.

        Raises:
            TypeError, ValueError: as `gj.unroll`.
        """
        validate.check_no_noise(self)
        params, h, x = validate.check_step(self, params, h, x)
        h = self.update(self.gates(params, self.project(params, x), h), h)
        return h, self.output(h)

    def initial_state(self, params: Any, batch_shape: int | tuple[int, ...] = (), *, like: Array | None = None) -> Any:
        """The zero state: leaves `(*batch_shape, H)` in the dtype of `params`.

        Args:
            params: from `cell.init`; gives H and the dtype.
            batch_shape: the batch axes; an int is taken as `(int,)`.
            like: an array `(…, *batch_shape, D)`, `xs` say: the zeros are sharded as its batch axes are, and vary over the mesh
                axes that it varies over (a carry of `lax.scan` must be placed as its input is).

        Raises:
            ValueError: a negative batch axis, or `params` without a field `U…` where the cell has no `zero_state`.
        """
        return initial_state(self, params, batch_shape, like)

    def deterministic(self) -> "Cell":
        """The cell for evaluation: a dropout keeps everything, a zoneout is its expectation. The params are the same."""
        return self if self.expectation is None else self.expectation

    @property
    def needs_key(self) -> bool:
        """Whether `unroll` must be given a key."""
        return self.randomize is not None

    def output_size(self, params: Any) -> int:
        """The last axis of `ys`."""
        return jax.eval_shape(self.output, validate.zero_state(self, params)).shape[-1]


def initial_state(layer: Any, params: Any, batch_shape: int | tuple[int, ...], like: Array | None) -> Any:
    """`Cell.initial_state`, for whatever has a zero state."""
    batch = validate.batch_shape(batch_shape)
    state = validate.zero_state(layer, params)
    state = jax.tree.map(lambda leaf: jnp.zeros(batch + leaf.shape, leaf.dtype), state)
    return state if like is None else shard_like(vary_like(state, like), like, len(batch))
