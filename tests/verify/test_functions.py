"""All kinds of functions can be verified.

They include partials, bound methods, jitted functions, rules at any depth, integer and complex
arguments, and rules from other libraries.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax as gj
from experiments.foreign_rules.solvers import ODE, pendulum
from experiments.mutants.passes import with_faulty_rule
from tests.verify import rules
from tests.verify.rules import arguments, fast

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)


def right(x, w):
    return jnp.tanh(x @ w)


wrong = with_faulty_rule(right, gradients=lambda g: (g[0], g[1] * 1.01))


class Model:
    def __init__(self, fun):
        self.fun = fun

    def apply(self, x, w):
        return self.fun(x, w)


WRAPPINGS = {
    "unwrapped": (lambda f: f, (X, W)),
    "jit": (jax.jit, (X, W)),
    "jit of jit": (lambda f: jax.jit(lambda x, w: jax.jit(f)(x, w)), (X, W)),
    "partial": (lambda f: partial(f, X), (W,)),
    "partial of jit": (lambda f: partial(jax.jit(f), X), (W,)),
    "bound method": (lambda f: Model(f).apply, (X, W)),
    "scan": (lambda f: lambda x, w: jax.lax.scan(lambda c, _: (f(c, w), c.sum()), x, None, length=3), (X, W)),
    "cond": (lambda f: lambda x, w: jax.lax.cond(x[0, 0] > -9, f, lambda x, w: x, x, w), (X, W)),
    "checkpoint": (lambda f: jax.checkpoint(f), (X, W)),
    "vmap": (lambda f: jax.vmap(f, in_axes=(0, None)), (X[:, None], W)),
    "a rule inside a rule": (lambda f: with_faulty_rule(lambda x, w: f(x, w) ** 2), (X, W)),
    "a rule inside a custom_jvp": (lambda f: by_custom_jvp(f), (X, W)),
    "a fori_loop of known length": (lambda f: lambda x, w: jax.lax.fori_loop(0, 3, lambda _, c: f(c, w), x), (X, W)),
}


def by_custom_jvp(f):
    @jax.custom_jvp
    def g(x, w):
        return f(x, w)

    @g.defjvp
    def _(primals, tangents):
        y, pull = jax.vjp(f, *primals)
        del pull
        return y, tangents[0] + tangents[1].sum()  # not the derivative of any f that is tested

    return g


# The others take the same branches of the reference.
BY_DEFAULT = {*WRAPPINGS} - {"unwrapped", "jit of jit", "partial of jit", "vmap", "a fori_loop of known length"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in BY_DEFAULT else pytest.mark.slow) for n in WRAPPINGS])
def test_a_wrong_rule_is_found_through_any_wrapping(name):
    wrap, args = WRAPPINGS[name]
    report = fast(wrap(wrong), *args)
    assert report["gradient"].status == "FAIL", report
    if name != "a rule inside a custom_jvp":
        assert report.wrong_leaves == ("w",) or "scan" in name or "fori" in name or "inside" in name
        assert fast(wrap(with_faulty_rule(right)), *args).ok


def test_a_wrong_rule_is_found_inside_shard_map():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    spec = jax.sharding.PartitionSpec()
    over = lambda f: jax.shard_map(f, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    assert fast(over(wrong), X, W)["gradient"].status == "FAIL"
    assert fast(over(with_faulty_rule(right)), X, W)["gradient"].status == "PASS"


def test_custom_jvp_rules_are_replaced_and_jaxs_own_are_kept():
    @jax.custom_jvp
    def double(x):
        return 2 * x

    double.defjvp(lambda primals, tangents: (2 * primals[0], 3 * tangents[0]))
    report = fast(lambda x: double(jax.nn.relu(x)), X)
    assert report["gradient"].status == "FAIL"
    assert report.header["rules replaced in the reference"] == ["double (custom_jvp)"]
    assert report.header["JAX's own rules kept"] == ["relu (custom_jvp)"]


def test_a_custom_jvp_whose_nondiff_argnums_are_passed_by_keyword_is_verified():
    def sine(factor):
        f = jax.custom_jvp(lambda x, n: jnp.sin(n * x), nondiff_argnums=(1,))
        f.defjvp(lambda n, primals, tangents: (jnp.sin(n * primals[0]), factor * n * jnp.cos(n * primals[0]) * tangents[0]))
        return lambda x: f(x, n=3)

    assert fast(sine(1.0), X).ok
    assert fast(sine(1.1), X)["gradient"].differences[0].likely_cause == "a factor of 1.1"


def test_leaves_are_named_by_the_signature():
    def loss(params, /, xs, *rest, scale=1.0):
        return sum(x.sum() for x in (*jax.tree.leaves(params), xs, *rest)) * scale

    report = gj.verify_vjp(loss, {"w": W, "b": [X]}, X, X, checks=("gradient",))
    assert report.leaves == ("params['b'][0]", "params['w']", "xs", "args[2]")


def test_arguments_may_be_integers_booleans_keys_strings_none_and_functions():
    def model(x, n, mask, key, how, nothing, activation, static):
        y = wrong(x, W) if how == "wrong" else with_faulty_rule(right)(x, W)
        noise = jax.random.normal(key, y.shape, y.dtype)
        return activation(jnp.where(mask[:, None], y, noise))[jnp.arange(3) % n] * static, y.argmax(), mask

    args = (X, jnp.int32(2), np.array([True, False, True]), jax.random.key(0))
    assert fast(model, *args, "right", None, jnp.sin, 2).ok
    report = gj.verify_vjp(
        lambda w, *rest: with_faulty_rule(right, gradients=lambda g: (g[0], -g[1]))(X, w) * rest[0], W, 3, checks="fast"
    )
    assert report.wrong_leaves == ("w",)


def test_an_integer_array_whose_value_python_needs_is_static():
    f = with_faulty_rule(right)
    assert fast(lambda x, w, sizes: f(x, w)[: int(sizes[0])], X, W, np.array([2])).ok


def test_complex_arguments_and_outputs_are_verified():
    z = (X + 1j * X[::-1]).astype(np.complex64)
    f = lambda z, w: jnp.exp(z * 0.5) @ w
    assert fast(with_faulty_rule(f), z, W).ok
    report = fast(with_faulty_rule(f, gradients=lambda g: (jnp.conj(g[0]), g[1])), z, W)
    assert report.wrong_leaves == ("z",)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow), jnp.float32])
def test_lower_precisions_are_compared_in_float64_and_in_their_own_dtype(dtype):
    args = (jnp.asarray(X, dtype), jnp.asarray(W, dtype))
    report = gj.verify_vjp(with_faulty_rule(right), *args, checks=("gradient", "native"))
    assert [check.status for check in report.checks if check.requested] == ["PASS", "PASS"]
    assert report["gradient"].allowed_error < 1e-12
    assert not gj.verify_vjp(wrong, *args, checks=("gradient",)).ok


def test_a_function_that_raises_in_float64_is_compared_in_its_own_dtype():
    def single(x, w):
        if x.dtype != jnp.float32:
            raise TypeError("float32 only")
        return right(x, w)

    report = fast(with_faulty_rule(single), X, W)
    assert report.ok
    assert "raises TypeError: float32 only" in report.header["compared in"]
    assert not fast(with_faulty_rule(single, gradients=lambda g: (g[0], g[1] * 1.001)), X, W).ok


@pytest.mark.slow
def test_a_function_that_accepts_only_half_precision_is_compared_in_it():
    def half(x, w):
        if x.dtype != jnp.bfloat16:
            raise TypeError("bfloat16 only")
        return right(x, w)

    args = jnp.asarray(X, jnp.bfloat16), jnp.asarray(W, jnp.bfloat16)
    report = gj.verify_vjp(with_faulty_rule(half), *args, checks=("fast", "dot_product", "second_order", "-guard"))
    assert report.ok, report
    assert report["dot_product"].status == "PASS"
    assert not fast(with_faulty_rule(half, gradients=lambda g: (g[0], -g[1])), *args).ok


def test_a_function_that_casts_down_inside_gets_the_tolerance_of_the_lower_precision():
    single = lambda x, w: right(x.astype(jnp.float32), w.astype(jnp.float32)).astype(x.dtype)
    report = fast(with_faulty_rule(single), X, W)
    assert report.ok
    assert 1e-7 < report["gradient"].allowed_error < 1e-5


def test_verification_does_not_change_the_x64_setting():
    before = jax.config.jax_enable_x64
    for state in (True, False):
        jax.config.update("jax_enable_x64", state)
        try:
            assert fast(with_faulty_rule(right), X, W).ok
            assert not fast(wrong, X, W).ok
            assert jax.config.jax_enable_x64 == state
            assert jnp.ones(1).dtype == (jnp.float64 if state else jnp.float32)
        finally:
            jax.config.update("jax_enable_x64", before)


def test_equal_programs_are_shared_but_not_programs_with_other_constants():
    """Functions are different if they close over different values, even if they are one object."""
    table = np.linspace(0, 1, 4000, dtype=np.float32).reshape(1000, 4)

    def make(table, sign):
        f = jax.custom_vjp(lambda x: (x * table).sum(0))
        f.defvjp(lambda x: ((x * table).sum(0), x), lambda x, u: (sign * u * table,))
        return f

    x = np.random.default_rng(3).standard_normal((1000, 4)).astype(np.float32)
    assert fast(make(table, 1), x).ok
    assert fast(make(table + (table == table.max()), 1), x).ok
    assert not fast(make(table, -1), x).ok
    state = {"sign": 1}
    f = jax.custom_vjp(lambda x: jnp.sin(x))
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (state["sign"] * u * jnp.cos(x),))
    assert fast(f, X).ok
    state["sign"] = -1
    assert not fast(f, X).ok


# Rules from other libraries -----------------------------------------------------------------------


def test_odeint_is_verified_by_finite_differences_because_its_reference_has_no_gradient():
    """The primal of its rule contains a `while_loop`, which JAX cannot differentiate in reverse."""
    report = gj.verify_vjp(pendulum, *ODE, checks="fast", rtol=1e-4)
    assert report.ok, report
    assert "while_loop" in report["gradient"].text
    assert report["gradient"].status == "NOT CHECKED"
    assert report["numerical"].status == "PASS"
    assert report["guard"].status == "PASS"
    off = with_faulty_rule(pendulum, gradients=lambda g: (*g[:2], g[2] * 1.01))
    report = gj.verify_vjp(off, *ODE, checks="fast", rtol=1e-4)
    assert report.wrong_leaves == ("friction",)


@pytest.mark.slow
def test_odeint_is_verified_with_some_checks_and_fails_without_rtol():
    named = gj.verify_vjp(pendulum, *ODE, checks=("fast", "-linearity"), rtol=1e-4)
    assert named["numerical"].status == "PASS"  # also if "fast" is one of several names
    assert not gj.verify_vjp(pendulum, *ODE, checks="fast").ok


@pytest.mark.slow
def test_odeint_passes_every_check_that_needs_no_reference_gradient():
    report = gj.verify_vjp(pendulum, *ODE, rtol=1e-4)
    assert report.ok, report
    assert {"dot_product", "vmap", "scan", "checkpoint", "numerical"} <= {c.name for c in report.checks if c.status == "PASS"}


def test_optax_scale_gradient_fails():
    report = fast(lambda x: optax.scale_gradient(x, 0.5), X)
    assert report["gradient"].status == "FAIL"
    assert report["gradient"].differences[0].likely_cause == "a factor of 0.5"


def fused_cross_entropy(logits, targets, z_loss):
    """The loss of T5X for each token: cross-entropy plus z_loss·(log Z)².

    T5X has one rule for the sum. It assumes that the targets of a token sum to one, and that z_loss
    is a constant.
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return (log_z * targets.sum(-1) - (targets * logits).sum(-1)) + z_loss * log_z**2


