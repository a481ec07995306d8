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
from gru_jax._engine.layer import Layer, check_cell
from gru_jax._engine.plan import current_platform, joins_in_step
from gru_jax._engine.products import joined_products
from gru_jax._engine.step_flags import StepFlags, apply_resets
from gru_jax._engine.validate_cell import float_dtype


def step(
    cell: Layer,
    params: PyTree,
    h: PyTree,
    x: ArrayLike,
    *,
    reset: ArrayLike | None = None,
    reset_state: PyTree = None,
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
        x: The input, `(*batch, D)`. Cast to the dtype of `params`.
        reset: Where the state is replaced before the step: booleans `(*batch,)`, or one bool for
            the whole batch. It is True at t if the observation at t is the first of its episode:
            the `done` that came with the last transition. Defaults to None: nowhere.
        reset_state: The state that a reset sets, leaves `(*batch, H)` or `(H,)`. Defaults to None,
            which stands for zeros. Gradients flow to it.

    Returns:
        `(h, y)`: the new state, and the output `(*batch, H)`.

    Raises:
        TypeError: If `reset` is not boolean; otherwise as `gj.unroll`.
        ValueError: If `reset` has another shape than the batch, or there is a `reset_state` without
            a `reset`; otherwise as `gj.unroll`.

    Called outside `jit`, it compiles once for each cell and shapes. A single step of one sequence
    takes about as long as calling it, which grows with the number of arrays. Where the weights stay
    the same for long, as in an actor between two updates, compile them in:
    `jax.jit(functools.partial(gj.step, cell, params))`.
    """
    check_cell(cell)
    validate.check_resets(reset, reset_state, name="reset")
    params, h, x = validate.check_step(cell, params, h, x)
    batch = np.shape(x)[:-1]
    if isinstance(reset, bool | np.bool_):
        reset = np.full(batch, reset)
    if reset is not None:
        validate.check_flags("reset", reset, batch, "*batch")
    if reset_state is not None:
        validate.check_reset_state(reset_state, cell, params, batch)
    return _compiled(cell, current_platform(), params, h, x, reset, reset_state)


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _compiled(cell: Any, platform: str, params: Any, h: Any, x: Any, reset: Any, reset_state: Any) -> tuple[Any, Any]:
    """Takes a validated step. Inside another `jit` it is inlined."""
    params, h, x = jax.tree.map(jnp.asarray, (params, h, x))
    x = x.astype(float_dtype(params))
    h = apply_resets(StepFlags(resets=reset), reset_state, h)
    with joined_products(joins_in_step(platform)):
        return cell._step(params, h, x)
