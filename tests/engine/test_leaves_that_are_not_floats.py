"""Cells whose leaves are not all floats, against autodiff of the plain scan.

States, params and inputs hold integers, booleans, random keys and complex numbers. Some params have
batch axes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from gru_jax._engine.forward import Loop
from gru_jax._engine.plan import Plan
from gru_jax._engine.recursion import recursion
from gru_jax._engine.step_flags import StepFlags, step_flags
from tests.conditions import LENGTHS, RESETS
from tests.problems import B, D, H, T, assert_close, compiled, normal, normal_like, scan_of_step
from tests.unusual_cells import LEAF_PROBLEMS, Counted, Keyed

pytestmark = pytest.mark.derivative


def problems(*by_default):
    """Parametrises by all problems, of which those that are not named are slow."""
    marks = {name: () if name in by_default else pytest.mark.slow for name in LEAF_PROBLEMS}
    return pytest.mark.parametrize(
        ("cell", "params"), [pytest.param(*LEAF_PROBLEMS[name], id=name, marks=marks[name]) for name in LEAF_PROBLEMS]
    )


EITHER = {"plain": {}, "lengths and resets": {"lengths": LENGTHS, "resets": RESETS}}
either = pytest.mark.parametrize(
    "conditions",
    [pytest.param(given, id=name, marks=() if given else pytest.mark.slow) for name, given in EITHER.items()],
)

XS = normal(6, T, B, D)


def initial_state(cell, params):
    """Draws the inexact leaves of a state at random, and takes the others from the cell."""
    if cell.name == "keyed":
        return Keyed(normal(7, B, H), jax.random.split(jax.random.key(8), B))
    if cell.name == "clockwork":
        return Counted(jnp.array([0, 1, 2], jnp.int32), normal(7, B, H))
    return normal_like(7, jax.eval_shape(lambda: cell.initial_state(params, B)))


def arguments_of(cell, params, conditions):
    """Returns params, xs, h0 and the state after a reset, which has batch axes."""
    h0 = initial_state(cell, params)
    return params, XS, h0, jax.tree.map(lambda leaf: leaf[::-1], h0) if "resets" in conditions else None


def loss_of(run, params, xs, h0, reset_state):
    """Returns a real number that depends on every output and every inexact last state."""
    h_last, ys = run(params, xs, h0, reset_state)
    leaves = [leaf for leaf in jax.tree.leaves((h_last, ys)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    weights = [normal((9, i), *leaf.shape) for i, leaf in enumerate(leaves)]
    return sum(jnp.sum(w * (leaf.real + 0.3 * leaf.imag**2)) for w, leaf in zip(weights, leaves, strict=True))


def value_and_bars(run, *arguments):
    """Returns the loss, and its gradients with respect to all inexact leaves of the arguments."""
    value, bars = jax.value_and_grad(partial(loss_of, run), argnums=(0, 1, 2, 3), allow_int=True)(*arguments)
    return value, [bar for bar in jax.tree.leaves(bars) if bar.dtype != jax.dtypes.float0]


DERIVATIVES = (gj.CustomVJP(residuals="states"), gj.CustomVJP(block_size=3), gj.CustomJVP(), gj.Autodiff())


@either
@problems("complex states and params")
def test_values_and_gradients_equal_autodiff_of_the_plain_scan(cell, params, conditions):
    def results(*arguments):
        """Returns the outputs, the loss and its gradients, of the scan and then of `unroll`."""

        def of(unroll):
            run = lambda params, xs, h0, reset: unroll(cell, params, xs, h0, reset_state=reset, **conditions)
            return run(*arguments)[1], value_and_bars(run, *arguments)

        return [of(scan_of_step), *(of(partial(gj.unroll, derivative=derivative)) for derivative in DERIVATIVES)]

    expected, *measured = compiled(results, *arguments_of(cell, params, conditions))
    for result in measured:
        assert_close(result, expected)


@either
@problems("an integer in state and params", "a key in the state", "a memory and its mask")
def test_blocks_are_recomputed_if_only_the_last_state_is_returned(cell, params, conditions):
    def results(*arguments):
        def of(unroll):
            options = {"outputs": "last", **conditions}
            return value_and_bars(lambda *a: unroll(cell, *a[:3], reset_state=a[3], **options), *arguments)

        return [of(unroll) for unroll in (partial(gj.unroll, derivative=gj.CustomVJP(block_size=3)), scan_of_step)]

    assert_close(*compiled(results, *arguments_of(cell, params, conditions)))


@either
@problems("a memory and its mask")
def test_sums_outside_the_loop_give_the_same_gradients(cell, params, conditions):
    """The engine uses such sums for a batch that may be spread over devices."""

    def results(*arguments):
        flags = step_flags(None, conditions.get("lengths"), conditions.get("resets"), T) if conditions else StepFlags()
        run = lambda plan: lambda *arguments: recursion(cell, Loop(plan), *arguments, flags)
        return [value_and_bars(run(plan), *arguments) for plan in (Plan(block_size=4), Plan(step_by_step=True))]

    assert_close(*compiled(results, *arguments_of(cell, params, conditions)))


@problems("an integer in state and params")
def test_vmap_over_params_and_inputs_equals_a_loop(cell, params):
    twice = jax.tree.map(lambda leaf: np.stack([leaf, leaf[::-1]]), (params, XS))
    h0 = initial_state(cell, params)
    run = jax.jit(lambda params, xs: value_and_bars(lambda *a: gj.unroll(cell, *a[:3]), params, xs, h0, None))
    together = compiled(jax.vmap(run), *twice)
    for i in range(2):
        one = lambda tree, i=i: jax.tree.map(lambda leaf: leaf[i], tree)
        assert_close(one(together), run(*one(twice)))
