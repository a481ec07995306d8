"""Every check sees what it is for, and says what it saw."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from experiments.mutants.passes import spoiled, unrolled
from gru_jax.verify.verify import CHECKS, FAST
from tests.problems import problem
from tests.verify import rules
from tests.verify.rules import arguments, fast

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)


def dense(x, w):
    """Two outputs of one function."""
    return jnp.tanh(x @ w), (x**2).sum(axis=-1)


def ruled(primal, forward, backward):
    """A `custom_vjp` from its three parts."""
    f = jax.custom_vjp(primal)
    f.defvjp(forward, backward)
    return f


# The result: verdict first, leaf, size, place, cotangent, hint -----------------------------------------------------------------------


def test_the_report_names_verdict_leaf_size_place_cotangent_and_cause():
    report = fast(spoiled(dense, bars=lambda bars: (bars[0], -bars[1])), X, W)
    text = str(report)
    assert text.startswith("FAIL: dense: 2 failed")
    assert text.splitlines()[1] == "wrong: w"
    assert "w: off by 2.0e+00 of its scale at [" in text
    assert "random cotangents 0: got" in text
    assert "likely cause: the sign" in text
    assert text.index("FAIL         gradient") < text.index("PASS         primal")
    assert report["gradient"].differences[0].at != ()


def test_json_holds_all_of_it():
    report = fast(spoiled(dense, bars=lambda bars: (bars[0] * jnp.nan, bars[1])), X, W)
    whole = json.loads(report.to_json())
    assert whole["ok"] is False
    assert whole["leaves"] == ["x", "w"]
    assert {check["name"] for check in whole["checks"]} == set(CHECKS)
    assert whole["header"]["versions"]["jax"] == jax.__version__
    assert next(check for check in whole["checks"] if check["name"] == "gradient")["differences"][0]["leaf"] == "x"


def test_assert_vjp_raises_with_the_report():
    gj.assert_vjp(spoiled(dense), X, W, checks="fast")
    with pytest.raises(AssertionError, match="likely cause: zero: the rule returns None or zeros for w"):
        gj.assert_vjp(spoiled(dense, bars=lambda bars: (bars[0], None)), X, W, checks="fast")


HINTS = {
    "the sign": lambda x, w: (x, -w),
    "a factor of 1/3: a mean over 3 terms where their sum belongs": lambda x, w: (x / 3, w),
    "a factor of 1.01": lambda x, w: (x * 1.01, w),
    "only the entries at index 3 (the last) of axis 1 are wrong": lambda x, w: (x.at[:, 3].set(0), w),
    "only 1 of 12 entries are wrong": lambda x, w: (x.at[0, 0].add(1.0), w),
}


@pytest.mark.parametrize("cause", HINTS)
def test_hints(cause):
    report = fast(spoiled(dense, bars=lambda bars: HINTS[cause](*bars)), X, W)
    hints = [d.hint for d in report["gradient"].differences]
    if "only 1 of" in cause:  # one entry is one index of either axis
        assert hints == ["only the entries at index 0 (the first) of axis 0 are wrong"]
    else:
        assert hints == [cause]


def test_hints_of_square_and_of_equal_leaves():
    square = (W[:, :4], W[:, 1:])
    product = lambda a, b: (a @ b) * jnp.array([1.0, 2.0, 3.0, 4.0])
    assert (
        fast(spoiled(product, bars=lambda bars: (bars[0].T, bars[1])), *square)["gradient"].differences[0].hint == "transposed"
    )
    hints = [d.hint for d in fast(spoiled(product, bars=lambda bars: bars[::-1]), *square)["gradient"].differences]
    assert sorted(hints) == ["swapped with a", "swapped with b"]
    hints = [d.hint for d in fast(spoiled(product, bars=lambda bars: (bars[1], bars[1])), *square)["gradient"].differences]
    assert hints == ["it is the gradient of b"]


def test_hints_of_missing_terms():
    last_row = fast(spoiled(dense, cotangents=lambda u: (u[0].at[-1].set(0), u[1])), X, W)["gradient"].differences
    assert {d.leaf: d.hint for d in last_row}["w"] == "the sum over axis 0 of out[0] misses the term of index 2 (the last)"
    ignored = fast(spoiled(dense, cotangents=lambda u: (jnp.zeros_like(u[0]), u[1])), X, W)["gradient"].differences
    assert {d.leaf: d.hint for d in ignored}["x"] == "the cotangent of out[0] is ignored"


# What JAX accepts in silence -----------------------------------------------------------------------------------------------------------


def scaled_by(factor):
    """x ↦ factor·x with a rule that returns what `make` makes of the cotangent."""
    return lambda make, forward=lambda x: x * factor: ruled(
        lambda x: x * factor, lambda x: (forward(x), None), lambda _, u: (make(u),)
    )


@pytest.mark.parametrize(
    ("make", "dtype", "said"),
    [
        (lambda u: (2 * u).astype(jnp.float32), jnp.bfloat16, "cotangent of x has dtype float32, its leaf's is bfloat16"),
        (lambda u: (2 * u).astype(jnp.bfloat16), jnp.float32, "cotangent of x has dtype bfloat16, its leaf's is float32"),
        (
            lambda u: 2 * (u if isinstance(u, jax.core.Tracer) else np.asarray(u)),
            jnp.float32,
            "cotangent of x is a numpy.ndarray, not a jax.Array",
        ),
    ],
    ids=["wide", "narrow", "numpy"],
)
def test_a_cotangent_of_another_type_is_red(make, dtype, said):
    x = jnp.asarray(X, dtype)
    report = gj.verify_vjp(scaled_by(2)(make), x, checks=("all", "-flags"))
    assert report["structure"].status == "FAIL"
    assert said in report["structure"].text


@pytest.mark.parametrize(
    ("forward", "check"),
    [
        (lambda x: x * 2.001, "primal"),
        (lambda x: (x * 2).astype(jnp.bfloat16), "structure"),
        (lambda x: (x * 2)[:1], "structure"),
    ],
    ids=["value", "dtype", "shape"],
)
def test_other_outputs_of_the_forward_rule_are_red(forward, check):
    report = fast(scaled_by(2)(lambda u: 2 * u, forward), X)
    assert report[check].status == "FAIL", report


def test_an_integer_output_of_another_value_is_red():
    def reference(x):
        return x * 2, jnp.argmax(x) + 1

    f = ruled(lambda x: (x * 2, jnp.argmax(x)), lambda x: ((x * 2, jnp.argmax(x)), None), lambda _, u: (2 * u[0],))
    assert fast(f, X).ok
    assert fast(f, X, reference=reference)["primal"].status == "FAIL"


def test_a_rule_that_raises_is_red_and_says_so():
    report = fast(ruled(lambda x: 2 * x, lambda x: (2 * x, None), lambda _, u: (u, u)), X)
    assert report["structure"].status == "FAIL"
    assert "the rule raises" in report["structure"].text
    assert report["gradient"].status == "NOT CHECKED"
    assert not gj.verify_vjp(ruled(lambda x: 2 * x, lambda x: (2 * x, None), lambda _, u: (u, u)), X, checks=("gradient",)).ok


# One check each ------------------------------------------------------------------------------------------------------------------------


def test_a_rule_that_is_not_linear_is_red():
    for make in (lambda u: 2 * u + 1e-6, lambda u: 2 * u + u**2 * 1e-9):
        report = gj.verify_vjp(scaled_by(2)(make), X, checks=("linearity",))
        assert report["linearity"].status == "FAIL"
    zero = gj.verify_vjp(scaled_by(2)(lambda u: 2 * u + 1e-6), X, checks=("linearity",))["linearity"]
    assert "a term without a cotangent in it" in str(zero.differences[0])


def test_a_rule_with_a_memory_is_red():
    calls = []

    def noise(u):
        calls.append(0)
        return u * (2 + 1e-3 * len(calls))

    report = gj.verify_vjp(scaled_by(2)(noise), X, checks=("determinism",))
    assert report["determinism"].status == "FAIL"
    assert "another result at the second run: x" in report["determinism"].text


def test_only_the_cotangent_of_one_output_may_be_wrong():
    f = spoiled(dense, cotangents=lambda u: (u[0], u[1] * 1.001))
    report = fast(f, X, W)
    assert {d.where for d in report["cotangents"].differences} == {"only out[1]"}


def test_a_rule_that_loses_precision_is_red_in_its_own_dtype_only():
    """A difference of large numbers: good to 1e-9 in float64, and useless in float32."""
    f = ruled(lambda x: x**2, lambda x: (x**2, x), lambda x, u: (u * ((1e6 + x) - (1e6 - x)),))
    assert gj.verify_vjp(f, X, checks=("native",), rtol=1e-6)["native"].status == "FAIL"
    assert gj.verify_vjp(f, X, checks=("gradient",), rtol=1e-6)["gradient"].status == "PASS"


def test_saturated_gates_are_judged_by_autodiffs_own_error():
    """1 − tanh² is wholly wrong at 8 in float32, and so is JAX's own rule: neither is red."""
    f = ruled(jnp.tanh, lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, u: (u * (1 - y**2),))
    assert gj.verify_vjp(f, np.linspace(8, 20, 7, dtype=np.float32), checks=("gradient", "native")).ok