def _fused():
    def forward(logits, targets, z_loss):
        log_z = jax.nn.logsumexp(logits, axis=-1)
        return fused_cross_entropy(logits, targets, z_loss), (logits, targets, z_loss, log_z)

    def backward(saved, u):
        logits, targets, z_loss, log_z = saved
        factor = (1 + 2 * z_loss * log_z)[:, None]
        logits_bar = u[:, None] * (factor * jnp.exp(logits - log_z[:, None]) - targets)
        return logits_bar, u[:, None] * (log_z[:, None] - logits), jnp.zeros_like(z_loss)

    f = jax.custom_vjp(fused_cross_entropy)
    f.defvjp(forward, backward)
    return f


@pytest.mark.parametrize("checks", ["fast", pytest.param(("all", "-shard_map"), marks=pytest.mark.slow)], ids=["fast", "all"])
def test_the_fused_loss_of_t5x_is_right_for_distributions_but_wrong_for_its_coefficient(checks):
    rng = np.random.default_rng(0)
    logits, targets = (rng.standard_normal((5, 7)).astype(np.float32) for _ in range(2))
    one_hot = np.eye(7, dtype=np.float32)[rng.integers(0, 7, 5)]
    fixed = lambda logits: _fused()(logits, one_hot, 1e-2)
    assert gj.verify_vjp(fixed, logits, checks=checks).ok
    report = fast(_fused(), logits, one_hot, np.float32(1e-2))
    assert report.wrong_leaves == ("z_loss",)
    assert report["gradient"].differences[0].likely_cause == "zero: the rule returns None or zeros for z_loss"
    assert set(fast(_fused(), logits, targets, np.float32(1e-2)).wrong_leaves) == {"logits", "z_loss"}


