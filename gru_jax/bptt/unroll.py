"""`unroll`: a cell over a sequence. Validates, settles the layout, and hands over to the recursion."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gru_jax._compat import is_forward_mode_error, reverse_only, vary_like
from gru_jax.bptt import checks
from gru_jax.bptt.adjoint import adjoint_row
from gru_jax.bptt.both import recursion_both, tangent_row
from gru_jax.bptt.cell import Cell
from gru_jax.bptt.recursion import recursion, recursion_ref

FORWARD_MODE_MESSAGE = (
    'derivative: forward mode (jax.jvp, jacfwd, linearize) went through unroll(…, derivative="adjoint"), which has a backward '
    'pass only. Use derivative="both" where you need forward mode; jax.grad, jax.jacrev and jax.hessian work as it is.'
)


def unroll(
    cell: Cell,
    params: Any,
    xs: ArrayLike,
    h0: Any = None,
    *,
    reverse: bool = False,
    time_major: bool = True,
    derivative: Literal["adjoint", "both", "autodiff"] = "adjoint",
) -> tuple[Any, jax.Array]:
    """Runs `cell` over a sequence; differentiates by the derived backward pass.

        h_t = update(gates(u_t, h_{t-1}), h_{t-1}),   u = project(xs),   y_t = output(h_t)

    The order is that of `lax.scan`, (carry, output): `jax.lax.scan(partial(cell.step, params), h0, xs)` returns the same pair.

    Args:
        cell: such as `gj.gru()`.
        params: from `cell.init`: floating-point arrays of one dtype, in which everything is computed.
        xs: the inputs, `(T, *batch, D)` with any number of batch axes, none included; cast to the dtype of `params`.
        h0: the state before the first step, leaves `(*batch, H)` in the dtype of `params`; zeros if None.
        reverse: from step T-1 to step 0. `ys` stays aligned with `xs`; the last state is the one after step 0.
        time_major: False for `xs` and `ys` of shape `(*batch, T, ·)`.
        derivative: `"adjoint"`, the custom VJP with the derived backward pass; `"both"`, derived tangent and backward pass, for
            forward mode and all that is built on it (a cell without a tangent row is differentiated by autodiff);
            `"autodiff"`, the same forward pass without any rule: the oracle.

    Returns:
        `(h_last, ys)`: the state after the last step in the direction of travel, leaves `(*batch, H)` (an LSTM's is the
        tuple `(h, c)`), and the outputs `(T, *batch, H)` in the layout of `xs`. Cotangents are taken for both.

    Raises:
        TypeError: `cell` is no cell; `params` are another cell's or of mixed or other than floating dtypes; `xs` is no array of
            floats; `h0` has another structure or dtype; forward mode goes through `derivative="adjoint"`.
        ValueError: `xs` has fewer than two axes or another last axis than `params`; `h0` has another shape; an unknown option.

    Cost: the backward pass keeps the states and the inputs, T·B·(H + D) numbers, and computes the gates once more, for all t at
    once: per step and sequence it is (for a GRU) 3·2·(D + H)·H floating-point operations forward, the same again for the
    gates, twice that for the gradients.

    After Chung et al. 2014 (arXiv 1412.3555); derivation in each cell's module.
    """
    checks.check_cell(cell)
    checks.check_option("derivative", derivative, ("adjoint", "both", "autodiff"))
    params, input_size = checks.check_params(cell, params)
    xs = checks.check_input("xs", xs, input_size, jax.tree.leaves(params)[0].dtype, least_rank=2)
    xs = xs if time_major else jnp.moveaxis(xs, -2, 0)
    batch = xs.shape[1:-1]
    h0 = cell.initial_state(params, batch) if h0 is None else checks.check_state("h0", h0, cell, params, batch)
    params, h0 = vary_like((params, h0), xs)

    if derivative == "both" and tangent_row(cell) is not None:
        h_last, ys = recursion_both(cell, reverse, params, xs, h0)
    elif derivative != "adjoint":
        h_last, ys = recursion_ref(cell, reverse, params, xs, h0)
    else:
        adjoint_row(cell)  # half a row is told here rather than in the backward pass
        params, xs, h0 = reverse_only((params, xs, h0), FORWARD_MODE_MESSAGE)
        try:
            h_last, ys = recursion(cell, reverse, params, xs, h0)
        except TypeError as error:
            if is_forward_mode_error(error):
                raise TypeError(FORWARD_MODE_MESSAGE) from error
            raise
    return h_last, ys if time_major else jax.tree.map(lambda y: jnp.moveaxis(y, 0, -2), ys)