def test_a_leaf_without_influence_but_for_rounding_is_not_red():
    """A shift of all logits: its gradient is zero, and rounding on both sides."""
    loss = rules.cross_entropy()
    report = gj.verify_vjp(
        lambda logits, labels, shift: loss(logits + shift, labels), *arguments("cross_entropy"), jnp.float32(0.3)
    )
    assert report.ok, report
    assert report["inputs"].data["blind"][0].startswith("shift has a gradient that is zero but for rounding")


def test_numerical_check_alone_sees_a_wrong_rule_and_no_fault_in_a_right_one():
    wrong = spoiled(dense, bars=lambda bars: (bars[0] * (1 + 1e-5), bars[1]))
    report = gj.verify_vjp(wrong, X, W, checks=("numerical",))
    assert [d.leaf for d in report["numerical"].differences] == ["x"]
    right = gj.verify_vjp(spoiled(dense), X, W, checks=("numerical",))["numerical"]
    assert right.status == "PASS"
    assert min(right.data["slopes"]) > 1.9


def test_numerical_check_uses_the_size_of_the_leaf():
    """An absolute step is blind to large leaves: f(x) = sin(x/1e6) at 1e6."""
    sine = lambda x: jnp.sin(x / 1e6)
    large = 1e6 * X
    assert gj.verify_vjp(spoiled(sine), large, checks=("numerical",)).ok
    assert not gj.verify_vjp(spoiled(sine, bars=lambda bars: (bars[0] * 1.0001,)), large, checks=("numerical",)).ok


