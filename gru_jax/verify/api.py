"""`verify_vjp` and `assert_vjp`: choose the checks, run them, and report."""

import platform
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jaxlib
import numpy as np

from gru_jax._jax import config
from gru_jax.verify.checks import ALL_CHECKS, FAST_CHECKS
from gru_jax.verify.errors import short_message
from gru_jax.verify.report import FAIL, NOT_CHECKED, Check, Report
from gru_jax.verify.verification import Verification, prepare_verification


def verify_vjp(
    fun: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    checks: str | Iterable[str] = "all",
    rtol: float | None = None,
    key: jax.Array | None = None,
) -> Report:
    """Verifies that the custom rules in a function compute the right gradient.

    Compares the gradient of `fun` at `args` with autodiff of the same function without its custom
    rules. A rule (`jax.custom_vjp` or `jax.custom_jvp`) is found at any depth and replaced by the
    function that it is attached to. JAX's own rules, such as that of `jax.nn.relu`, are kept. The
    report names each wrong leaf, its error and the likely cause.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gru_jax as gj
        >>> square = jax.custom_vjp(lambda x: x**2)
        >>> square.defvjp(lambda x: (x**2, x), lambda x, u: (-2 * x * u,))
        >>> report = gj.verify_vjp(square, jnp.array([1.0, -0.5, 3.0]), checks="fast")
        >>> report.ok, report.wrong_leaves
        (False, ('x',))
        >>> report["gradient"].differences[0].likely_cause
        'wrong sign'

    Args:
        fun: A function of pytrees that returns a pytree. It may be decorated, jitted, a partial or
            a bound method.
        *args: Its arguments. Random values and axes of different sizes reveal the most faults.
            Integers, booleans, keys, strings and other objects are passed to `fun`, and not
            differentiated.
        reference: A trusted function of the same arguments, whose autodiff gives the expected
            gradient. Defaults to `fun` without its rules.
        checks: "all", "fast", the name of a check, or a sequence of these. A minus before a name
            leaves that check out, as in ("all", "-second_order"). Defaults to "all".
        rtol: Relative error to allow even if rounding cannot explain it, for example the tolerance
            of an iterative solver. Defaults to 0.
        key: PRNG key for random cotangents and directions. Defaults to `jax.random.key(0)`.

    Returns:
        A `Report`. `report.ok` is True if no check failed.

    Raises:
        TypeError: If `fun` is not callable.
        ValueError: If no argument or no output is floating, an argument contains NaN or infinity,
            `checks` contains an unknown name or selects nothing, `rtol` is not in [0, 1), or the
            reference returns other shapes than `fun`.

    These are the checks. The first seven are the "fast" ones. bwd(u) is the gradient that the rule
    returns for the cotangent u:

    ============  ==================================================================================
    Check         What must hold
    ============  ==================================================================================
    primal        The forward rule returns what the function returns.
    structure     Cotangents and outputs have the right type, shape, dtype and weak type.
    gradient      Each leaf's gradient agrees with autodiff, in float64, for random cotangents.
    cotangents    The gradient also agrees if only one output has a cotangent.
    linearity     bwd(0) = 0 and bwd(8u) = 8 bwd(u) bit for bit, and bwd(u + v) = bwd(u) + bwd(v).
    inputs        The inputs can reveal faults: no leaf is constant, zero or without influence.
    guard         The function has a rule, and the comparison finds planted faults.
    native        In the dtypes of the arguments, the rule is about as exact as autodiff.
    numerical     The gradient agrees with finite differences of the function's values.
    dot_product   <u, Jv> = <bwd(u), v>, with v in one leaf at a time. J is the Jacobian.
    second_order  Second derivatives agree: reverse over reverse, and forward over reverse.
    determinism   Without `jit`, a second run returns the same bits.
    eager         The gradient is the same with and without `jit`.
    vmap          The gradient of the vmapped function equals a loop over gradients.
    scan          The gradient of a scan, and a gradient taken in the body of a scan, are right.
    checkpoint    `jax.checkpoint` does not change the gradient.
    shard_map     The gradient is right on two devices.
    flags         `jax_custom_vjp3` and `jax_remat3` do not change the gradient.
    edges         At zeros, huge numbers, NaN and infinity, the gradient agrees with autodiff.
    ============  ==================================================================================

    If the reference cannot be differentiated in reverse mode, for example because it contains a
    `while_loop`, "fast" also runs `numerical`, which then decides.

    Errors are relative to the largest entry of a leaf's gradient. An error of 8·√n·eps is allowed,
    where n is the length of the longest sum. A larger error is a failure only if it also exceeds
    the measured effect of rounding. x64 may be off. Its setting is restored afterwards.

    Cost: "fast" compiles two programs and "all" about thirty. Each runs a few dozen times. Equal
    programs are compiled once.
    """
    requested = [checks] if isinstance(checks, str) else list(checks)
    names = _choose_checks(requested)
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"rtol must be in [0, 1), got {rtol!r}; it is the relative error to allow")
    key = jax.random.key(0) if key is None else key
    seed = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]
    thorough = not set(names) <= set(FAST_CHECKS)
    verification = prepare_verification(fun, args, user_function=reference, rtol=rtol, seed=seed, thorough=thorough)
    if verification.reference.why_no_gradient and "fast" in requested and "-numerical" not in requested:
        names = [*names, "numerical"]
    return Report(
        function=verification.function.name,
        leaves=verification.function.leaf_names,
        checks=tuple(_run_checks(verification, names)),
        header=_header(verification, seed),
    )


