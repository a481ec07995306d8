"""Each check finds the faults that it is meant to find, and its message names them."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from experiments.mutants.passes import unrolled, with_faulty_rule
from gru_jax.verify.checks import ALL_CHECKS, FAST_CHECKS
from gru_jax.verify.tolerances import Tolerances
from tests.problems import problem
from tests.verify import rules
from tests.verify.rules import arguments, custom_vjp, fast

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)


def dense(x, w):
    """A layer with two outputs."""
    return jnp.tanh(x @ w), (x**2).sum(axis=-1)


# The report ---------------------------------------------------------------------------------------


def test_the_report_names_the_verdict_leaf_cause_and_numbers_side_by_side():
    report = fast(with_faulty_rule(dense, gradients=lambda g: (g[0], -g[1])), X, W)
    lines = str(report).splitlines()
    assert lines[0] == "WRONG GRADIENT of w: dense: wrong sign"
    number = r"-?\d\S*"
    assert re.match(
        rf"  w\[\d, \d\]: rule {number}, autodiff {number}, differences {number} \(random cotangents \d\)", lines[1]
    )
    assert "  also failed: cotangents (w)" in lines
    assert "  reproduce: gj.verify_vjp(dense, *args, checks='gradient', key=jax.random.key(0))" in lines
    assert report["gradient"].differences[0].index != ()
    whole = report.full()
    assert re.search(r"w: relative error 2\.0e\+00 \(allowed \S+\) at \[\d, \d\]: got \S+, expected \S+ \(random", whole)
    assert whole.index("FAIL         gradient") < whole.index("PASS         primal")
    assert "versions: python" in whole


def test_the_json_report_is_complete():
    report = fast(with_faulty_rule(dense, gradients=lambda g: (g[0] * jnp.nan, g[1])), X, W)
    whole = json.loads(report.to_json())
    assert whole["ok"] is False
    assert whole["leaves"] == ["x", "w"]
    assert {check["name"] for check in whole["checks"]} == set(ALL_CHECKS)
    assert whole["header"]["versions"]["jax"] == jax.__version__
    assert next(check for check in whole["checks"] if check["name"] == "gradient")["differences"][0]["leaf"] == "x"


def test_assert_vjp_raises_an_error_with_the_report():
    gj.assert_vjp(with_faulty_rule(dense), X, W, checks="fast")
    with pytest.raises(AssertionError, match="WRONG GRADIENT of w: dense: zero: the rule returns None or zeros for w"):
        gj.assert_vjp(with_faulty_rule(dense, gradients=lambda g: (g[0], None)), X, W, checks="fast")


CAUSES = {
    "wrong sign": lambda x, w: (x, -w),
    "a factor of 1/3: a mean over 3 terms instead of their sum": lambda x, w: (x / 3, w),
    "a factor of 1.01": lambda x, w: (x * 1.01, w),
    "only the entries at index 3 (the last) of axis 1 are wrong": lambda x, w: (x.at[:, 3].set(0), w),
    "only 1 of 12 entries are wrong": lambda x, w: (x.at[0, 0].add(1.0), w),
}


def likely_causes(fun, *args, **changes):
    """Returns the likely cause for each leaf that a faulty rule of `fun` gets wrong."""
    report = fast(with_faulty_rule(fun, **changes), *args)
    return {difference.leaf: difference.likely_cause for difference in report["gradient"].differences}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_report_names_the_likely_cause(cause):
    causes = list(likely_causes(dense, X, W, gradients=lambda g: CAUSES[cause](*g)).values())
    if "only 1 of" in cause:  # one wrong entry is also one wrong index of an axis
        assert causes == ["only the entries at index 0 (the first) of axis 0 are wrong"]
    else:
        assert causes == [cause]


def test_the_report_recognises_transposed_and_swapped_leaves():
    square = (W[:, :4], W[:, 1:])
    product = lambda a, b: (a @ b) * jnp.array([1.0, 2.0, 3.0, 4.0])
    causes = lambda change: sorted(likely_causes(product, *square, gradients=change).values())
    assert causes(lambda g: (g[0].T, g[1])) == ["transposed"]
    assert causes(lambda g: g[::-1]) == ["swapped with the gradient of a", "swapped with the gradient of b"]
    assert causes(lambda g: (g[1], g[1])) == ["equal to the gradient of b"]


def test_the_report_recognises_missing_terms():
    without_last_row = likely_causes(dense, X, W, cotangents=lambda u: (u[0].at[-1].set(0), u[1]))
    assert without_last_row["w"] == "the sum over axis 0 of out[0] lacks the term at index 2 (the last)"
    ignored = likely_causes(dense, X, W, cotangents=lambda u: (jnp.zeros_like(u[0]), u[1]))
    assert ignored["x"] == "the cotangent of out[0] is ignored"


# Mistakes that JAX accepts without a warning ------------------------------------------------------


def doubled(backward, forward=lambda x: x * 2):
    """Returns x ↦ 2x with a rule that returns `backward(cotangent)`, and `forward(x)` as output."""
    return custom_vjp(lambda x: x * 2, lambda x: (forward(x), None), lambda _, u: (backward(u),))


@pytest.mark.parametrize(
    ("backward", "dtype", "message"),
    [
        pytest.param(
            lambda u: (2 * u).astype(jnp.float32),
            jnp.bfloat16,
            "the cotangent of x has dtype float32, but its leaf has bfloat16",
            marks=pytest.mark.slow,
        ),
        (
            lambda u: (2 * u).astype(jnp.bfloat16),
            jnp.float32,
            "the cotangent of x has dtype bfloat16, but its leaf has float32",
        ),
        (
            lambda u: 2 * (u if isinstance(u, jax.core.Tracer) else np.asarray(u)),
            jnp.float32,
            "the cotangent of x must be a jax.Array, got numpy.ndarray",
        ),
    ],
    ids=["wide", "narrow", "numpy"],
)
def test_a_cotangent_of_another_type_fails(backward, dtype, message):
    x = jnp.asarray(X, dtype)
    report = gj.verify_vjp(doubled(backward), x, checks=("all", "-flags"))
    assert report["structure"].status == "FAIL"
    assert message in report["structure"].text


@pytest.mark.parametrize(
    ("forward", "check"),
    [
        (lambda x: x * 2.001, "primal"),
        (lambda x: (x * 2).astype(jnp.bfloat16), "structure"),
        (lambda x: (x * 2)[:1], "structure"),
    ],
    ids=["value", "dtype", "shape"],
)
def test_a_forward_rule_with_other_outputs_fails(forward, check):
    report = fast(doubled(lambda u: 2 * u, forward), X)
    assert report[check].status == "FAIL", report


def test_an_integer_output_that_differs_from_the_reference_fails():
    def reference(x):
        return x * 2, jnp.argmax(x) + 1

    f = custom_vjp(lambda x: (x * 2, jnp.argmax(x)), lambda x: ((x * 2, jnp.argmax(x)), None), lambda _, u: (2 * u[0],))
    assert fast(f, X).ok
    assert fast(f, X, reference=reference)["primal"].status == "FAIL"


def test_a_rule_that_raises_fails_and_the_report_quotes_the_error():
    report = fast(custom_vjp(lambda x: 2 * x, lambda x: (2 * x, None), lambda _, u: (u, u)), X)
    assert report["structure"].status == "FAIL"
    assert "the rule raises" in report["structure"].text
    assert report["gradient"].status == "NOT CHECKED"
    assert not gj.verify_vjp(
        custom_vjp(lambda x: 2 * x, lambda x: (2 * x, None), lambda _, u: (u, u)), X, checks=("gradient",)
    ).ok


# Each check alone ---------------------------------------------------------------------------------


def test_a_rule_that_is_not_linear_in_the_cotangents_fails():
    for backward in (lambda u: 2 * u + 1e-6, lambda u: 2 * u + u**2 * 1e-9):
        report = gj.verify_vjp(doubled(backward), X, checks=("linearity",))
        assert report["linearity"].status == "FAIL"
    zero = gj.verify_vjp(doubled(lambda u: 2 * u + 1e-6), X, checks=("linearity",))["linearity"]
    assert str(zero.differences[0]).startswith("x: wrong: got 1e-06, expected 0 (all cotangents zero)\n")
    assert "a term that does not contain the cotangent" in str(zero.differences[0])


def test_a_rule_that_depends_on_earlier_calls_fails():
    calls = []

    def noise(u):
        calls.append(0)
        return u * (2 + 1e-3 * len(calls))

    report = gj.verify_vjp(doubled(noise), X, checks=("determinism",))
    assert report["determinism"].status == "FAIL"
    assert "runs with the same inputs return different gradients of x" in report["determinism"].text


def test_an_error_in_the_cotangent_of_one_output_is_attributed_to_it():
    f = with_faulty_rule(dense, cotangents=lambda u: (u[0], u[1] * 1.001))
    report = fast(f, X, W)
    assert {d.condition for d in report["cotangents"].differences} == {"only out[1]"}


def test_a_rule_that_loses_precision_fails_only_in_its_own_dtype():
    """A difference of large numbers is exact to 1e-9 in float64, and wrong in float32."""
    f = custom_vjp(lambda x: x**2, lambda x: (x**2, x), lambda x, u: (u * ((1e6 + x) - (1e6 - x)),))
    assert gj.verify_vjp(f, X, checks=("native",), rtol=1e-6)["native"].status == "FAIL"
    assert gj.verify_vjp(f, X, checks=("gradient",), rtol=1e-6)["gradient"].status == "PASS"


def test_a_saturated_gate_passes_because_autodiff_loses_as_many_digits():
    """At 8 in float32, both 1 − tanh² and JAX's own rule lose all digits."""
    f = custom_vjp(jnp.tanh, lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, u: (u * (1 - y**2),))
    assert gj.verify_vjp(f, np.linspace(8, 20, 7, dtype=np.float32), checks=("gradient", "native")).ok