def test_numerical_check_passes_no_rule_of_a_rough_function():
    steps = lambda x: jnp.round(x * 1e3) / 1e3  # rough on every scale that differences look at
    report = gj.verify_vjp(ruled(steps, lambda x: (steps(x), None), lambda _, u: (u,)), X, checks=("numerical",))
    assert report["numerical"].status != "PASS"
    rough = lambda x: x + 1e-7 * jnp.sin(x * 1e7)
    report = gj.verify_vjp(ruled(rough, lambda x: (rough(x), None), lambda _, u: (u,)), X, checks=("numerical",))
    assert report["numerical"].status != "PASS"


def test_numerical_check_decides_nothing_about_a_chaotic_function():
    """A random tanh RNN whose gradient chaos makes huge: no step is small enough."""
    cell = gj.elman()
    p = problem(cell, steps=150, batch=(2,), input_size=3, hidden_size=20, dtype=jnp.float32, scale=4.0)
    report = gj.verify_vjp(unrolled(cell), p.params, p.xs, p.h0, checks=("gradient", "numerical", "guard"))
    assert report.ok, report
    assert report["numerical"].status == "NOT CHECKED"


def test_dot_product_names_the_leaf():
    report = gj.verify_vjp(spoiled(dense, bars=lambda bars: (bars[0], bars[1] * 1.001)), X, W, checks=("dot_product",))
    assert report.wrong_leaves == ("w",)