def assert_vjp(fun: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Asserts that the custom rules in a function compute the right gradient. Use it in tests.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gru_jax as gj
        >>> square = jax.custom_vjp(lambda x: x**2)
        >>> square.defvjp(lambda x: (x**2, x), lambda x, u: (2 * x * u,))
        >>> gj.assert_vjp(square, jnp.array([1.0, -0.5, 3.0]), checks="fast")

    Args:
        fun: A function of pytrees that returns a pytree.
        *args: Its arguments.
        **options: Options of `verify_vjp`.

    Raises:
        AssertionError: If a check fails. The message is the report.
    """
    report = verify_vjp(fun, *args, **options)
    if not report.ok:
        raise AssertionError(str(report))


def _run_checks(verification: Verification, names: Sequence[str]) -> list[Check]:
    """Runs the named checks.

    If the rule raises, no other check runs and `structure` fails. If `structure` was not requested,
    a check named `rule` fails instead.
    """
    failure = _rule_failure(verification)
    results = []
    for name, check in ALL_CHECKS.items():
        if name not in names:
            results.append(Check(name, NOT_CHECKED, "not requested", requested=False))
        elif failure and name == "structure":
            results.append(Check(name, FAIL, failure))
        elif failure:
            results.append(Check(name, NOT_CHECKED, "the rule raises, so it returns nothing to check"))
        else:
            try:
                results.append(check(verification))
            except Exception as error:
                results.append(Check(name, FAIL, f"running this check raises {short_message(error)}"))
    if failure and "structure" not in names:
        results.append(Check("rule", FAIL, failure))
    return results


def _rule_failure(verification: Verification) -> str:
    """Returns a message with the error that the rule raises. Empty if the rule runs."""
    try:
        verification.rule(verification.cotangents)
    except Exception as error:
        return f"the rule raises {short_message(error)}"
    return ""


def _choose_checks(requested: Sequence[str]) -> list[str]:
    """Returns the names of the checks to run."""
    groups = {"all": list(ALL_CHECKS), "fast": list(FAST_CHECKS)}
    chosen: list[str] = []
    for name in requested:
        plain = name.removeprefix("-")
        if plain not in ALL_CHECKS and name not in groups:
            raise ValueError(
                f"checks must be 'all', 'fast' or names of checks, got {name!r}; "
                f"the names are {', '.join(ALL_CHECKS)}; a minus before a name leaves that check out"
            )
        chosen = [other for other in chosen if other != plain] if name != plain else chosen + groups.get(name, [name])
    if not chosen:
        raise ValueError(
            f"checks must select at least one check, got {requested!r}; "
            "put a group before the checks to leave out, as in ('all', '-second_order')"
        )
    return chosen


def _header(verification: Verification, seed: Sequence[int]) -> dict[str, Any]:
    """Returns how the verification was run: versions, device, settings, seed, rules and leaves."""
    flags = {flag: getattr(jax.config, flag, "absent") for flag in ("jax_custom_vjp3", "jax_remat3")}
    precisions, rules = verification.precisions, verification.reference.rules
    rms = lambda leaf: float(np.sqrt((leaf**2).mean())) if leaf.size else 0.0
    leaves = zip(verification.function.leaf_names, verification.function.leaves, verification.leaves, strict=True)
    return {
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "numpy": np.__version__,
        },
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "settings": {"x64": config.x64(), "matmul precision in checks": "highest"} | flags,
        "seed": list(seed),
        "rules replaced in the reference": list(rules.replaced) or "none",
        "JAX's own rules kept": list(rules.kept) or "none",
        "compared in": precisions.comparison.name + (f" ({precisions.why_not_float64})" if precisions.why_not_float64 else ""),
        "leaves (root mean square)": {
            f"{name} {given.dtype}{list(given.shape)}": f"{rms(leaf):.2g}" for name, given, leaf in leaves
        },
    }