@pytest.mark.parametrize("checks", ["fast", pytest.param("all", marks=pytest.mark.slow)])
def test_a_leaf_whose_gradient_is_only_rounding_error_passes(checks):
    """A shift of all logits has no effect. The rule and autodiff both return rounding errors."""
    loss = rules.cross_entropy()
    shifted = lambda logits, labels, shift: loss(logits + shift, labels)
    report = gj.verify_vjp(shifted, *arguments("cross_entropy"), jnp.float32(0.3), checks=checks)
    assert report.ok, report
    assert report["inputs"].blind_inputs[0].startswith("shift has a gradient that is zero up to rounding")


def test_the_numerical_check_alone_finds_a_wrong_rule_and_passes_a_right_one():
    wrong = with_faulty_rule(dense, gradients=lambda g: (g[0] * (1 + 1e-5), g[1]))
    report = gj.verify_vjp(wrong, X, W, checks=("numerical",))
    assert [d.leaf for d in report["numerical"].differences] == ["x"]
    right = gj.verify_vjp(with_faulty_rule(dense), X, W, checks=("numerical",))["numerical"]
    assert right.status == "PASS"
    assert min(right.details["slopes"]) > 1.9


def test_the_numerical_check_scales_its_steps_with_the_leaf():
    """Steps near 1 would not show an error in sin(x/1e6) at x = 1e6."""
    sine = lambda x: jnp.sin(x / 1e6)
    large = 1e6 * X
    assert gj.verify_vjp(with_faulty_rule(sine), large, checks=("numerical",)).ok
    assert not gj.verify_vjp(with_faulty_rule(sine, gradients=lambda g: (g[0] * 1.0001,)), large, checks=("numerical",)).ok