def second_order_wrong():
    """A right gradient whose derivative is not: x³ with a rule that holds x² fixed."""
    return ruled(lambda x: x**3, lambda x: (x**3, jax.lax.stop_gradient(x)), lambda x, u: (3 * x**2 * u,))


def test_a_wrong_second_derivative_is_red():
    report = gj.verify_vjp(second_order_wrong(), X, checks=("gradient", "second_order"))
    assert report["gradient"].status == "PASS"
    assert report["second_order"].status == "FAIL"
    assert report.wrong_leaves == ("x",)


def test_a_forward_rule_that_calls_the_decorated_function_is_red_at_second_order():
    f = jax.custom_vjp(lambda x: x**3)
    f.defvjp(lambda x: (f(x), x), lambda x, u: (3 * x**2 * u,))
    report = gj.verify_vjp(f, X, checks=("gradient", "second_order"))
    assert report["gradient"].status == "PASS"
    assert report["second_order"].status == "FAIL"
    assert "undecorated" in report["second_order"].text
    assert gj.verify_vjp(f, X, checks=("all", "-second_order", "-flags")).ok


def test_a_rule_that_cannot_be_batched_is_red_under_vmap_and_nowhere_else():
    def callback(u):
        return jax.pure_callback(lambda u: 2 * np.asarray(u), jax.ShapeDtypeStruct(u.shape, u.dtype), u)

    report = gj.verify_vjp(scaled_by(2)(callback), X, checks=("gradient", "vmap", "scan", "checkpoint"))
    assert [check.name for check in report.failed] == ["vmap"]
    assert "pure_callback" in report["vmap"].text.lower()


def test_a_rule_that_depends_on_the_batch_is_red_under_vmap():
    """A rule that asks whether it is batched: 1.5 where it is."""

    def backward(x, u):
        batched = type(x).__name__ == "BatchTracer" or type(u).__name__ == "BatchTracer"
        return (u * (1.5 if batched else 2.0),)

    f = ruled(lambda x: 2 * x, lambda x: (2 * x, x), backward)
    assert gj.verify_vjp(f, X, checks=("gradient",)).ok
    assert not gj.verify_vjp(f, X, checks=("vmap",)).ok


def test_an_output_that_a_batch_shares_is_counted_once_per_example_by_jax_and_seen():
    """out[1] does not depend on w. Batched over w, JAX 0.10 adds its cotangent to x̄ once per example, in silence; JAX 0.12 refuses."""

    def primal(x, w):
        return jnp.tanh(x @ w), x.sum()

    def backward(saved, u):
        x, w = saved
        a = u[0] * (1 - jnp.tanh(x @ w) ** 2)
        return a @ w.T + u[1], x.T @ a

    f = ruled(primal, lambda x, w: (primal(x, w), (x, w)), backward)
    report = gj.verify_vjp(f, X, W, checks=("fast", "numerical", "vmap"))
    assert [check.name for check in report.failed] == ["vmap"]
    assert "over w" in str(report)


def test_a_wrong_dtype_is_red_in_a_scan():
    f = scaled_by(2)(lambda u: (2 * u).astype(jnp.float32))
    report = gj.verify_vjp(f, X.astype(np.float64) if jax.config.jax_enable_x64 else X, checks=("scan", "checkpoint"))
    assert not report.ok


def test_nan_and_overflow_are_compared_with_the_reference():
    overflow = ruled(  # log(1 + eˣ), the rule by eˣ/(1 + eˣ): infinite over infinite at 1e4
        jax.nn.softplus,
        lambda x: (jax.nn.softplus(x), jnp.exp(x)),
        lambda e, u: (u * e / (1 + e),),
    )
    report = gj.verify_vjp(overflow, X, checks=("gradient", "edges"))
    assert report["gradient"].status == "PASS"
    assert "up to 1" in report["edges"].differences[0].where
    hidden = spoiled(lambda x: jnp.sin(x).sum(), bars=lambda bars: (jnp.nan_to_num(bars[0]),))
    report = gj.verify_vjp(hidden, X, checks=("gradient", "edges"))
    assert [d.where for d in report["edges"].differences] == ["x with one NaN"]


