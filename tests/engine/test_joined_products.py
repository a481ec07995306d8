"""Products that share an operand give the same results joined in one matmul and one by one."""

import itertools
from dataclasses import replace
from functools import partial

import jax
import pytest

from gru_jax._engine.custom_jvp import recursion_with_jvp
from gru_jax._engine.forward import Loop
from gru_jax._engine.plan import Plan
from gru_jax._engine.recursion import recursion, recursion_ref
from gru_jax._engine.step_flags import step_flags
from tests.conditions import MASK, RESETS
from tests.problems import CELLS, GATED, T, assert_close, compiled, gradients, problem, scan_of_step
from tests.programs import matmuls_per_loop

pytestmark = pytest.mark.derivative

FLAGS = step_flags(MASK, None, RESETS, T)
LOOPS = {"reverse mode": (recursion, 3), "CustomJVP": (recursion_with_jvp, None), "autodiff": (recursion_ref, None)}
BY_DEFAULT = {("lstm_peephole", True, "reverse mode")}
gated = pytest.mark.parametrize("name", GATED)


def run_with(function, cell, loop, params, xs, h0):
    return function(cell, loop, params, xs, h0, None, FLAGS)


@pytest.mark.parametrize(
    ("name", "reverse", "by"),
    [
        pytest.param(*case, marks=() if case in BY_DEFAULT else pytest.mark.slow)
        for case in itertools.product(GATED, (False, True), LOOPS)
    ],
)
def test_joined_products_change_no_value_and_no_gradient(name, reverse, by, needs_x64):
    cell, p = CELLS[name], problem(CELLS[name])
    function, block_size = LOOPS[by]
    runs = [partial(scan_of_step, cell, mask=MASK, resets=RESETS, reverse=reverse)]
    for joined in (False, True):
        plan = Plan(block_size=block_size, join_in_loop=joined, join_outside=joined)
        runs.append(partial(run_with, function, cell, Loop(plan, reverse=reverse)))
    expected, *measured = compiled(lambda p: [gradients(run, p) for run in runs], p)
    for result in measured:
        assert_close(result, expected)


@gated
def test_a_joined_product_is_one_matmul_in_the_program(name):
    cell, p = CELLS[name], problem(CELLS[name])

    def matmuls(loop):
        program = jax.make_jaxpr(partial(gradients, partial(run_with, recursion, cell, loop)))(p)
        return matmuls_per_loop(program.jaxpr), str(program).count("dot_general")

    apart = Loop(Plan())
    forward, backward = matmuls(apart)[0]
    joined_forward, joined_backward = matmuls(replace(apart, plan=Plan(join_in_loop=True)))[0]
    assert joined_forward < forward
    assert joined_backward < backward
    loops_apart, all_apart = matmuls(apart)
    loops_joined_outside, all_joined_outside = matmuls(replace(apart, plan=Plan(join_outside=True)))
    assert loops_joined_outside == loops_apart
    assert all_joined_outside < all_apart