def test_the_numerical_check_never_passes_a_rough_function():
    steps = lambda x: jnp.round(x * 1e3) / 1e3  # rough at the scale of every step
    report = gj.verify_vjp(custom_vjp(steps, lambda x: (steps(x), None), lambda _, u: (u,)), X, checks=("numerical",))
    assert report["numerical"].status != "PASS"
    rough = lambda x: x + 1e-7 * jnp.sin(x * 1e7)
    report = gj.verify_vjp(custom_vjp(rough, lambda x: (rough(x), None), lambda _, u: (u,)), X, checks=("numerical",))
    assert report["numerical"].status != "PASS"


@pytest.mark.slow
def test_the_numerical_check_leaves_a_chaotic_function_undecided():
    """The gradient of this random tanh RNN is so large that no step is small enough."""
    cell = gj.elman()
    p = problem(cell, steps=150, batch=(2,), input_size=3, hidden_size=20, dtype=jnp.float32, scale=4.0)
    report = gj.verify_vjp(unrolled(cell), p.params, p.xs, p.h0, checks=("gradient", "numerical", "guard"))
    assert report.ok, report
    assert report["numerical"].status == "NOT CHECKED"


def square_root(sign):
    """Returns √x with a rule whose gradient has this sign. √x is NaN for negative x."""
    return custom_vjp(jnp.sqrt, lambda x: (jnp.sqrt(x), x), lambda x, u: (sign * u / (2 * jnp.sqrt(x)),))


