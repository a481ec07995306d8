"""`step`: one time step, with a reset before it: what an actor calls where the learner calls `unroll`."""

from typing import Any

import jax
from jax.typing import ArrayLike

from gru_jax._engine import step_flags, validate


def step(
    cell: Any, params: Any, h: Any, x: ArrayLike, reset: ArrayLike | None = None, reset_state: Any = None
) -> tuple[Any, jax.Array]:
    """One time step, after a reset where `reset` says so.

        h₋ = reset ? reset_state : h₋,   then cell.step(params, h₋, x)

    Repeated over t it is `gj.unroll(cell, params, xs, h0, resets=…, reset_state=…)`: an actor that steps and a learner that unrolls
    what it stored see the same states. `reset` at t is "the observation at t is the first of its episode", known before the step.
    An environment's `done` comes with the last transition and belongs to the next step: reset at t+1 is done at t.

    Args:
        cell: such as `gj.gru()`, or a `gj.stack`.
        params: from `cell.init`.
        h: the state, leaves `(*batch, H)`.
        x: the input, `(*batch, D)`, cast to the dtype of `params`.
        reset: `(*batch,)` booleans: where the state is replaced before the step; nowhere if None.
        reset_state: by what; leaves `(*batch, H)` or what broadcasts to it, `(H,)` say; zeros if None. Gradients flow to it.

    Returns:
        `(h, y)`: the new state, and the output `(*batch, H)`.

    Raises:
        TypeError: `reset` is not boolean; else as `gj.unroll`.
        ValueError: `reset` has another shape than the batch; `reset_state` without `reset`; else as `gj.unroll`.

    Cost: a jitted step of one sequence takes about as long as calling it, which grows with the number of arrays. Where the weights
    stay the same for long, as in an actor between two updates, fix them: `jax.jit(functools.partial(gj.step, cell, params))`.
    """
    validate.check_cell(cell)
    validate.check_resets(reset, reset_state, name="reset")
    if reset is not None:
        params, h, x = validate.check_step(cell, params, h, x)
        reset = validate.check_flags("reset", reset, x.shape[:-1], "*batch")
        reset_state = None if reset_state is None else validate.check_reset_state(reset_state, cell, h)
        h = step_flags.reset(step_flags.When(resets=reset), reset_state, h)
    return cell.step(params, h, x)