# Flags that JAX reads when a rule is defined, and two devices. Both need a new process. -----------

PROGRAM = """
import sys
import jax
for flag in {flags}:
    jax.config.update(flag, True)
jax.config.update("jax_disable_most_optimizations", True)
import gru_jax as gj
from experiments.mutants.passes import GRU_PASS_FAULTS, unrolled, with_faulty_rule
from tests.problems import problem
from tests.verify import rules
p = problem(gj.gru(), dtype="float32")
checks = {checks}
report = gj.verify_vjp(unrolled(gj.gru()), p.params, p.xs, p.h0, checks=checks)
assert report.ok, report
wrong = with_faulty_rule(unrolled(gj.gru()), **GRU_PASS_FAULTS["U_h transposed"].changes)
assert rules.fast(wrong, p.params, p.xs, p.h0).wrong_leaves == ("params.U_h",)
norm = gj.verify_vjp(rules.layer_norm(), *rules.arguments("layer_norm"), checks=checks)
assert norm.ok, norm
assert rules.fast(rules.layer_norm("scale forgotten"), *rules.arguments("layer_norm")).wrong_leaves == ("x",)
assert not jax.config.jax_enable_x64
loss = gj.verify_vjp(rules.cross_entropy(), *rules.arguments("cross_entropy"), checks=checks)
assert loss.ok, loss
for report in (report, norm, loss):
    print(report["shard_map"].status, report["shard_map"].text)
"""