def test_the_numerical_check_leaves_out_steps_that_leave_the_domain():
    """The large steps reach negative x in one entry, where the values are NaN."""
    x = np.array([900, 0.05, 400, 650], np.float32)
    assert gj.verify_vjp(square_root(1), x, checks=("numerical",))["numerical"].status == "PASS"
    assert gj.verify_vjp(square_root(-1), x, checks=("numerical",))["numerical"].status == "FAIL"


def test_the_numerical_check_does_not_decide_if_all_differences_are_nan():
    at_zero = gj.verify_vjp(square_root(1), np.array([900.0, 1e-30], np.float32), checks=("numerical",))
    assert at_zero["numerical"].status == "NOT CHECKED"
    assert "(NaN or infinity)" in at_zero["numerical"].text


@pytest.mark.parametrize("check", ["numerical", "dot_product"])
def test_a_gradient_of_nan_fails(check):
    """NaN compares as False with every tolerance."""
    f = with_faulty_rule(lambda x: jnp.sin(x), gradients=lambda g: (g[0] * jnp.nan,))
    assert gj.verify_vjp(f, X, checks=(check,))[check].status == "FAIL"


def test_the_dot_product_check_names_the_wrong_leaf():
    report = gj.verify_vjp(with_faulty_rule(dense, gradients=lambda g: (g[0], g[1] * 1.001)), X, W, checks=("dot_product",))
    assert report.wrong_leaves == ("w",)


def second_order_wrong():
    """Returns x³ with a right gradient. Its second derivative is wrong, because x² is constant."""
    return custom_vjp(lambda x: x**3, lambda x: (x**3, jax.lax.stop_gradient(x)), lambda x, u: (3 * x**2 * u,))


def test_a_wrong_second_derivative_fails():
    report = gj.verify_vjp(second_order_wrong(), X, checks=("gradient", "second_order"))
    assert report["gradient"].status == "PASS"
    assert report["second_order"].status == "FAIL"
    assert report.wrong_leaves == ("x",)


def test_a_forward_rule_that_calls_the_decorated_function_has_a_note_at_second_order():
    """The pattern of JAX's documentation. JAX refuses forward over reverse; reverse over reverse decides."""
    f = jax.custom_vjp(lambda x: x**3)
    f.defvjp(lambda x: (f(x), x), lambda x, u: (3 * x**2 * u,))
    report = gj.verify_vjp(f, X, checks=("gradient", "second_order"))
    assert report.verdict == "RIGHT with notes"
    assert report["second_order"].status == "PASS"
    assert "undecorated" in report["second_order"].text
    half = jax.custom_vjp(lambda x: x**3)
    half.defvjp(lambda x: (half(x), jax.lax.stop_gradient(x)), lambda x, u: (3 * x**2 * u,))
    assert gj.verify_vjp(half, X, checks=("gradient", "second_order"))["second_order"].status == "FAIL"


def test_a_rule_that_cannot_be_batched_is_right_unless_vmap_is_required():
    def callback(u):
        return jax.pure_callback(lambda u: 2 * np.asarray(u), jax.ShapeDtypeStruct(u.shape, u.dtype), u)

    report = gj.verify_vjp(doubled(callback), X, checks=("gradient", "vmap", "scan", "checkpoint"))
    assert report.verdict == "RIGHT with notes"
    assert report["vmap"].status == "NOT CHECKED"
    assert "pure_callback" in report["vmap"].text.lower()
    required = gj.verify_vjp(doubled(callback), X, checks=("gradient", "vmap"), require="vmap")
    assert (required.ok, required.verdict) == (False, "NOT CHECKED")
    assert "vmap is required: over x: the rule raises" in str(required)


