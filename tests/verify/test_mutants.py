"""Every wrong rule fails, at ordinary and at saturated inputs, and the report names its leaf.

`python -m experiments.gradient_checkers` judges the wrong rules of both forms of the GRU.
"""

import jax.numpy as jnp
import pytest

import gru_jax as gj
from experiments.mutants.lines import FAULTS, mean_bias, outer, scaled, with_fault
from experiments.mutants.passes import GRU_PASS_FAULTS, PASS_FAULTS, unrolled, with_faulty_rule
from tests.problems import CELLS, problem
from tests.verify import rules
from tests.verify.rules import MAKE, arguments, fast

SATURATED = 8.0
GRUS = ("gru", "gru_reset_after")


def arguments_of(cell, scale):
    p = problem(cell, dtype=jnp.float32, scale=scale)
    return p.params, p.xs, p.h0


def report_names(leaves):
    """Converts the leaf names of a planted fault to the names that a report uses."""
    return {leaf if leaf[:2] in ("xs", "h0") else f"params.{leaf}" for leaf in leaves}


def all_leaves(report):
    return set(report.leaves)


def first_by_default(faults):
    return [pytest.param(fault, marks=pytest.mark.slow if i else ()) for i, fault in enumerate(faults)]


# By default every eighth line of the GRU, which takes faults of each function of its adjoint.
LOCAL = [
    pytest.param(name, fault, marks=() if name == "gru" and i % 8 == 0 else pytest.mark.slow)
    for name in ("gru", "lstm_peephole")
    for i, fault in enumerate(FAULTS[name])
]


def test_the_faults_tested_by_default_are_of_each_function_of_the_adjoint():
    by_default = {FAULTS["gru"][param.values[1]][0] for param in LOCAL if not param.marks}
    assert by_default == {function for function, *_ in FAULTS["gru"].values()}


def test_each_form_of_the_gru_has_at_least_thirty_mutants():
    for name in GRUS:
        assert len(FAULTS[name]) + len(GRU_PASS_FAULTS) >= 30


@pytest.mark.parametrize(("name", "fault"), LOCAL)
def test_a_wrong_line_of_a_derivation_fails_and_its_leaf_is_named(name, fault):
    cell = CELLS[name]
    function, _, expected = FAULTS[name][fault]
    faulty = unrolled(with_fault(cell, FAULTS[name][fault]))
    for scale in (1.0, SATURATED):
        report = fast(faulty, *arguments_of(cell, scale))
        wrong = set(report.wrong_leaves)
        assert not report.ok, (scale, report)
        assert report["gradient"].status == "FAIL"
        if function == "input_vjp":  # outside the reverse scan: no other leaf is wrong
            assert wrong == report_names(expected), scale
        elif scale == 1.0:  # in the reverse scan: the error spreads to all earlier steps
            assert wrong >= report_names({leaf for leaf in expected if leaf[0] == "h"}), scale


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=() if fault == "the cotangent of h_last ignored" else pytest.mark.slow)
        for fault in GRU_PASS_FAULTS
    ],
)
def test_a_wrong_backward_pass_of_a_gru_fails_and_its_leaf_is_named(fault):
    assert_fails(CELLS["gru"], GRU_PASS_FAULTS[fault])


# These faults do not depend on the cell. Two of them suffice for a cell with a state of two parts.
OTHERS = [
    *(("elman_tanh", fault) for fault in PASS_FAULTS),
    *(("lstm_peephole", fault) for fault in list(PASS_FAULTS)[:1] + list(PASS_FAULTS)[4:5]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), OTHERS)
def test_a_wrong_backward_pass_of_another_cell_fails_and_its_leaf_is_named(name, fault):
    assert_fails(CELLS[name], PASS_FAULTS[fault])


def assert_fails(cell, fault):
    faulty, expected = with_faulty_rule(unrolled(cell), **fault.changes), fault.wrong
    for scale in (1.0, SATURATED):
        report = fast(faulty, *arguments_of(cell, scale))
        assert not report.ok, (scale, report)
        if expected == "out[1]":
            assert report["primal"].differences[0].leaf == "out[1]"
        elif expected == "all":
            assert set(report.wrong_leaves) == all_leaves(report), scale
        elif expected is not None:
            state = {leaf for leaf in all_leaves(report) if leaf.startswith("h0")}
            assert set(report.wrong_leaves) == (state if expected == {"h0"} else expected), scale
        else:
            assert report["gradient"].status == "FAIL"


