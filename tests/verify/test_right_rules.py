"""Right rules never fail.

They are verified on 200 random problems, ordinary and saturated. Built-in cells get every check.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from experiments.mutants.passes import unrolled
from gru_jax.verify.cases import cases, cells
from tests.problems import CELLS
from tests.verify.rules import MAKE, arguments, fast

SHAPES = [(5, 2, 3, 4), (1, 1, 1, 1), (7, 3, 4, 5), (2, 4, 1, 3), (6, 1, 5, 2), (3, 2, 4, 1), (8, 3, 2, 6), (9, 2, 5, 3)]
SEEDS_PER_SHAPE = 25
RULES = (*CELLS, *MAKE)
THREE = range(3)  # each shape gets three of the rules, and the seeds take turns
# By default only the first rule of the second shape, elman_sigmoid.
PROBLEMS = [
    pytest.param(shape, which, marks=() if (shape, which) == (SHAPES[1], 0) else pytest.mark.slow)
    for shape in SHAPES
    for which in THREE
]


def seeds_of(which):
    return range(which, SEEDS_PER_SHAPE, len(THREE))


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


@pytest.mark.parametrize(("shape", "which"), PROBLEMS, ids=str)
def test_right_rules_never_fail(shape, which):
    number = SHAPES.index(shape)
    name = RULES[(3 * number + which) % len(RULES)]
    for seed in seeds_of(which):
        key = jax.random.key(seed)
        if name in MAKE:
            report = fast(MAKE[name](), *arguments(name, seed, scale=10.0 ** (seed % 3)), key=key)
        else:
            report = fast(unrolled(CELLS[name]), *random_problem(name, 1000 * number + seed, shape), key=key)
        assert report.ok, (name, seed, report)


def test_there_are_two_hundred_random_problems():
    assert len(SHAPES) * sum(len(seeds_of(which)) for which in THREE) == 200


# `python -m gru_jax.verify` has more: every option of every cell.
WITH_OPTIONS = ("gru", "lstm peephole")
BUILT_IN = {
    name: make
    for name, make in cases().items()
    if (cell := name.split(", ")[0]) == name or cell in WITH_OPTIONS or cell not in cells()
}
FIRST = ("gru, lengths, mask, resets", "gru, gj.step")


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
    norm = MAKE["layer_norm"]()
    report = fast(lambda x, scale, shift, unused: norm(x, scale, shift), *arguments("layer_norm"), jnp.array([1.0, 2.0]))
    assert report.ok
    assert report["inputs"].blind_inputs == ("unused has a zero gradient: a missing gradient does not show",)