def test_vmap_is_not_checked_if_only_the_rule_raises_over_one_argument_and_passes_if_jax_does():
    twice = lambda w: jax.pure_callback(lambda w: 2 * np.asarray(w), jax.ShapeDtypeStruct(w.shape, w.dtype), w)
    by_callback = lambda x, w: x * jax.lax.stop_gradient(twice(jax.lax.stop_gradient(w)))

    def report(primal):
        f = custom_vjp(
            primal, lambda x, w: (primal(x, w), w), lambda w, u: (u * twice(w), 0 * w if primal is by_callback else 2 * u * X)
        )
        return gj.verify_vjp(f, X, X[::-1], checks=("gradient", "vmap"))["vmap"]

    rule_alone = report(lambda x, w: 2 * x * w)
    assert rule_alone.status == "NOT CHECKED"
    assert rule_alone.text.startswith("the gradient is right: over x; over w: the rule raises NotImplementedError")
    both = report(by_callback)
    assert both.status == "PASS"
    assert both.text.startswith("the gradient is right: over x; over w: the reference raises too (NotImplementedError")
    assert both.notes[0] == "vmap over w raises with and without the rule"


def test_a_rule_that_is_wrong_only_if_batched_fails_under_vmap():
    """The factor is 1.5 instead of 2 if the rule is batched."""

    def backward(x, u):
        batched = type(x).__name__ == "BatchTracer" or type(u).__name__ == "BatchTracer"
        return (u * (1.5 if batched else 2.0),)

    f = custom_vjp(lambda x: 2 * x, lambda x: (2 * x, x), backward)
    assert gj.verify_vjp(f, X, checks=("gradient",)).ok
    assert gj.verify_vjp(f, X, checks=("vmap",))["vmap"].status == "FAIL"


def test_an_output_that_does_not_depend_on_the_batched_argument_never_passes_under_vmap():
    """out[1] does not depend on w.

    Batched over w, JAX 0.10 silently adds the cotangent of out[1] to x̄ once for each example. JAX
    0.12 raises.
    """

    def primal(x, w):
        return jnp.tanh(x @ w), x.sum()

    def backward(saved, u):
        x, w = saved
        a = u[0] * (1 - jnp.tanh(x @ w) ** 2)
        return a @ w.T + u[1], x.T @ a

    f = custom_vjp(primal, lambda x, w: (primal(x, w), (x, w)), backward)
    report = gj.verify_vjp(f, X, W, checks=("fast", "numerical", "vmap"))
    silent = "over w: the rule raises" not in report["vmap"].text
    assert [check.name for check in report.failed] == (["vmap"] if silent else [])
    assert report["vmap"].status == ("FAIL" if silent else "NOT CHECKED")
    assert "over w" in report["vmap"].text


def test_a_wrong_dtype_fails_in_a_scan():
    f = doubled(lambda u: (2 * u).astype(jnp.float32))
    report = gj.verify_vjp(f, X.astype(np.float64) if jax.config.jax_enable_x64 else X, checks=("scan", "checkpoint"))
    assert not report.ok
    assert "the rule raises" in report["scan"].text


def test_overflow_fails_where_values_and_autodiff_are_finite_and_a_policy_for_nan_is_mentioned():
    overflow = custom_vjp(  # log(1 + eˣ) by eˣ/(1 + eˣ), which is ∞/∞ at 1e4
        jax.nn.softplus,
        lambda x: (jax.nn.softplus(x), jnp.exp(x)),
        lambda e, u: (u * e / (1 + e),),
    )
    report = gj.verify_vjp(overflow, X, checks=("gradient", "edges"))
    assert report["gradient"].status == "PASS"
    assert "the rule is wrong at some of 7 extreme inputs" in report["edges"].text
    assert report["edges"].differences[0].condition == "all leaves up to 10000"
    assert str(report["edges"].differences[0]).startswith("x: wrong at [")
    assert report["edges"].differences[0].by_differences == pytest.approx((report["edges"].differences[0].expected,), abs=1e-6)
    hidden = with_faulty_rule(lambda x: jnp.sin(x).sum(), gradients=lambda g: (jnp.nan_to_num(g[0]),))
    report = gj.verify_vjp(hidden, X, checks=("gradient", "edges"))
    assert report["edges"].status == "PASS"
    assert "unlike autodiff: x (x with one NaN)" in report["edges"].text


