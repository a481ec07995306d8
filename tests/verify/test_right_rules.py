"""Right rules never fail.

They are verified on 200 random problems, ordinary and saturated. Built-in cells get every check.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from experiments.mutants.passes import unrolled
from gru_jax.verify.cases import cases
from tests.problems import CELLS, normal_like
from tests.verify.rules import MAKE, arguments, fast

SHAPES = [(5, 2, 3, 4), (1, 1, 1, 1), (7, 3, 4, 5), (2, 4, 1, 3), (6, 1, 5, 2), (3, 2, 4, 1), (8, 3, 2, 6), (9, 2, 5, 3)]
MAIN = SHAPES[:1]  # the tests of the other shapes are slow
SEEDS_PER_SHAPE = 25
RULES = (*CELLS, *MAKE)  # each shape gets three of them


def random_problem(name, seed, shape):
    """Returns random arguments whose weights range from small to saturating."""
    steps, batch, inputs, hidden = shape
    rng = np.random.default_rng(seed)
    scale = float(rng.choice([0.3, 1.0, 3.0, 8.0]))
    cell = CELLS[name]
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), inputs, hidden))
    draw = lambda leaf: (scale * rng.standard_normal(leaf.shape)).astype(np.float32)
    params = jax.tree.map(draw, params)
    xs = rng.standard_normal((steps, batch, inputs)).astype(np.float32)
    return params, xs, jax.tree.map(draw, cell.initial_state(params, (batch,)))


@pytest.mark.parametrize("shape", [pytest.param(s, marks=() if s in MAIN else pytest.mark.slow) for s in SHAPES], ids=str)
def test_right_rules_never_fail(shape):
    number = SHAPES.index(shape)
    for seed in range(SEEDS_PER_SHAPE):
        name = RULES[(3 * number + seed % 3) % len(RULES)]
        key = jax.random.key(seed)
        if name in MAKE:
            report = fast(MAKE[name](), *arguments(name, seed, scale=10.0 ** (seed % 3)), key=key)
        else:
            report = fast(unrolled(CELLS[name]), *random_problem(name, 1000 * number + seed, shape), key=key)
        assert report.ok, (name, seed, report)


def test_there_are_two_hundred_random_problems():
    assert len(SHAPES) * SEEDS_PER_SHAPE == 200


BUILT_IN = cases()
FIRST = (
    "gru",
    "gru, lengths, mask, resets",
    "gru, one step",
    "gru, gj.step",
    "bidirectional gru reset_after, lengths and resets",
)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in BUILT_IN])
def test_built_in_cells_and_options_pass(name):
    fun, args, options = BUILT_IN[name]()
    report = gj.verify_vjp(fun, *args, **options)
    assert report.ok, report
    assert report["gradient"].status == "PASS" or "gj.step" in name  # which has no rule
    if options["checks"] == "all":
        assert {check.name for check in report.checks if check.status == "NOT CHECKED"} == {"shard_map"}


def test_a_state_of_zeros_and_weights_of_ones_are_reported_as_blind_inputs():
    cell = gj.gru()
    params = jax.tree.map(jnp.ones_like, cell.init(jax.random.key(0), 4, 5))
    xs = jax.random.normal(jax.random.key(1), (7, 3, 4), jnp.float32)
    report = fast(unrolled(cell), params, xs, jnp.zeros((3, 5), jnp.float32))
    assert report.ok
    assert report["inputs"].status == "NOT CHECKED"
    blind = "; ".join(report["inputs"].blind_inputs)
    assert "h0 is zero" in blind
    assert "params.U_h is constant" in blind


def test_a_leaf_without_influence_is_reported_as_a_blind_input():
    cell = gj.gru()
    params = normal_like(0, cell.init(jax.random.key(0), 4, 5))
    xs, h0 = (normal_like(k, jnp.zeros(shape, jnp.float32)) for k, shape in enumerate([(7, 3, 4), (3, 5)]))

    def first_state(params, xs, h0, unused):
        return gj.unroll(cell, params, xs, h0)

    report = fast(first_state, params, xs, h0, jnp.array([1.0, 2.0]))
    assert report.ok
    assert report["inputs"].blind_inputs == ("unused has a zero gradient: a missing gradient does not show",)
