"""Right rules are called right, and nothing unchecked is: kinks, NaN, domains, references, options."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax as gj
from experiments.foreign_rules.solvers import bisect
from experiments.mutants.passes import with_faulty_rule
from gru_jax.verify import budget
from tests.verify.rules import custom_vjp

rng = np.random.default_rng(0)
X = rng.standard_normal((3, 4)).astype(np.float32)
AT_ZERO = np.where(rng.random((3, 4)) < 0.3, 0, X).astype(np.float32)  # four entries are exactly zero
ROOTS = np.array([900, 0.05, 400, 650], np.float32)


def elementwise(primal, derivative):
    """Returns a function with the rule x̄ = derivative(x)·u."""
    return custom_vjp(primal, lambda x: (primal(x), x), lambda x, u: (derivative(x) * u,))


# Nothing unchecked is a pass ----------------------------------------------------------------------


def callback(function):
    return lambda x: jax.pure_callback(function, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")


def root_by_callback(sign):
    def numpy_root(x):
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.asarray(x))

    root = callback(numpy_root)
    return custom_vjp(root, lambda x: (root(x), x), lambda x, u: (sign * u / (2 * root(x)),))


def test_nan_never_agrees_with_a_gradient():
    """The large steps of the differences leave the domain. Autodiff cannot differentiate the callback."""
    wrong = gj.verify_vjp(root_by_callback(-1), ROOTS, checks="fast")
    assert wrong.verdict == "WRONG GRADIENT"
    assert wrong["numerical"].status == "FAIL"
    assert gj.verify_vjp(root_by_callback(1), ROOTS, checks="fast").ok
    named = gj.verify_vjp(root_by_callback(1), ROOTS, checks=("fast", "-linearity"))
    assert named["numerical"].status == "PASS"  # also if "fast" is one of several names


def test_a_leaf_whose_gradient_is_nan_everywhere_is_not_checked():
    f = with_faulty_rule(lambda x, y: (jnp.sqrt(-1 - x**2), y**2))
    report = gj.verify_vjp(f, X, X, checks=("gradient", "numerical", "native", "dot_product"))
    assert report["gradient"].status == "NOT CHECKED"
    assert (report.verdict, report.unchecked) == ("NOT CHECKED", ("x",))
    assert not report.ok
    assert gj.verify_vjp(f, X, X, checks=("gradient",), allow="x").ok


def test_a_rule_that_nothing_checks_is_not_checked_and_fails_unless_allowed_by_name():
    f = root_by_callback(1)
    report = gj.verify_vjp(f, ROOTS, checks=("all", "-numerical", "-flags", "-shard_map"))
    assert report.verdict == "NOT CHECKED"
    assert str(report).startswith("NOT CHECKED: callback.<locals>.<lambda>: x: autodiff of the reference raises")
    with pytest.raises(AssertionError, match="NOT CHECKED"):
        gj.assert_vjp(f, ROOTS, checks=("gradient", "vmap"))
    gj.assert_vjp(f, ROOTS, checks=("gradient", "vmap"), allow="x")
    with pytest.raises(ValueError, match="allow must name arguments or arrays in them, got 'z'; the arguments are x"):
        gj.assert_vjp(f, ROOTS, allow="z")


def test_one_kink_in_the_data_does_not_excuse_its_leaf():
    x = np.where(AT_ZERO == 0, 0.5, AT_ZERO).astype(np.float32)
    clipped = lambda x: jnp.maximum(x, 0.5).sum(-1)
    rule = lambda factor: custom_vjp(clipped, lambda x: (clipped(x), x), lambda x, u: (factor * u[:, None] * (x > 0.5),))
    report = gj.verify_vjp(rule(-1.5), x, checks="fast")
    assert report.verdict == "WRONG GRADIENT"
    assert report["gradient"].differences[0].error > 1
    assert gj.verify_vjp(rule(1.0), x, checks="fast").verdict == "RIGHT with notes"


def test_noise_as_large_as_the_gradient_does_not_excuse_a_wrong_entry():
    """At a tie of rounding size, one unit in the last place swaps the branch."""
    f = lambda sign: elementwise(lambda x: jnp.abs(x - 1 / 3), lambda x: sign * jnp.where(x > 1 / 3, 1.0, -1.0))
    x = np.array([1 / 3, 0.7, -0.4], np.float64 if jax.config.jax_enable_x64 else np.float32)
    assert gj.verify_vjp(f(1), x, checks="fast").ok
    assert gj.verify_vjp(f(-1), x, checks="fast").verdict == "WRONG GRADIENT"


@pytest.mark.parametrize("size", [1e-20, 1e9])
def test_errors_are_relative_to_the_scale_of_the_gradient_and_of_the_outputs(size):
    """An absolute tolerance would accept an error of 1 % of a small number, and reject the rounding of a large one."""
    primal = lambda x: size * jnp.sin(x)

    def report(forward=1.0, backward=1.0):
        rounded = lambda x: (2 * size) * jnp.sin(x / 2) * jnp.cos(x / 2)  # the same with other rounding errors
        forward_rule = lambda x: (forward * rounded(x), x)
        f = custom_vjp(primal, forward_rule, lambda x, u: (backward * (size / 3) * jnp.cos(x) * u * 3,))
        return gj.verify_vjp(f, X, checks=("primal", "gradient"))

    assert report().verdict == "RIGHT"
    assert report(forward=1.01).verdict == "WRONG OUTPUT"
    assert report(backward=1.01)["gradient"].status == "FAIL"


# Kinks and ties -----------------------------------------------------------------------------------

AT_TIES = np.array([[2, 2, 1, 0], [0.5, 3, 3, 3], [-1, 0, 1, 2]], np.float32)
KINKS = {
    "relu by maximum": (elementwise(lambda x: jnp.maximum(x, 0), lambda x: x > 0), AT_ZERO),
    "leaky relu": (elementwise(lambda x: jnp.where(x > 0, x, 0.1 * x), lambda x: jnp.where(x >= 0, 1, 0.1)), AT_ZERO),
    "abs by sign": (elementwise(jnp.abs, jnp.sign), AT_ZERO),
    "abs by where": (elementwise(jnp.abs, lambda x: jnp.where(x >= 0, 1.0, -1.0)), AT_ZERO),
    "max by argmax": (
        custom_vjp(
            lambda x: x.max(-1),
            lambda x: (x.max(-1), x),
            lambda x, u: (jax.nn.one_hot(x.argmax(-1), 4, dtype=x.dtype) * u[:, None],),
        ),
        AT_TIES,
    ),
    "L1": (
        custom_vjp(lambda x: jnp.abs(x).sum(), lambda x: (jnp.abs(x).sum(), x), lambda x, u: (u * jnp.sign(x),)),
        AT_ZERO,
    ),
}


BY_DEFAULT = ("abs by sign", "max by argmax")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow) for name in KINKS])
def test_every_subgradient_at_a_kink_is_right(name):
    f, x = KINKS[name]
    report = gj.verify_vjp(f, x, checks=("fast", "numerical", "dot_product", "edges"))
    assert report.ok, report.full()
    assert report.evidence["x"]


def test_gradients_outside_the_one_sided_derivatives_are_wrong():
    beyond = elementwise(jnp.abs, lambda x: jnp.where(x == 0, 1.5, jnp.sign(x)))
    report = gj.verify_vjp(beyond, AT_ZERO, checks="fast")
    assert report.verdict == "WRONG GRADIENT"
    assert len(report["gradient"].differences[0].by_differences) == 2
    assert "before and" in str(report)


def test_a_gradient_that_counts_a_tie_twice_is_wrong():
    """Each entry is right alone. Together they grow twice as fast as the maximum."""
    twice = custom_vjp(
        lambda x: x.max(-1), lambda x: (x.max(-1), x), lambda x, u: ((x == x.max(-1, keepdims=True)) * u[:, None],)
    )
    assert gj.verify_vjp(twice, AT_TIES, checks="fast").verdict == "WRONG GRADIENT"
    both = lambda at_tie: custom_vjp(
        lambda x, y: jnp.fmax(x, y),
        lambda x, y: (jnp.fmax(x, y), (x, y)),
        lambda xy, u: (u * (xy[0] >= xy[1]), u * at_tie(*xy)),
    )
    tied = np.where(AT_TIES > 1, AT_TIES, AT_TIES - 1)
    assert gj.verify_vjp(both(lambda x, y: x <= y), AT_TIES, tied, checks="fast").verdict == "WRONG GRADIENT"
    assert gj.verify_vjp(both(lambda x, y: x < y), AT_TIES, tied, checks="fast").ok


def test_differences_decide_where_autodiff_of_where_is_zero():
    """log(1 + w) written with a special case at w = 0, where autodiff gives 0."""
    log = lambda w: jnp.where(w == 0, 0.0, jnp.log1p(jnp.where(w == 0, 1.0, w)))
    f = lambda factor: elementwise(log, lambda w: factor * jnp.where(w == 0, 1.0, 1 / (1 + w)))
    x = np.abs(AT_ZERO)
    for args, checks in ((x, "fast"), (x + 0.1, ("fast", "edges"))):
        report = gj.verify_vjp(f(1.0), args, checks=checks)
        assert report.ok, report.full()
        assert gj.verify_vjp(f(1.01), args, checks=checks).verdict == "WRONG GRADIENT"


def test_an_edge_outside_the_domain_is_skipped():
    f = elementwise(jnp.log, lambda x: jnp.where(x > 0, 1 / x, -7.0))
    report = gj.verify_vjp(f, np.abs(X) + 0.1, checks=("fast", "edges"))
    assert report.verdict == "RIGHT", report.full()
    assert {"all leaves zero", "x with opposite signs"} <= set(report["edges"].details["outside"])


def test_nan_at_zeros_is_mentioned():
    """The derivative of a determinant by the inverse does not exist for a singular matrix."""
    square = rng.standard_normal((3, 3)).astype(np.float32)
    f = custom_vjp(
        lambda a: jnp.linalg.det(a),
        lambda a: (jnp.linalg.det(a), a),
        lambda a, u: (u * jnp.linalg.det(a) * jnp.linalg.inv(a).T,),
    )
    report = gj.verify_vjp(f, square, checks=("fast", "edges"))
    assert report.verdict == "RIGHT", report.full()
    assert "outside the domain unlike autodiff: a (all leaves zero)" in report["edges"].text


# References that do not decide --------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_reference_that_differences_contradict_is_unreliable(factor):
    f = custom_vjp(bisect, lambda x: ((y := bisect(x)), y), lambda y, u: (factor * u / (3 * y**2 + 1),))
    report = gj.verify_vjp(f, X, checks="fast")
    if factor == 1:
        assert (report.verdict, report.ok) == ("REFERENCE UNRELIABLE", True), report.full()
        assert "confirm the rule" in str(report)
    else:
        assert report.verdict == "WRONG GRADIENT", report.full()


FUNCTIONS_WITHOUT_A_RULE = {
    "custom_root": lambda x: jax.lax.custom_root(
        lambda y: y**3 + y - x, x, lambda g, y: bisect(x), lambda g, y: y / g(jnp.ones_like(y))
    ),
    "sinc": jnp.sinc,
    "sine": jnp.sin,
}


@pytest.mark.parametrize("name", FUNCTIONS_WITHOUT_A_RULE)
def test_functions_without_a_rule_are_compared_with_differences(name):
    report = gj.verify_vjp(FUNCTIONS_WITHOUT_A_RULE[name], X + 0.3, checks="fast")
    assert report.verdict == "RIGHT with notes", report.full()
    assert report.evidence["x"] == ("numerical",)


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_a_rule_of_the_user_for_a_function_of_jax_is_verified(factor):
    f = jax.custom_jvp(jnp.sin)
    f.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), factor * jnp.cos(primals[0]) * tangents[0]))
    report = gj.verify_vjp(lambda x: f(x), X, checks="fast")
    assert report.verdict == ("RIGHT" if factor == 1 else "WRONG GRADIENT")
    assert report.header["rules replaced in the reference"] == ["sin (custom_jvp)"]


# Precision ----------------------------------------------------------------------------------------


def norm_rule(eps):
    norm = lambda x: jnp.sqrt((x**2).sum())
    return custom_vjp(norm, lambda x: (norm(x), x), lambda x, u: (u * x / jnp.sqrt((x**2).sum() + eps),))


def test_an_error_below_the_rounding_of_the_arguments_is_a_note_with_the_rtol_to_pass():
    x = X.astype(np.float32)
    report = gj.verify_vjp(norm_rule(1e-10), x, checks=("fast", "native", "edges"))
    assert report.verdict == "RIGHT with notes", report.full()
    note = next(note for note in report.notes if "rtol=" in note)
    rtol = float(note.split("rtol=")[1].split()[0])
    assert gj.verify_vjp(norm_rule(1e-10), x, checks="fast", rtol=rtol).verdict == "RIGHT"
    assert gj.verify_vjp(norm_rule(1e-3), x, checks="fast").verdict == "WRONG GRADIENT"


def test_a_rule_whose_backward_pass_runs_in_float32_is_right():
    def backward(x, u):
        wide = x.astype(jnp.float32)
        return (((1 - jnp.tanh(wide) ** 2) * u.astype(jnp.float32)).astype(x.dtype),)

    f = custom_vjp(jnp.tanh, lambda x: (jnp.tanh(x), x), backward)
    report = gj.verify_vjp(f, jnp.asarray(X, jnp.bfloat16), checks=("fast", "native", "second_order", "edges"))
    assert report.ok, report.full()


@pytest.mark.parametrize("factor", [pytest.param(1.0, marks=pytest.mark.slow), -1.0])
def test_a_backward_pass_in_bfloat16_is_not_wrong_where_its_own_rounding_leaves_no_digit(factor):
    """At 6 and more, 1 − tanh² is 0 in bfloat16, because tanh rounds to 1."""

    def backward(x, u):
        t = jnp.tanh(x.astype(jnp.bfloat16))
        return (factor * ((1 - t**2) * u.astype(jnp.bfloat16)).astype(x.dtype),)

    f = custom_vjp(jnp.tanh, lambda x: (jnp.tanh(x), x), backward)
    report = gj.verify_vjp(f, np.float32(6 + np.abs(X)), checks=("gradient", "cotangents"))
    assert not report.failed, report.full()
    at_ordinary = gj.verify_vjp(f, np.float32(X), checks=("gradient", "edges"))
    assert bool(at_ordinary.failed) == (factor < 0), at_ordinary.full()


def test_a_gradient_that_is_zero_up_to_rounding_for_some_cotangents_is_right():
    """For cotangents of ones, the gradient of a softmax is zero. Saturated, autodiff returns 1e-16."""
    softmax = custom_vjp(
        lambda x: jax.nn.softmax(x),
        lambda x: ((y := jax.nn.softmax(x)), y),
        lambda y, u: (y * (u - (u * y).sum(-1, keepdims=True)),),
    )
    x = 100 * np.random.default_rng([0, 5, 4]).standard_normal((5, 4)).astype(np.float32)
    report = gj.verify_vjp(softmax, x, checks=("gradient", "cotangents"))
    assert report.verdict == "RIGHT", report.full()


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_rule_that_runs_without_jit_only_is_verified_without_jit(factor):
    f = custom_vjp(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, u: (factor * np.cos(np.asarray(x)) * u,))
    report = gj.verify_vjp(f, X, checks=("fast", "eager"))
    assert report.verdict == ("RIGHT with notes" if factor == 1 else "WRONG GRADIENT"), report.full()
    assert report["structure"].notes[0].startswith("with jit, the rule raises TracerArrayConversionError")
    assert report["eager"].status == "NOT CHECKED"


def test_rounding_is_measured_in_functions_that_make_indices():
    soft = lambda x: jax.nn.softmax(x)
    hard = lambda x: soft(x) + jax.lax.stop_gradient(jax.nn.one_hot(x.argmax(-1), x.shape[-1], dtype=x.dtype) - soft(x))
    report = gj.verify_vjp(with_faulty_rule(hard, gradients=lambda g: (g[0] * 1.01,)), X, reference=hard, checks="fast")
    assert report.verdict == "WRONG GRADIENT"
    assert not any("raises" in note for note in report.notes), report.full()


def test_values_that_are_far_larger_at_a_step_than_here_decide_nothing():
    """In float64, x³ grows from 1e-117 to 1e-11 at the first step."""
    report = gj.verify_vjp(elementwise(lambda x: x**3, lambda x: 3 * x**2), 1e-39 * X, checks=("fast", "numerical"))
    assert report.verdict == "RIGHT", report.full()
    assert report["numerical"].status == "NOT CHECKED"


def test_decompositions_that_may_not_end_for_infinity_are_not_run_at_it():
    svd = lambda a: jnp.linalg.svd(a, full_matrices=False)
    f = custom_vjp(lambda a: svd(a)[1], lambda a: (svd(a)[1], a), lambda a, u: ((svd(a)[0] * u) @ svd(a)[2],))
    report = gj.verify_vjp(f, X, checks=("gradient", "edges"))
    assert report.ok, report.full()
    assert report["edges"].details["inputs"] == 7
    assert gj.verify_vjp(elementwise(jnp.sin, jnp.cos), X, checks=("edges",))["edges"].details["inputs"] == 9


def test_agreement_within_the_tolerance_of_eight_bits_is_no_evidence():
    """A function that casts to float8 has a tolerance of 100 %, which also a wrong gradient is within."""
    quantise = lambda x: x.astype(jnp.float8_e4m3fn).astype(x.dtype)
    f = lambda factor: custom_vjp(quantise, lambda x: (quantise(x), None), lambda _, u: (factor * u,))
    identity = lambda args, u: (u,)
    assert gj.verify_vjp(f(1.0), X, gradient=identity, checks="fast").ok
    off = gj.verify_vjp(f(1.01), X, gradient=identity, checks="fast")
    assert (off.ok, off.verdict) == (False, "NOT CHECKED"), off.full()


# What users can say -------------------------------------------------------------------------------


def test_keywords_static_arguments_and_leaves_without_gradient():
    def scaled(x, w, *, power, name="sum"):
        return getattr(with_faulty_rule(lambda x: w * x**power, gradients=lambda g: (g[0] * w**0,))(x), name)()

    report = gj.verify_vjp(scaled, X, X[:1], kwargs={"power": 3, "name": "sum"}, wrt="x", checks="fast")
    assert report.verdict == "RIGHT", report.full()
    assert report.leaves == ("x",)
    table = gj.verify_vjp(
        lambda x, sizes: with_faulty_rule(jnp.sin)(x)[: sizes.item()], X, np.array(2), static="sizes", checks="fast"
    )
    assert table.ok
    both = gj.verify_vjp(lambda x, *, w: with_faulty_rule(lambda x, w: x @ w)(x, w), X, kwargs={"w": X.T}, checks="fast")
    assert both.leaves == ("x", "w")
    assert both.ok
    with pytest.raises(ValueError, match="wrt must name arguments or arrays in them, got 'y'; the arguments are x"):
        gj.verify_vjp(jnp.sin, X, wrt="y")


def test_a_sample_keeps_to_the_domain_also_at_the_edges():
    seen = []

    def check(x):
        seen.append(np.asarray(x).min())
        return np.sqrt(np.asarray(x))

    root = callback(check)
    f = custom_vjp(root, lambda x: (root(x), x), lambda x, u: (u / (2 * jnp.sqrt(x)),))
    sample = lambda key: (0.5 + jax.random.uniform(key, (7,), jnp.float32),)
    report = gj.verify_vjp(f, sample=sample, reference=jnp.sqrt, checks=("fast", "edges"))
    assert report.ok, report.full()
    assert report["edges"].text == "the rule is right at 3 other samples"
    assert min(seen) > 0
    with pytest.raises(ValueError, match="pass args or sample, not both"):
        gj.verify_vjp(f, X, sample=sample)
    with pytest.raises(ValueError, match="sample must return a tuple of arguments, got"):
        gj.verify_vjp(f, sample=lambda key: jnp.ones(3))


def test_a_tolerance_for_each_leaf():
    off = with_faulty_rule(lambda x, w: x @ w, gradients=lambda g: (g[0] * 1.001, g[1]))
    assert gj.verify_vjp(off, X, X.T, rtol={"x": 2e-3}, checks=("gradient",)).ok
    assert gj.verify_vjp(off, X, X.T, rtol={"w": 2e-3}, checks=("gradient",)).wrong_leaves == ("x",)
    with pytest.raises(ValueError, match="rtol must name arguments or arrays in them, got 'y'"):
        gj.verify_vjp(off, X, X.T, rtol={"y": 0.1})


def test_several_keys_repeat_the_checks_of_values():
    """The rule is wrong for samples whose sum is negative."""
    f = elementwise(lambda x: x**2, lambda x: 2 * x * jnp.where(x.sum() < 0, 1.1, 1.0))
    sample = lambda key: (jax.random.normal(key, (5,), jnp.float32),)
    keys = jax.random.split(jax.random.key(4), 6)
    is_negative = [float(sample(key)[0].sum()) < 0 for key in keys]
    assert is_negative.index(True) > 0
    report = gj.verify_vjp(f, sample=sample, key=keys, checks=("gradient",))
    assert report.verdict == "WRONG GRADIENT"
    assert f"key {is_negative.index(True)}" in report["gradient"].differences[0].condition
    assert gj.verify_vjp(f, sample=sample, key=keys[0], checks=("gradient",)).ok


@pytest.mark.parametrize("checks", ["fast", pytest.param("all", marks=pytest.mark.slow)])
def test_a_mask_of_minus_infinity_is_not_moved(checks):
    bias = np.where(rng.random((3, 4)) < 0.3, -np.inf, X).astype(np.float32)
    f = lambda factor: with_faulty_rule(lambda x, bias: jax.nn.softmax(x + bias), gradients=lambda g: (g[0] * factor, g[1]))
    report = gj.verify_vjp(f(1.0), X, bias, checks=checks)
    assert report.ok, report.full()
    assert set(report.evidence) == {"x", "bias"}
    assert gj.verify_vjp(f(1.001), X, bias, checks="fast").wrong_leaves == ("x",)


straight_through = custom_vjp(lambda x: jnp.round(x), lambda x: (jnp.round(x), None), lambda _, u: (u,))
clipped = custom_vjp(lambda x: x**2, lambda x: (x**2, x), lambda x, u: (jnp.clip(2 * x * u, -1, 1),))
INTENDED = {
    "straight-through, gradient": (straight_through, {"gradient": lambda args, u: u}),
    "straight-through, reference": (straight_through, {"reference": lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x)}),
    "clipping": (clipped, {"gradient": lambda args, u: (jnp.clip(2 * args[0] * u, -1, 1),)}),
}


@pytest.mark.parametrize("checks", ["fast", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", INTENDED)
def test_an_intended_gradient_is_right_if_the_user_says_so(name, checks):
    f, options = INTENDED[name]
    assert gj.verify_vjp(f, 3 * X, checks="fast").verdict == "WRONG GRADIENT"
    report = gj.verify_vjp(f, 3 * X, checks=checks, **options)
    assert report.ok, report.full()
    assert report.evidence["x"][0] == "gradient"
    off = with_faulty_rule(f, gradients=lambda g: (g[0] * 1.001,))
    assert gj.verify_vjp(off, 3 * X, checks="fast", **options).wrong_leaves == ("x",)


def test_bad_gradients_of_the_user_raise():
    with pytest.raises(ValueError, match="gradient must return a gradient for each of the 1 arguments, got 2"):
        gj.verify_vjp(straight_through, X, gradient=lambda args, u: (u, u))
    with pytest.raises(ValueError, match=r"gradient must return the shape of x, got \(3,\), expected \(3, 4\)"):
        gj.verify_vjp(straight_through, X, gradient=lambda args, u: u[:, 0])
    with pytest.raises(ValueError, match="pass reference or gradient, not both"):
        gj.verify_vjp(straight_through, X, gradient=lambda args, u: u, reference=lambda x: x)


# The report ---------------------------------------------------------------------------------------


def test_checks_that_remain_when_the_time_is_over_are_not_checked():
    report = gj.verify_vjp(with_faulty_rule(lambda x: jnp.sin(x) * 1.25), X, seconds=1e-3)
    assert report["vmap"].text == "out of time"
    assert any(note.startswith("out of time in vmap") for note in report.notes)
    with pytest.raises(ValueError, match="seconds must be positive or None, got 0"):
        gj.verify_vjp(jnp.sin, X, seconds=0)


def test_a_compilation_that_would_not_end_in_time_is_not_started(monkeypatch):
    now = 100.0
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: now))
    with budget.spend(10.0):
        with budget.compiling():
            now += 6.0
        budget.check()  # a run may start until the time is over
        with pytest.raises(budget.OutOfTime), budget.compiling():
            raise AssertionError("a compilation of 6 s starts with 4 s left")
        now += 5.0
        with pytest.raises(budget.OutOfTime):
            budget.check()
    budget.check()


def test_the_report_is_short_and_progress_names_each_check(capsys):
    many = lambda *leaves: sum((leaf**2).sum() for leaf in leaves)
    wrong = with_faulty_rule(many, gradients=lambda g: tuple(2 * leaf for leaf in g))
    leaves = [X + k for k in range(12)]
    report = gj.verify_vjp(wrong, *leaves, np.zeros(3, np.float32), np.ones((2, 1), np.float32), checks="fast", progress=True)
    assert len(str(report).splitlines()) <= 15
    assert max(map(len, str(report).splitlines())) <= 160
    assert "FAIL         gradient  " in capsys.readouterr().err
    assert report.seconds > 0


# Inputs that hide faults --------------------------------------------------------------------------

INDICES, MASK = np.array([2, 0, 1], np.int32), np.ones(3, bool)
take = with_faulty_rule(lambda x, i, m: (x[i] * m[:, None]).sum(), gradients=lambda g: g)
BLIND = {
    "an axis of size 1": (lambda x: with_faulty_rule(jnp.sin)(x), (X[:, :1],), "x has an axis of size 1"),
    "a mask": (lambda x, mask: with_faulty_rule(jnp.sin)(x * mask[:, None]), (X, MASK), "mask is True everywhere"),
    "indices": (lambda x, i: with_faulty_rule(jnp.sin)(x[i]), (X, INDICES), "i has no repeated entry"),
    "lengths": (lambda x, n: with_faulty_rule(jnp.sin)(x * n[:, None]), (X, np.array([4, 4, 4])), "n is constant"),
    "a scale of 1": (lambda x, scale: with_faulty_rule(jnp.sin)(x * scale), (X, np.float32(1)), "scale is exactly 1"),
    "a symmetric matrix": (lambda x: with_faulty_rule(jnp.sin)(x), (X @ X.T,), "x is symmetric"),
    "sorted numbers": (lambda x: with_faulty_rule(jnp.sin)(x), (np.sort(X.ravel()),), "x is sorted"),
    "distributions": (lambda p: with_faulty_rule(jnp.sin)(p), (np.array(jax.nn.softmax(X)),), "p sums to 1"),
    "unit vectors": (
        lambda x: with_faulty_rule(jnp.sin)(x),
        (X / np.linalg.norm(X, axis=-1, keepdims=True),),
        "x has norm 1 over its last axis",
    ),
    "a mask in a closure": (lambda x: with_faulty_rule(jnp.sin)(x * jnp.where(MASK[:, None], x, 0)), (X,), "closes over"),
}  # fmt: skip


@pytest.mark.parametrize("name", BLIND)
def test_inputs_that_hide_faults_are_announced(name):
    fun, args, text = BLIND[name]
    report = gj.verify_vjp(fun, *args, checks=("gradient", "inputs"))
    assert report.verdict == "RIGHT with notes", report.full()
    assert any(text in note for note in report["inputs"].blind_inputs), report["inputs"].text