def test_a_rule_that_is_finite_where_autodiff_is_not_is_said_to_be_better():
    safe = lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0)  # autodiff: NaN at negative x
    f = ruled(safe, lambda x: (safe(x), x), lambda x, u: (jnp.where(x > 0, u / (2 * jnp.sqrt(jnp.where(x > 0, x, 1.0))), 0.0),))
    report = gj.verify_vjp(f, np.abs(X) + 0.1, checks=("gradient", "edges"))
    assert report.ok, report
    assert "finite where autodiff is not" in report["edges"].text


def test_the_guard_is_red_where_a_planted_fault_passes(monkeypatch):
    import gru_jax.verify.trial as trial

    monkeypatch.setattr(trial.Trial, "allowed", property(lambda self: [1e-2] * len(self.names)))
    report = fast(spoiled(dense), X, W)
    assert report["guard"].status == "FAIL"
    assert "planted faults pass: x times 1.001" in report["guard"].text


def test_a_large_rtol_is_reported_as_blind():
    report = gj.verify_vjp(spoiled(dense), X, W, checks="fast", rtol=0.1)
    assert report["guard"].status == "NOT CHECKED"
    assert "rtol is 0.1" in report["guard"].text


def test_a_function_without_a_rule_is_red():
    for fun in (lambda x: x**2, jax.nn.relu):
        report = fast(fun, X)
        assert report["guard"].status == "FAIL"
        assert "no custom rule" in report["guard"].text
    assert fast(lambda x: x**2, X, reference=lambda x: x * x).ok


# What may be asked -----------------------------------------------------------------------------------------------------------------------


def test_fast_checks_are_the_first_of_all():
    assert list(CHECKS)[: len(FAST)] == list(FAST)
    report = fast(spoiled(dense), X, W)
    assert {check.name for check in report.checks if check.text != "not asked for"} == set(FAST)


def test_checks_are_chosen_by_name_and_left_out_by_a_minus():
    run = lambda checks: {
        c.name for c in gj.verify_vjp(spoiled(dense), X, W, checks=checks).checks if c.text != "not asked for"
    }
    assert run(("primal", "guard")) == {"primal", "guard"}
    assert run(("fast", "-guard")) == set(FAST) - {"guard"}
    assert run("linearity") == {"linearity"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checks": "quick"}, "no check 'quick'; there are 'all', 'fast', primal"),
        ({"checks": ("primal", "-primal")}, "nothing is left to check"),
        ({"rtol": -1.0}, r"rtol must be in \[0, 1\), got -1.0"),
        ({"reference": lambda x, w: x @ w}, "reference must return what fun returns"),
    ],
    ids=["check", "none", "rtol", "reference"],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        gj.verify_vjp(dense, X, W, **options)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="fun must be a function"):
        gj.verify_vjp(dense(X, W))
    with pytest.raises(ValueError, match=r"no argument of .* is a floating array"):
        gj.verify_vjp(lambda n: n, 3)
    with pytest.raises(ValueError, match="returns no floating array"):
        gj.verify_vjp(lambda x: x > 0, X)
    with pytest.raises(ValueError, match="w holds NaN or infinity"):
        gj.verify_vjp(dense, X, W * np.nan)
    with pytest.raises(KeyError, match="no check 'speed' in this report"):
        fast(spoiled(dense), X, W)["speed"]


def test_another_key_gives_other_cotangents_and_is_printed():
    one, other = (fast(spoiled(dense), X, W, key=jax.random.key(seed)) for seed in (1, 2))
    assert one.header["seed"] != other.header["seed"]
    wrong = spoiled(dense, bars=lambda bars: (bars[0] * 1.5, bars[1]))
    figures = {fast(wrong, X, W, key=jax.random.key(seed))["gradient"].differences[0].value for seed in (1, 2)}
    assert len(figures) == 2
