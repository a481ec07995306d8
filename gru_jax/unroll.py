"""`unroll`: a cell over a sequence.

Validates its arguments, settles the layout, and runs the layers, compiled once.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Int, PyTree

from gru_jax._engine import validate, validate_cell
from gru_jax._engine.arguments import check_flag, check_option
from gru_jax._engine.inputs import cast_inputs, leading_shape, shard_state_like, with_one_feature_axis
from gru_jax._engine.layer import CallOptions, Layer, LayerRequest, Sequence, check_cell
from gru_jax._engine.noise import check_key, keys_of_sequence
from gru_jax._engine.plan import probe
from gru_jax._engine.run_cell import FORWARD_MODE_MESSAGE
from gru_jax._engine.step_flags import has_time_axis, step_flags
from gru_jax._jax.partition import is_inexact
from gru_jax._jax.sharding import vary_like
from gru_jax._jax.tracing import is_forward_mode_error, is_traced
from gru_jax.derivative import CustomVJP, Derivative

Outputs = Literal["all", "last", "states"]


class Arrays(NamedTuple):
    """The validated arrays of a call, time-major."""

    xs: Any
    h0: Any
    lengths: Any
    mask: Any
    resets: Any
    reset_state: Any
    key: Any


def unroll(
    cell: Layer,
    params: PyTree,
    xs: PyTree,
    h0: PyTree = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: PyTree = None,
    reverse: bool = False,
    time_major: bool = True,
    outputs: Outputs = "all",
    key: Array | tuple[Array, Array] | None = None,
    compute_dtype: Any = None,
    derivative: Derivative = CustomVJP(),
) -> tuple[PyTree, PyTree]:
    """Runs a cell over a sequence.

        h_t = update(gates(params, u_t, h_{t-1}), h_{t-1}),   u = project(params, xs),   y_t = output(h_t)

    Example:
        >>> import jax, gru_jax as gj
        >>> cell = gj.gru()
        >>> params = cell.init(jax.random.key(0), input_size=8, hidden_size=16)
        >>> xs = jax.random.normal(jax.random.key(1), (100, 32, 8))     # (time, batch, features)
        >>> h_last, ys = gj.unroll(cell, params, xs)
        >>> ys.shape, h_last.shape
        ((100, 32, 16), (32, 16))
        >>> gradient = jax.grad(lambda params: gj.unroll(cell, params, xs)[1].mean())(params)

    Args:
        cell: A cell such as `gj.gru()`, a `gj.stack`, a `gj.bidirectional`, or a `gj.Cell` of your
            own.
        params: The parameters, from `cell.init`. Floating-point arrays of one dtype, which is the
            dtype of the computation.
        xs: The inputs, `(T, *batch, D)` with any number of batch axes. Floats are cast to the dtype
            of `params`. A network without input has D = 0: `jnp.zeros((T, *batch, 0))`. For a cell
            of your own: any pytree of arrays that share the axes `(T, *batch)`, integers and
            booleans too. The cell's `num_feature_axes` says how many axes follow these.
        h0: The state before the first step, leaves `(*batch, H)` or `(H,)`, which all sequences
            then share. Defaults to `cell.initial_state(params, batch)`.
        lengths: The number of valid steps of each padded sequence, integers `(*batch,)` from 0 to
            T. Beyond it the state is held and the output is 0. Padding values, even NaN, never
            affect outputs or gradients. Defaults to None: no padding.
        mask: Valid steps, booleans `(T, *batch)`, for padding that is not at the end. A masked step
            holds the state and outputs 0. If `lengths` is also given, a step is valid only if both
            mark it valid. Defaults to None.
        resets: Where the state is replaced by `reset_state` before the step, booleans `(T,
            *batch)`. In reinforcement learning: the observation at t is the first of its episode,
            `resets[t] = done[t - 1]`. Resets on masked steps are ignored. Defaults to None.
        reset_state: The state that a reset sets, leaves `(*batch, H)` or `(H,)`. For another state at
            each reset, such as those that an actor stored: leaves `(T, *batch, H)`, which are read only
            at resets. Gradients flow to it from every reset. Defaults to the cell's initial state:
            zeros, or the cell's `zero_state`, whose params then get these gradients.
        reverse: If True, runs from the last step to the first. `ys` stays aligned with `xs`, and
            `lengths` are still measured from step 0. `ys[::-1]` are the outputs in the direction of
            travel, as Keras' `go_backwards` returns them. Defaults to False.
        time_major: If False, `xs`, `ys` and a `reset_state` for each step are `(*batch, T, ·)`, and
            `mask` and `resets` are `(*batch, T)`. Defaults to True.
        outputs: What to return beside the last state. `"all"`: the outputs of all steps.
            `"states"`: the state after every step, in the structure of `h0`. `"last"`: None, which
            saves memory if you only need `h_last`. Defaults to `"all"`.
        key: A `jax.random` key for cells that draw noise, such as dropout; or a pair: the key of
            what holds for a whole sequence, such as a mask of variational dropout, and the key of
            what is drawn at each step. Defaults to None.
        compute_dtype: A narrower dtype for the operands of matmuls, for example `jnp.bfloat16`.
            Sums stay in at least float32, states and gradients in the dtype of `params`. Defaults
            to None.
        derivative: How gradients are taken: `gj.CustomVJP(…)` by the derived backward pass, with
            options that trade memory for time; `gj.CustomJVP()` where you need forward mode;
            `gj.Autodiff()` by JAX alone. Defaults to `gj.CustomVJP()`.

    Returns:
        `(h_last, ys)`, in the order of `lax.scan`. `h_last` is the state after the last valid step
        of each sequence in processing order, leaves `(*batch, H)`; an LSTM's is `LSTMState(h, c)`,
        a stack's a tuple with one state per layer. `ys` are the outputs, `(T, *batch, H)`.

    Raises:
        TypeError: If an argument does not have the type, structure or dtype described, or
            forward mode is applied with `CustomVJP`.
        ValueError: If shapes do not fit, a concrete length is out of range, a cell that draws noise
            gets no `key`, or an option is unknown. A traced length out of range makes the outputs
            of its sequence NaN.

    Gradients flow to `params`, `xs`, `h0` and `reset_state`. Called outside `jit`, `unroll`
    compiles once for each cell, set of options and shapes. The backward pass costs about twice the
    forward pass, plus one forward pass if the gates are recomputed.

    The cells' modules hold their derivations, after Chung et al. 2014 (arXiv 1412.3555).
    """
    check_cell(cell)
    validate.check_derivative(derivative)
    check_option("outputs", outputs, ("all", "last", "states"))
    reverse, time_major = check_flag("reverse", reverse), check_flag("time_major", time_major)
    arrays = Arrays(xs, h0, lengths, mask, resets, reset_state, key)
    params, arrays = validated(cell, params, arrays, time_major)
    compute_dtype = validate.check_compute_dtype(compute_dtype, validate_cell.float_dtype(params, xs, h0))
    options = CallOptions(derivative, probe(with_one_feature_axis(cell, arrays.xs), (params, arrays)), compute_dtype)
    lengths_are_traced = lengths is not None and is_traced(lengths)
    static = (cell, options, reverse, time_major, outputs, lengths_are_traced)
    try:
        return _compiled(*static, params, arrays)
    except TypeError as error:
        if is_forward_mode_error(error):
            raise TypeError(FORWARD_MODE_MESSAGE) from error
        raise


def validated(cell: Layer, params: PyTree, arrays: Arrays, time_major: bool) -> tuple[PyTree, Arrays]:
    """Validates the arguments.

    Returns the params in the cell's own types, and lengths as int32 or int64.
    """
    xs, h0, lengths, mask, resets, reset_state, key = arrays
    params, input_size = validate_cell.check_params(cell, params)
    leading = validate.check_input("xs", xs, cell, input_size)
    check_key(key, cell)
    steps, batch = (leading[0], leading[1:]) if time_major else (leading[-1], leading[:-1])
    if lengths is not None:
        lengths = validate.check_lengths(lengths, batch, steps)
    for name, flags in (("mask", mask), ("resets", resets)):
        if flags is not None:
            shape, axes = ((steps, *batch), "T, *batch") if time_major else ((*batch, steps), "*batch, T")
            validate.check_flags(name, flags, shape, axes)
    validate.check_resets(resets, reset_state)
    if h0 is not None:
        validate.check_state("h0", h0, cell, params, batch, broadcasts=True)
    if reset_state is not None:
        validate.check_reset_state(reset_state, cell, params, leading, time_major=time_major)
    return params, arrays._replace(lengths=lengths)


@partial(jax.jit, static_argnums=range(6), inline=True)
def _compiled(
    cell: Layer,
    options: CallOptions,
    reverse: bool,
    time_major: bool,
    outputs: Outputs,
    lengths_are_traced: bool,
    params: PyTree,
    arrays: Arrays,
) -> tuple[PyTree, PyTree]:
    """Runs a validated call. Inside another `jit` it is inlined."""
    xs, h0, lengths, mask, resets, reset_state, key = jax.tree.map(jnp.asarray, arrays)
    xs, batch_rank = cast_inputs(xs, validate_cell.float_dtype(params, xs, h0)), len(leading_shape(cell, xs)) - 1
    if not time_major:
        xs = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, batch_rank, 0), xs)
        mask, resets = (None if flags is None else jnp.moveaxis(flags, -1, 0) for flags in (mask, resets))
    steps, *batch_axes = leading_shape(cell, xs)
    batch = tuple(batch_axes)
    start = cell.initial_state(params, batch) if h0 is None else validate_cell.broadcast_state(cell, params, h0, batch)
    if resets is not None and reset_state is None:
        reset_state = validate_cell.default_reset_state(cell, params)
    if reset_state is not None:
        time_axis = 0 if time_major else batch_rank
        reset_state = validate_cell.broadcast_reset_state(reset_state, start, steps, time_axis=time_axis)
    inexact = (params, xs, start, reset_state)
    params, xs, h0, reset_state = vary_like(inexact, *inexact, lengths, mask, resets, key)
    reset_state = shard_state_like(cell, reset_state, xs, batch_rank + has_time_axis(reset_state, h0))
    h0 = shard_state_like(cell, h0, xs, batch_rank)
    sequence = Sequence(xs, h0, reset_state, step_flags(mask, lengths, resets, steps), keys_of_sequence(key))
    request = LayerRequest(reverse, outputs=outputs == "all", states=outputs == "states")
    h_last, ys, states = cell._run(options, request, params, sequence)
    result = h_last, states if outputs == "states" else ys
    if lengths_are_traced:
        result = _nan_where_out_of_range(result, lengths, steps)
    h_last, out = result
    return h_last, out if time_major else jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, batch_rank), out)


def _nan_where_out_of_range(result: tuple[PyTree, PyTree], lengths: Int[Array, "*b"], steps: int) -> tuple[PyTree, PyTree]:
    """NaN for sequences whose traced length is out of range: in their outputs, and by the
    product in every gradient too.
    """
    factor = jnp.where((lengths < 0) | (lengths > steps), jnp.nan, 1.0)

    def poison(leaf, first_axis):
        if not is_inexact(leaf):  # an integer cannot say that it is undefined
            return leaf
        axes = (*range(first_axis), *range(first_axis + factor.ndim, leaf.ndim))
        return leaf * jnp.expand_dims(factor, axes).astype(leaf.dtype)

    h_last, over_time = result
    return jax.tree.map(lambda leaf: poison(leaf, 0), h_last), jax.tree.map(lambda leaf: poison(leaf, 1), over_time)
