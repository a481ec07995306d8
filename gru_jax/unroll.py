"""`unroll`: a cell over a sequence. Validates, settles the layout, and hands over to the recursion."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gru_jax._engine import validate
from gru_jax._engine.recursion import How
from gru_jax._engine.run import Ran, Sequence, run
from gru_jax._engine.step_flags import make_when
from gru_jax._jax.sharding import shard_like, vary_like
from gru_jax._jax.tracing import is_traced


def unroll(
    cell: Any,
    params: Any,
    xs: ArrayLike,
    h0: Any = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: Any = None,
    reverse: bool = False,
    time_major: bool = True,
    outputs: Literal["all", "last", "states"] = "all",
    key: jax.Array | None = None,
    compute_dtype: Any = None,
    residuals: Literal["auto", "states", "gates"] = "auto",
    block_size: int | None = None,
    derivative: Literal["adjoint", "both", "autodiff"] = "adjoint",
) -> tuple[Any, Any]:
    """Runs `cell` over a sequence; differentiates by the derived backward pass.

        h_t = update(gates(u_t, h_{t-1}), h_{t-1}),   u = project(xs),   y_t = output(h_t)

    The order is that of `lax.scan`, (carry, output): `jax.lax.scan(partial(cell.step, params), h0, xs)` returns the same pair.

    Args:
        cell: such as `gj.gru()`; a `gj.stack` or `gj.bidirectional`; a `gj.Cell` of your own.
        params: from `cell.init`: floating-point arrays of one dtype, in which everything is computed.
        xs: the inputs, `(T, *batch, D)` with any number of batch axes, none included; cast to the dtype of `params`.
        h0: the state before the first step, leaves `(*batch, H)` in the dtype of `params`; zeros if None.
        lengths: `(*batch,)` integers, 0 to T. Steps at or beyond a sequence's length hold the state, their output is 0, and nothing
            that stands in `xs` there (NaN neither) reaches a value or a gradient; the last state is the held one, `h0` for a
            length of 0. (PyTorch and ONNX pad with 0 too, Keras repeats the last output; on length 0 the libraries disagree.) A
            traced length out of range makes that sequence's outputs NaN.
        mask: `(T, *batch)` booleans for steps in the middle: False holds the state, as beyond a length. With `lengths` a step counts
            where both say so.
        resets: `(T, *batch)` booleans: the state is `reset_state` before the step at t, in the direction of travel. In
            reinforcement learning: "the observation at t is the first of its episode"; from an environment's `done`, which comes
            with the last transition, `resets[t] = done[t - 1]`. A reset at a step that does not count is none. No NaN in
            the state survives a reset.
        reset_state: leaves `(*batch, H)` or what broadcasts to it, `(H,)` say; zeros if None, never the `h0` that was carried in.
            Gradients flow to it from every reset and stop there.
        reverse: from step T-1 to step 0. `ys` stays aligned with `xs`; the last state is the one after step 0.
            With `lengths` each sequence is read from its own last step.
        time_major: False for `xs` and `ys` of shape `(*batch, T, ·)`, and `mask` and `resets` of shape `(*batch, T)`.
        outputs: `"all"`; `"states"` for the state after every step instead (held where a step does not count), in the
            structure of `h0`, for replay; `"last"` for None, where the last state is all you need.
        key: a `jax.random` key, for cells that draw noise (dropout, zoneout); others do without.
        compute_dtype: a narrower dtype for the operands of the matmuls, bfloat16 say; they are summed in at least float32, and all
            else, the state and the gradients too, keeps the dtype of `params`.
        residuals: what `derivative="adjoint"` keeps for its backward pass: `"states"`, which are the outputs, and computes the gates
            again, in little memory where there are several blocks; `"gates"`, the gates too, faster where the matmuls are most of
            the time; `"auto"`, by the shapes: gates from 256 units on; those of a small sequence (up to 4,096 steps, fewer than
            524,288 states, 2 MiB in float32) in one block where the batch times H is at least 512; those of one in several blocks,
            or up to twice as large, where it is at least 4,096 (512 on a CPU with a device for each core). With `outputs="last"`,
            `"auto"` keeps one state per block of a sequence in several, and runs each block again: memory grows as √T, time by a
            forward pass.
        block_size: the steps that `derivative="adjoint"` takes together: inputs are projected, gates recomputed and weight
            gradients added up for one block after the other, so that what is not kept is no longer than a block. By default a small
            sequence is one block, and one twice as large where nothing is differentiated; others are cut into blocks of about 196,608
            states (65,536 beyond 128 units, and on a CPU with a device for each core), but 512 to 4,096 rows of time times batch and
            no fewer than H: into equal ones if T has a divisor near, else the last is shorter, which costs a copy of the inputs and of
            the states. Where `"states"` is asked for, blocks have about 65,536 states, and small sequences are cut too. In half
            precision on a CPU with jaxlib before 0.12, where `"auto"` keeps no gates, blocks have about √T steps. The states of one
            device count: under `jit` on a CPU that is split into several, the batch is taken to be spread over all. Under `jax.vmap`
            those of all its elements count, but where something that is traced on its own (a loop, a `jit`, a `checkpoint`) stands
            between it and this call and hides them: shorter blocks can be faster there, and take less memory. On a mesh of Explicit
            axes time is one block by default, so that gradients are reduced over the devices once: memory then grows as T there,
            for `outputs="last"` too. Neither changes a result beyond rounding; the other derivatives have no use for them.
        derivative: `"adjoint"`, the custom VJP with the derived backward pass; `"both"`, derived tangent and backward pass, for
            forward mode and all that is built on it (a cell without a tangent row is differentiated by autodiff);
            `"autodiff"`, the same forward pass without any rule: the oracle.

    Returns:
        `(h_last, ys)`: the state after the last step in the direction of travel, leaves `(*batch, H)` (an LSTM's is the
        tuple `(h, c)`, a stack's a tuple with one per layer), and the outputs `(T, *batch, H)` in the layout of `xs`. Cotangents are
        taken for both.

    Raises:
        TypeError: `cell` is no cell; `params` are another cell's or of mixed or other than floating dtypes; `xs` is no array of
            floats; `h0` or `reset_state` has another structure or dtype; `lengths` are no integers; `mask` or `resets` no booleans;
            forward mode goes through `derivative="adjoint"`.
        ValueError: `xs` has fewer than two axes or another last axis than `params`; another shape does not fit; a length is below 0
            or above T; `block_size` is no positive int; `reset_state` without `resets`; no `key` for a cell that draws noise; an
            unknown option.

    Differentiable are `params`, `xs`, `h0` and `reset_state`.

    Cost: with `residuals="states"` the backward pass keeps the states and the inputs, T·B·(H + D) numbers, and computes the gates
    once more, for a block at once: per step and sequence it is (for a GRU) 3·2·(D + H)·H floating-point operations forward, the
    same again for the gates, twice that for the gradients.

    After Chung et al. 2014 (arXiv 1412.3555); derivation in each cell's module.
    """
    validate.check_cell(cell)
    validate.check_option("derivative", derivative, ("adjoint", "both", "autodiff"))
    validate.check_option("outputs", outputs, ("all", "last", "states"))
    validate.check_option("residuals", residuals, ("auto", "states", "gates"))
    block_size = validate.check_block_size(block_size)
    params, input_size = validate.check_params(cell, params)
    dtype = jax.tree.leaves(params)[0].dtype
    compute_dtype = validate.check_compute_dtype(compute_dtype, dtype)
    xs = validate.check_input("xs", xs, input_size, dtype, least_rank=2)
    validate.check_key(key, cell)

    xs = xs if time_major else jnp.moveaxis(xs, -2, 0)
    steps, batch = xs.shape[0], xs.shape[1:-1]
    if lengths is not None:
        lengths = validate.check_lengths(lengths, batch, steps)
    mask, resets = (
        _time_major_flags(name, flags, steps, batch, time_major) for name, flags in (("mask", mask), ("resets", resets))
    )
    validate.check_resets(resets, reset_state)
    h0 = cell.initial_state(params, batch) if h0 is None else validate.check_state("h0", h0, cell, params, batch)
    reset_state = None if reset_state is None else validate.check_reset_state(reset_state, cell, h0)

    params, h0, reset_state = vary_like((params, h0, reset_state), params, xs, h0, reset_state, lengths, mask, resets)
    h0, reset_state = shard_like((h0, reset_state), xs, len(batch))
    sequence = Sequence(xs, h0, reset_state, make_when(mask, lengths, resets, steps), key)
    ran = run(cell, How(bool(reverse), outputs, compute_dtype, residuals, block_size), derivative, params, sequence)
    if lengths is not None and is_traced(lengths):
        ran = _nan_where_out_of_range(ran, lengths, steps)
    h_last, out = ran.h_last, ran.states if outputs == "states" else ran.ys
    return h_last, out if time_major else jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, len(batch)), out)


def _time_major_flags(name: str, flags: Any, steps: int, batch: tuple[int, ...], time_major: bool) -> jax.Array | None:
    if flags is None:
        return None
    if time_major:
        return validate.check_flags(name, flags, (steps, *batch), "T, *batch")
    return jnp.moveaxis(validate.check_flags(name, flags, (*batch, steps), "*batch, T"), -1, 0)


def _nan_where_out_of_range(ran: Ran, lengths: jax.Array, steps: int) -> Ran:
    """NaN for sequences whose traced length cannot be: in their outputs, and by the product in every gradient too."""
    factor = jnp.where((lengths < 0) | (lengths > steps), jnp.nan, 1.0)

    def poison(leaf, first_axis):
        axes = (*range(first_axis), *range(first_axis + factor.ndim, leaf.ndim))
        return leaf * jnp.expand_dims(factor, axes).astype(leaf.dtype)

    h_last = jax.tree.map(lambda leaf: poison(leaf, 0), ran.h_last)
    over_time = jax.tree.map(lambda leaf: poison(leaf, 1), (ran.ys, ran.states))
    return Ran(h_last, *over_time)