def run_in_new_process(flags=(), devices=1, checks="'all'"):
    code = PROGRAM.format(flags=list(flags), checks=checks)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": "0"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


@pytest.mark.slow
def test_rules_are_verified_on_two_devices():
    """A cell's rule sums the cotangents of arguments that all devices share.

    The rule of the norm does not: JAX refuses it, and accepts the reference, so that these arguments
    are not checked. The loss has only one argument.
    """
    cells, norm, loss = run_in_new_process(devices=2, checks="('fast', 'shard_map')").splitlines()
    refused = "the rule raises ValueError: Custom VJP bwd rule "
    assert cells == "PASS the gradient is right: over params, over xs, over h0, over all arguments"
    assert norm.startswith(f"NOT CHECKED the gradient is right: over all arguments; over x: {refused}")
    assert loss == "PASS the gradient is right: over logits"


FLAGS = {
    "jax_custom_vjp3": ("jax_custom_vjp3",),
    "jax_remat3": ("jax_remat3",),
    "both": ("jax_custom_vjp3", "jax_remat3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
def test_rules_are_verified_under_jaxs_next_implementations(flags):
    # JAX 0.10 to 0.12 cannot checkpoint a rule of jax_custom_vjp3 without jax_remat3: it raises
    # "safe_zip() argument 1 has length".
    assert run_in_new_process(flags, checks="('all', '-checkpoint')" if flags == ("jax_custom_vjp3",) else "'all'")


def test_a_normalisation_agrees_with_a_reference_that_the_user_passes():
    def reference(x, scale, shift):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + shift

    assert fast(rules.layer_norm(), *arguments("layer_norm"), reference=reference).ok
    other = lambda x, scale, shift: reference(x, scale, shift) * 1.001
    assert fast(rules.layer_norm(), *arguments("layer_norm"), reference=other)["primal"].status == "FAIL"