def test_a_rule_that_is_right_where_autodiff_is_nan_passes_and_the_report_says_so():
    safe = lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0)  # its autodiff is NaN at negative x
    f = custom_vjp(
        safe, lambda x: (safe(x), x), lambda x, u: (jnp.where(x > 0, u / (2 * jnp.sqrt(jnp.where(x > 0, x, 1.0))), 0.0),)
    )
    report = gj.verify_vjp(f, np.abs(X) + 0.1, checks=("gradient", "edges"))
    assert report.ok, report
    assert "right where autodiff is not" in report["edges"].text


def test_the_guard_fails_if_a_planted_fault_passes(monkeypatch):
    monkeypatch.setattr(Tolerances, "of_leaves", property(lambda self: (1e-2,) * len(self.rtols)))
    report = fast(with_faulty_rule(dense), X, W)
    assert report["guard"].status == "FAIL"
    assert "planted faults are not found: x times 1.001" in report["guard"].text


def test_a_large_rtol_is_reported_as_hiding_planted_faults():
    report = gj.verify_vjp(with_faulty_rule(dense), X, W, checks="fast", rtol=0.1)
    assert report["guard"].status == "NOT CHECKED"
    assert "rtol is 0.1" in report["guard"].text


def test_a_function_without_a_rule_is_compared_with_differences():
    for fun in (lambda x: x**2, jax.nn.relu):
        report = fast(fun, X)
        assert report.verdict == "RIGHT with notes"
        assert "no custom rule is called" in report.notes[0]
        assert report.evidence == {"x": ("numerical",)}
        assert gj.verify_vjp(fun, X, checks=("gradient", "guard")).verdict == "NOT CHECKED"
    assert fast(lambda x: x**2, X, reference=lambda x: x * x).verdict == "RIGHT"


# Choosing checks, and bad arguments ---------------------------------------------------------------


def test_the_fast_checks_are_the_first_of_all_checks():
    assert list(ALL_CHECKS)[: len(FAST_CHECKS)] == list(FAST_CHECKS)
    report = fast(with_faulty_rule(dense), X, W)
    assert {check.name for check in report.checks if check.requested} == set(FAST_CHECKS)


def test_checks_are_chosen_by_name_and_left_out_with_a_minus():
    run = lambda checks: {c.name for c in gj.verify_vjp(with_faulty_rule(dense), X, W, checks=checks).checks if c.requested}
    assert run(("primal", "guard")) == {"primal", "guard"}
    assert run(("fast", "-guard")) == set(FAST_CHECKS) - {"guard"}
    assert run("linearity") == {"linearity"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checks": "quick"}, "checks must be 'all', 'fast' or names of checks, got 'quick'; the names are primal"),
        ({"checks": ("primal", "-primal")}, "checks must select at least one check, got"),
        ({"require": "all"}, "require must name checks, got 'all'; the names are primal"),
        ({"rtol": -1.0}, r"rtol must be in \[0, 1\), got -1.0"),
        (
            {"reference": lambda x, w: x @ w},
            r"reference must return the shapes that fun returns, got float\d+\[3, 5\], expected",
        ),
    ],
    ids=["check", "none", "require", "rtol", "reference"],
)
def test_bad_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        gj.verify_vjp(dense, X, W, **options)


def test_bad_arguments_raise():
    with pytest.raises(TypeError, match="fun must be a function"):
        gj.verify_vjp(dense(X, W))
    with pytest.raises(ValueError, match="args must contain a floating array, got"):
        gj.verify_vjp(lambda n: n, 3)
    with pytest.raises(ValueError, match="fun must return a floating array to differentiate"):
        gj.verify_vjp(lambda x: x > 0, X)
    with pytest.raises(ValueError, match="w must not contain NaN"):
        gj.verify_vjp(dense, X, W * np.nan)
    with pytest.raises(KeyError, match="name must be a check of this report, got 'speed'"):
        fast(with_faulty_rule(dense), X, W)["speed"]


def test_another_key_changes_the_cotangents_and_the_seed_in_the_report():
    one, other = (fast(with_faulty_rule(dense), X, W, key=jax.random.key(seed)) for seed in (1, 2))
    assert one.header["seed"] != other.header["seed"]
    wrong = with_faulty_rule(dense, gradients=lambda g: (g[0] * 1.5, g[1]))
    figures = {fast(wrong, X, W, key=jax.random.key(seed))["gradient"].differences[0].value for seed in (1, 2)}
    assert len(figures) == 2
