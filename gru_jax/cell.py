"""Defines `Cell`: an immutable bundle of pure functions. The equations are written once, and each
derivative is a pair of functions.

|         | for all t at once (matmuls over time and batch) | inside the loop (recurrent matmuls only) |
|---------|-------------------------------------------------|------------------------------------------|
| value   | `project`                                       | `gates`, `update`                        |
| tangent | `input_jvp`                                     | `state_jvp`                              |
| adjoint | `input_vjp`                                     | `state_vjp`                              |

`linearize` gives the coefficients that the tangent and the adjoint share. In each column the
adjoint is the transpose of the tangent, and the tangent is the derivative of the value, so each
function can be tested on its own (tests/cells/test_cell_functions.py does).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from gru_jax._engine import run_cell, validate_cell
from gru_jax._engine.functions import make_comparable
from gru_jax._engine.inputs import checked_feature_axes
from gru_jax._engine.layer import CallOptions, Layer, LayerOutput, LayerRequest, Sequence
from gru_jax._engine.noise import NoiseKeys as NoiseKeys
from gru_jax.adjoint import Adjoint as Adjoint
from gru_jax.adjoint import Tangent as Tangent


def _identity(state: Any) -> Any:
    """Returns the state: the default output."""
    return state


@jax.tree_util.register_static
@dataclass(frozen=True)
class Cell(Layer):
    """One recurrent cell: h_t = update(gates(params, u_t, h_{t-1}), h_{t-1}) with u =
    project(params, x).

    A cell needs four functions: `init`, `project`, `gates` and `update`. `gj.unroll` differentiates
    it by a custom VJP that saves only its states. A leaky RNN, h = ¾ h₋ + ¼ tanh(x W + h₋ U):

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
        ...     init,
        ...     project=lambda params, xs: xs @ params.W,
        ...     gates=lambda params, u, h: jnp.tanh(u + h @ params.U),
        ...     update=lambda g, h: 0.75 * h + 0.25 * g,
        ...     name="leaky",
        ... )
        >>> params, xs = leaky.init(jax.random.key(0), 3, 4), jax.random.normal(jax.random.key(1), (20, 2, 3))
        >>> h_last, ys = gj.unroll(leaky, params, xs)

    All functions are pure, and work on one step of a batch: arrays with any batch axes first.
    Those of a cell with an `Adjoint` are called on all steps at once too, with the steps as one
    more leading axis. Vectors are rows, so a matrix stands on the right. The functions close over
    no traced array: what is differentiated goes into `params`.

    **Params and states** are pytrees of floating-point or complex arrays, of one precision. Beside
    them they may hold integers, booleans and random keys, which have no gradient: a table, a mask,
    a step counter. Leaves of `params` may have batch axes, such as the memory that a decoder
    attends to: `jnp.einsum("...k,...sk->...s", h, params.memory)`.

    **What belongs where.** `project` holds the matmuls with the input, which need no state and run
    for all steps at once. `gates` holds everything else that reads `params`, and returns every
    value that the backward pass needs. `update` combines gates and old state without `params`,
    elementwise. `gj.ops` has products and sums that follow `compute_dtype`.

    **Constants and time constants.** A constant of the cell is an argument of a function that makes
    it. A trainable time constant is a field of `params`, read in `gates`:

        >>> class LeakyParams(NamedTuple):
        ...     W: jax.Array
        ...     U: jax.Array
        ...     log_tau: jax.Array
        >>> def leaky_rnn(dt):
        ...     def init(key, input_size, hidden_size):
        ...         key_W, key_U = jax.random.split(key)
        ...         U = jax.random.normal(key_U, (hidden_size, hidden_size)) / hidden_size**0.5
        ...         return LeakyParams(jax.random.normal(key_W, (input_size, hidden_size)), U, jnp.zeros(hidden_size))
        ...     def gates(params, u, h):
        ...         g = jnp.tanh(u + h @ params.U)
        ...         return g, jnp.broadcast_to(1 - jnp.exp(-dt / jnp.exp(params.log_tau)), g.shape)
        ...     update = lambda g, h: h + g[1] * (g[0] - h)
        ...     return gj.Cell(init, lambda params, xs: xs @ params.W, gates, update, name=f"leaky_rnn({dt})")
        >>> rnn = leaky_rnn(dt=0.1)
        >>> tau_grad = jax.grad(lambda p: gj.unroll(rnn, p, xs)[1].sum())(rnn.init(jax.random.key(0), 3, 4)).log_tau

    **Noise.** `sample_noise` draws once per call of `unroll` and hands the numbers on with the
    inputs, one per step. Its `keys` are a `gj.NoiseKeys`:

        >>> def sample_noise(keys, params, xs):
        ...     return params, (xs, 0.1 * jax.random.normal(keys.per_step, (*xs.shape[:-1], params.U.shape[-1])))
        >>> def project(params, inputs):
        ...     xs, noise = inputs if isinstance(inputs, tuple) else (inputs, 0.0)
        ...     return xs @ params.W + noise
        >>> from dataclasses import replace
        >>> noisy = replace(leaky, name="noisy", project=project, sample_noise=sample_noise, evaluation_cell=leaky)
        >>> ys = gj.unroll(noisy, params, xs, key=jax.random.key(2))[1]
        >>> ys_without_noise = gj.unroll(noisy.deterministic(), params, xs)[1]

    **States.** A state is an array of any shape after the batch axes, for example a matrix or an
    image, or a NamedTuple, tuple or dict of arrays. Integers and booleans are carried along without a
    gradient. `zero_state` gives the state at the start of a sequence, and at a reset, without batch
    axes; it need not be zeros, and may be a parameter. `output` reads the output from a state:

        >>> class State(NamedTuple):
        ...     h: jax.Array
        ...     largest: jax.Array
        >>> running_max = replace(
        ...     leaky,
        ...     name="running_max",
        ...     gates=lambda params, u, state: jnp.tanh(u + state.h @ params.U),
        ...     update=lambda g, state: State(g, jnp.maximum(state.largest, g)),
        ...     zero_state=lambda params: State(jnp.zeros(4), jnp.full(4, -jnp.inf)),
        ...     output=lambda state: state.largest,
        ... )
        >>> h_last, ys = gj.unroll(running_max, params, xs)

    **Read-outs.** `read_out` computes the output from the input too, such as y = h C + x D of a state
    space model. Its weights are fields of `params`:

        >>> with_input = replace(leaky, name="with_input", read_out=lambda params, x, y: jnp.tanh(y + x @ params.W))
        >>> h_last, ys = gj.unroll(with_input, params, xs)

    **Inputs.** `xs` may be a pytree, and hold integers and booleans. `num_feature_axes` says how
    many axes of each array follow `(T, *batch)`, here none of integer tokens:

        >>> by_token = replace(leaky, name="by_token", project=lambda params, token: params.W[token], num_feature_axes=0)
        >>> h_last, ys = gj.unroll(by_token, params, jnp.zeros((20, 2), int))

    **A cell inside a cell.** Its functions are called like any other. A residual around any cell
    whose state is one array:

        >>> def skip(cell, scale):
        ...     update = lambda g, h: h + scale * cell.update(g, h)
        ...     return replace(cell, update=update, adjoint=None, tangent=None, name=f"skip({cell.name})")
        >>> skipping = skip(gj.gru(), 0.5)
        >>> h_last, ys = gj.unroll(skipping, skipping.init(jax.random.key(0), 3, 4), xs)

    **With its derivation.** An `Adjoint` makes the backward pass faster: it evaluates `gates` once
    for a whole block instead of once more per step. For `leaky`:

        a = ¼ (1 − g²) ⊙ h̄,   h̄₋ = ¾ h̄ + a Uᵀ,   W̄ = Σ xᵀ a,   Ū = Σ h₋ᵀ a,   x̄ = a Wᵀ

        >>> def input_vjp(params, xs, h_prevs, g, k, h_bars):
        ...     a = k * h_bars
        ...     return Params(W=gj.ops.outer_sum(xs, a), U=gj.ops.outer_sum(h_prevs, a)), a @ params.W.T
        >>> adjoint = gj.Adjoint(
        ...     linearize=lambda g, h_prev: 0.25 * (1 - g**2),
        ...     input_vjp=input_vjp,
        ...     state_vjp=lambda params_T, k, h_bar: 0.75 * h_bar + (k * h_bar) @ params_T.U,
        ... )
        >>> derived = replace(leaky, adjoint=adjoint)
        >>> gradient = lambda cell, how: jax.grad(lambda p: (gj.unroll(cell, p, xs, derivative=how)[1] ** 2).sum())(params)
        >>> bool(jnp.allclose(gradient(derived, gj.CustomVJP()).U, gradient(leaky, gj.Autodiff()).U, rtol=1e-3))
        True

    A cell is a frozen dataclass and a static pytree without leaves: it may be an argument of
    `jax.jit`, a key of a dict, a field of an Equinox, NNX or linen module. Equal cells compare
    equal, copies by `pickle` and `copy.deepcopy` too if their functions stand at the top level of a
    module. Make a cell with lambdas or closures once rather than in every call: a new one is
    another cell, and is traced again.

    Args:
        init: `init(key, input_size, hidden_size, **options) -> params`. Draws the parameters,
            preferably a NamedTuple with one array per gate.
        project: `project(params, xs) -> us`. The part of the pre-activations that needs no state;
            any pytree. Only `gates` of the same cell reads it.
        gates: `gates(params, u, h) -> g`. Every value of the step that the adjoint needs; any
            pytree.
        update: `update(g, h) -> h`. The new state, of the same structure, shapes and dtypes as `h`.
        adjoint: The derived backward pass. Defaults to None: then `unroll` takes `jax.vjp` of
            each step, as `jax.grad` of a scan over `jax.checkpoint(cell.step)` does, for the same
            time and memory.
        tangent: The derived forward mode, for `gj.CustomJVP`. It requires `adjoint`. Defaults to
            None.
        output: `output(state) -> y`. Reads the output from a state; linear. Defaults to the state
            itself.
        read_out: `read_out(params, x, y) -> y`. Computes the output from what `output` returns, the
            input as `project` gets it, and `params`. It need not be linear, and is applied to all
            steps at once, after the recursion. Defaults to None.
        zero_state: `zero_state(params) -> state` without batch axes. Defaults to zeros of size H in
            the dtype of `params`, where H is the last axis of the first leaf of `params` whose
            field name begins with `U`.
        sample_noise: `sample_noise(keys, params, xs) -> (params, xs)`. Draws what is random in one
            call and returns it with `params` (one draw per sequence) or with `xs` (one per step),
            either of which may become another pytree. `keys.per_sequence` draws what holds for a
            whole sequence, `keys.per_step` what is new at each step: `step` calls it with an `xs`
            of one step. Defaults to None.
        evaluation_cell: The cell without its noise, which `deterministic` returns. Defaults to
            None, the cell itself.
        num_feature_axes: How many trailing axes of the inputs are features. The axes before them
            are `(T, *batch)`. An int for all arrays of `xs`, or one for each in a tuple, NamedTuple
            or dict of the structure of `xs`: 0 for integer tokens `(T, *batch)`, 3 for images,
            `(1, 0)` for features and the time since the last step. Defaults to 1.
        params_type: The NamedTuple of the parameters. Parameters that arrive as a dict with the
            same names, as from a msgpack file, are rebuilt into it. Defaults to None.
        check_params: `check_params(params) -> D`. Raises if `params` do not belong to this cell,
            and returns the input size that they are for: then `xs` must be one array of floats of
            this size. Defaults to None.
        name: The name in error messages. Defaults to `"cell"`.

    Raises:
        TypeError: If a required function is not callable, or `adjoint`, `tangent` or
            `num_feature_axes` is of another type.
        ValueError: If there is a `tangent` without an `adjoint`.
    """

    init: Callable[..., Any]
    project: Callable[[Any, Any], Any]
    gates: Callable[[Any, Any, Any], Any]
    update: Callable[[Any, Any], Any]
    adjoint: Adjoint | None = None
    tangent: Tangent | None = None
    output: Callable[[Any], Any] = field(default=_identity, kw_only=True)
    read_out: Callable[[Any, Any, Any], Any] | None = field(default=None, kw_only=True)
    zero_state: Callable[[Any], Any] | None = field(default=None, kw_only=True)
    sample_noise: Callable[[NoiseKeys, Any, Any], tuple[Any, Any]] | None = field(default=None, kw_only=True)
    evaluation_cell: "Cell | None" = field(default=None, kw_only=True)
    num_feature_axes: Any = field(default=1, kw_only=True)
    params_type: Any = field(default=None, kw_only=True)
    check_params: Callable[[Any], int] | None = field(default=None, kw_only=True)
    name: str = field(default="cell", kw_only=True)

    def __post_init__(self) -> None:
        for name in ("init", "project", "gates", "update", "output"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name}: got {getattr(self, name)!r}, expected a function. See help(gj.Cell).")
        if self.read_out is not None and not callable(self.read_out):
            raise TypeError(f"read_out: got {self.read_out!r}, expected a function read_out(params, x, y), or None.")
        for name, kind in (("adjoint", Adjoint), ("tangent", Tangent)):
            if not isinstance(getattr(self, name), kind | None):
                raise TypeError(f"{name}: got {type(getattr(self, name)).__name__}, expected gj.{kind.__name__}(…) or None.")
        if self.tangent is not None and self.adjoint is None:
            raise ValueError(
                "tangent: got a gj.Tangent without adjoint, expected both: its transpose is the adjoint's state_vjp."
            )
        object.__setattr__(self, "num_feature_axes", checked_feature_axes(self.num_feature_axes))
        make_comparable(self)

    def __repr__(self) -> str:
        return f"<gj.Cell {self.name}>"

    @property
    def needs_key(self) -> bool:
        """Whether the cell draws noise, and therefore needs a `key`."""
        return self.sample_noise is not None

    def deterministic(self) -> "Cell":
        """Returns the cell for evaluation: without dropout, and with zoneout replaced by its expectation.

        The params are the same.
        """
        return self if self.evaluation_cell is None else self.evaluation_cell

    def _output_size(self, params: Any, input_size: int | None) -> int | None:
        """Returns the size of the last axis of the outputs, or None if it depends on an unknown input size."""
        return validate_cell.output_size(self, params, input_size)

    def _zeros(self, params: Any) -> Any:
        """Returns the zero state without batch axes. `initial_state` adds them."""
        return validate_cell.default_zero_state(self.name, params) if self.zero_state is None else self.zero_state(params)

    def _validated_params(self, params: Any, path: str = "params") -> tuple[Any, int | None]:
        """Returns the params in this cell's own type, and the input size they are for.

        See `Layer`.
        """
        return validate_cell.check_cell_params(self, params, path)

    def _run(self, options: CallOptions, request: LayerRequest, params: Any, sequence: Sequence) -> LayerOutput:
        """Runs over a validated sequence by the recursion. `gj.unroll` is the public way."""
        return run_cell.run_cell(self, options, request, params, sequence)

    def _step(self, params: Any, h: Any, x: Any, keys: Any = None, compute_dtype: Any = None) -> tuple[Any, Any]:
        """Takes one time step with validated arguments.

        `gj.step` and `Cell.step` are the public ways.
        """
        return run_cell.step_cell(self, params, h, x, keys, compute_dtype)
