"""`step`: one time step with a reset before it, which an actor calls where the learner calls
`unroll`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from gru_jax._engine import validate
from gru_jax._engine.inputs import cast_inputs, leading_shape
from gru_jax._engine.layer import Layer, check_cell
from gru_jax._engine.noise import check_key, keys_of_step
from gru_jax._engine.plan import current_platform, joins_in_step
from gru_jax._engine.products import joined_products
from gru_jax._engine.step_flags import StepFlags, apply_resets
from gru_jax._engine.validate_cell import default_reset_state, float_dtype


def step(
    cell: Layer,
    params: PyTree,
    h: PyTree,
    x: PyTree,
    *,
    reset: ArrayLike | None = None,
    reset_state: PyTree = None,
    key: Array | tuple[Array, Array] | None = None,
    compute_dtype: Any = None,
) -> tuple[PyTree, Array]:
    """Takes one time step, resetting the state first where `reset` is True.

        h₋ = reset ? reset_state : h₋,   then   h, y = cell.step(params, h₋, x)

    Repeated over t it is `gj.unroll(cell, params, xs, h0, resets=…, reset_state=…)`, so an actor
    that steps and a learner that unrolls what it stored see the same states.

    Example:
        >>> import jax, jax.numpy as jnp, gru_jax as gj
        >>> cell = gj.gru()
        >>> params = cell.init(jax.random.key(0), input_size=3, hidden_size=4)
        >>> h = cell.initial_state(params, batch_shape=2)
        >>> h, y = gj.step(cell, params, h, jnp.ones((2, 3)), reset=jnp.array([True, False]))
        >>> y.shape
        (2, 4)

    Args:
        cell: A cell such as `gj.gru()`, or a `gj.stack`.
        params: The parameters, from `cell.init`.
        h: The state, leaves `(*batch, H)`.
        x: The input, `(*batch, D)`, or a pytree, as one step of the `xs` of `gj.unroll`.
        reset: Where the state is replaced before the step: booleans `(*batch,)`, or one bool for
            the whole batch. It is True at t if the observation at t is the first of its episode:
            the `done` that came with the last transition. Defaults to None: nowhere.
        reset_state: The state that a reset sets, leaves `(*batch, H)` or `(H,)`. Gradients flow to
            it. Defaults to the cell's initial state, as in `gj.unroll`.
        key: For a cell that draws noise: a `jax.random` key, another one at each step. Noise that
            holds for a whole sequence, as that of `gj.variational_dropout`, needs a pair
            `(sequence_key, step_key)`, whose first key is the same at all steps of the sequence.
            Defaults to None.
        compute_dtype: As for `gj.unroll`. Defaults to None.

    Returns:
        `(h, y)`: the new state, and the output `(*batch, H)`.

    Raises:
        TypeError: If `reset` is not boolean; otherwise as `gj.unroll`.
        ValueError: If `reset` has another shape than the batch, or there is a `reset_state` without
            a `reset`; otherwise as `gj.unroll`.

    **Noise in a closed loop.** The noise has the distribution of that in `unroll`. What holds for
    a whole sequence is even the same numbers: `unroll` with `key=(sequence_key, any_key)` draws
    what `step` draws with `key=(sequence_key, step_key)`. What is drawn at each step is equal in
    distribution, and equal in numbers for a sequence of one step: `step(…, x, key=key)` is
    `unroll(…, x[None], key=key)`.

        >>> noisy = gj.zoneout(gj.gru(), 0.1)
        >>> def simulate(h_and_x, key):
        ...     h, y = gj.step(noisy, params, *h_and_x, key=key)
        ...     return (h, y[..., :3]), y     # what the network says next depends on what it said
        >>> start = h, jnp.zeros((2, 3))
        >>> _, ys = jax.lax.scan(simulate, start, jax.random.split(jax.random.key(1), 100))

    Called outside `jit`, it compiles once for each cell and shapes. A single step of one sequence
    takes about as long as calling it, which grows with the number of arrays. Where the weights stay
    the same for long, as in an actor between two updates, compile them in:
    `jax.jit(functools.partial(gj.step, cell, params))`.
    """
    check_cell(cell)
    validate.check_resets(reset, reset_state, name="reset")
    check_key(key, cell, in_step=True)
    params, h, x = validate.check_step(cell, params, h, x)
    compute_dtype = validate.check_compute_dtype(compute_dtype, float_dtype(params, x, h))
    batch = leading_shape(cell, x)
    if isinstance(reset, bool | np.bool_):
        reset = np.full(batch, reset)
    if reset is not None:
        validate.check_flags("reset", reset, batch, "*batch")
    if reset_state is not None:
        validate.check_state("reset_state", reset_state, cell, params, batch, broadcasts=True)
    return _compiled(cell, current_platform(), compute_dtype, params, h, x, reset, reset_state, key)


@partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _compiled(
    cell: Any, platform: str, compute_dtype: Any, params: Any, h: Any, x: Any, reset: Any, reset_state: Any, key: Any
) -> tuple[Any, Any]:
    """Takes a validated step. Inside another `jit` it is inlined."""
    params, h, x = jax.tree.map(jnp.asarray, (params, h, x))
    x = cast_inputs(x, float_dtype(params, x, h))
    if reset is not None and reset_state is None:
        reset_state = default_reset_state(cell, params)
    h = apply_resets(StepFlags(resets=reset), reset_state, h)
    with joined_products(joins_in_step(platform)):
        return cell._step(params, h, x, keys_of_step(key), compute_dtype)