# Faults of the Elman and the linear RNN. Each is a tuple of the name of a function of the adjoint, a
# function that makes its wrong result from its right result and its arguments, and the leaves that
# are then wrong. The leaves are None if they depend on the cell.
SIMPLE = {
    "no g₁′": ("linearize", lambda k, g, h: jnp.ones_like(k), None),
    "h₋ for h in g₁′": ("linearize", lambda k, g, h: 1 - h**2, None),
    "U not transposed": ("state_vjp", lambda out, P_T, k, d: (d * k) @ P_T.U.T, None),
    "state_vjp zero": ("state_vjp", lambda out, *rest: jnp.zeros_like(out), None),
    "the sign of state_vjp": ("state_vjp", lambda out, *rest: -out, None),
    "h for h₋ in U": ("input_vjp", lambda bars, p, xs, hs, g, k, d: (bars[0]._replace(U=outer(g, d * k)), bars[1]), {"params.U"}),
    "b averaged over the batch": ("input_vjp", mean_bias("b"), {"params.b"}),
    "W off by 1e-5": ("input_vjp", scaled("W", 1 + 1e-5), {"params.W"}),
    "x̄ without W": ("input_vjp", lambda bars, p, xs, *rest: (bars[0], jnp.ones_like(xs)), {"xs"}),
}  # fmt: skip
# The linear RNN has no coefficients, because the derivative of the identity is 1.
WITH_UNIT_COEFFICIENT = {
    "state_vjp": lambda P_T, k, d: (P_T, 1.0, d),
    "input_vjp": lambda p, xs, hs, g, k, d: (p, xs, hs, g, 1.0, d),
}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        # By default one fault, because those of the GRU are of each function of the adjoint.
        pytest.param(name, fault, marks=() if (name, fault) == ("elman_tanh", "h for h₋ in U") else pytest.mark.slow)
        for name in ("elman_tanh", "elman_relu", "linear_rnn")
        for fault, (function, *_) in SIMPLE.items()
        if function != "linearize" or name == "elman_tanh"  # these faults replace tanh′
    ],
)
def test_a_wrong_line_of_a_simple_rnn_fails_and_its_leaf_is_named(name, fault):
    cell = CELLS[name]
    function, make_wrong, expected = SIMPLE[fault]
    add_coefficient = WITH_UNIT_COEFFICIENT[function] if name == "linear_rnn" else lambda *args: args
    make = lambda right, *args: make_wrong(right, *add_coefficient(*args))
    faulty = unrolled(with_fault(cell, (function, make, set())))
    for scale in (1.0, SATURATED):
        report = fast(faulty, *arguments_of(cell, scale))
        assert not report.ok, (scale, report)
        assert expected is None or set(report.wrong_leaves) == expected, scale


@pytest.mark.parametrize("fault", first_by_default(rules.CROSS_ENTROPY_FAULTS))
def test_a_wrong_cross_entropy_fails(fault):
    for scale in (1.0, 40.0):
        report = fast(rules.cross_entropy(fault), *arguments("cross_entropy", scale=scale))
        assert report.wrong_leaves == ("logits",), scale


@pytest.mark.parametrize("fault", first_by_default(rules.LAYER_NORM_FAULTS))
def test_a_wrong_normalisation_fails_and_its_leaf_is_named(fault):
    for scale in (1.0, 1e4):
        report = fast(rules.layer_norm(fault), *arguments("layer_norm", scale=scale))
        assert set(report.wrong_leaves) == rules.LAYER_NORM_FAULTS[fault], scale


@pytest.mark.parametrize("fault", first_by_default(rules.PRODUCT_FAULTS))
def test_a_wrong_product_fails_and_its_leaf_is_named(fault):
    for scale in (1.0, 1e4):
        report = fast(rules.scaled_product(fault), *arguments("scaled_product", scale=scale))
        assert set(report.wrong_leaves) == rules.PRODUCT_FAULTS[fault], scale


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "scaled_product" else pytest.mark.slow) for name in MAKE]
)
def test_a_right_rule_that_is_not_recurrent_passes_every_check(name):
    report = gj.verify_vjp(MAKE[name](), *arguments(name))
    assert report.ok, report
    assert {check.name for check in report.checks if check.status == "NOT CHECKED"} <= {"shard_map"}
